//! The guest alone, without a broker: what a run costs in wq-run's sandbox and in a bare wasmtime.

use std::process::Command;

use super::Bench;
use crate::Result;
use crate::contender::Build;
use crate::results::Unit;

pub const GUEST: &str = "run of the echo guest, without a queue";

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

const OURS: [Host; 3] = [Host::WqRunItself, Host::WqRunAtHand, Host::WqRun];
const BARE: [Host; 2] = [Host::OnDemand, Host::Pooling];

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

pub fn round(bench: &mut Bench) {
    let has_program = |build: &Build| bench.tools.build(*build).guest_bench.is_some();
    let builds: Vec<Build> = bench.builds().iter().copied().filter(has_program).collect();
    let mut hosts: Vec<(Build, Host)> = BARE.iter().map(|host| (Build::Now, *host)).collect();
    hosts.extend(OURS.iter().flat_map(|host| builds.iter().map(move |build| (*build, *host))));
    for (build, host) in bench.in_turn(&hosts) {
        let measured = one(bench, build, host);
        bench.results.add(GUEST, &build.of(host.name()), Unit::Micros, measured);
    }
}

/// The median of many runs, in microseconds.
fn one(bench: &Bench, build: Build, host: Host) -> Result<f64> {
    let program = bench.tools.build(build).guest_bench.as_ref().ok_or("there is no wq-bench-guest beside it")?;
    let output = Command::new(program)
        .arg(host.word())
        .arg(&bench.tools.echo)
        .arg(bench.scale.guest_runs.to_string())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
