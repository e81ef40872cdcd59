//! What a message waits for: from just before it is published to its result on the worker's stdout, one message at a
//! time with a pause between them, to a worker that waits for it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::Bench;
use crate::contender::{Contender, lapin, wq_run};
use crate::queue::confirmed;
use crate::results::Unit;
use crate::{Result, stats};

pub const P50: &str = "published to result, p50";
pub const P99: &str = "published to result, p99";

/// Long enough for everybody to be back at waiting.
const PAUSE: Duration = Duration::from_millis(3);

/// For one result; a worker that needs longer is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first ones pay for pages and caches.
const UNTIMED: u64 = 20;

pub fn round(bench: &mut Bench) {
    let mut contenders: Vec<Contender> =
        bench.builds().iter().map(|build| Contender::WqRun { build: *build, concurrency: 1 }).collect();
    contenders.extend([Contender::Lapin, Contender::Cat, Contender::Python]);
    for contender in bench.in_turn(&contenders) {
        let measured = one(bench, contender);
        let part = |p: f64| match &measured {
            Ok(latencies) => stats::quantile(latencies, p).ok_or_else(|| "nothing was timed".into()),
            Err(error) => Err(error.to_string().into()),
        };
        let (p50, p99) = (part(0.5), part(0.99));
        bench.results.add(P50, &contender.name(), Unit::Millis, p50);
        bench.results.add(P99, &contender.name(), Unit::Millis, p99);
    }
}

fn one(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let queue = bench.new_queue();
    bench.queues.declare(&queue)?;
    let count = UNTIMED + bench.scale.latencies;
    let mut command = command(bench, contender, &queue, count);
    let latencies = bench.queues.runtime.block_on(async {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let (mut latencies, mut confirms) = (Vec::new(), Vec::new());
        for number in 0..count {
            let body = format!("{number:04}\n");
            let published = Instant::now();
            // The confirmation comes when the broker has written to its disk, up to 200 ms later, and concerns no worker.
            confirms.push(bench.queues.publish(&queue, body.as_bytes()).await?);
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
            let latency = published.elapsed();
            if line.as_deref() != Some(body.trim_end()) {
                return Err(format!("got {line:?} for {body:?}").into());
            }
            if number >= UNTIMED {
                latencies.push(latency.as_secs_f64() * 1e3);
            }
            tokio::time::sleep(PAUSE).await;
        }
        confirmed(&mut confirms).await?;
        // All of them end after their count.
        let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
        if status.success() {
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(latencies)
        } else {
            Err(status.to_string().into())
        }
    });
    let empty = bench.queues.delete_empty(&queue);
    let latencies = latencies?;
    empty?;
    Ok(latencies)
}

fn command(bench: &Bench, contender: Contender, queue: &str, count: u64) -> Command {
    let Bench { tools, url, .. } = bench;
    match contender {
        Contender::WqRun { build, .. } => {
            let mut command = wq_run(tools, build, url, queue);
            command.args(["--count", &count.to_string(), "--result", "stdout"]).env("RUST_LOG", "warn");
            command
        }
        Contender::Lapin => {
            let mut command = lapin(tools, url, queue, count);
            command.arg("--print");
            command
        }
        other => other.command(tools, url, queue, count),
    }
}
