//! The sandbox: what guests may use and see, of every kind and wherever they run.

use std::process::{Command, Stdio};

use crate::harness::{
    Run, component, concurrent, concurrent_guest, guest, run, run_with, sockets_guest, start, start_onto, wq_run,
};

const WHERE: [&str; 2] = ["thread", "process"];

/// A guest's process is killed at a system call outside the allowlist. By default, such a call only fails.
const STRICT: (&str, &str) = ("WQ_FAULT", "guest-process:strict");

fn exec(path: &str, flags: &[&str], stdin: &[u8]) -> Run {
    run_with(wq_run(&["exec", path]).args(flags).env(STRICT.0, STRICT.1), stdin)
}

#[test]
fn guests_end_alike_by_every_version_of_wasi_in_threads_and_processes() {
    let table: [(&str, &[&str], i32, &str); 20] = [
        ("exit-0", &[], 0, ""),
        ("nothing", &[], 0, ""),
        ("fail", &[], 1, "exit code is: 1"),
        ("trap", &[], 134, "unreachable"),
        ("deep", &[], 134, "--max-wasm-stack"),
        ("deep", &["--max-wasm-stack", "4MiB"], 134, "4194304"),
        ("spin", &["--timeout", "100ms"], 124, "--timeout"),
        ("spin", &["--fuel", "1000000"], 134, "--fuel"),
        ("spin-in-start", &["--timeout", "100ms"], 124, "--timeout"),
        ("spin-in-start", &["--fuel", "1000000"], 134, "--fuel"),
        ("sleep", &["--timeout", "100ms"], 124, "--timeout"),
        ("memory", &["--max-memory-size", "4MiB"], 137, "--max-memory-size"),
        ("memory-at-once", &[], 137, "--max-memory-size"),
        ("memory-coped", &["--max-memory-size", "4MiB"], 0, ""),
        ("tables", &["--max-memory-size", "4MiB"], 137, "--max-memory-size"),
        ("flood", &["--max-stdout", "1MiB"], 153, "--max-stdout"),
        ("flood-stderr", &["--max-stderr", "100000"], 0, "--max-stderr"),
        ("random", &[], 134, "--max-random-size"),
        ("scratch", &["--scratch", "8MiB"], 134, "--scratch"),
        ("nothing", &["--empty-output", "fail"], 1, "--empty-output"),
    ];
    for (name, flags, code, text) in table {
        for path in [guest(name), component(name), concurrent(name)] {
            for isolation in WHERE {
                let flags = [flags, &["--isolation", isolation]].concat();
                exec(&path, &flags, b"").exits(code).says(text);
            }
        }
    }
}

#[test]
fn a_message_goes_in_and_comes_out_whole_wherever_the_guest_runs() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    for path in [guest("echo"), component("echo"), concurrent("echo")] {
        for isolation in WHERE {
            let flags = ["--isolation", isolation];
            assert!(exec(&path, &flags, &every_byte).exits(0).stdout == every_byte, "{path} {isolation}");
            exec(&path, &flags, b"").exits(0).prints("");
        }
    }
}

#[test]
fn a_component_can_say_its_exit_code() {
    exec(&guest("exit-code"), &[], b"").exits(6);
    // The adapter that makes components of modules knows only success and failure.
    exec(&component("reject"), &[], b"").exits(1);
    // By its last line, where all it can do is fail. A module has its own code, and needs no line.
    exec(&component("say-exit"), &[], b"").exits(65);
    exec(&guest("say-exit"), &[], b"").exits(1);
}

#[test]
fn what_only_one_kind_can_do_has_its_limit_too() {
    exec(&guest("twenty-memories"), &["--max-memory-size", "1280KiB"], b"").exits(0);
    exec(&guest("twenty-memories"), &["--max-memory-size", "1279KiB"], b"").exits(137).says("--max-memory-size");
    exec(&guest("twenty-memories"), &["--max-instances", "19"], b"").exits(134).says("--max-instances");
    // 48 is WASI's ENOMEM: no array of 20 million buffers is read.
    exec(&guest("iovecs"), &[], b"").exits(48);
    for of in [component, concurrent] {
        exec(&of("flood"), &["--max-hostcall", "1000"], b"").exits(134).says("--max-hostcall");
        exec(&of("echo"), &["--max-instances", "1"], b"").exits(134).says("--max-instances");
    }
    exec(&guest("exit-200"), &[], b"").exits(134).says("exit");
}

#[test]
fn nothing_leads_out_of_a_folder_or_writes_into_one_that_is_read_only() {
    let folder = tempfile::tempdir().unwrap();
    let granted = folder.path().join("granted");
    std::fs::create_dir(&granted).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    let dir = granted.display().to_string();
    for path in [guest("files"), component("files"), concurrent("files")] {
        for isolation in WHERE {
            let flags = ["--isolation", isolation, "--dir", &dir];
            std::fs::write(granted.join("in"), "from the host").unwrap();
            let ended = exec(&path, &flags, b"");
            assert!(ended.code != Some(0) && ended.out() == "from the host", "{ended:?}");
            assert!(!granted.join("out").exists());
            std::fs::remove_file(granted.join("in")).unwrap();
            for link in ["../secret", &folder.path().join("secret").display().to_string()] {
                std::os::unix::fs::symlink(link, granted.join("in")).unwrap();
                let ended = exec(&path, &flags, b"");
                assert!(ended.code != Some(0) && ended.out().is_empty(), "{ended:?}");
                std::fs::remove_file(granted.join("in")).unwrap();
            }
        }
    }
}

#[test]
fn open_files_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), "x").unwrap();
    let dir = folder.path().display().to_string();
    for isolation in WHERE {
        let flags = ["--dir", &dir, "--isolation", isolation];
        exec(&guest("open-files"), &flags, b"").exits(134).says("--max-resources");
        let few = [&flags[..], &["--max-resources", "50"]].concat();
        for of in [component, concurrent] {
            exec(&of("open-files"), &few, b"").exits(134).says("--max-resources");
        }
    }
}

#[test]
fn two_deterministic_runs_of_one_message_are_the_same() {
    for path in [guest("dice"), component("dice"), concurrent("dice")] {
        let fixed = exec(&path, &["--deterministic"], b"a").exits(0).stdout.clone();
        assert_eq!(fixed.len(), 96);
        for isolation in WHERE {
            let again = exec(&path, &["--deterministic", "--isolation", isolation], b"a");
            assert_eq!(again.exits(0).stdout, fixed);
        }
        let free = exec(&path, &[], b"a");
        assert_ne!(free.exits(0).stdout[..64], fixed[..64]);
        assert_ne!(free.stdout[64..72], fixed[64..72]);
        let other_message = exec(&path, &["--deterministic"], b"b");
        assert_ne!(other_message.exits(0).stdout[..64], fixed[..64], "randomness is the message's own");
    }
    exec(&guest("dice"), &["--deterministic", "--allow-net", "h:1"], b"").exits(2);
}

#[test]
fn a_deterministic_guest_gets_no_folder_that_differs_from_run_to_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), "the same").unwrap();
    let dir = folder.path().display().to_string();
    let writable = format!("{dir}::/data:rw");
    for isolation in WHERE {
        let flags = ["--deterministic", "--isolation", isolation];
        let refused = |more: [&str; 2], text: &str| {
            exec(&guest("files"), &[&flags[..], &more].concat(), b"").exits(78).says(text);
        };
        refused(["--scratch", "1MiB"], "--scratch cannot be used with --deterministic");
        refused(["--dir", &writable], "cannot be used with --deterministic");
        for _ in 0..2 {
            let read_only = exec(&guest("files"), &[&flags[..], &["--dir", &dir]].concat(), b"");
            assert_eq!((read_only.code, &*read_only.out()), (Some(12), "the same"));
        }
    }
}

#[test]
fn the_environment_is_inherited_only_on_request_and_never_the_brokers_url() {
    let environment = |flags: &[&str]| {
        let mut command = wq_run(&["exec", &guest("environ")]);
        command
            .args(flags)
            .env("COLOUR", "red")
            .env("BROKER_URL", "amqp://u:s3cret@h")
            .env("AMQP_URL", "amqp://u:s3cret@h");
        let told = run(&mut command).exits(0).out();
        assert!(!told.contains("s3cret"), "{told}");
        told
    };
    assert!(!environment(&[]).contains("COLOUR"));
    assert!(environment(&["--inherit-env"]).contains("COLOUR=red\0"));
    let replaced = environment(&["--inherit-env", "--env", "COLOUR=blue"]);
    assert!(replaced.contains("COLOUR=blue\0") && !replaced.contains("red"), "{replaced}");
    let refused = exec(&guest("nothing"), &["--allow-net", "127.0.0.1:80"], b"");
    refused.exits(78).says("--allow-net").says("wasm32-wasip2");
    assert!(!refused.stderr.contains("--dir"), "{}", refused.stderr);
}

#[test]
fn a_component_reaches_what_was_granted_and_nothing_else() {
    use std::io::{Read as _, Write as _};
    let (Some(sockets), Some(concurrent)) = (sockets_guest(), concurrent_guest()) else { return };
    // Answers each connection once, and says so.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let other_server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other_port = other_server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in server.incoming().flatten() {
            let mut ping = [0; 4];
            connection.read_exact(&mut ping).unwrap();
            connection.write_all(b"pong").unwrap();
        }
    });
    let (port, other_port) = (port.to_string(), other_port.to_string());
    let (by_address, by_name) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    let (by_address, by_name) = (by_address.as_str(), by_name.as_str());
    let unknown = format!("no-such-name.invalid:{port}");
    for (guest, denied, unresolvable) in
        [(&sockets, "access-denied", "name-unresolvable"), (&concurrent, "AccessDenied", "NameUnresolvable")]
    {
        let try_in = |isolation: &str, grants: &[&str], words: &[&str]| {
            let mut command = wq_run(&["exec", guest, "--isolation", isolation]);
            command.args(grants.iter().flat_map(|grant| ["--allow-net", grant])).arg("--").args(words);
            run(command.env(STRICT.0, STRICT.1))
        };
        for isolation in WHERE {
            try_in(isolation, &[by_address], &["connect", "127.0.0.1", &port]).exits(0).prints("pong");
            try_in(isolation, &[by_name], &["connect", "localhost", &port]).exits(0).prints("pong");
            try_in(isolation, &[by_name], &["connect", "LOCALHOST", &port]).exits(0).prints("pong");
            let lost = try_in(isolation, &[&unknown], &["connect", "no-such-name.invalid", &port]);
            lost.exits(1).says(unresolvable);
        }
        let refused = |grants: &[&str], words: &[&str]| {
            for isolation in WHERE {
                let ended = try_in(isolation, grants, words);
                ended.exits(1).says(denied).prints("");
                // Nobody can grant UDP or a server.
                let flag = if words[0] == "connect" { 1 } else { ended.stderr.matches("--allow-net").count().min(1) };
                assert_eq!(ended.stderr.matches("--allow-net HOST:PORT would grant it").count(), flag, "{ended:?}");
            }
        };
        refused(&[], &["connect", "127.0.0.1", &port]);
        refused(&[], &["connect", "localhost", &port]);
        refused(&[by_address], &["connect", "127.0.0.1", &other_port]);
        refused(&[by_address], &["connect", "localhost", &port]);
        refused(&[by_name], &["connect", "127.0.0.1", &port]);
        for words in [["listen"], ["udp"]] {
            refused(&[], &words);
            refused(&[by_address, by_name], &words);
        }
    }
    other_server.set_nonblocking(true).unwrap();
    assert!(other_server.accept().is_err(), "nobody came");
}

#[test]
fn a_guest_that_no_epoch_stops_is_killed_with_its_process() {
    let flags = ["--timeout", "200ms", "--max-memory-size", "4GiB"];
    // The process that computes is the child, and it is killed.
    let apart = exec(&guest("fill"), &[&flags[..], &["--isolation", "process"]].concat(), b"");
    assert!(matches!(apart.code, Some(0 | 124)), "{apart:?}");
}

#[test]
fn a_guest_can_be_pinned() {
    let printed = run(&mut wq_run(&["inspect", &guest("echo"), "--json"]));
    let inspection: serde_json::Value = serde_json::from_slice(&printed.exits(0).stdout).unwrap();
    let digest = inspection["digest"].as_str().unwrap();
    exec(&guest("echo"), &["--guest-digest", digest], b"x").exits(0).prints("x");
    exec(&guest("nothing"), &["--guest-digest", digest], b"x")
        .exits(66)
        .says(digest.split_at(3).0)
        .says("--guest-digest");
    exec(&guest("echo"), &["--guest-digest", "sha256:abc"], b"x").exits(2).says("64 hexadecimal digits");
    let mut by_variable = wq_run(&["exec", &guest("nothing")]);
    run(by_variable.env("WQ_GUEST_DIGEST", digest)).exits(66);
}

#[test]
fn inspect_says_what_a_guest_is_and_needs() {
    let inspect = |path: &str| run(&mut wq_run(&["inspect", path]));
    let said = inspect(&guest("files")).exits(0).out();
    for text in ["module, WASI preview 1", "sha256:", "fits", "path_open", "--dir", "64.0 KiB at the start"] {
        assert!(said.contains(text), "no {text} in:\n{said}");
    }
    let said = inspect(&component("echo")).exits(0).out();
    for text in ["component, WASI 0.2.", "wasi:io: ", "streams@0.2"] {
        assert!(said.contains(text), "no {text} in:\n{said}");
    }
    let refused = inspect(&guest("foreign-import"));
    assert!(refused.exits(66).out().contains("env::launch_rocket"));
    inspect("/no/such/file").exits(66).says("No such file");
}

#[test]
fn the_verdict_on_a_large_guest_is_said_before_its_packed_size() {
    use std::io::Read as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.wasm");
    let mut wasm = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    // A section that nobody reads, named `n`, of what can't be packed. It takes seconds to find that out.
    const NOISE: u32 = 16 << 20;
    wasm.push(0);
    wasm.extend((0..4).map(|part| ((NOISE + 2) >> (7 * part)) as u8 & 0x7f | if part < 3 { 0x80 } else { 0 }));
    wasm.extend(b"\x01n");
    let mut state = 1_u32;
    wasm.extend((0..NOISE).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    std::fs::write(&path, wasm).unwrap();
    let (mut stdout, writer) = std::io::pipe().unwrap();
    let mut inspecting = wq_run(&["inspect", &path.display().to_string()]);
    let mut running = start_onto(&mut inspecting, writer.into(), Stdio::piped());
    drop(inspecting);
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.contains("size ") {
        let length = stdout.read(&mut buffer).unwrap();
        assert!(length > 0, "{said}");
        said.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(said.contains("verdict    can run") && !said.contains("packed"), "{said}");
    assert!(running.is_running());
    stdout.read_to_string(&mut said).unwrap();
    assert!(said.contains("packed "), "{said}");
    running.end().exits(0);
}

#[test]
fn a_hostile_guest_costs_the_worker_neither_memory_nor_its_connection() {
    const LIMIT_KIB: u64 = 300 * 1024;
    crate::harness::queue::on_rabbitmq(|queue| {
        let table: [(&str, &[&str]); 8] = [
            ("memory", &["--max-memory-size", "64MiB"]),
            ("tables", &["--max-memory-size", "64MiB"]),
            ("flood", &[]),
            ("flood-stderr", &["--exit-map", "0=dead-letter"]),
            ("spin", &["--timeout", "4s", "--max-attempts", "1"]),
            ("iovecs", &[]),
            ("random", &[]),
            ("deep", &[]),
        ];
        for (name, flags) in table {
            queue.publish(&["hostile"]);
            let url = format!("{}?heartbeat=1", queue.url());
            let args = ["work", &guest(name), "--forever", "--backoff-initial", "1ms", "--backoff-max", "1ms"];
            let mut working = start(queue.command(&args).args(flags).env("BROKER_URL", url));
            working.wait_for("\"settlement\":\"dead-letter\"");
            let peak = peak_memory(working.id());
            working.signal("TERM");
            let ended = working.end();
            ended.exits(0);
            assert!(!ended.stderr.contains("connection"), "{name}: {}", ended.stderr);
            assert!(peak < LIMIT_KIB, "{name}: {peak} KiB");
            queue.take_dead();
        }
    });
}

/// The most memory that a process has had, in KiB.
fn peak_memory(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_guest_that_kills_its_process_costs_one_attempt_and_not_the_worker() {
    crate::harness::queue::on_every_queue(|queue| {
        queue.publish(&["deadly"]);
        let args = ["work", &guest("sleep"), "--forever", "--isolation", "process", "--max-attempts", "2"];
        let mut working = start(queue.command(&args).args(["--backoff-initial", "1ms", "--backoff-max", "1ms"]));
        for _ in 0..2 {
            working.wait_for("started");
            let child = child_of(working.id());
            let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
            assert_eq!(environment, b"", "a guest's process has nothing of our environment");
            assert!(Command::new("kill").args(["-KILL", &child.to_string()]).status().unwrap().success());
        }
        working.wait_for("\"settlement\":\"dead-letter\"");
        assert!(working.is_running());
        working.signal("TERM");
        working.end().exits(0);
        let dead = queue.take_dead();
        assert_eq!(dead.headers["x-wq-outcome"], "crash");
        assert_eq!(dead.headers["x-wq-attempt"], "2");
    });
}

#[test]
fn a_signal_for_the_whole_process_group_is_the_workers_alone() {
    use std::os::unix::process::CommandExt as _;
    crate::harness::queue::on_every_queue(|queue| {
        queue.publish(&["finished"]);
        let args = ["work", &guest("nap"), "--isolation", "process"];
        let mut working = start(queue.command(&args).process_group(0));
        working.wait_for("started");
        let group = format!("-{}", working.id());
        assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
        working.end().exits(0).prints("finished");
    });
}

/// The one process that another has started.
pub fn child_of(id: u32) -> u32 {
    let children = std::fs::read_dir(format!("/proc/{id}/task")).unwrap().flatten().find_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    });
    children.expect("there is a child")
}
