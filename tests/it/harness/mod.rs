//! What the tests stand on: the binary, the guests, and queues on every kind of broker.

pub mod collector;
mod components;
pub mod http;
pub mod programs;
pub mod prometheus;
pub mod proxy;
pub mod queue;
pub mod rabbitmq;
pub mod redis;
pub mod samples;
pub mod sqs;
pub mod stub;
pub mod terminal;
pub mod web;
pub mod wire;

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use components::{
    commands_of_both, component, concurrent, concurrent_guest, crash_lines_guests, fetch_guests, sockets_guest,
};

/// No test waits longer than this for anything. Generous, since machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A run of the binary that has ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A run of the binary that goes on. Killed when dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    lines: Receiver<String>,
    seen: String,
}

/// The binary, with nothing of our own environment.
pub fn wq_run(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wq-run"));
    command.env_clear().args(args);
    command
}

/// A guest of `tests/guests`.
pub fn guest(name: &str) -> String {
    let path = root().join("tests/guests").join(name).with_extension("wat");
    assert!(path.is_file(), "there is no guest {}", path.display());
    path.display().to_string()
}

/// The guest of the Kubernetes page, compiled from Rust or C by `make guests`.
pub fn page_guest(language: &str) -> Option<String> {
    let path = root().join(format!("build/guests/processing-{language}.wasm"));
    required(path.is_file().then(|| path.display().to_string()), "`make guests` has not built the example guests")
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// What a test can't do without: on a laptop it is skipped, loudly; in CI it fails.
pub fn required<T>(what: Option<T>, missing: &str) -> Option<T> {
    if what.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        // Not `eprintln!`, which the test runner hides for tests that pass.
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: {missing}");
    }
    what
}

/// Where a program is, if it is installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let elsewhere = ["/usr/sbin".into(), "/usr/lib/rabbitmq/bin".into(), root().join("build/prometheus")];
    let folders = std::env::split_paths(&path).chain(elsewhere);
    required(
        folders.map(|folder| folder.join(program)).find(|path| path.is_file()),
        &format!("{program} is not installed"),
    )
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask)
}

/// Asks for so long.
pub fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Run {
    run_with(command, b"")
}

pub fn run_with(command: &mut Command, stdin: &[u8]) -> Run {
    let mut running = start(command);
    running.write(stdin);
    running.end()
}

pub fn start(command: &mut Command) -> Running {
    start_onto(command, Stdio::piped(), Stdio::piped())
}

/// Starts it with other standard streams. What is not piped is not seen here.
pub fn start_onto(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Running {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // Otherwise `command` keeps its ends of the pipes open, and their readers never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let (line_tx, lines) = channel();
    std::thread::spawn(move || {
        let Some(stderr) = stderr else { return };
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            if line_tx.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let stdout = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stdout) = stdout {
            let _ = stdout.read_to_end(&mut bytes);
        }
        bytes
    });
    Running { stdin: child.stdin.take(), child, stdout: Some(stdout), lines, seen: String::new() }
}

/// A pipe that has no room for a single byte.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    set_blocking(&writer, false);
    while writer.write(&[b'-'; 4096]).is_ok() {}
    set_blocking(&writer, true);
    (reader, writer)
}

/// Sets the mode for all handles of this end of the pipe, also those of other processes.
pub fn set_blocking(pipe: &PipeWriter, blocking: bool) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let mut flags = fcntl_getfl(pipe).expect("it is open");
    flags.set(OFlags::NONBLOCK, !blocking);
    fcntl_setfl(pipe, flags).expect("set");
}

/// The same command with a shell's redirections.
pub fn redirected(command: &Command, redirections: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("exec \"$@\" {redirections}"), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

// === impl Running ===

impl Running {
    /// Writes all of stdin, and ends it. A program that does not read it is fine.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(bytes);
        }
    }

    /// All that was said up to the last line that was waited for.
    pub fn seen(&self) -> &str {
        &self.seen
    }

    /// Waits for a line of the log that holds `text`.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_for_within(text, PATIENCE);
    }

    /// Waits for a line of the log that holds all of these.
    pub fn wait_for_all(&mut self, texts: &[&str]) {
        self.wait_for_all_within(texts, PATIENCE);
    }

    pub fn wait_for_within(&mut self, text: &str, patience: Duration) {
        self.wait_for_all_within(&[text], patience);
    }

    fn wait_for_all_within(&mut self, texts: &[&str], patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen += &line;
                    self.seen += "\n";
                    if texts.iter().all(|text| line.contains(text)) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("never said {texts:?}:\n{}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before it said {texts:?}:\n{}", self.seen),
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the end.
    pub fn end(self) -> Run {
        self.end_within(PATIENCE)
    }

    pub fn end_within(mut self, patience: Duration) -> Run {
        self.write(b"");
        let child = &mut self.child;
        let status = within(patience, "the process ends", || child.try_wait().expect("it is ours"));
        let stdout = self.stdout.take().expect("taken once").join().expect("the reader does not panic");
        let mut stderr = std::mem::take(&mut self.seen);
        for line in self.lines.iter() {
            stderr += &line;
            stderr += "\n";
        }
        Run { code: status.code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Run ===

impl Run {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Run {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out(), self.stderr);
        self
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> &Run {
        assert!(self.stderr.contains(text), "does not say {text:?}:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn prints(&self, text: &str) -> &Run {
        assert_eq!(self.out(), text, "stderr:\n{}", self.stderr);
        self
    }
}
