//! `wq-run check`: it finds planted faults, finds none in a good set-up, ends with the status that a worker would end with,
//! and leaves everything as it was.

mod rabbitmq;
mod stores;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::queue::{Broker, Queue, on_channel, on_every_queue};
use crate::harness::{Run, component, guest, required, run, start};

/// What was found, a line each.
fn findings(run: &Run) -> Vec<Value> {
    let lines = run.out();
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    lines.lines().map(read).collect()
}

/// The levels at which a run found something about this.
fn levels(run: &Run, check: &str) -> Vec<String> {
    let about = findings(run).into_iter().filter(|finding| finding["check"] == check);
    about.map(|finding| finding["level"].as_str().unwrap().to_owned()).collect()
}

/// A finding of this level about this, with this text in it.
#[track_caller]
fn assert_found(run: &Run, level: &str, check: &str, text: &str) -> Value {
    let found = findings(run);
    let is_it =
        |finding: &&Value| finding["level"] == level && finding["check"] == check && finding.to_string().contains(text);
    found.iter().find(is_it).unwrap_or_else(|| panic!("no {level} about {check} with {text:?}:\n{}", run.out())).clone()
}

/// Asserts that no finding is worse than a note.
#[track_caller]
fn assert_nothing_found(run: &Run) {
    run.exits(0);
    let worse: Vec<Value> =
        findings(run).into_iter().filter(|finding| finding["level"] != "ok" && finding["level"] != "note").collect();
    assert!(worse.is_empty(), "{worse:#?}");
}

/// `check --json` on a queue, with a cache of its own.
fn check(queue: &Queue, guest: &str, flags: &[&str]) -> Command {
    let mut command = queue.command(&["check", guest, "--json"]);
    command.args(flags);
    command
}

/// A cache that can be written to.
fn cache() -> (tempfile::TempDir, [String; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--cache-dir".to_owned(), folder.path().display().to_string()];
    (folder, flags)
}

#[test]
fn a_good_set_up_has_no_faults() {
    on_every_queue(|queue| {
        let (_cache, flags) = cache();
        let results = queue.beside("results");
        let result = format!("queue:{results}");
        let run = run(check(queue, &guest("echo"), &["--strict", "--result", &result]).args(&flags));
        assert_nothing_found(&run);
        for about in ["guest", "imports", "cache", "memory", "shutdown", "reach", "queue", "dead-letters", "results"] {
            assert!(levels(&run, about).contains(&"ok".to_owned()), "nothing is said of {about}:\n{}", run.out());
        }
    });
}

/// All that can be seen of a queue and what belongs to it, in the words of its broker.
fn state(queue: &Queue) -> Vec<String> {
    let name = &queue.name;
    match &queue.broker {
        Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => {
            let listed = |args: &[&str]| {
                let all = rabbitmq.ctl(args);
                let mut lines: Vec<String> =
                    all.lines().filter(|line| line.contains(name.as_str())).map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let mut state = listed(&["--silent", "list_queues", "name", "arguments"]);
            state.extend(listed(&["--silent", "list_bindings", "destination_name"]));
            state.retain(|line| line.split(['\t', '.']).next() == Some(name));
            // RabbitMQ updates the depth in its list of queues late.
            state.push(format!("{} ready", queue.depth()));
            state
        }
        Broker::Redis(redis) => {
            let mut keys: Vec<String> =
                redis.ask(&["KEYS", &format!("*{name}*")]).list().into_iter().map(|key| key.text()).collect();
            keys.retain(|key| key.trim_matches(['{', '}']).split(['.', '}']).next() == Some(name));
            keys.sort();
            let mut state: Vec<String> =
                keys.iter().map(|key| format!("{key} {:?}", redis.ask(&["DUMP", key.as_str()]))).collect();
            state.push(format!("{:?}", redis.ask(&["XINFO", "GROUPS", name])));
            state.push(format!("{:?}", redis.ask(&["XINFO", "CONSUMERS", name, "wq-run"])));
            state
        }
        Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => {
            let mut names: Vec<String> =
                sqs.ask("ListQueues", serde_json::json!({ "QueueNamePrefix": name }))["QueueUrls"]
                    .as_array()
                    .map(|urls| urls.iter().map(Value::to_string).collect())
                    .unwrap_or_default();
            names.sort();
            names.push(format!("{} ready, {} hidden", sqs.ready(name), sqs.hidden(name)));
            names
        }
        Broker::Sqlite(folder) => files(folder.path()),
    }
}

/// The files of a folder, with what is in them.
fn files(folder: &Path) -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            let modified = entry.metadata().unwrap().modified().unwrap();
            format!("{:?} {} {modified:?}", entry.file_name(), blake(&bytes))
        })
        .collect();
    files.sort();
    files
}

fn blake(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[test]
fn a_look_leaves_every_queue_as_it_was() {
    on_every_queue(|queue| {
        let (cache, flags) = cache();
        queue.publish(&["a", "b"]);
        let before = state(queue);
        // Each way to look: with everything there, and with a result queue that is missing.
        for result in ["stdout", "queue:no-such-queue", "reply"] {
            let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--result", result]).collect();
            run(&mut check(queue, &guest("echo"), &flags));
        }
        assert_eq!(state(queue), before);
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "the cache is as it was");
        // `check` did not even receive a message: the broker would have counted the delivery.
        for _ in 0..2 {
            let environment = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
            assert!(
                environment.contains("WQ_REDELIVERED=false") && environment.contains("WQ_ATTEMPT=1"),
                "{environment}"
            );
        }
    });
}

/// A worker that has a message, its connection and its locks.
#[test]
fn a_look_disturbs_no_worker_and_is_not_disturbed_by_one() {
    on_every_queue(|queue| {
        queue.publish(&["nap"]);
        let mut worker =
            start(queue.command(&["work", &guest("nap"), "--log-format", "json"]).env("RUST_LOG", "debug"));
        worker.wait_for("working");
        assert_nothing_found(&run(&mut check(queue, &guest("echo"), &[])));
        worker.end().exits(0);
    });
}

#[test]
fn what_stops_a_worker_is_told_with_the_status_that_it_would_end_with() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let in_the_way = format!("dir:{}", file.display());
    let missing = format!("dir:{}", folder.path().join("none").display());
    let wrong = format!("--guest-digest=sha256:{}", "0".repeat(64));
    let table: [(&str, &[&str], &str, i32, &str); 9] = [
        ("no-such-guest", &[], "guest", 66, "No such file"),
        ("foreign-import", &[], "guest", 66, "env::launch_rocket"),
        ("unknown-wasi", &[], "guest", 66, "sock_connect"),
        ("echo", &[&wrong], "digest", 66, "--guest-digest"),
        ("echo", &["--allow-net", "h:1"], "imports", 78, "--allow-net"),
        ("echo", &["--result", &in_the_way], "results", 78, "--result dir:PATH"),
        ("echo", &["--result", &missing], "results", 78, "--result dir:PATH"),
        ("echo", &["--dead-letter-queue", ""], "settings", 78, "--dead-letter-queue"),
        ("echo", &["--result", "queue:no-such-queue"], "results", 78, "no-such-queue"),
    ];
    on_every_queue(|queue| {
        queue.publish(&["untouched"]);
        for (name, flags, about, status, text) in table {
            let path = if name == "no-such-guest" { name.to_owned() } else { guest(name) };
            let checked = run(&mut check(queue, &path, flags));
            let found = assert_found(checked.exits(status), "error", about, text);
            assert_eq!(found["exit_status"], status);
            run(queue.command(&["work", &path]).args(flags)).exits(status);
        }
        assert_eq!(queue.take().body, b"untouched");
    });
}

#[test]
fn a_missing_queue_is_told_with_the_command_that_makes_it() {
    on_every_queue(|queue| {
        let missing = run(check(queue, &guest("echo"), &[]).env("QUEUE", "no-such-queue"));
        let found = assert_found(missing.exits(78), "error", "queue", "no-such-queue");
        assert!(found["remedy"].as_str().unwrap().contains("wq-run queue declare --queue no-such-queue"), "{found}");
    });
}

#[test]
fn what_goes_wrong_later_is_a_warning_that_only_strict_fails() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let no_cache = file.display().to_string();
    let table: [(&str, &[&str], &str, &str); 7] = [
        ("files", &[], "imports", "--dir"),
        ("echo", &["--cache-dir", &no_cache], "cache", "--cache-dir"),
        ("echo", &["--shutdown-timeout", "27s"], "shutdown", "--shutdown-timeout"),
        ("echo", &["--shutdown-timeout", "2m", "--grace-period", "2m"], "shutdown", "--grace-period"),
        ("echo", &["--max-memory-size", "64TiB"], "memory", "--max-memory-size"),
        (
            "echo",
            &["--concurrency", "20000", "--prefetch", "20000", "--isolation", "process"],
            "memory",
            "--concurrency",
        ),
        ("scratch", &["--scratch", "8EiB"], "scratch", "--scratch"),
    ];
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    for (name, flags, about, flag) in table {
        let checked = run(&mut check(&queue, &guest(name), flags));
        let found = assert_found(checked.exits(0), "warning", about, flag);
        let named = found["flags"].as_array().unwrap();
        assert!(named.contains(&flag.into()), "{flag}: {found}");
        run(check(&queue, &guest(name), flags).arg("--strict")).exits(1);
    }
    let granted = format!("{}::/data", folder.path().display());
    assert_nothing_found(&run(&mut check(&queue, &guest("files"), &["--dir", &granted])));
    assert_nothing_found(&run(&mut check(
        &queue,
        &guest("echo"),
        &["--shutdown-timeout", "2m", "--grace-period", "124s"],
    )));
}

#[test]
fn sockets_that_no_address_is_granted_for_are_warned_of() {
    let Some(sockets) = crate::harness::sockets_guest() else { return };
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    assert_found(&run(&mut check(&queue, &sockets, &[])), "warning", "imports", "--allow-net");
    assert_nothing_found(&run(&mut check(&queue, &sockets, &["--allow-net", "127.0.0.1:1"])));
    // A component has the interfaces of files and of the environment, whatever it does.
    assert_nothing_found(&run(&mut check(&queue, &component("echo"), &[])));
    let unused = run(&mut check(&queue, &component("echo"), &["--allow-net", "127.0.0.1:1"]));
    assert_found(unused.exits(0), "note", "imports", "no sockets");
}

#[test]
fn a_compiled_guest_in_a_cache_that_cannot_be_written_is_as_it_should_be() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let (cache, flags) = cache();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    run(queue.command(&["compile", &guest("echo")]).args(&flags)).exits(0);
    let before = entries(cache.path());
    let checked = run(&mut check(&queue, &guest("echo"), &flags));
    assert_found(checked.exits(0), "ok", "cache", "the compiled guest is in");
    assert_eq!(entries(cache.path()), before);
    // A damaged entry stays where it is, too.
    let entry = before.keys().find(|path| path.ends_with(".cwasm")).expect("it was compiled").clone();
    std::fs::write(cache.path().join(&entry), b"damaged").unwrap();
    let damaged = entries(cache.path());
    run(&mut check(&queue, &guest("echo"), &flags)).exits(0);
    assert_eq!(entries(cache.path()), damaged);
}

/// All files below a folder.
fn entries(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Runs the command as the user `nobody`: permissions do not stop root.
fn as_nobody(command: &Command) -> Command {
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(command.get_program())
        .args(command.get_args());
    nobody.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    nobody
}

#[test]
fn folders_without_write_permission_are_found_without_writing_to_them() {
    let is_root = rustix::process::geteuid().is_root();
    let Some(()) = required(is_root.then_some(()), "only root can become somebody else") else { return };
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let Broker::Sqlite(folder) = &queue.broker else { unreachable!() };
    let shared = tempfile::tempdir().unwrap();
    // The guest, and where the file of the queue lies, can be read by all.
    let readable = shared.path().join("echo.wat");
    std::fs::copy(guest("echo"), &readable).unwrap();
    for path in [shared.path(), folder.path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let closed = shared.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let closed = closed.display().to_string();
    let flags = ["--cache-dir", &closed, "--result", &format!("dir:{closed}")];
    let checked = run(&mut as_nobody(&check(&queue, &readable.display().to_string(), &flags)));
    assert_found(&checked, "warning", "cache", "Permission denied");
    assert_found(&checked, "error", "results", "Permission denied");
    assert_found(checked.exits(69), "error", "rights", "cannot open the queue file");
    let mut work = queue.command(&["work", &readable.display().to_string(), "--connect-timeout", "100ms"]);
    run(&mut as_nobody(work.args(["--cache-dir", &closed]))).exits(69);
}

#[test]
fn a_container_that_is_too_small_is_warned_of() {
    // The kernel's own interface, in its second version or its first.
    let own = format!("wq-run-check-{}", std::process::id());
    let roots = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
    let made = roots.iter().find_map(|(root, file)| {
        let folder = Path::new(root).join(&own);
        std::fs::create_dir(&folder).ok()?;
        // Another file system takes any file.
        if folder.join("cgroup.procs").exists() && std::fs::write(folder.join(file), "536870912").is_ok() {
            return Some(folder);
        }
        let _ = std::fs::remove_dir(folder);
        None
    });
    let Some(folder) = required(made, "no cgroup can be made here") else { return };
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let within = |flags: &[&str]| {
        let command = check(&queue, &guest("echo"), flags);
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", folder.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut shell)
    };
    let small = within(&[]);
    let large = within(&["--max-memory-size", "256MiB"]);
    std::fs::remove_dir(&folder).unwrap();
    let found = assert_found(small.exits(0), "warning", "memory", "the container's limit is 512MiB");
    assert!(found["found"].as_str().unwrap().contains("= 720MiB"), "{found}");
    assert_nothing_found(&large);
}

#[test]
fn people_get_a_list_that_fits_into_80_columns() {
    on_every_queue(|queue| {
        let listed = run(&mut queue.command(&["check", &guest("files"), "--result", "queue:no-such-queue"]));
        let text = listed.exits(78).out();
        for line in text.lines() {
            // A word that is longer than a line, as a path or an address may be, has one to itself.
            assert!(line.chars().count() <= 80 || line.split_whitespace().count() == 1, "{line}");
        }
        assert!(text.starts_with("ok      settings: "), "{text}");
        assert!(text.contains("\nwarning imports: ") && text.contains("\nerror   results: "), "{text}");
        assert!(text.contains("\n        then: ") && text.contains("\n        hint: "), "{text}");
        assert!(text.ends_with("1 error, 1 warning: a worker would end with 78\n"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    });
}

#[test]
fn colours_are_only_for_terminals_and_no_color_turns_them_off() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let Some(script) = crate::harness::installed("script") else { return };
    let on_a_terminal = |no_color: &str| {
        let command = queue.command(&["check", &guest("echo")]);
        let line: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
        let line = line.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        let mut terminal = Command::new(&script);
        terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]).envs(queue.environment());
        run(terminal.env("NO_COLOR", no_color).env("TERM", "xterm")).exits(0).out()
    };
    assert!(on_a_terminal("").contains("\x1b[32mok"));
    let plain = on_a_terminal("1");
    assert!(plain.contains("ok      settings") && !plain.contains('\x1b'), "{plain:?}");
}

#[test]
fn every_error_and_every_warning_says_what_follows_and_what_helps() {
    on_every_queue(|queue| {
        let flags = ["--shutdown-timeout", "1m", "--result", "queue:no-such-queue", "--max-memory-size", "64TiB"];
        let checked = run(&mut check(queue, &guest("files"), &flags));
        let mut seen = 0;
        for finding in findings(checked.exits(78)) {
            let level = finding["level"].as_str().unwrap();
            let is_bad = level == "error" || level == "warning";
            assert_eq!(finding["consequence"].is_string(), is_bad, "{finding}");
            assert_eq!(finding["remedy"].is_string(), is_bad, "{finding}");
            assert_eq!(finding["flags"].is_array(), is_bad, "{finding}");
            assert_eq!(finding["exit_status"].is_number(), level == "error", "{finding}");
            seen += usize::from(is_bad);
        }
        assert_eq!(seen, 4, "{}", checked.out());
    });
}

#[test]
fn no_password_is_ever_shown() {
    for url in ["amqp://u:s3cret@127.0.0.1:1/v", "redis://u:s3cret@127.0.0.1:1", "rediss://u:s3cret@127.0.0.1:1"] {
        let mut command = crate::harness::wq_run(&["check", &guest("echo")]);
        let checked = run(command.env("BROKER_URL", url).env("QUEUE", "q"));
        checked.exits(69);
        assert!(checked.out().contains("127.0.0.1:1"), "{}", checked.out());
        assert!(!checked.out().contains("s3cret") && !checked.stderr.contains("s3cret"));
    }
}
