//! A second wall around a process that runs guests, for a guest that breaks out of WebAssembly's sandbox.
//!
//! Landlock limits files and ports to those that were granted (`files.rs`). Seccomp limits system calls to those that a run
//! needs (`calls.rs`). Neither holds a thread that exists before it, so both go up while the process has one.

mod calls;
mod files;
mod openings;
mod process;

use serde::{Deserialize, Serialize};

pub use openings::Openings;
pub use process::{close_to_children, hide_memory};

use files::Landlock;

/// The parts of the wall that stand, and those that do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub walls: Vec<String>,
    /// The missing parts, each with its reason.
    pub missing: Vec<String>,
}

/// Puts the wall up around this process, which must have no other thread.
///
/// The answer names missing parts. They are no error here: only the worker knows whether they are required.
pub fn put_up(openings: &Openings) -> Standing {
    let mut standing = Standing::default();
    if let Err(why) = process::has_one_thread() {
        standing.missing.push(why);
    }
    standing.note("resource limits", process::limit(openings));
    // Without this, neither landlock nor seccomp can be had by a process without rights.
    standing.note("no new privileges", process::no_new_privileges());
    standing.note("hidden memory", process::hide_memory());
    match files::restrict(openings) {
        Ok(Landlock { version, missing }) => {
            standing.walls.push(format!("landlock {version}"));
            standing.missing.extend(missing.iter().map(|what| format!("landlock {version}: {what}")));
        }
        Err(why) => standing.missing.push(format!("landlock: {why}")),
    }
    // The last one: it allows none of the calls that put the others up.
    standing.note("seccomp", calls::restrict(openings));
    standing
}

impl Standing {
    fn note(&mut self, name: &str, put_up: Result<(), String>) {
        match put_up {
            Ok(()) => self.walls.push(name.into()),
            Err(why) => self.missing.push(format!("{name}: {why}")),
        }
    }
}
