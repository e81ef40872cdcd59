//! The second wall, around guests' processes (`--wall`): what a guest reaches that has taken its process over.
//!
//! Each attempt is made natively inside the process that runs guests (`sandbox/place/probe.rs`), behind the wall and without it.
//! Without it the attempt has to get through, or else it would prove nothing.

use std::path::Path;
use std::process::Command;

use crate::harness::queue::on_every_queue;
use crate::harness::{Run, component, eventually, guest, required, run, start, wq_run};
use crate::processes::{children, is_gone};

const EACCES: i32 = 13;
const EXDEV: i32 = 18;
const ENOSYS: i32 = 38;
/// How `exec` ends when the guest's process was killed.
const CRASH: i32 = 134;
const BY_SIGSYS: &str = "signal: 31";

fn exec(wall: &str, path: &str, flags: &[&str]) -> Command {
    let mut command = wq_run(&["exec", path, "--isolation", "process", "--wall", wall]);
    command.args(flags);
    command
}

/// One attempt in the place of a guest.
fn attempt_by(path: &str, wall: &str, attempt: &str, flags: &[&str]) -> Run {
    run(exec(wall, path, flags).env("WQ_FAULT", format!("guest-process:attempt={attempt}")))
}

fn attempt(wall: &str, attempt: &str, flags: &[&str]) -> Run {
    attempt_by(&guest("nothing"), wall, attempt, flags)
}

/// Whether the whole wall can be had on this machine.
fn has_wall() -> bool {
    let run = run(&mut exec("required", &guest("nothing"), &[]));
    assert!(!run.stderr.contains("threads run already"), "{}", run.stderr);
    required((run.code == Some(0)).then_some(()), &format!("the wall can't be had here: {}", run.stderr)).is_some()
}

#[test]
fn behind_the_wall_no_file_is_reached_but_the_granted_ones() {
    if !has_wall() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let lay_out = || {
        for name in ["ro", "rw", "rw/deep"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["secret", "ro/file", "rw/file"] {
            std::fs::write(path(name), "x").unwrap();
        }
        for name in ["new", "rw/new", "ro/new", "rw/link", "rw/deep/file"] {
            let _ = std::fs::remove_file(path(name));
        }
        std::os::unix::fs::symlink(path("secret"), path("rw/link")).unwrap();
    };
    let cache = tempfile::tempdir().unwrap();
    let cached = cache.path().display().to_string();
    let flags = ["--cache-dir", &cached, "--dir", &path("ro"), "--dir", &format!("{}::/rw:rw", path("rw"))];
    lay_out();
    // From here on the compiled guest is mapped from the cache.
    run(&mut exec("required", &guest("nothing"), &flags)).exits(0);
    let refused = [
        ("read /etc/passwd".into(), EACCES),
        (format!("read {}", path("secret")), EACCES),
        (format!("append {}", path("secret")), EACCES),
        (format!("list {}", folder.path().display()), EACCES),
        (format!("below {} ../secret", path("ro")), EACCES),
        (format!("below {} link", path("rw")), EACCES),
        (format!("read {}", path("rw/link")), EACCES),
        (format!("create {}", path("new")), EACCES),
        (format!("create {}", path("ro/new")), EACCES),
        (format!("append {}", path("ro/file")), EACCES),
        (format!("empty {}", path("ro/file")), EACCES),
        (format!("remove {}", path("ro/file")), EACCES),
        (format!("rename {} {}", path("rw/file"), path("ro/new")), EXDEV),
        (format!("link {} {}", path("secret"), path("rw/new")), EXDEV),
        ("append /proc/self/fd/0".into(), EACCES),
        ("of-parent environ".into(), EACCES),
        ("append /proc/self/mem".into(), EACCES),
        (format!("thread read {}", path("secret")), EACCES),
    ];
    for (text, error) in refused {
        lay_out();
        let behind = attempt("required", &text, &flags);
        assert!(
            behind.code == Some(error) || error == EXDEV && behind.code == Some(EACCES),
            "{text} behind the wall: {behind:?}"
        );
        lay_out();
        attempt("off", &text, &flags).exits(0);
    }
    let granted = [
        format!("read {}", path("ro/file")),
        format!("list {}", path("ro")),
        format!("append {}", path("rw/file")),
        format!("create {}", path("rw/new")),
        format!("empty {}", path("rw/file")),
        format!("rename {} {}", path("rw/file"), path("rw/deep/file")),
        format!("remove {}", path("rw/file")),
        // The wall does not cover what only looks at a file's name, size and times.
        "stat /etc/passwd".into(),
    ];
    for text in granted {
        lay_out();
        attempt("required", &text, &flags).exits(0);
    }
}

#[test]
fn behind_the_wall_no_system_call_is_made_but_those_of_a_guest() {
    if !has_wall() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let missing = [
        &format!("chmod {}", file.path().display()),
        // Paths and buffers are null, so that without the wall the kernel refuses these for another reason.
        "call chown -100 0 0 0 0",
        "call mknod -100 0 0 0",
        "call truncate 0 0",
        "spawn /bin/true",
        "thread spawn /bin/true",
        "call clone3 0 0",
        "call kill parent 0",
        "call tgkill parent parent 0",
        "call pidfd_open parent 0",
        "call prlimit parent 0 0 0",
        "call sched_setaffinity parent 0 0",
        "call prctl 4 1 0 0 0",
        "call perf_event_open 0 0 -1 -1 0",
        "call memfd_create 0 0",
        "call shmget 0 4096 896",
        "call mmap 0 4096 5 34 -1 0",
        "call mprotect 0 0 4",
        // TIOCSTI
        "call ioctl 2 21522 0",
        "call socketpair 1 1 0 0",
        "call listen 1 1",
        "call accept 1 0 0 0",
        "call bind 1 0 0",
        // MSG_FASTOPEN
        "call sendto 1 0 0 536870912 0 0",
        "call sendmmsg 1 0 0 0",
        // Unix, IPv4 and IPv6 over TCP, over UDP, over MPTCP, netlink
        "call socket 1 1 0",
        "call socket 2 1 0",
        "call socket 10 1 0",
        "call socket 2 2 0",
        "call socket 2 1 262",
        "call socket 16 3 0",
    ];
    for text in missing {
        attempt("required", text, &[]).exits(ENOSYS);
        let without = attempt("off", text, &[]);
        assert!(!matches!(without.code, Some(ENOSYS | CRASH)), "{text} proves nothing: {without:?}");
    }
    let hostile = [
        "exec /bin/true",
        "thread exec /bin/true",
        "call ptrace 16902 parent 0 0",
        "call process_vm_readv parent 0 0 0 0 0",
        "call unshare 268435456",
        "call mount 0 0 0 0 0",
        "call setns 0 0",
        "call bpf 0 0 0",
        "call io_uring_setup 0 0",
        "call userfaultfd 0",
        "call keyctl 0 0 0 0 0",
        "call open_by_handle_at 0 0 0",
    ];
    for text in hostile {
        attempt("required", text, &[]).exits(CRASH).says(BY_SIGSYS).says("no guest makes");
        let without = attempt("off", text, &[]);
        assert!(!without.stderr.contains("signal"), "{text} proves nothing: {without:?}");
    }
}

#[test]
fn behind_the_wall_nothing_is_connected_to_but_the_granted_ports() {
    if !has_wall() {
        return;
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _local = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let address = server.local_addr().unwrap().to_string();
    for flag in ["--allow-net", "--allow-http"] {
        let try_to = |wall: &str, text: &str| attempt_by(&component("nothing"), wall, text, &[flag, &address]);
        try_to("required", &format!("connect {address}")).exits(0);
        let refused = [
            (format!("connect {}", other.local_addr().unwrap()), EACCES),
            (format!("connect-local {}", socket.display()), ENOSYS),
            ("call socket 2 2 0".into(), ENOSYS),
            ("call socket 2 1 262".into(), ENOSYS),
            ("call socket 1 1 0".into(), ENOSYS),
            ("call sendto 1 0 0 536870912 0 0".into(), ENOSYS),
            ("call listen 1 1".into(), ENOSYS),
        ];
        for (text, error) in refused {
            try_to("required", &text).exits(error);
            let without = try_to("off", &text);
            assert!(!matches!(without.code, Some(EACCES | ENOSYS | CRASH)), "{text} proves nothing: {without:?}");
        }
    }
}

#[test]
fn a_process_has_no_descriptor_that_the_worker_was_started_with() {
    for wall in ["auto", "off"] {
        let command = exec(wall, &guest("nothing"), &[]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec 7</etc/hostname; exec \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        let said = run(shell.env("WQ_FAULT", "guest-process:attempt=descriptors")).exits(0).stderr.clone();
        assert!(said.contains("descriptor 0: ") && !said.contains("hostname"), "{said}");
        let terminal = |line: &str| line.contains("/dev/pts") || line.contains("/dev/tty");
        assert!(!said.lines().any(terminal), "{said}");
    }
}

#[test]
fn no_process_outlives_a_worker_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("q.db").display());
    run(wq_run(&["queue", "declare"]).env("BROKER_URL", &url).env("QUEUE", "q")).exits(0);
    // A guest that computes, and a process that no longer listens to its worker.
    for (guest, fault) in [(guest("spin"), "guest-process:strict"), (guest("nothing"), "guest-process:attempt=sleep")] {
        run(wq_run(&["publish", "x"]).env("BROKER_URL", &url).env("QUEUE", "q")).exits(0);
        let mut work = wq_run(&["work", &guest, "--isolation", "process"]);
        work.env("BROKER_URL", &url).env("QUEUE", "q").env("RUST_LOG", "debug").env("WQ_FAULT", fault);
        let mut worker = start(&mut work);
        worker.wait_for("taken");
        let [child] = children(worker.id())[..] else { panic!("one process runs the guest") };
        worker.signal("KILL");
        worker.end();
        eventually("the process is gone", || is_gone(child).then_some(()));
    }
}

#[test]
fn what_a_process_forges_costs_one_attempt_and_none_of_the_workers_memory() {
    const LIMIT_KIB: u64 = 200 << 10;
    on_every_queue(|queue| {
        for what in ["bytes", "words", "outcome", "stderr"] {
            queue.publish(&["hostile"]);
            let args = ["work", &guest("nothing"), "--isolation", "process", "--max-attempts", "1", "--forever"];
            let mut work = queue.command(&args);
            let mut worker = start(work.env("WQ_FAULT", format!("guest-process:attempt=forge {what}")));
            worker.wait_for("\"settlement\":\"dead-letter\"");
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(peak < LIMIT_KIB, "{what}: {peak} KiB");
            worker.signal("TERM");
            worker.end().exits(0).says("\"outcome\":\"crash\"");
            assert_eq!(queue.take_dead().headers["x-wq-outcome"], "crash");
        }
    });
}

#[test]
fn the_wall_is_told_of_and_refused_where_it_can_not_be() {
    let quiet = run(&mut wq_run(&["exec", &guest("nothing"), "--wall", "required"]));
    quiet.exits(78).says("--isolation process").says("WQ_ISOLATION").says("WQ_WALL");
    let told = |wall: &str| run(exec(wall, &guest("nothing"), &[]).env("RUST_LOG", "info")).exits(0).stderr.clone();
    assert!(told("off").contains("--wall off"));
    if has_wall() {
        let told = told("auto");
        assert!(told.contains("landlock") && told.contains("seccomp"), "{told}");
    }
}

/// A container with the libraries of this machine and nothing else.
fn container(profile: Option<&Path>, args: &[&str]) -> Command {
    let mut command = Command::new("podman");
    let settings = crate::harness::root().join("build/containers.conf");
    if settings.is_file() {
        command.env("CONTAINERS_CONF", settings);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty-root");
    for mount in ["lib", "lib64", "wq", "guests", "tmp", "proc", "dev", "sys", "etc", "run"] {
        std::fs::create_dir_all(folder.join(mount)).unwrap();
    }
    command.args(["run", "--rm", "--read-only", "--cap-drop=ALL", "--user=65532:65532", "--network=none"]);
    command.args(["--security-opt=no-new-privileges", "--tmpfs=/tmp"]);
    if let Some(profile) = profile {
        command.arg(format!("--security-opt=seccomp={}", profile.display()));
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_wq-run"));
    command.args(["--volume=/lib:/lib:ro", "--volume=/lib64:/lib64:ro"]);
    command.arg(format!("--volume={}:/wq:ro", binary.parent().unwrap().display()));
    command.arg(format!("--volume={}:/guests:ro", crate::harness::root().join("tests/guests").display()));
    command.arg("--rootfs").arg(folder).arg("/wq/wq-run").args(args);
    command
}

#[test]
fn in_a_container_the_wall_is_whole_unless_its_profile_refuses_landlock() {
    if crate::harness::installed("podman").is_none() || !has_wall() {
        return;
    }
    let args =
        |wall: &'static str| ["exec", "/guests/echo.wat", "--no-cache", "--isolation", "process", "--wall", wall];
    crate::harness::run_with(container(None, &args("required")).env("X", "x"), b"").exits(0);
    let profile = tempfile::NamedTempFile::new().unwrap();
    let landlock = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"];
    let rule = serde_json::json!({ "names": landlock, "action": "SCMP_ACT_ERRNO", "errnoRet": 38 });
    let json = serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    std::fs::write(profile.path(), json.to_string()).unwrap();
    run(&mut container(Some(profile.path()), &args("auto"))).exits(0).says("landlock: ").says("seccomp");
    run(&mut container(Some(profile.path()), &args("required"))).exits(78).says("landlock: ").says("WQ_WALL");
}
