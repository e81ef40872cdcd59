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
    let mut all: Vec<(String, Command)> = Vec::new();
    for build in bench.builds() {
        let of = bench.tools.build(*build);
        let mut command = Command::new(&of.program);
        command.arg("exec").arg(&interpreter.guest).arg("--cache-dir").arg(&of.cache);
        all.push((build.of(WQ_RUN), command));
    }
    let words = wasmtime_run(&bench.tools, &interpreter.cwasm);
    let mut theirs = Command::new(&words[0]);
    theirs.args(&words[1..]);
    all.push((WASMTIME.into(), theirs));
    let mut walls: Vec<Result<Vec<f64>>> = all.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..bench.scale.starts.div_ceil(2) {
        for ((_, command), walls) in all.iter_mut().zip(&mut walls) {
            let Ok(so_far) = walls else { continue };
            match one(command) {
                Ok(wall) => so_far.push(wall),
                Err(error) => *walls = Err(error),
            }
        }
    }
    for ((name, _), walls) in all.into_iter().zip(walls) {
        let measured = walls.and_then(|walls| stats::median(&walls).ok_or_else(|| "no starts were asked for".into()));
        bench.results.add(GROUP, &name, Unit::Millis, measured);
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
