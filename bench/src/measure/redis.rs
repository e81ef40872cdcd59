//! Messages per second on Redis Streams, of one process that works a queue off, beside a bare consumer and the loop of the
//! Kubernetes page on work queues, which takes from a list.

use std::process::Command;

use super::{Bench, all_done};
use crate::contender::{Build, Contender, GATHER, PREFETCH};
use crate::redis_server::RedisServer;
use crate::results::Unit;
use crate::{Result, process, queue};

pub const RATE: &str = "Redis Streams, loop, 5 B";
pub const CPU: &str = "Redis Streams, CPU time per message, 5 B";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    WqRun(Build, u16),
    Bare,
    /// One acknowledgement for `GATHER` messages.
    BareMultiple,
    /// By the scheme of `rediswq.py`: five commands a message.
    RedisWq,
}

/// Filled a pipeline at a time.
const PIPELINE: u64 = 1_000;

impl Who {
    pub fn name(self) -> String {
        match self {
            Who::WqRun(build, concurrency) => Contender::WqRun { build, concurrency }.name(),
            Who::Bare => "bare redis client, ack each".into(),
            Who::BareMultiple => format!("bare redis client, one ack per {GATHER}"),
            Who::RedisWq => "a loop by the scheme of rediswq.py, on a list".into(),
        }
    }

    /// As `Contender::usual_rate`.
    fn usual_rate(self) -> f64 {
        match self {
            Who::WqRun(..) => 20_000.0,
            Who::Bare => 30_000.0,
            Who::BareMultiple => 100_000.0,
            Who::RedisWq => 4_000.0,
        }
    }
}

pub fn round(bench: &mut Bench) {
    let Some(redis) = bench.redis.take() else { return };
    let mut all: Vec<Who> = [1, 2, 4]
        .into_iter()
        .flat_map(|concurrency| bench.builds().iter().map(move |build| Who::WqRun(*build, concurrency)))
        .collect();
    all.extend([Who::Bare, Who::BareMultiple]);
    if bench.tools.peers_python.is_some() {
        all.push(Who::RedisWq);
    }
    for who in bench.in_turn(&all) {
        let (rate, cpu) = match one(bench, &redis, who) {
            Ok((rate, cpu)) => (Ok(rate), Ok(cpu)),
            Err(error) => (Err(error.to_string().into()), Err(error)),
        };
        bench.results.add(RATE, &who.name(), Unit::Rate, rate);
        bench.results.add(CPU, &who.name(), Unit::Micros, cpu);
    }
    bench.redis = Some(redis);
}

fn one(bench: &Bench, redis: &RedisServer, who: Who) -> Result<(f64, f64)> {
    let count = (who.usual_rate() * bench.scale.seconds).max(20.0) as u64;
    let queue = bench.new_queue();
    fill(bench, redis, who, &queue, count)?;
    let ended = process::run(&mut command(bench, redis, who, &queue, count)?)?.succeeded()?;
    if let Who::WqRun(build, concurrency) = who
        && let Some(claimed) = (Contender::WqRun { build, concurrency }).claims(&ended.stderr)
    {
        all_done(claimed?, count)?;
    }
    empty(redis, who, &queue)?;
    let count = count as f64;
    Ok((count / ended.wall.as_secs_f64(), ended.cpu.as_secs_f64() * 1e6 / count))
}

fn fill(bench: &Bench, redis: &RedisServer, who: Who, queue: &str, count: u64) -> Result<()> {
    let mut connection = redis.connect()?;
    if who != Who::RedisWq {
        let mut declare = Command::new(&bench.tools.build(Build::Now).program);
        declare.args(["queue", "declare"]).env("BROKER_URL", redis.url()).env("QUEUE", queue);
        process::run(&mut declare)?.succeeded()?;
    }
    for first in (0..count).step_by(PIPELINE as usize) {
        let mut pipe = redis::pipe();
        for number in first..count.min(first + PIPELINE) {
            let body = queue::body(number, 5);
            match who {
                Who::RedisWq => pipe.cmd("LPUSH").arg(queue).arg(body).ignore(),
                _ => pipe.cmd("XADD").arg(queue).arg("*").arg("body").arg(body).ignore(),
            };
        }
        pipe.exec(&mut connection)?;
    }
    Ok(())
}

fn command(bench: &Bench, redis: &RedisServer, who: Who, queue: &str, count: u64) -> Result<Command> {
    let mut command = match who {
        Who::WqRun(build, concurrency) => {
            return Ok(Contender::WqRun { build, concurrency }.command(&bench.tools, &redis.url(), queue, count));
        }
        Who::RedisWq => {
            let python = bench.tools.peers_python.as_ref().ok_or("no Python with the peers was named")?;
            let mut command = Command::new(python);
            command
                .arg("bench/redis/rediswq.py")
                .args([&redis.port().to_string(), queue, "0"])
                .env("WORKER", "--drain");
            return Ok(command);
        }
        Who::Bare | Who::BareMultiple => Command::new(&bench.tools.bench),
    };
    command.args(["redis", "--queue", queue, "--count", &count.to_string(), "--prefetch", &PREFETCH.to_string()]);
    if who == Who::BareMultiple {
        command.args(["--gather", &GATHER.to_string()]);
    }
    command.env("BROKER_URL", redis.url());
    Ok(command)
}

/// An error if anything is left, with nobody or with the worker.
fn empty(redis: &RedisServer, who: Who, queue: &str) -> Result<()> {
    let mut connection = redis.connect()?;
    let mut length = |command: &str, key: &str| redis::cmd(command).arg(key).query::<u64>(&mut connection);
    let left = match who {
        Who::RedisWq => length("LLEN", queue)? + length("LLEN", &format!("{queue}:processing"))?,
        _ => length("XLEN", queue)?,
    };
    if left > 0 {
        return Err(format!("{left} messages were left").into());
    }
    redis::cmd("DEL").arg(queue).exec(&mut connection)?;
    Ok(())
}
