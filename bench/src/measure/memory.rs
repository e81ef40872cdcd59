//! Memory of the worker: idle, and at its peak over few and over many messages.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Bench, all_done};
use crate::contender::{Build, Contender, worker};
use crate::results::Unit;
use crate::{Result, process};

pub const IDLE: &str = "memory of an idle worker";
pub const PEAK: &str = "peak memory";
pub const IDLE_WITH_CODE: &str = "echo guest, from the cache";
const IDLE_AFTER_COMPILING: &str = "echo guest, compiled by itself";
pub const CPYTHON_WITH_CODE: &str = "CPython as a module, from the cache";
pub const CPYTHON_AFTER_COMPILING: &str = "CPython as a module, compiled by itself";
pub const FEW: &str = "few messages";
pub const MANY: &str = "many messages";

const CONCURRENCY: u16 = 2;
const MIB: f64 = 1_048_576.0;

/// Between the moment that the broker knows the worker and the look at its memory: what is left of its start.
const SETTLED: Duration = Duration::from_millis(500);

const PATIENCE: Duration = Duration::from_secs(30);

pub fn idle_round(bench: &mut Bench) {
    let echo = bench.tools.echo.clone();
    let mut all = vec![(IDLE_WITH_CODE, echo.clone(), true), (IDLE_AFTER_COMPILING, echo, false)];
    if let Some(cpython) = &bench.tools.cpython {
        all.push((CPYTHON_WITH_CODE, cpython.clone(), true));
        all.push((CPYTHON_AFTER_COMPILING, cpython.clone(), false));
    }
    for (name, guest, cached) in bench.in_turn(&all) {
        for build in bench.builds() {
            let measured = idle(bench, *build, &guest, cached);
            bench.results.add(IDLE, &build.of(name), Unit::Memory, measured);
        }
    }
}

pub fn peak_round(bench: &mut Bench) {
    // Not every round has the many; there is no ratio then, and no need of the few.
    if !bench.results.round.is_multiple_of(bench.scale.many_every) {
        return;
    }
    for (name, count) in [(FEW, bench.scale.few_messages), (MANY, bench.scale.many_messages)] {
        for build in bench.builds() {
            let measured = peak(bench, *build, count);
            bench.results.add(PEAK, &build.of(name), Unit::Memory, measured);
        }
    }
}

fn idle(bench: &Bench, build: Build, guest: &Path, cached: bool) -> Result<f64> {
    let queue = bench.new_queue();
    bench.queues.declare(&queue)?;
    let mut command = worker(&bench.tools, build, guest, &bench.url, &queue);
    let cache = if cached { bench.tools.build(build).cache.clone() } else { bench.empty_cache()? };
    command.arg("--cache-dir").arg(cache);
    command.arg("--forever").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = process::spawn(&mut command)?;
    let mut log = BufReader::new(child.stderr.take().ok_or("no stderr")?);
    // It connects while it compiles.
    let measured = loaded(&mut log).and_then(|()| subscribed(bench, &queue)).and_then(|()| {
        std::thread::sleep(SETTLED);
        process::memory(child.id(), "VmRSS")
    });
    let status = process::terminate(&mut child)?;
    bench.queues.delete_empty(&queue)?;
    let measured = measured?;
    if status.success() { Ok(measured as f64 / MIB) } else { Err(status.to_string().into()) }
}

/// Returns when the worker has its guest. Compiling has a bound of its own.
fn loaded(log: &mut impl BufRead) -> Result<()> {
    let mut lines = log.lines();
    let said = lines.find(|line| line.as_ref().map_or(true, |line| line.contains("\"message\":\"working\"")));
    said.ok_or("the worker ended")??;
    Ok(())
}

fn subscribed(bench: &Bench, queue: &str) -> Result<()> {
    let started = Instant::now();
    while bench.queues.status(queue)?.consumers == 0 {
        if started.elapsed() > PATIENCE {
            return Err("it did not subscribe".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn peak(bench: &Bench, build: Build, count: u64) -> Result<f64> {
    let queue = bench.new_queue();
    bench.queues.fill(&queue, count, 5)?;
    let worker = Contender::WqRun { build, concurrency: CONCURRENCY };
    let mut command = worker.command(&bench.tools, &bench.url, &queue, count);
    let ended = process::run_with_memory(&mut command).and_then(|(ended, peak)| Ok((ended.succeeded()?, peak)));
    let empty = bench.queues.delete_empty(&queue);
    let (ended, peak) = ended?;
    empty?;
    if let Some(claimed) = worker.claims(&ended.stderr) {
        all_done(claimed?, count)?;
    }
    Ok(peak as f64 / MIB)
}
