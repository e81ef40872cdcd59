//! HTTP requests of guests: they go where they were granted, by WASI 0.2 and by 0.3, from threads and processes, and nowhere else.

use std::path::Path;
use std::process::Command;

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::make_certificates;
use crate::harness::web::Web;
use crate::harness::{Run, eventually, fetch_guests, guest, installed, required, run, start, wq_run};

const WHERE: [&str; 2] = ["thread", "process"];

/// Each guest that sends requests, each place where it can run.
fn everywhere(test: impl Fn(&dyn Fn(&[&str], &[&str]) -> Command)) {
    let Some(guests) = fetch_guests() else { return };
    for guest in &guests {
        for isolation in WHERE {
            test(&|flags, args| {
                let mut command = wq_run(&["exec", guest, "--isolation", isolation]);
                // To compile a guest for each row would take most of the time.
                command.args(["--cache-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache-http")]);
                // A guest's process is killed at a system call outside the allowlist. By default, such a call only fails.
                command.args(flags).env("WQ_FAULT", "guest-process:strict").arg("--").args(args);
                command
            });
        }
    }
}

#[test]
fn a_guest_gets_answers_from_where_it_was_granted() {
    let web = Web::start();
    let by_address = format!("127.0.0.1:{}", web.port);
    let by_name = format!("localhost:{}", web.port);
    everywhere(|fetch| {
        let get = |grant: &str, authority: &str, path: &str| {
            run(&mut fetch(&["--allow-http", grant], &["GET", "http", authority, path]))
        };
        get(&by_address, &by_address, "/").exits(0).prints("200 hello");
        get(&by_name, &by_name, "/some?thing=1").exits(0).prints("200 hello");
        assert_eq!(web.last_request(), ("GET /some?thing=1 HTTP/1.1".to_owned(), by_name.clone()));
        // Another way to write what was granted. What is sent is what was granted.
        for other in [format!("LOCALHOST:{}", web.port), format!("localhost.:{}", web.port)] {
            get(&by_name, &other, "/").exits(0).prints("200 hello");
            assert_eq!(web.last_request().1, by_name);
        }
        let post = ["POST", "http", &by_address, "/count", "100000"];
        let told = run(&mut fetch(&["--allow-http", &by_address], &post)).exits(0).out();
        // The guest of 0.2 sends whole blocks.
        assert!(told == "200 100000 bytes" || told == "200 102400 bytes", "{told}");
    });
}

#[test]
fn without_a_grant_a_request_is_denied_and_the_log_names_the_flag_once() {
    let web = Web::start();
    let authority = format!("127.0.0.1:{}", web.port);
    everywhere(|fetch| {
        let denied = run(&mut fetch(&[], &["GET", "http", &authority, "/?secret=abc"]));
        denied.exits(1).says("HttpRequestDenied").prints("");
        denied.says(&format!("http://{authority}")).says("--allow-http HOST[:PORT] would grant it");
        assert!(!denied.stderr.contains("secret"), "{}", denied.stderr);
        let often = run(&mut fetch(&[], &["many", "20", "http", &authority]));
        often.exits(1).says("HttpRequestDenied").prints("0 answered\n");
        assert_eq!(often.stderr.matches("--allow-http").count(), 1, "{}", often.stderr);
    });
    assert_eq!(web.connections(), 0);
}

#[test]
fn nothing_but_what_was_granted_is_ever_connected_to() {
    let web = Web::start();
    let other = Web::start();
    let (port, other_port) = (web.port.to_string(), other.port.to_string());
    let by_address = format!("127.0.0.1:{port}");
    let by_name = format!("localhost:{port}");
    let denied = "HttpRequestDenied";
    let table: [(&str, &str, String, &str); 19] = [
        (&by_address, "http", format!("127.0.0.1:{other_port}"), denied),
        (&by_address, "http", "127.0.0.1".into(), denied),
        (&by_address, "http", by_name.clone(), denied),
        (&by_name, "http", by_address.clone(), denied),
        // By https alone, on its own port.
        ("127.0.0.1", "http", "127.0.0.1".into(), denied),
        ("127.0.0.1", "http", "127.0.0.1:443".into(), denied),
        ("127.0.0.1", "http", by_address.clone(), denied),
        ("127.0.0.1:80", "https", "127.0.0.1:80".into(), denied),
        (&by_address, "ftp", by_address.clone(), "HttpProtocolError"),
        (&by_address, "http", format!("user@127.0.0.1:{port}"), denied),
        (&by_address, "http", format!("{by_address}@127.0.0.1:{other_port}"), denied),
        (&by_address, "http", format!("127.0.0.1.:{port}"), denied),
        (&by_name, "http", format!("localhost..:{port}"), denied),
        (&by_address, "http", format!("[::1]:{port}"), denied),
        (&by_address, "http", format!("[::ffff:127.0.0.1]:{port}"), denied),
        (&by_address, "http", format!("0x7f.1:{port}"), denied),
        (&by_address, "http", format!("127.1:{port}"), denied),
        (&by_address, "http", format!("2130706433:{port}"), denied),
        (&by_name, "http", format!("evil.localhost:{port}"), denied),
    ];
    everywhere(|fetch| {
        for (grant, scheme, authority, error) in &table {
            let refused = run(&mut fetch(&["--allow-http", grant], &["GET", scheme, authority, "/"]));
            assert_eq!(
                (refused.code, refused.out().as_str()),
                (Some(1), ""),
                "{grant} {scheme} {authority}: {refused:?}"
            );
            // Some are refused by the interface itself, before they are sent.
            let is_refused = refused.stderr.contains(error) || refused.stderr.contains("HttpRequestUriInvalid");
            assert!(is_refused, "{grant} {scheme} {authority}: {}", refused.stderr);
        }
        for method in ["CONNECT", "TRACE", "PROPFIND"] {
            let refused = run(&mut fetch(&["--allow-http", &by_address], &[method, "http", &by_address, "/"]));
            refused.exits(1).says("HttpRequestMethodInvalid");
        }
        for path in ["http://evil.example/", "*", "x"] {
            let refused = run(&mut fetch(&["--allow-http", &by_address], &["GET", "http", &by_address, path]));
            refused.exits(1).says("HttpRequestUriInvalid");
        }
    });
    assert_eq!((web.connections(), other.connections()), (0, 0));
}

#[test]
fn a_redirect_is_an_answer_like_any_other() {
    let (web, other) = (Web::start(), Web::start());
    let authority = format!("127.0.0.1:{}", web.port);
    let path = format!("/redirect/{}", other.port);
    everywhere(|fetch| {
        run(&mut fetch(&["--allow-http", &authority], &["GET", "http", &authority, &path]))
            .exits(0)
            .prints("302 there");
        // Not even where the second server is granted, too.
        let both = ["--allow-http", &authority, "--allow-http", &format!("127.0.0.1:{}", other.port)];
        run(&mut fetch(&both, &["GET", "http", &authority, &path])).exits(0).prints("302 there");
    });
    assert_eq!(other.connections(), 0);
}

#[test]
fn an_answer_that_never_ends_ends_the_request_and_not_the_worker() {
    let web = Web::start();
    let authority = format!("127.0.0.1:{}", web.port);
    everywhere(|fetch| {
        let get = |path: &str, flags: &[&str]| -> Run {
            let flags = [&["--allow-http", &authority][..], flags].concat();
            run(&mut fetch(&flags, &["GET", "http", &authority, path]))
        };
        for path in ["/headers", "/header", "/continues"] {
            get(path, &[]).exits(1).says("HttpResponseHeaderSectionSize");
        }
        // In the middle of a body, WASI 0.2 has a text and no code.
        let either = |ended: Run, code: &str, text: &str| {
            let is_told = ended.stderr.contains(code) || ended.stderr.contains(text);
            assert!(ended.code == Some(1) && is_told, "neither {code} nor {text:?}:\n{}", ended.stderr);
        };
        let few = ["--max-message", "100000"];
        either(get("/body", &few), "HttpResponseBodySize", "HTTP response body size exceeds limit: 100000 bytes");
        get("/huge", &few).exits(1).says("HttpResponseBodySize");
        either(get("/trailers", &[]), "ConnectionTerminated", "connection terminated");
        either(get("/cut", &[]), "HttpResponseIncomplete", "incomplete HTTP response");
        get("/nonsense", &[]).exits(1).says("HttpProtocolError");
        get("/lengths", &[]).exits(1).says("HttpProtocolError");
        // A chunk whose length has ever more zeroes before it.
        let zeroes = get("/zeroes", &["--timeout", "500ms"]);
        assert!(matches!(zeroes.code, Some(1 | 124)), "{zeroes:?}");
        for path in ["/silent", "/waits", "/trickles"] {
            get(path, &["--timeout", "500ms"]).exits(124).says("--timeout");
        }
        let flags = ["--allow-http", &authority, "--max-stdout", "10000"];
        let large = run(&mut fetch(&flags, &["POST", "http", &authority, "/count", "1000000"]));
        large.exits(1).says("HttpRequestBodySize");
    });
    eventually("all connections are closed", || (web.open() == 0).then_some(()));
}

#[test]
fn a_guest_cannot_set_headers_that_belong_to_the_connection() {
    let web = Web::start();
    let authority = format!("127.0.0.1:{}", web.port);
    everywhere(|fetch| {
        let with = |name: &str, value: &str, path: &str, bytes: &str| {
            let args = ["with", name, value, "http", &authority, path, bytes];
            run(&mut fetch(&["--allow-http", &authority, "--timeout", "10s"], &args))
        };
        let sent = with("x-name", "value", "/raw", "0").exits(0).out();
        assert!(sent.contains("\nx-name: value") && sent.contains(&format!("\nhost: {authority}")), "{sent}");
        let before = web.connections();
        for (name, value) in [
            ("host", "other.example"),
            ("Host", "other.example"),
            ("connection", "upgrade"),
            ("keep-alive", "timeout=99"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("x-name", "value\r\nhost: other.example"),
            ("x-name", "value\n"),
            ("x-name: value\r\nhost", "other.example"),
            ("content-length", "+5"),
            ("content-length", "5, 6"),
        ] {
            with(name, value, "/raw", "0").exits(1).says("refused: ").prints("");
        }
        assert_eq!(web.connections(), before);
        // A body is as long as its length says, so that none of it can be another request on the wire.
        for length in ["0", "5"] {
            let longer = with("content-length", length, "/count", "4096");
            let sent = format!("200 {length} bytes");
            assert!(longer.code == Some(1) || longer.code == Some(0) && longer.out() == sent, "{length}: {longer:?}");
        }
        for (length, bytes) in [("5", "0"), ("4097", "4096")] {
            with("content-length", length, "/count", bytes).exits(1).says("refused: ").prints("");
        }
        with("content-length", "4096", "/count", "4096").exits(0).prints("200 4096 bytes");
        let flags = ["--allow-http", &authority, "--timeout", "10s"];
        let switched = run(&mut fetch(&flags, &["GET", "http", &authority, "/switches"]));
        assert_ne!(switched.code, Some(124), "{switched:?}");
    });
    eventually("all connections are closed", || (web.open() == 0).then_some(()));
    assert_eq!(web.rest(), 0);
}

#[test]
fn a_run_has_sixteen_requests_under_way_and_no_more() {
    let web = Web::start();
    let authority = format!("127.0.0.1:{}", web.port);
    everywhere(|fetch| {
        let before = web.connections();
        let many = run(&mut fetch(&["--allow-http", &authority], &["many", "30", "http", &authority]));
        many.exits(1).says("ConnectionLimitReached").prints("16 answered\n");
        assert_eq!(web.connections() - before, 16);
    });
}

#[test]
fn a_run_that_is_stopped_leaves_no_connection_behind() {
    let Some(guests) = fetch_guests() else { return };
    let web = Web::start();
    let authority = format!("127.0.0.1:{}", web.port);
    for guest in &guests {
        for isolation in WHERE {
            let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
            queue.publish(&["x"]);
            let flags = ["--isolation", isolation, "--timeout", "3s", "--max-attempts", "1", "--forever"];
            let mut command = queue.command(&["work", guest, "--allow-http", &authority]);
            let mut working = start(command.args(flags).args(["--", "hang", "http", &authority, "/waits"]));
            working.wait_for("hanging");
            assert_eq!(web.open(), 1);
            working.wait_for("\"settlement\":\"dead-letter\"");
            // The worker waits for the next message.
            eventually("the connection is closed", || (web.open() == 0).then_some(()));
            assert!(working.is_running());
            working.signal("TERM");
            working.end().exits(0);
            assert_eq!(queue.take_dead().headers["x-wq-outcome"], "timeout");
        }
    }
}

#[test]
fn an_encrypted_server_is_checked_by_the_authorities_of_the_system_or_of_ssl_cert_file() {
    if installed("openssl").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let authorities = folder.path().join("ca.pem");
    let web = Web::encrypted(folder.path());
    let authority = format!("localhost:{}", web.port);
    everywhere(|fetch| {
        let get = |grant: &str, scheme: &str, authority: &str| {
            fetch(&["--allow-http", grant], &["GET", scheme, authority, "/"])
        };
        let known = run(get(&authority, "https", &authority).env("SSL_CERT_FILE", &authorities));
        known.exits(0).prints("200 hello");
        let address = format!("127.0.0.1:{}", web.port);
        run(get(&address, "https", &address).env("SSL_CERT_FILE", &authorities)).exits(0).prints("200 hello");
        // Nobody here trusts the authority.
        run(&mut get(&authority, "https", &authority)).exits(1).says("TlsCertificateError").prints("");
        // The certificate is that of another name.
        let grant = format!("other.localhost:{}", web.port);
        let hosts =
            with_hosts("127.0.0.1 other.localhost", get(&grant, "https", &grant).env("SSL_CERT_FILE", &authorities));
        if let Some(mut command) = hosts {
            run(&mut command).exits(1).says("TlsCertificateError").prints("");
        }
        // Not encrypted, the server's nonsense is not taken for an answer.
        let plain = run(&mut get(&authority, "http", &authority));
        assert!(plain.code == Some(1) && plain.out().is_empty(), "{plain:?}");
        // What is granted by https alone needs certificates, and says so before a message is taken.
        let none = run(get("api.example", "https", "api.example").env("SSL_CERT_FILE", "/no/such/file"));
        none.exits(78).says("--allow-http").says("SSL_CERT_FILE");
    });
}

/// The same command, for which /etc/hosts holds these lines.
fn with_hosts(lines: &str, command: &Command) -> Option<Command> {
    let (_, hosts) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
    let command = with_hosts_in(&hosts, lines, command);
    // Removed when it is mounted: the mount keeps it.
    command.map(|mut command| {
        command.env("REMOVED", &hosts);
        command
    })
}

/// The same command, for which /etc/hosts is this file, which holds these lines.
fn with_hosts_in(hosts: &Path, lines: &str, command: &Command) -> Option<Command> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount"]);
    let can = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    required(can.is_ok_and(|can| can.status.success()).then_some(()), "unshare can't change what /etc/hosts is")?;
    std::fs::write(hosts, format!("127.0.0.1 localhost\n{lines}\n")).unwrap();
    let script = r#"mount --bind "$HOSTS" /etc/hosts && rm -f "$REMOVED" && exec "$@""#;
    unshare.args(["sh", "-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    unshare.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshare.env("HOSTS", hosts).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    Some(unshare)
}

#[test]
fn no_name_that_was_granted_leads_to_this_machine_or_to_metadata() {
    let web = Web::start();
    everywhere(|fetch| {
        for (address, shown) in [
            ("127.0.0.1", "127.0.0.1"),
            ("169.254.169.254", "169.254.169.254"),
            ("::1", "::1"),
            ("fd00:ec2::254", "fd00:ec2::254"),
            ("0.0.0.0", "0.0.0.0"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
        ] {
            let authority = format!("api.test:{}", web.port);
            let command = fetch(&["--allow-http", &authority], &["GET", "http", &authority, "/"]);
            let Some(mut command) = with_hosts(&format!("{address} api.test"), &command) else { return };
            let refused = run(&mut command);
            refused.exits(1).says("DestinationIpProhibited").prints("");
            refused.says(&format!("api.test has the address {shown}, which no name may lead to"));
        }
        // A name that is not there is no other error than for any client.
        let nowhere =
            run(&mut fetch(&["--allow-http", "no-such-name.invalid"], &["GET", "https", "no-such-name.invalid", "/"]));
        nowhere.exits(1).says("DnsError").prints("");
    });
    assert_eq!(web.connections(), 0);
}

#[test]
fn a_name_that_leads_elsewhere_by_the_second_request_leads_nowhere() {
    let web = Web::start();
    let authority = format!("api.localhost:{}", web.port);
    everywhere(|fetch| {
        let command = fetch(&["--allow-http", &authority], &["twice", "http", &authority, "/moves"]);
        let hosts = tempfile::NamedTempFile::new().unwrap();
        let Some(mut command) = with_hosts_in(hosts.path(), "127.0.0.1 api.localhost", &command) else { return };
        web.moves(hosts.path().to_owned(), "169.254.169.254 api.localhost\n".to_owned());
        let before = web.connections();
        let twice = run(&mut command);
        twice.exits(1).says("DestinationIpProhibited").prints("200 moved");
        twice.says("api.localhost has the address 169.254.169.254");
        assert_eq!(web.connections() - before, 1);
    });
}

#[test]
fn http_goes_with_components_and_not_with_deterministic() {
    let exec = |guest: &str, flags: &[&str]| run(wq_run(&["exec", guest]).args(flags));
    exec(&guest("nothing"), &["--allow-http", "127.0.0.1:80"]).exits(78).says("--allow-http").says("wasm32-wasip2");
    exec(&guest("nothing"), &["--allow-http", "h", "--deterministic"]).exits(2).says("--deterministic");
    for wrong in
        ["https://api.example", "user@api.example", "*.example", "0x7f.1", "api.example:0", "[::ffff:127.0.0.1]"]
    {
        exec(&guest("nothing"), &["--allow-http", wrong]).exits(2).says("--allow-http");
    }
    let Some(guests) = fetch_guests() else { return };
    for guest in &guests {
        let said = run(&mut wq_run(&["inspect", guest])).exits(0).out();
        assert!(said.contains("HTTP requests: --allow-http HOST[:PORT]"), "{said}");
    }
}
