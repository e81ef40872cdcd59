//! The embedded queue, with few and with many messages in it, beside other queues in a SQLite file.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use super::{Bench, all_done};
use crate::contender::{Build, Contender, loop_of};
use crate::results::Unit;
use crate::{Result, process, queue};

pub const GROUP: &str = "embedded queue, 5 B";
pub const DEPTH: &str = "embedded queue, 5 B, by how many messages are in it";
/// Drained.
pub const SHALLOW: &str = "as many as are done in the time";
/// For a time.
pub const DEEP: &str = "deep";

pub const CONCURRENCY: [u16; 3] = [1, 2, 4];

/// The concurrency of the workers in the group `DEPTH`.
const OF_DEPTH: u16 = 2;

/// Messages per second that it does, about; for the number of them.
const RATE: f64 = 20_000.0;

const QUEUE: &str = "bench";

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

pub fn name(build: Build, concurrency: u16) -> String {
    Contender::WqRun { build, concurrency }.name()
}

#[derive(Clone, Copy)]
enum Who {
    WqRun(Build, u16),
    Python(Peer),
}

pub fn round(bench: &mut Bench) {
    let mut all: Vec<Who> = CONCURRENCY
        .iter()
        .flat_map(|concurrency| bench.builds().iter().map(|build| Who::WqRun(*build, *concurrency)))
        .collect();
    if bench.tools.peers_python.is_some() {
        all.extend(PEERS.map(Who::Python));
    }
    let count = count(bench);
    for who in bench.in_turn(&all) {
        let (name, measured) = match who {
            Who::WqRun(build, concurrency) => (name(build, concurrency), drained(bench, build, concurrency, count)),
            Who::Python(peer) => (peer.name().into(), in_python(bench, peer)),
        };
        bench.results.add(GROUP, &name, Unit::Rate, measured);
    }
}

fn count(bench: &Bench) -> u64 {
    (RATE * bench.scale.seconds).max(20.0) as u64
}

pub fn depth_round(bench: &mut Bench) {
    for name in bench.in_turn(&[SHALLOW, DEEP]) {
        let measured = if name == DEEP { deep(bench) } else { drained(bench, Build::Now, OF_DEPTH, count(bench)) };
        bench.results.add(DEPTH, name, Unit::Rate, measured);
    }
}

/// The file is the same in each round, and filled up again before each.
fn deep(bench: &mut Bench) -> Result<f64> {
    let depth = bench.scale.deep;
    let (file, missing) = match bench.deep.take() {
        Some(deep) => deep,
        None => (File::new(bench)?, depth),
    };
    file.publish(bench, Build::Now, missing)?;
    let worker = Contender::WqRun { build: Build::Now, concurrency: OF_DEPTH };
    let mut command = loop_of(&bench.tools, Build::Now, &file.url(), QUEUE, OF_DEPTH);
    let time = Duration::from_secs_f64(bench.scale.seconds);
    let ended = process::run_for(command.arg("--forever"), time)?.succeeded()?;
    let done = worker.claims(&ended.stderr).ok_or("wq-run claims nothing")??;
    file.left(bench, Build::Now, depth.checked_sub(done).ok_or("more messages were done than there were")?)?;
    bench.deep = Some((file, done));
    Ok(done as f64 / ended.wall.as_secs_f64())
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

/// A queue in a file of its own.
pub struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new(bench: &Bench) -> Result<File> {
        Ok(File { folder: folder(bench)? })
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("queue.db").display())
    }

    fn admin(&self, bench: &Bench, build: Build, words: &[&str]) -> Command {
        let mut command = Command::new(&bench.tools.build(build).program);
        command.args(words).env("BROKER_URL", self.url()).env("QUEUE", QUEUE);
        command
    }

    fn publish(&self, bench: &Bench, build: Build, count: u64) -> Result<()> {
        process::run(&mut self.admin(bench, build, &["queue", "declare"]))?.succeeded()?;
        let lines = lines(count)?;
        process::run(self.admin(bench, build, &["publish", "--lines"]).arg(lines.path()))?.succeeded()?;
        Ok(())
    }

    /// An error unless so many are left, and nobody has one.
    fn left(&self, bench: &Bench, build: Build, left: u64) -> Result<()> {
        let status = self.admin(bench, build, &["queue", "status"]).output()?;
        let status = String::from_utf8(status.stdout)?;
        let says = |line: &str| status.lines().any(|said| said == line);
        if says(&format!("ready {left}")) && says("running 0") {
            return Ok(());
        }
        Err(format!("not {left} messages are left: {status}").into())
    }
}

/// A file with a message a line.
pub fn lines(count: u64) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    let mut lines = std::io::BufWriter::new(&file);
    for number in 0..count {
        lines.write_all(&queue::body(number, 5))?;
        lines.write_all(b"\n")?;
    }
    lines.flush()?;
    drop(lines);
    Ok(file)
}

fn drained(bench: &Bench, build: Build, concurrency: u16, count: u64) -> Result<f64> {
    let file = File::new(bench)?;
    file.publish(bench, build, count)?;
    let worker = Contender::WqRun { build, concurrency };
    let ended = process::run(&mut worker.command(&bench.tools, &file.url(), QUEUE, count))?.succeeded()?;
    if let Some(claimed) = worker.claims(&ended.stderr) {
        all_done(claimed?, count)?;
    }
    file.left(bench, build, 0)?;
    Ok(count as f64 / ended.wall.as_secs_f64())
}
