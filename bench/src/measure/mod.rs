//! One file a kind of measurement. Each does one round: every contender once, in an order that turns with the round.

pub mod cpython;
pub mod embedded;
pub mod interpreter;
pub mod latency;
pub mod looping;
pub mod memory;
pub mod one_shot;
pub mod proof;
pub mod publish;
pub mod redis;
pub mod runs;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::contender::{Build, Tools};
use crate::queue::Queues;
use crate::redis_server::RedisServer;
use crate::results::Results;

/// What every measurement needs.
pub struct Bench {
    pub tools: Tools,
    pub queues: Queues,
    pub url: String,
    /// If there is one, or nothing is said of Redis.
    pub redis: Option<RedisServer>,
    /// A deep queue, once it was filled, and how many messages it is short of.
    pub deep: Option<(embedded::File, u64)>,
    pub results: Results,
    pub scale: Scale,
    pub queue_number: Cell<u64>,
}

/// How much is done. What is the same in a quick and in a full run is a constant of its measurement.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// About how long one contender works in one round, in seconds.
    pub seconds: f64,
    pub starts: u64,
    pub latencies: u64,
    pub guest_runs: u64,
    pub few_messages: u64,
    pub many_messages: u64,
    /// Only every so many rounds have the many messages, which take a minute.
    pub many_every: usize,
    /// Messages in a deep queue.
    pub deep: u64,
}

impl Bench {
    /// A name that no queue had before.
    pub fn new_queue(&self) -> String {
        self.queue_number.set(self.queue_number.get() + 1);
        format!("bench-{}", self.queue_number.get())
    }

    /// The same things in another order each round: who comes after whom should not matter.
    pub fn in_turn<T: Clone>(&self, things: &[T]) -> Vec<T> {
        in_turn(things, self.results.round)
    }

    /// wq-run, and beside it the build of `--against`.
    pub fn builds(&self) -> &'static [Build] {
        if self.tools.has_before() { &[Build::Now, Build::Before] } else { &[Build::Now] }
    }

    /// An empty folder for compiled code, as on a first start.
    pub fn empty_cache(&self) -> Result<PathBuf> {
        let empty = self.tools.build(Build::Now).cache.with_extension("empty");
        remove(&empty)?;
        Ok(empty)
    }
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Each odd round is the one before it backwards, and after both another one begins.
fn in_turn<T: Clone>(things: &[T], round: usize) -> Vec<T> {
    let mut things = things.to_vec();
    let first = round / 2 % things.len().max(1);
    things.rotate_left(first);
    if round % 2 == 1 {
        things.reverse();
    }
    things
}

/// `Ok` if so many were done as there were.
fn all_done(done: u64, count: u64) -> Result<()> {
    if done == count { Ok(()) } else { Err(format!("{done} of {count} messages were done").into()) }
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    #[test]
    fn everybody_has_each_place_as_often_as_the_others() {
        let rounds: Vec<Vec<char>> = (0..6).map(|round| in_turn(&['a', 'b', 'c'], round)).collect();
        for place in 0..3 {
            let mut there: Vec<char> = rounds.iter().map(|round| round[place]).collect();
            there.sort_unstable();
            assert_eq!(there, ['a', 'a', 'b', 'b', 'c', 'c'], "{rounds:?}");
        }
        assert_eq!(rounds[1], ['c', 'b', 'a']);
        assert!(in_turn::<char>(&[], 1).is_empty());
    }
}
