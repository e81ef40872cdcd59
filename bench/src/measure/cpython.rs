//! The first start of a large guest that nobody compiled before: CPython as it is published for WASI, a module. Its message
//! is a script.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Bench;
use crate::contender::{Build, worker};
use crate::queue::confirmed;
use crate::results::Unit;
use crate::{Result, process};

pub const GROUP: &str = "CPython as a module, nothing cached: start to first result";
pub const OPTIMISED: &str = "wq-run";
pub const FAST: &str = "wq-run --compile fast";

const SCRIPT: &[u8] = b"print('a', 'message')";
const RESULT: &str = "a message";

#[derive(Clone, Copy)]
struct Start {
    build: Build,
    fast: bool,
}

pub fn round(bench: &mut Bench) {
    if bench.tools.cpython.is_none() {
        return;
    }
    let mut starts = Vec::new();
    for build in bench.builds() {
        starts.push(Start { build: *build, fast: false });
        if bench.tools.build(*build).compiles_fast {
            starts.push(Start { build: *build, fast: true });
        }
    }
    for start in bench.in_turn(&starts) {
        let name = start.build.of(if start.fast { FAST } else { OPTIMISED });
        let measured = one(bench, start);
        bench.results.add(GROUP, &name, Unit::Millis, measured);
    }
}

/// Milliseconds until the result is there. The process may go on for a while, for the cache.
fn one(bench: &Bench, start: Start) -> Result<f64> {
    let queue = bench.new_queue();
    bench.queues.declare(&queue)?;
    bench.queues.runtime.block_on(async {
        let mut confirms = vec![bench.queues.publish(&queue, SCRIPT).await?];
        confirmed(&mut confirms).await
    })?;
    let measured = command(bench, start, &queue).and_then(first_result);
    let empty = bench.queues.delete_empty(&queue);
    let measured = measured?;
    empty?;
    Ok(measured)
}

fn command(bench: &Bench, start: Start, queue: &str) -> Result<Command> {
    let guest = bench.tools.cpython.as_ref().ok_or("no CPython was named")?;
    let mut command = worker(&bench.tools, start.build, guest, &bench.url, queue);
    command.args(["--result", "stdout"]).arg("--cache-dir").arg(bench.empty_cache()?).env("RUST_LOG", "warn");
    if start.fast {
        command.args(["--compile", "fast"]);
    }
    Ok(command)
}

fn first_result(mut command: Command) -> Result<f64> {
    let stderr = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.reopen()?);
    let started = Instant::now();
    let mut child = process::spawn(&mut command)?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line);
    let wall = started.elapsed();
    let status = child.wait()?;
    read?;
    if !status.success() || line.trim_end() != RESULT {
        return Err(format!("{status}, {line:?}: {}", std::fs::read_to_string(stderr.path())?).into());
    }
    Ok(wall.as_secs_f64() * 1e3)
}
