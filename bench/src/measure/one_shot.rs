//! One message: a process from its start to its exit, as a Job's pod has it.

use std::process::Command;

use super::Bench;
use crate::contender::{Build, Contender, lapin, worker, wq_run};
use crate::results::Unit;
use crate::{Result, process, stats};

pub const GROUP: &str = "one message, start to exit";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Compiled(Build),
    NothingCached(Build),
    /// With `--compile fast`.
    NothingCachedFast(Build),
    Lapin,
    Peer(Contender),
}

const PEERS: [Start; 5] = [
    Start::Lapin,
    Start::Peer(Contender::Cat),
    Start::Peer(Contender::Native),
    Start::Peer(Contender::Python),
    Start::Peer(Contender::Wasmtime),
];

impl Start {
    pub fn name(self) -> String {
        match self {
            Start::Compiled(build) => build.of("wq-run, guest compiled ahead"),
            Start::NothingCached(build) => build.of("wq-run, nothing cached"),
            Start::NothingCachedFast(build) => build.of("wq-run --compile fast, nothing cached"),
            Start::Lapin => "bare lapin".into(),
            Start::Peer(contender) => contender.name(),
        }
    }

    fn command(self, bench: &Bench, queue: &str) -> Result<Command> {
        let Bench { tools, url, .. } = bench;
        let nothing_cached = |build| -> Result<Command> {
            let mut command = worker(tools, build, &tools.echo, url, queue);
            // An empty folder costs what a first start costs, writing the entry included.
            command.arg("--cache-dir").arg(bench.empty_cache()?);
            Ok(command)
        };
        match self {
            Start::Compiled(build) => Ok(wq_run(tools, build, url, queue)),
            Start::NothingCached(build) => nothing_cached(build),
            Start::NothingCachedFast(build) => {
                let mut command = nothing_cached(build)?;
                command.args(["--compile", "fast"]);
                Ok(command)
            }
            Start::Lapin => {
                let mut command = lapin(tools, url, queue, 1);
                command.arg("--print");
                Ok(command)
            }
            Start::Peer(contender) => Ok(contender.command(tools, url, queue, 1)),
        }
    }
}

fn starts(bench: &Bench) -> Vec<Start> {
    let mut starts = Vec::new();
    for kind in [Start::Compiled, Start::NothingCached] {
        starts.extend(bench.builds().iter().map(|build| kind(*build)));
    }
    let fast = bench.builds().iter().filter(|build| bench.tools.build(**build).compiles_fast);
    starts.extend(fast.map(|build| Start::NothingCachedFast(*build)));
    starts.extend(PEERS);
    starts
}

pub fn round(bench: &mut Bench) {
    let starts = bench.in_turn(&starts(bench));
    let mut walls: Vec<Result<Vec<f64>>> = starts.iter().map(|_| Ok(Vec::new())).collect();
    // A queue for each, filled before anything is timed: the broker confirms a lone message up to 200 ms late.
    let queues: Vec<String> = starts.iter().map(|_| bench.new_queue()).collect();
    for (queue, walls) in queues.iter().zip(&mut walls) {
        if let Err(error) = bench.queues.fill(queue, bench.scale.starts, 5) {
            *walls = Err(error);
        }
    }
    // Each kind in turn, many times over, rather than many times each in turn.
    for left in (0..bench.scale.starts).rev() {
        for ((start, queue), walls) in starts.iter().zip(&queues).zip(&mut walls) {
            let Ok(so_far) = walls else { continue };
            match one(bench, *start, queue, left) {
                Ok(wall) => so_far.push(wall),
                Err(error) => *walls = Err(error),
            }
        }
    }
    for ((start, queue), walls) in starts.iter().zip(&queues).zip(walls) {
        let deleted = bench.queues.delete(queue);
        let walls = walls.and_then(|walls| deleted.map(|()| walls));
        let measured = walls.and_then(|walls| stats::median(&walls).ok_or_else(|| "no starts were asked for".into()));
        bench.results.add(GROUP, &start.name(), Unit::Millis, measured);
    }
}

/// Milliseconds of one process that takes one message, after which so many are left.
fn one(bench: &Bench, start: Start, queue: &str, left: u64) -> Result<f64> {
    let ended = process::run(&mut start.command(bench, queue)?)?.succeeded()?;
    let found = bench.queues.left(queue)?;
    if u64::from(found) != left {
        return Err(format!("{found} messages are left, and not {left}").into());
    }
    Ok(ended.wall.as_secs_f64() * 1e3)
}
