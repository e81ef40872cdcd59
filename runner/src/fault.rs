//! Failure points, for the tests of what survives a failure.
//!
//! `WQ_FAULT=POINT[@N]:ACTION[,…]` makes the process fail when it comes to a point for the Nth time. Without the variable a
//! point is one load of a flag.
//!
//! They are in the shipped binary, because that is the binary that the tests make claims about. They are hidden, because nobody
//! else needs them.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The points of a message's way, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Subscribed, nothing taken.
    Idle,
    /// A message is here, its guest not started.
    Delivered,
    /// On the guest's own thread, with the guest about to start.
    Running,
    /// The guest has ended, its result is nowhere yet.
    Finished,
    /// The result is written, nothing settled.
    Recorded,
    /// A message was published (a result, a retry, a dead letter), and not yet confirmed.
    Published,
    /// It is confirmed, and the message that it comes from is not acknowledged.
    Confirmed,
    /// The acknowledgement is written to the socket.
    Settled,
    /// Everything is closed; the process has not exited.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Ends the process at once, as SIGKILL does: nothing is flushed, closed or given back.
    Kill,
    /// Holds this thread for so long.
    Sleep(Duration),
    /// A bug of ours.
    Panic,
}

#[derive(Debug)]
struct Fault {
    point: Point,
    left: AtomicU32,
    action: Action,
}

static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
static GUEST_PROCESS: OnceLock<GuestProcess> = OnceLock::new();

/// The orders for guests' processes, which do not see our environment: `guest-process:strict`, and
/// `guest-process:attempt=ATTEMPT` (see `sandbox/place/probe.rs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestProcess {
    /// To die at the first system call that is not known.
    pub strict: bool,
    /// To attempt this in place of each run.
    pub attempt: Option<String>,
}

const GUEST_PROCESS_POINT: &str = "guest-process:";

/// Reads `WQ_FAULT`.
///
/// # Errors
/// When it names no fault.
pub fn arm() -> Result<(), String> {
    let Ok(text) = std::env::var("WQ_FAULT") else { return Ok(()) };
    let mut process = GuestProcess::default();
    let mut faults = Vec::new();
    for fault in text.split(',') {
        match fault.strip_prefix(GUEST_PROCESS_POINT) {
            Some(order) => process.read(order)?,
            None => faults.push(fault.parse()?),
        }
    }
    let _ = GUEST_PROCESS.set(process);
    tracing::warn!(fault = text, "this process is told to fail (WQ_FAULT)");
    let _ = FAULTS.set(faults);
    Ok(())
}

/// The orders for a guest's process.
pub fn of_guest_process() -> GuestProcess {
    GUEST_PROCESS.get().cloned().unwrap_or_default()
}

impl GuestProcess {
    fn read(&mut self, order: &str) -> Result<(), String> {
        match order.split_once('=') {
            None if order == "strict" => self.strict = true,
            Some(("attempt", attempt)) => self.attempt = Some(attempt.to_owned()),
            _ => return Err(format!("WQ_FAULT: `{order}` is neither `strict` nor `attempt=ATTEMPT`")),
        }
        Ok(())
    }
}

/// Fails here, if that is what we were told.
pub fn reach(point: Point) {
    let Some(faults) = FAULTS.get() else { return };
    for fault in faults.iter().filter(|fault| fault.point == point) {
        // The count reaches 0 at the Nth call. After that, `checked_sub` fails, so the fault never fires again.
        let before = fault.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if before == Ok(1) {
            match fault.action {
                Action::Kill => std::process::abort(),
                Action::Sleep(time) => std::thread::sleep(time),
                Action::Panic => std::panic::panic_any("told to by WQ_FAULT"),
            }
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("WQ_FAULT: `{text}` is not POINT[@N]:kill, POINT[@N]:panic or POINT[@N]:sleep=SECONDS");
        let (point, action) = text.split_once(':').ok_or_else(bad)?;
        let (point, count) = point.split_once('@').unwrap_or((point, "1"));
        let point = match point {
            "idle" => Point::Idle,
            "delivered" => Point::Delivered,
            "running" => Point::Running,
            "finished" => Point::Finished,
            "recorded" => Point::Recorded,
            "published" => Point::Published,
            "confirmed" => Point::Confirmed,
            "settled" => Point::Settled,
            "closed" => Point::Closed,
            _ => return Err(bad()),
        };
        let action = match action.split_once('=') {
            None if action == "kill" => Action::Kill,
            None if action == "panic" => Action::Panic,
            Some(("sleep", seconds)) => {
                let seconds: f64 = seconds.parse().map_err(|_| bad())?;
                Action::Sleep(Duration::try_from_secs_f64(seconds).map_err(|_| bad())?)
            }
            _ => return Err(bad()),
        };
        let left = count.parse().ok().filter(|count| *count > 0).ok_or_else(bad)?;
        Ok(Fault { point, left: AtomicU32::new(left), action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_or_refused() {
        let fault: Fault = "recorded@3:kill".parse().unwrap();
        assert_eq!((fault.point, fault.left.into_inner(), fault.action), (Point::Recorded, 3, Action::Kill));
        let fault: Fault = "settled:sleep=0.5".parse().unwrap();
        assert_eq!(fault.action, Action::Sleep(Duration::from_millis(500)));
        for bad in ["", "recorded", "nowhere:kill", "idle@0:kill", "idle:sleep", "idle:sleep=-1", "idle:explode"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
