//! A line that stays below all others on a terminal, for as long as the work goes on.

use std::time::Duration;

/// How often it is drawn anew.
pub const DRAWN_EVERY: Duration = Duration::from_millis(100);

/// How it is drawn. Only the thread that writes stderr does that, and a thread that prints a result to the same terminal, which
/// takes the line away meanwhile. So no other thread waits for a terminal that does not take anything.
pub trait LastLine: Send + Sync {
    /// Draws it anew, as things are now.
    fn draw(&self);

    /// Takes it away, writes, and draws it again.
    fn aside(&self, write: &mut dyn FnMut());

    /// Takes it away for good.
    fn end(&self);
}
