//! One file a kind of measurement. Each does one round: every contender once, in an order that turns with the round.

pub mod interpreter;
pub mod latency;
pub mod looping;
pub mod memory;
pub mod one_shot;
pub mod proof;
pub mod runs;

use std::cell::Cell;

use crate::Result;
use crate::contender::Tools;
use crate::queue::Queues;
use crate::results::Results;

/// What every measurement needs.
pub struct Bench {
    pub tools: Tools,
    pub queues: Queues,
    pub url: String,
    pub results: Results,
    pub scale: Scale,
    pub round: usize,
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
}

impl Bench {
    /// A name that no queue had before.
    pub fn new_queue(&self) -> String {
        self.queue_number.set(self.queue_number.get() + 1);
        format!("bench-{}", self.queue_number.get())
    }

    /// The same things in another order each round: who comes after whom should not matter.
    pub fn in_turn<T: Copy>(&self, things: &[T]) -> Vec<T> {
        let mut things = things.to_vec();
        let by = self.round % things.len().max(1);
        things.rotate_left(by);
        things
    }
}

/// `Ok` if so many were done as there were.
fn all_done(done: u64, count: u64) -> Result<()> {
    if done == count { Ok(()) } else { Err(format!("{done} of {count} messages were done").into()) }
}
