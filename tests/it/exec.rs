//! `wq-run exec`: a guest under the same contract, without a queue.

use std::process::Command;

use crate::harness::{Run, guest, run_with, start, wq_run};

fn exec(name: &str, args: &[&str]) -> Command {
    let mut command = wq_run(&["exec", &guest(name)]);
    command.args(args);
    command
}

fn exec_with(name: &str, args: &[&str], stdin: &[u8]) -> Run {
    run_with(&mut exec(name, args), stdin)
}

#[test]
fn stdin_goes_in_and_stdout_comes_out_byte_for_byte() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let echoed = exec_with("echo", &[], &every_byte);
    assert!(echoed.exits(0).stdout == every_byte);
    exec_with("echo", &[], b"").exits(0).prints("");
    exec_with("nothing", &[], &every_byte).exits(0).prints("");
}

#[test]
fn stdout_may_be_as_long_as_its_limit_and_no_longer() {
    exec_with("echo", &["--max-stdout", "10"], b"1234567890").exits(0).prints("1234567890");
    exec_with("echo", &["--max-stdout", "10"], b"12345678901").exits(153);
}

#[test]
fn stderr_is_cut_at_its_limit_and_the_guest_goes_on() {
    let flooded = exec_with("flood-stderr", &["--max-stderr", "100000"], b"");
    flooded.exits(0).says("--max-stderr");
    assert!(flooded.stderr.len() < 101_000, "{} bytes", flooded.stderr.len());
}

#[test]
fn a_stdin_over_the_limit_of_a_message_is_refused() {
    exec_with("echo", &["--max-message", "3"], b"1234").exits(78).says("--max-message").prints("");
}

#[test]
fn a_guest_sees_the_folders_that_were_granted_and_writes_only_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let granted = folder.path().join("granted");
    std::fs::create_dir(&granted).unwrap();
    std::fs::write(granted.join("in"), "from the host").unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    let granted = granted.to_str().unwrap();
    // No grant, no folder.
    exec_with("files", &[], b"").exits(10);
    // Read-only is the default, and the folder above is out of reach.
    for read_only in [granted.to_owned(), format!("{granted}::/data"), format!("{granted}::/data:ro")] {
        exec_with("files", &["--dir", &read_only], b"").exits(12).prints("from the host");
        assert!(!folder.path().join("granted/out").exists());
    }
    exec_with("files", &["--dir", &format!("{granted}::/data:rw")], b"").exits(0).prints("from the host");
    assert!(folder.path().join("granted/out").exists());
    // A symbolic link does not lead out of the folder either.
    std::fs::remove_file(folder.path().join("granted/in")).unwrap();
    std::os::unix::fs::symlink("../secret", folder.path().join("granted/in")).unwrap();
    exec_with("files", &["--dir", granted], b"").exits(11).prints("");
}

#[test]
fn a_grant_that_can_not_be_given_is_said_before_anything_runs() {
    exec_with("nothing", &["--dir", "/no/such/folder"], b"").exits(78).says("--dir");
    // More folders than a process may have open.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let mut many = Command::new("sh");
    many.args(["-c", r#"ulimit -n 64; exec "$@""#, "sh", env!("CARGO_BIN_EXE_wq-run"), "exec", &guest("nothing")]);
    for number in 0..100 {
        many.args(["--dir".into(), format!("{folder}::/{number}")]);
    }
    run_with(&mut many, b"").exits(78).says("open files").says("--dir");
    exec_with("nothing", &["--env", "NOT_SET_ANYWHERE"], b"").exits(78).says("--env NOT_SET_ANYWHERE=VALUE");
}

#[test]
fn ctrl_c_ends_a_guest_with_the_shells_code_for_it() {
    for (name, signal, code) in [("spin", "INT", 130), ("sleep", "TERM", 143)] {
        let mut running = start(&mut exec(name, &[]));
        running.write(b"");
        running.wait_for("started");
        running.signal(signal);
        running.end().exits(code);
    }
}
