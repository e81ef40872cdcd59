//! What does not need a broker: the guest alone, and the embedded queue.

use std::io::Write as _;
use std::process::Command;

use super::{Bench, all_done};
use crate::contender::Contender;
use crate::results::Unit;
use crate::{Result, process, queue};

pub const GUEST: &str = "run of the echo guest, without a queue";
pub const EMBEDDED: &str = "embedded queue, 5 B";

/// In the words of `wq-bench-guest`.
#[derive(Clone, Copy)]
pub enum Host {
    /// Only what a slot does for a run, without the hand-over to the slot and back.
    WqRunItself,
    /// With the next one at hand.
    WqRunAtHand,
    WqRun,
    OnDemand,
    Pooling,
}

const HOSTS: [Host; 5] = [Host::WqRunItself, Host::WqRunAtHand, Host::WqRun, Host::OnDemand, Host::Pooling];

/// Messages per second that the embedded queue does, about; for the number of them.
const EMBEDDED_RATE: f64 = 1_000.0;

impl Host {
    pub fn name(self) -> &'static str {
        match self {
            Host::WqRunItself => "wq-run's sandbox, the run itself",
            Host::WqRunAtHand => "wq-run's sandbox, handed over, the next one at hand",
            Host::WqRun => "wq-run's sandbox, handed over, one after the other",
            Host::OnDemand => "bare wasmtime, on demand",
            Host::Pooling => "bare wasmtime, pooling",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Host::WqRunItself => "wq-run-itself",
            Host::WqRunAtHand => "wq-run-at-hand",
            Host::WqRun => "wq-run",
            Host::OnDemand => "on-demand",
            Host::Pooling => "pooling",
        }
    }
}

pub fn guest_round(bench: &mut Bench) {
    for host in bench.in_turn(&HOSTS) {
        let measured = guest(bench, host);
        bench.results.add(GUEST, host.name(), Unit::Micros, measured);
    }
}

/// The median of many runs, in microseconds.
fn guest(bench: &Bench, host: Host) -> Result<f64> {
    let mut command = Command::new(&bench.tools.guest_bench);
    let output = command.arg(host.word()).arg(&bench.tools.echo).arg(bench.scale.guest_runs.to_string()).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

pub fn embedded_round(bench: &mut Bench) {
    for concurrency in [1, 4] {
        let measured = embedded(bench, concurrency);
        bench.results.add(EMBEDDED, &format!("wq-run, concurrency {concurrency}"), Unit::Rate, measured);
    }
}

fn embedded(bench: &Bench, concurrency: u16) -> Result<f64> {
    let count = (EMBEDDED_RATE * bench.scale.seconds).max(20.0) as u64;
    // In the target's folder and not in /tmp, which may be a file system in memory.
    let parent = bench.tools.bench.parent().ok_or("wq-bench is in no folder")?;
    let folder = tempfile::tempdir_in(parent)?;
    let url = format!("sqlite:{}", folder.path().join("queue.db").display());
    let mut lines = tempfile::NamedTempFile::new()?;
    for number in 0..count {
        lines.write_all(&queue::body(number, 5))?;
        lines.write_all(b"\n")?;
    }
    let admin = |words: &[&str]| {
        let mut command = Command::new(&bench.tools.wq_run);
        command.args(words).env("BROKER_URL", &url).env("QUEUE", "bench");
        command
    };
    process::run(&mut admin(&["queue", "declare"]))?.succeeded()?;
    process::run(admin(&["publish", "--lines"]).arg(lines.path()))?.succeeded()?;
    let worker = Contender::WqRun { concurrency };
    let ended = process::run(&mut worker.command(&bench.tools, &url, "bench", count))?.succeeded()?;
    if let Some(claimed) = worker.claims(&ended.stderr) {
        all_done(claimed?, count)?;
    }
    let status = admin(&["queue", "status"]).output()?;
    let status = String::from_utf8(status.stdout)?;
    if !status.lines().any(|line| line == "ready 0") || !status.lines().any(|line| line == "running 0") {
        return Err(format!("the queue is not empty: {status}").into());
    }
    Ok(count as f64 / ended.wall.as_secs_f64())
}
