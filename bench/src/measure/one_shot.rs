//! One message: a process from its start to its exit, as a Job's pod has it.

use std::process::Command;

use super::Bench;
use crate::contender::{Contender, Tools, lapin, wq_run, wq_run_with_cache};
use crate::results::Unit;
use crate::{Result, process, stats};

pub const GROUP: &str = "one message, start to exit";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Compiled,
    NothingCached,
    Lapin,
    Peer(Contender),
}

const STARTS: [Start; 7] = [
    Start::Compiled,
    Start::NothingCached,
    Start::Lapin,
    Start::Peer(Contender::Cat),
    Start::Peer(Contender::Native),
    Start::Peer(Contender::Python),
    Start::Peer(Contender::Wasmtime),
];

impl Start {
    pub fn name(self) -> String {
        match self {
            Start::Compiled => "wq-run, guest compiled ahead".into(),
            Start::NothingCached => "wq-run, nothing cached".into(),
            Start::Lapin => "bare lapin".into(),
            Start::Peer(contender) => contender.name(),
        }
    }

    fn command(self, tools: &Tools, url: &str, queue: &str) -> Command {
        match self {
            Start::Compiled => wq_run(tools, url, queue),
            // An empty folder costs what a first start costs, writing the entry included.
            Start::NothingCached => {
                let empty = tools.cache.join("empty");
                // Left by the start before.
                let _ = std::fs::remove_dir_all(&empty);
                wq_run_with_cache(tools, &empty, url, queue)
            }
            Start::Lapin => {
                let mut command = lapin(tools, url, queue, 1);
                command.arg("--print");
                command
            }
            Start::Peer(contender) => contender.command(tools, url, queue, 1),
        }
    }
}

pub fn round(bench: &mut Bench) {
    let mut walls: Vec<Result<Vec<f64>>> = STARTS.iter().map(|_| Ok(Vec::new())).collect();
    // A queue for each, filled before anything is timed: the broker confirms a lone message up to 200 ms late.
    let queues: Vec<String> = STARTS.iter().map(|_| bench.new_queue()).collect();
    for (queue, walls) in queues.iter().zip(&mut walls) {
        if let Err(error) = bench.queues.fill(queue, bench.scale.starts, 5) {
            *walls = Err(error);
        }
    }
    // Each kind in turn, many times over, rather than many times each in turn.
    for left in (0..bench.scale.starts).rev() {
        for ((start, queue), walls) in STARTS.iter().zip(&queues).zip(&mut walls) {
            let Ok(so_far) = walls else { continue };
            match one(bench, *start, queue, left) {
                Ok(wall) => so_far.push(wall),
                Err(error) => *walls = Err(error),
            }
        }
    }
    for ((start, queue), walls) in STARTS.iter().zip(&queues).zip(walls) {
        let deleted = bench.queues.delete(queue);
        let walls = walls.and_then(|walls| deleted.map(|()| walls));
        let measured = walls.and_then(|walls| stats::median(&walls).ok_or_else(|| "no starts were asked for".into()));
        bench.results.add(GROUP, &start.name(), Unit::Millis, measured);
    }
}

/// Milliseconds of one process that takes one message, after which so many are left.
fn one(bench: &Bench, start: Start, queue: &str, left: u64) -> Result<f64> {
    let ended = process::run(&mut start.command(&bench.tools, &bench.url, queue))?.succeeded()?;
    let found = bench.queues.left(queue)?;
    if u64::from(found) != left {
        return Err(format!("{found} messages are left, and not {left}").into());
    }
    Ok(ended.wall.as_secs_f64() * 1e3)
}
