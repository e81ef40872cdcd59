//! A run on a terminal: its stdout, stderr and stdin are one, as at a shell. What it shows is kept as a screen.

use std::io::Read as _;
use std::num::NonZeroU16;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{PATIENCE, eventually, installed, within};

/// A run that goes on. Killed when dropped.
pub struct OnTerminal {
    child: Child,
    shown: Arc<Mutex<Shown>>,
    reading: Option<JoinHandle<()>>,
}

struct Shown {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

/// What was on the terminal in the end.
pub struct Ended {
    pub code: Option<i32>,
    /// The lines that are not empty, without the spaces at their ends.
    pub rows: Vec<String>,
    /// All that was written.
    pub bytes: Vec<u8>,
}

/// Starts a command on a terminal of its own. `None` if there is no `script`, which makes it.
pub fn start_on_terminal(command: &Command, rows: u16, columns: u16) -> Option<OnTerminal> {
    let script = installed("script")?;
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let words: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let line = format!("stty rows {rows} cols {columns}; exec {}", words.join(" "));
    let mut child = Command::new(script)
        .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm-256color")
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("script starts");
    let size = |of| NonZeroU16::new(of).expect("a terminal has room");
    let screen = vt100::Parser::new(size(rows), size(columns), 0);
    let shown = Arc::new(Mutex::new(Shown { screen, bytes: Vec::new() }));
    let (mut stdout, to) = (child.stdout.take().expect("it is piped"), shown.clone());
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            let mut shown = to.lock().expect("no reader panics");
            shown.screen.process(&buffer[..read]);
            shown.bytes.extend_from_slice(&buffer[..read]);
        }
    });
    Some(OnTerminal { child, shown, reading: Some(reading) })
}

impl OnTerminal {
    /// The lines on the screen that are not empty.
    pub fn rows(&self) -> Vec<String> {
        let shown = self.shown.lock().expect("no reader panics");
        let screen = shown.screen.screen();
        let (_, columns) = screen.size();
        screen.rows(0, columns.get()).map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    }

    /// Waits until the last line holds this.
    pub fn wait_for_last_line(&self, text: &str) -> String {
        let last = || self.rows().pop().filter(|row| row.contains(text));
        eventually(&format!("a last line with {text:?}, after {:#?}", self.rows()), last)
    }

    pub fn end(mut self) -> Ended {
        let child = &mut self.child;
        let status = within(PATIENCE, "the process ends", || child.try_wait().expect("it is ours"));
        self.reading.take().expect("once").join().expect("the reader does not panic");
        let rows = self.rows();
        let bytes = std::mem::take(&mut self.shown.lock().expect("no reader panics").bytes);
        Ended { code: status.code(), rows, bytes }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
