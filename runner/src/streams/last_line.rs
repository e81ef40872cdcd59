//! A line that stays below all others on a terminal, for as long as the work goes on.
//!
//! Only the thread that writes stderr draws it, and whoever writes to the same terminal takes it away meanwhile. So no other
//! thread waits for a terminal that does not take anything.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::fs::fstat;
use rustix::termios::isatty;

use super::err;

/// How often it is drawn anew.
pub const DRAWN_EVERY: Duration = Duration::from_millis(100);

/// How it is drawn.
pub trait LastLine: Send + Sync {
    /// Draws it anew, as things are now.
    fn draw(&self);

    /// Takes it away, writes, and draws it again.
    fn aside(&self, write: &mut dyn FnMut());

    /// Takes it away for good.
    fn end(&self);
}

/// A line that is there until this is dropped.
#[derive(Debug)]
#[must_use = "the line goes when this is dropped"]
pub struct Shown(());

/// Shows a line below what is written to stderr from now on. There is one at a time.
pub fn show(line: Arc<dyn LastLine>) -> Shown {
    err::set_last_line(line);
    Shown(())
}

impl Drop for Shown {
    fn drop(&mut self) {
        err::end_last_line();
    }
}

/// The line that what is written to stdout would go through.
pub(super) fn below_stdout() -> Option<Arc<dyn LastLine>> {
    /// Whether both are one terminal.
    static SAME: LazyLock<bool> = LazyLock::new(|| {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let terminal = || Some((fstat(stdout.as_fd()).ok()?.st_rdev, fstat(stderr.as_fd()).ok()?.st_rdev));
        isatty(&stdout) && isatty(&stderr) && terminal().is_some_and(|(one, other)| one == other)
    });
    err::last_line().filter(|_| *SAME)
}
