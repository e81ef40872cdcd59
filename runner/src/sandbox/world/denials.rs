//! What a guest asked for and was not granted: told once a run, with the flag that would grant it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::visible::lines;

/// The longest text about what was refused, in bytes.
pub const MAX_DENIED: usize = 300;

/// A way out of the sandbox that needs a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Door {
    Net,
    Http,
}

/// Whoever tells people of it.
#[derive(Clone)]
pub enum Denials {
    /// This process's log.
    Log,
    /// The process that has the log.
    Parent(Arc<dyn Fn(Door, String) + Send + Sync>),
}

/// The denials of one run.
pub struct Denied {
    to: Denials,
    noted: Noted,
}

/// The doors at which a run was refused.
#[derive(Debug, Default)]
pub struct Noted([AtomicBool; 2]);

impl Denied {
    pub fn new(to: Denials) -> Denied {
        Denied { to, noted: Noted::default() }
    }

    /// Notes that the guest was refused at a door; `what` it asked for.
    pub fn note(&self, door: Door, what: &str) {
        if self.noted.is_first(door) {
            let what = &what[..what.floor_char_boundary(MAX_DENIED)];
            match &self.to {
                Denials::Log => log(door, what),
                Denials::Parent(tell) => tell(door, what.to_owned()),
            }
        }
    }
}

impl Noted {
    pub fn is_first(&self, door: Door) -> bool {
        !self.0[door as usize].swap(true, Ordering::Relaxed)
    }
}

/// Says it in the log. The text is a stranger's.
pub fn log(door: Door, what: &str) {
    let asked = lines(what);
    match door {
        Door::Net => {
            tracing::warn!(%asked, "the guest was refused a TCP connection: --allow-net HOST:PORT would grant it")
        }
        Door::Http => {
            tracing::warn!(%asked, "the guest was refused an HTTP request: --allow-http HOST[:PORT] would grant it")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::locks::lock;

    #[test]
    fn each_door_is_told_of_once_and_briefly() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let noted = told.clone();
        let tell = move |door, what: String| lock(&noted).push((door, what.len()));
        let denied = Denied::new(Denials::Parent(Arc::new(tell)));
        for _ in 0..3 {
            denied.note(Door::Http, &"ä".repeat(1000));
            denied.note(Door::Net, "db:5432");
        }
        assert_eq!(*lock(&told), [(Door::Http, MAX_DENIED), (Door::Net, 7)]);
    }
}
