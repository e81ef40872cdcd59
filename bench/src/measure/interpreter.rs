//! A guest of an interpreter's size, compiled ahead: from the start of the process to its end, with one result.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Bench;
use crate::contender::wasmtime_run;
use crate::results::Unit;
use crate::{Result, stats};

pub const GROUP: &str = "interpreter, compiled ahead: start to first result";
pub const WQ_RUN: &str = "wq-run exec";
pub const WASMTIME: &str = "wasmtime run";

const MESSAGE: &[u8] = b"a message";

pub fn round(bench: &mut Bench) {
    let Some(interpreter) = &bench.tools.interpreter else { return };
    let mut ours = Command::new(&bench.tools.wq_run);
    ours.arg("exec").arg(&interpreter.guest).arg("--cache-dir").arg(&bench.tools.cache);
    let words = wasmtime_run(&bench.tools, &interpreter.cwasm);
    let mut theirs = Command::new(&words[0]);
    theirs.args(&words[1..]);
    let mut walls = [Vec::new(), Vec::new()];
    let mut failed = [None, None];
    for _ in 0..bench.scale.starts.div_ceil(2) {
        for (at, command) in [&mut ours, &mut theirs].into_iter().enumerate() {
            match one(command) {
                Ok(wall) => walls[at].push(wall),
                Err(error) => failed[at] = Some(error),
            }
        }
    }
    for ((name, walls), failed) in [WQ_RUN, WASMTIME].into_iter().zip(walls).zip(failed) {
        let measured = match failed {
            Some(error) => Err(error),
            None => stats::median(&walls).ok_or_else(|| "no starts were asked for".into()),
        };
        bench.results.add(GROUP, name, Unit::Millis, measured);
    }
}

/// Milliseconds.
fn one(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no stdin")?.write_all(MESSAGE)?;
    let output = child.wait_with_output()?;
    let wall = started.elapsed();
    if !output.status.success() || output.stdout != MESSAGE {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(wall.as_secs_f64() * 1e3)
}
