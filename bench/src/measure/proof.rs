//! Before anything is timed: that every contender does the work, and that what it prints is what was in the queue.

use std::process::Stdio;

use super::Bench;
use crate::contender::{Contender, wq_run};
use crate::{Result, queue};

const MESSAGES: u64 = 20;
const SIZE: usize = 1000;

pub fn check(bench: &Bench) -> Result<()> {
    let mut contenders =
        vec![Contender::Cat, Contender::Native, Contender::Python, Contender::Wasmtime, Contender::Lapin];
    contenders.extend(bench.builds().iter().map(|build| Contender::WqRun { build: *build, concurrency: 1 }));
    for contender in contenders {
        one(bench, contender).map_err(|error| format!("{}: {error}", contender.name()))?;
    }
    Ok(())
}

fn one(bench: &Bench, contender: Contender) -> Result<()> {
    let queue = bench.new_queue();
    bench.queues.fill(&queue, MESSAGES, SIZE)?;
    let mut command = match contender {
        // The loop's command has no results.
        Contender::WqRun { build, .. } => {
            let mut command = wq_run(&bench.tools, build, &bench.url, &queue);
            command.args(["--drain", "--result", "stdout"]);
            command
        }
        other => other.command(&bench.tools, &bench.url, &queue, MESSAGES),
    };
    if contender == Contender::Lapin {
        command.arg("--print");
    }
    let output = command.stdin(Stdio::null()).output()?;
    let empty = bench.queues.delete_empty(&queue);
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    empty?;
    let expected: Vec<u8> = (0..MESSAGES).flat_map(|number| queue::body(number, SIZE)).collect();
    if output.stdout == expected { Ok(()) } else { Err("it did not print what was in the queue".into()) }
}
