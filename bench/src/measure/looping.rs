//! Messages per second of one process that works a queue off: from its start to its exit, start and end included.

use super::{Bench, all_done};
use crate::contender::Contender;
use crate::results::Unit;
use crate::{Result, process};

pub struct Size {
    pub name: &'static str,
    pub bytes: usize,
    peers: &'static [Contender],
}

/// About how many messages of a MiB a second can be expected of the fastest, for the number of them. With no more than the
/// prefetch, memory that is touched for the first time would be most of what is measured.
const USUAL_RATE_OF_A_MIB: f64 = 400.0;

/// Of wq-run; the best one counts.
pub const CONCURRENCY: [u16; 3] = [1, 2, 4];

pub const SIZES: [Size; 3] = [
    Size {
        name: SMALL,
        bytes: 5,
        peers: &[
            Contender::WqRunLogging,
            Contender::Lapin,
            Contender::LapinMultiple,
            Contender::Cat,
            Contender::Native,
            Contender::Python,
            Contender::Wasmtime,
        ],
    },
    Size { name: "1 KiB", bytes: 1 << 10, peers: &[Contender::Lapin, Contender::LapinMultiple, Contender::Cat] },
    Size { name: LARGE, bytes: 1 << 20, peers: &[Contender::Lapin, Contender::LapinMultiple, Contender::Cat] },
];

pub const SMALL: &str = "5 B";
pub const LARGE: &str = "1 MiB";

pub fn rate_group(size: &str) -> String {
    format!("loop, {size}")
}

pub fn cpu_group(size: &str) -> String {
    format!("CPU time per message, {size}")
}

pub fn round(bench: &mut Bench) {
    for size in &SIZES {
        let mut contenders: Vec<Contender> = CONCURRENCY
            .into_iter()
            .flat_map(|concurrency| {
                bench.builds().iter().map(move |build| Contender::WqRun { build: *build, concurrency })
            })
            .collect();
        contenders.extend(size.peers);
        for contender in bench.in_turn(&contenders) {
            let measured = one(bench, contender, size);
            let (rate, cpu) = match measured {
                Ok((rate, cpu)) => (Ok(rate), Ok(cpu)),
                Err(error) => (Err(error.to_string().into()), Err(error)),
            };
            bench.results.add(&rate_group(size.name), &contender.name(), Unit::Rate, rate);
            bench.results.add(&cpu_group(size.name), &contender.name(), Unit::Micros, cpu);
        }
    }
}

/// Messages per second, and microseconds of CPU time per message.
fn one(bench: &Bench, contender: Contender, size: &Size) -> Result<(f64, f64)> {
    let usual_rate = contender.usual_rate();
    let usual_rate = if size.bytes < 1 << 20 { usual_rate } else { usual_rate.min(USUAL_RATE_OF_A_MIB) };
    let count = (usual_rate * bench.scale.seconds).max(20.0) as u64;
    let queue = bench.new_queue();
    bench.queues.fill(&queue, count, size.bytes)?;
    let ended = process::run(&mut contender.command(&bench.tools, &bench.url, &queue, count));
    let ended = ended.and_then(process::Ended::succeeded);
    let empty = bench.queues.delete_empty(&queue);
    let ended = ended?;
    empty?;
    if let Some(claimed) = contender.claims(&ended.stderr) {
        all_done(claimed?, count)?;
    }
    let count = count as f64;
    Ok((count / ended.wall.as_secs_f64(), ended.cpu.as_secs_f64() * 1e6 / count))
}
