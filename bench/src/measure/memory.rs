//! Memory of the worker: idle, and at its peak over few and over many messages.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Bench, all_done};
use crate::contender::{Contender, wq_run};
use crate::results::Unit;
use crate::{Result, process};

pub const IDLE: &str = "memory of an idle worker";
pub const PEAK: &str = "peak memory";
pub const IDLE_WITH_CODE: &str = "guest compiled ahead";
pub const IDLE_AFTER_COMPILING: &str = "guest compiled by itself";
pub const FEW: &str = "few messages";
pub const MANY: &str = "many messages";
const FEW_IN_SMALL_FRAMES: &str = "few messages, frame_max=16384";
const MANY_IN_SMALL_FRAMES: &str = "many messages, frame_max=16384";

const WORKER: Contender = Contender::WqRun { concurrency: 2 };
const MIB: f64 = 1_048_576.0;

/// Between the moment that the broker knows the worker and the look at its memory: what is left of its start.
const SETTLED: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

pub fn idle_round(bench: &mut Bench) {
    for (name, cached) in [(IDLE_WITH_CODE, true), (IDLE_AFTER_COMPILING, false)] {
        let measured = idle(bench, cached);
        bench.results.add(IDLE, name, Unit::Memory, measured);
    }
}

pub fn peak_round(bench: &mut Bench) {
    let (few, many) = (bench.scale.few_messages, bench.scale.many_messages);
    // lapin's buffers are 32 frames each: with small ones, what else grows is to be seen.
    let small_frames = format!("{}?frame_max=16384", bench.url);
    for (name, count, url) in [
        (FEW, few, &bench.url),
        (MANY, many, &bench.url),
        (FEW_IN_SMALL_FRAMES, few, &small_frames),
        (MANY_IN_SMALL_FRAMES, many, &small_frames),
    ] {
        let measured = peak(bench, url, count);
        bench.results.add(PEAK, name, Unit::Memory, measured);
    }
}

fn idle(bench: &Bench, cached: bool) -> Result<f64> {
    let queue = bench.new_queue();
    bench.queues.declare(&queue)?;
    let mut command = wq_run(&bench.tools, &bench.url, &queue);
    if !cached {
        command = std::process::Command::new(&bench.tools.wq_run);
        command.arg("work").arg(&bench.tools.echo).arg("--no-cache");
        command.env("BROKER_URL", &bench.url).env("QUEUE", &queue);
    }
    command.arg("--forever").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = process::spawn(&mut command)?;
    let measured = subscribed(bench, &queue).and_then(|()| {
        std::thread::sleep(SETTLED);
        process::memory(child.id(), "VmRSS")
    });
    let status = process::terminate(&mut child)?;
    bench.queues.delete_empty(&queue)?;
    let measured = measured?;
    if status.success() { Ok(measured as f64 / MIB) } else { Err(status.to_string().into()) }
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

fn peak(bench: &Bench, url: &str, count: u64) -> Result<f64> {
    let queue = bench.new_queue();
    bench.queues.fill(&queue, count, 5)?;
    let mut command = WORKER.command(&bench.tools, url, &queue, count);
    let ended = process::run_with_memory(&mut command).and_then(|(ended, peak)| Ok((ended.succeeded()?, peak)));
    let empty = bench.queues.delete_empty(&queue);
    let (ended, peak) = ended?;
    empty?;
    if let Some(claimed) = WORKER.claims(&ended.stderr) {
        all_done(claimed?, count)?;
    }
    Ok(peak as f64 / MIB)
}
