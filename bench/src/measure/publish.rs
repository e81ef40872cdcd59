//! A file of lines, each a message: from the start of the process to its exit.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Bench, embedded};
use crate::contender::Build;
use crate::results::Unit;
use crate::{Result, process};

pub const GROUP: &str = "publish lines of 5 B";
pub const WQ_RUN: &str = "wq-run publish --lines, each confirmed";
pub const AMQP_PUBLISH: &str = "amqp-publish -l, unconfirmed";

const LINES: u64 = 100_000;

/// What was not confirmed may arrive after its publisher has gone.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn round(bench: &mut Bench) {
    let lines = embedded::lines(LINES);
    let mut all: Vec<Option<Build>> = bench.builds().iter().map(|build| Some(*build)).collect();
    all.push(None);
    for build in bench.in_turn(&all) {
        let measured = match &lines {
            Ok(lines) => one(bench, build, lines.path()),
            Err(error) => Err(error.to_string().into()),
        };
        let name = build.map_or_else(|| AMQP_PUBLISH.to_owned(), |build| build.of(WQ_RUN));
        bench.results.add(GROUP, &name, Unit::Rate, measured);
    }
}

fn one(bench: &Bench, build: Option<Build>, lines: &Path) -> Result<f64> {
    let queue = bench.new_queue();
    bench.queues.declare(&queue)?;
    let ended = match build {
        Some(build) => {
            let mut command = Command::new(&bench.tools.build(build).program);
            command.args(["publish", "--log-format", "json", "--lines"]).arg(lines);
            process::run(command.env("BROKER_URL", &bench.url).env("QUEUE", &queue))
        }
        None => {
            let mut command = Command::new(&bench.tools.amqp_publish);
            command.args(["--url", &bench.url, "--routing-key", &queue, "--persistent", "--line-buffered"]);
            process::run_reading(&mut command, lines)
        }
    };
    let arrived = ended.and_then(process::Ended::succeeded).and_then(|ended| {
        let started = Instant::now();
        while u64::from(bench.queues.status(&queue)?.ready) < LINES {
            if started.elapsed() > PATIENCE {
                return Err(format!("{} of {LINES} messages arrived", bench.queues.status(&queue)?.ready).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(ended)
    });
    let found = bench.queues.status(&queue)?.ready;
    bench.queues.delete(&queue)?;
    let ended = arrived?;
    if u64::from(found) != LINES {
        return Err(format!("{found} messages arrived, and not {LINES}").into());
    }
    Ok(LINES as f64 / ended.wall.as_secs_f64())
}
