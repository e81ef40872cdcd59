//! What wq-run must reach, as ratios in one run, and whether it does.

use crate::contender::Contender;
use crate::measure::{interpreter, looping, memory, one_shot, runs};
use crate::results::{Results, Row};

pub struct Verdict {
    pub work: String,
    pub against: String,
    pub bound: Bound,
    /// `None` where something that it takes was not measured, or failed.
    pub ratio: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What an idle worker may have, in MiB.
const IDLE_MIB: f64 = 40.0;

const BEST: &str = "wq-run, best concurrency";

impl Bound {
    pub fn holds(self, ratio: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => ratio >= bound,
            Bound::AtMost(bound) => ratio <= bound,
        }
    }

    pub fn show(self) -> String {
        match self {
            Bound::AtLeast(bound) => format!("at least {bound} ×"),
            Bound::AtMost(bound) => format!("at most {bound} ×"),
        }
    }
}

pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let small = looping::rate_group("5 B");
    let of_the_loop = [
        (Contender::Lapin, Bound::AtLeast(1.1)),
        (Contender::LapinMultiple, Bound::AtLeast(0.3)),
        (Contender::Cat, Bound::AtLeast(22.0)),
        (Contender::Python, Bound::AtLeast(180.0)),
        (Contender::Wasmtime, Bound::AtLeast(20.0)),
    ];
    let ratio = |ours: Option<&Row>, theirs: Option<&Row>| Some(ours?.median()? / theirs?.median()?);
    for (peer, bound) in of_the_loop {
        let theirs = results.row(&small, &peer.name());
        verdicts.push(Verdict {
            work: format!("loop, 5 B, {BEST}"),
            against: peer.name(),
            bound,
            ratio: ratio(best(results, &small), theirs),
        });
    }
    let large = looping::rate_group("1 MiB");
    verdicts.push(Verdict {
        work: format!("loop, 1 MiB, {BEST}"),
        against: Contender::Lapin.name(),
        bound: Bound::AtLeast(0.8),
        ratio: ratio(best(results, &large), results.row(&large, &Contender::Lapin.name())),
    });
    let bare = [runs::Host::OnDemand, runs::Host::Pooling].map(|host| results.row(runs::GUEST, host.name()));
    let bare = bare.into_iter().flatten().min_by(|a, b| f64::total_cmp(&median(a), &median(b)));
    for host in [runs::Host::WqRunItself, runs::Host::WqRunAtHand, runs::Host::WqRun] {
        verdicts.push(Verdict {
            work: format!("{}, {}", runs::GUEST, host.name()),
            against: bare.map_or_else(|| "bare wasmtime".into(), |row| row.name.clone()),
            bound: Bound::AtMost(1.2),
            ratio: ratio(results.row(runs::GUEST, host.name()), bare),
        });
    }
    use one_shot::Start;
    let starts = [
        (Start::Compiled, Start::Lapin, Bound::AtMost(1.25)),
        (Start::Compiled, Start::Peer(Contender::Python), Bound::AtMost(0.9)),
        (Start::NothingCached, Start::Peer(Contender::Python), Bound::AtMost(2.0)),
    ];
    for (ours, theirs, bound) in starts {
        let [ours_row, theirs_row] = [ours, theirs].map(|start| results.row(one_shot::GROUP, &start.name()));
        verdicts.push(Verdict {
            work: format!("one message, {}", ours.name()),
            against: theirs.name(),
            bound,
            ratio: ratio(ours_row, theirs_row),
        });
    }
    let embedded = results.row(runs::EMBEDDED, &runs::embedded_name(1));
    for peer in [runs::Peer::Huey, runs::Peer::Litequeue] {
        if let Some(theirs) = results.row(runs::EMBEDDED, peer.name()) {
            verdicts.push(Verdict {
                work: format!("{}, concurrency 1", runs::EMBEDDED),
                against: peer.name().into(),
                bound: Bound::AtLeast(10.0),
                ratio: ratio(embedded, Some(theirs)),
            });
        }
    }
    let of_peak = |name| results.row(memory::PEAK, name);
    verdicts.push(Verdict {
        work: "peak memory, many messages".into(),
        against: "few messages".into(),
        bound: Bound::AtMost(1.1),
        ratio: ratio(of_peak(memory::MANY), of_peak(memory::FEW)),
    });
    let idle = results.row(memory::IDLE, memory::IDLE_WITH_CODE).and_then(Row::median);
    verdicts.push(Verdict {
        work: "memory of an idle worker".into(),
        against: format!("{IDLE_MIB} MiB"),
        bound: Bound::AtMost(1.0),
        ratio: idle.map(|idle| idle / IDLE_MIB),
    });
    let [ours, theirs] = [interpreter::WQ_RUN, interpreter::WASMTIME].map(|name| results.row(interpreter::GROUP, name));
    verdicts.push(Verdict {
        work: "interpreter, compiled ahead, start to first result".into(),
        against: "the same guest under wasmtime run".into(),
        bound: Bound::AtMost(1.0),
        ratio: ratio(ours, theirs),
    });
    verdicts
}

/// wq-run's row with the highest median.
pub fn best<'a>(results: &'a Results, group: &str) -> Option<&'a Row> {
    [1, 2, 4]
        .iter()
        .filter_map(|concurrency| results.row(group, &Contender::WqRun { concurrency: *concurrency }.name()))
        .max_by(|a, b| f64::total_cmp(&median(a), &median(b)))
}

fn median(row: &Row) -> f64 {
    row.median().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Unit;

    #[test]
    fn a_bound_includes_itself() {
        assert!(Bound::AtLeast(1.1).holds(1.1));
        assert!(!Bound::AtLeast(1.1).holds(1.09));
        assert!(Bound::AtMost(0.9).holds(0.9));
        assert!(!Bound::AtMost(0.9).holds(0.91));
    }

    #[test]
    fn a_peer_that_failed_gives_no_ratio() {
        let group = looping::rate_group("5 B");
        let mut results = Results::default();
        results.add(&group, &Contender::WqRun { concurrency: 2 }.name(), Unit::Rate, Ok(2000.0));
        results.add(&group, &Contender::WqRun { concurrency: 1 }.name(), Unit::Rate, Ok(1000.0));
        results.add(&group, &Contender::Lapin.name(), Unit::Rate, Ok(4000.0));
        results.add(&group, &Contender::Cat.name(), Unit::Rate, Err("no such program".into()));
        let verdicts = verdicts(&results);
        assert_eq!(verdicts[0].ratio, Some(0.5));
        assert_eq!(verdicts[2].ratio, None);
    }
}
