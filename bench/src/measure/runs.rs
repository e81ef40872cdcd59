//! What does not need a broker: the guest alone, and the embedded queue beside other queues in a SQLite file.

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
const EMBEDDED_RATE: f64 = 10_000.0;

/// How many times as many messages a deep queue has.
const DEEP: u64 = 10;

/// Queues for Python in a SQLite file, in the words of `bench/queue_file_peers.py`.
#[derive(Clone, Copy)]
pub enum Peer {
    Huey,
    Litequeue,
    /// As it comes: a power failure may undo its commits.
    LitequeueUnsynced,
}

pub const PEERS: [Peer; 3] = [Peer::Huey, Peer::Litequeue, Peer::LitequeueUnsynced];

/// Messages per second that they do, about.
const PEERS_RATE: f64 = 1_500.0;

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Huey => "huey on SQLite, fsync",
            Peer::Litequeue => "litequeue, synchronous = FULL",
            Peer::LitequeueUnsynced => "litequeue, as it comes (no fsync)",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Peer::Huey => "huey",
            Peer::Litequeue => "litequeue",
            Peer::LitequeueUnsynced => "litequeue-unsynced",
        }
    }
}

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

pub fn embedded_name(concurrency: u16) -> String {
    format!("wq-run, concurrency {concurrency}")
}

pub fn embedded_round(bench: &mut Bench) {
    let count = (EMBEDDED_RATE * bench.scale.seconds).max(20.0) as u64;
    for concurrency in [1, 4] {
        let measured = embedded(bench, concurrency, count);
        bench.results.add(EMBEDDED, &embedded_name(concurrency), Unit::Rate, measured);
    }
    let deep = embedded(bench, 1, count * DEEP);
    bench.results.add(EMBEDDED, &format!("{}, {DEEP} times as many", embedded_name(1)), Unit::Rate, deep);
    if bench.tools.peers_python.is_some() {
        for peer in bench.in_turn(&PEERS) {
            let measured = in_python(bench, peer);
            bench.results.add(EMBEDDED, peer.name(), Unit::Rate, measured);
        }
    }
}

fn in_python(bench: &Bench, peer: Peer) -> Result<f64> {
    let python = bench.tools.peers_python.as_ref().ok_or("no Python with the peers was named")?;
    let count = (PEERS_RATE * bench.scale.seconds).max(20.0) as u64;
    let folder = folder(bench)?;
    let command = |word: &str| {
        let mut command = Command::new(python);
        command.arg("bench/queue_file_peers.py").args([word, peer.word()]);
        command.arg(folder.path().join("queue.db")).arg(count.to_string());
        command
    };
    process::run(&mut command("fill"))?.succeeded()?;
    let ended = process::run(&mut command("work"))?.succeeded()?;
    // A second worker finds nothing.
    let left = command("work").output()?;
    if left.stdout != b"0\n" {
        return Err(format!("messages were left: {}", String::from_utf8_lossy(&left.stdout)).into());
    }
    Ok(count as f64 / ended.wall.as_secs_f64())
}

/// In the target's folder and not in /tmp, which may be a file system in memory.
fn folder(bench: &Bench) -> Result<tempfile::TempDir> {
    let parent = bench.tools.bench.parent().ok_or("wq-bench is in no folder")?;
    Ok(tempfile::tempdir_in(parent)?)
}

fn embedded(bench: &Bench, concurrency: u16, count: u64) -> Result<f64> {
    let folder = folder(bench)?;
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
