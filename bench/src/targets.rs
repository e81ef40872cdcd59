//! What wq-run must reach, as ratios in one run, and whether it does.

use crate::contender::{Build, Contender};
use crate::measure::one_shot::Start;
use crate::measure::{cpython, embedded, interpreter, latency, looping, memory, one_shot, publish, runs};
use crate::results::{Results, Row};
use crate::stats::{self, Rounds};

pub struct Verdict {
    pub work: String,
    pub against: String,
    pub bound: Bound,
    /// Why this is the target, in a sentence.
    pub why: &'static str,
    pub reached: Reached,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reached {
    /// Of the ratios of each round: the median, the least and the greatest.
    Ratio {
        median: f64,
        from: f64,
        to: f64,
    },
    /// One of the two lost or failed something.
    Failed,
    NotMeasured,
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

impl Verdict {
    pub fn is_met(&self) -> bool {
        matches!(self.reached, Reached::Ratio { median, .. } if self.bound.holds(median))
    }
}

/// One side of a ratio, or why there is none.
type Side = Result<Rounds, Reached>;

fn side(row: Option<&Row>) -> Side {
    row.ok_or(Reached::NotMeasured)?.rounds().cloned().ok_or(Reached::Failed)
}

/// The ratio of each round, and not of medians: what disturbed a round disturbed both.
pub fn reached(ours: &Side, theirs: &Side) -> Reached {
    let ratios = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => stats::ratios(ours, theirs),
        (Err(Reached::Failed), _) | (_, Err(Reached::Failed)) => return Reached::Failed,
        _ => return Reached::NotMeasured,
    };
    match (stats::median(&ratios), stats::range(&ratios)) {
        (Some(median), Some((from, to))) => Reached::Ratio { median, from, to },
        _ => Reached::NotMeasured,
    }
}

/// The same of two rows.
pub fn compared(ours: Option<&Row>, theirs: Option<&Row>) -> Reached {
    reached(&side(ours), &side(theirs))
}

pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let mut verdicts = of_the_loop(results);
    verdicts.extend(of_a_run(results));
    verdicts.extend(of_starts(results));
    verdicts.extend(of_memory(results));
    verdicts.extend(of_the_embedded_queue(results));
    verdicts.push(Verdict {
        work: format!("{}, {}", publish::GROUP, publish::WQ_RUN),
        against: publish::AMQP_PUBLISH.into(),
        bound: Bound::AtLeast(0.5),
        why: "amqp-publish does not wait to hear whether a message was stored",
        reached: compared(
            results.row(publish::GROUP, publish::WQ_RUN),
            results.row(publish::GROUP, publish::AMQP_PUBLISH),
        ),
    });
    verdicts
}

fn of_the_loop(results: &Results) -> Vec<Verdict> {
    let [small, large] = [looping::SMALL, looping::LARGE].map(looping::rate_group);
    let best_small = best(results, &small);
    let cpu = looping::cpu_group(looping::SMALL);
    let cpu_of = |name: &str| side(results.row(&cpu, name));
    let gathered = Contender::LapinMultiple.name();
    // With nothing to wait for, the time of a run is its CPU time.
    let parts = cpu_of(&gathered)
        .and_then(|client| Ok(stats::sums(&client, &side(results.row(runs::GUEST, runs::Host::Pooling.name()))?)));
    let ours = best_small.map_or(Err(Reached::NotMeasured), |best| cpu_of(&best.name));
    let mut verdicts = vec![Verdict {
        work: format!("{cpu}, {BEST}"),
        against: format!("{gathered}, and a run in {}, together", runs::Host::Pooling.name()),
        bound: Bound::AtMost(1.3),
        why: "a message takes at least its client's work and its guest's run; the rest is ours",
        reached: reached(&ours, &parts),
    }];
    let of_the_loop = [
        (
            &small,
            Contender::LapinMultiple,
            Bound::AtLeast(0.7),
            "all that this client gets from this broker, if nothing is done with the messages",
        ),
        (
            &small,
            Contender::Cat,
            Bound::AtLeast(50.0),
            "what wq-run takes the place of, with the least worker there is",
        ),
        (
            &large,
            Contender::Lapin,
            Bound::AtLeast(0.9),
            "a large message should not be copied more often than by the client",
        ),
        (
            &small,
            Contender::Lapin,
            Bound::AtLeast(1.1),
            "a sandbox should cost less than acknowledgements that go one by one",
        ),
        (&small, Contender::Python, Bound::AtLeast(180.0), "the worker of the Kubernetes page on work queues"),
        (&small, Contender::Wasmtime, Bound::AtLeast(20.0), "the same sandbox, as a process for each message"),
    ];
    for (group, peer, bound, why) in of_the_loop {
        verdicts.push(Verdict {
            work: format!("{group}, {BEST}"),
            against: peer.name(),
            bound,
            why,
            reached: compared(best(results, group), results.row(group, &peer.name())),
        });
    }
    let latencies = [
        (latency::P50, 1.15, "a guest should hear of a message as soon as a program on the bare client does"),
        (latency::P99, 1.2, "the same, seldom later"),
    ];
    for (group, bound, why) in latencies {
        let ours = Contender::WqRun { build: Build::Now, concurrency: 1 }.name();
        verdicts.push(Verdict {
            work: format!("{group}, idle worker"),
            against: Contender::Lapin.name(),
            bound: Bound::AtMost(bound),
            why,
            reached: compared(results.row(group, &ours), results.row(group, &Contender::Lapin.name())),
        });
    }
    verdicts
}

fn of_a_run(results: &Results) -> Vec<Verdict> {
    let bare = runs::Host::Pooling.name();
    let runs = [
        (runs::Host::WqRunItself, 1.05, "limits and captured output should cost next to nothing"),
        (runs::Host::WqRunAtHand, 1.2, "as in the loop: the slot's thread need not sleep between runs"),
        (runs::Host::WqRun, 3.0, "two threads wake each other up for each run"),
    ];
    runs.map(|(host, bound, why)| Verdict {
        work: format!("{}, {}", runs::GUEST, host.name()),
        against: bare.into(),
        bound: Bound::AtMost(bound),
        why,
        reached: compared(results.row(runs::GUEST, host.name()), results.row(runs::GUEST, bare)),
    })
    .into()
}

fn of_starts(results: &Results) -> Vec<Verdict> {
    let python = Start::Peer(Contender::Python);
    let starts = [
        (
            Start::NothingCachedFast(Build::Now),
            python,
            1.1,
            "a pod for each message has no compiled code, and should not start later than what it takes the place of",
        ),
        (Start::NothingCached(Build::Now), python, 1.9, "optimised code is the default, and takes longer to make"),
        (Start::Compiled(Build::Now), python, 0.9, "a guest from the cache starts sooner than an interpreter"),
        (Start::Compiled(Build::Now), Start::Lapin, 1.25, "most of a start is the connection to the broker"),
    ];
    let mut verdicts: Vec<Verdict> = starts
        .map(|(ours, theirs, bound, why)| Verdict {
            work: format!("{}, {}", one_shot::GROUP, ours.name()),
            against: theirs.name(),
            bound: Bound::AtMost(bound),
            why,
            reached: compared(results.row(one_shot::GROUP, &ours.name()), results.row(one_shot::GROUP, &theirs.name())),
        })
        .into();
    let interpreters = [
        (cpython::GROUP, cpython::FAST, cpython::OPTIMISED, 0.4, "otherwise fast code that is slower has no use"),
        (interpreter::GROUP, interpreter::WQ_RUN, interpreter::WASMTIME, 1.0, "the same engine with the same code"),
    ];
    verdicts.extend(interpreters.map(|(group, ours, theirs, bound, why)| Verdict {
        work: format!("{group}, {ours}"),
        against: theirs.into(),
        bound: Bound::AtMost(bound),
        why,
        reached: compared(results.row(group, ours), results.row(group, theirs)),
    }));
    verdicts
}

fn of_memory(results: &Results) -> Vec<Verdict> {
    let idle = |name| results.row(memory::IDLE, name);
    let few_mib = side(idle(memory::IDLE_WITH_CODE));
    let allowed = few_mib.clone().map(|rounds| rounds.into_keys().map(|round| (round, IDLE_MIB)).collect());
    vec![
        Verdict {
            work: format!("{}, {}", memory::IDLE, memory::CPYTHON_AFTER_COMPILING),
            against: memory::CPYTHON_WITH_CODE.into(),
            bound: Bound::AtMost(1.2),
            why: "what compiling took goes back to the system",
            reached: compared(idle(memory::CPYTHON_AFTER_COMPILING), idle(memory::CPYTHON_WITH_CODE)),
        },
        Verdict {
            work: format!("{}, {}", memory::PEAK, memory::MANY),
            against: memory::FEW.into(),
            bound: Bound::AtMost(1.1),
            why: "a worker that runs for weeks should not grow",
            reached: compared(results.row(memory::PEAK, memory::MANY), results.row(memory::PEAK, memory::FEW)),
        },
        Verdict {
            work: format!("{}, {}", memory::IDLE, memory::IDLE_WITH_CODE),
            against: format!("{IDLE_MIB} MiB"),
            bound: Bound::AtMost(1.0),
            why: "small pods are many",
            reached: reached(&few_mib, &allowed),
        },
    ]
}

fn of_the_embedded_queue(results: &Results) -> Vec<Verdict> {
    let depth = |name| results.row(embedded::DEPTH, name);
    let best = best_of(
        embedded::CONCURRENCY.map(|concurrency| results.row(embedded::GROUP, &embedded::name(Build::Now, concurrency))),
    );
    let mut verdicts = vec![Verdict {
        work: format!("{}, {}", embedded::DEPTH, embedded::DEEP),
        against: embedded::SHALLOW.into(),
        bound: Bound::AtLeast(0.9),
        why: "a take should not look at what it does not take",
        reached: compared(depth(embedded::DEEP), depth(embedded::SHALLOW)),
    }];
    verdicts.extend([embedded::Peer::Huey, embedded::Peer::Litequeue].map(|peer| Verdict {
        work: format!("{}, {BEST}", embedded::GROUP),
        against: peer.name().into(),
        bound: Bound::AtLeast(10.0),
        why: "they commit twice for each message, and wq-run for many messages together",
        reached: compared(best, results.row(embedded::GROUP, peer.name())),
    }));
    verdicts
}

/// wq-run's row with the highest median.
pub fn best<'a>(results: &'a Results, group: &str) -> Option<&'a Row> {
    best_of(
        looping::CONCURRENCY
            .map(|concurrency| results.row(group, &Contender::WqRun { build: Build::Now, concurrency }.name())),
    )
}

fn best_of<'a>(rows: impl IntoIterator<Item = Option<&'a Row>>) -> Option<&'a Row> {
    let median = |row: &Row| row.median().unwrap_or(f64::NEG_INFINITY);
    rows.into_iter().flatten().max_by(|a, b| f64::total_cmp(&median(a), &median(b)))
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

    fn loop_of(results: &mut Results, contender: Contender, measured: Result<f64, &'static str>) {
        let group = looping::rate_group(looping::SMALL);
        results.add(&group, &contender.name(), Unit::Rate, measured.map_err(Into::into));
    }

    fn against(results: &Results, peer: Contender) -> Reached {
        let work = format!("{}, {BEST}", looping::rate_group(looping::SMALL));
        let verdicts = verdicts(results);
        verdicts.iter().find(|verdict| verdict.work == work && verdict.against == peer.name()).unwrap().reached
    }

    const fn wq_run(concurrency: u16) -> Contender {
        Contender::WqRun { build: Build::Now, concurrency }
    }

    #[test]
    fn a_peer_that_failed_gives_no_ratio() {
        let mut results = Results::default();
        loop_of(&mut results, wq_run(2), Ok(2000.0));
        loop_of(&mut results, wq_run(1), Ok(1000.0));
        loop_of(&mut results, Contender::Lapin, Ok(4000.0));
        loop_of(&mut results, Contender::Cat, Err("no such program"));
        assert_eq!(against(&results, Contender::Lapin), Reached::Ratio { median: 0.5, from: 0.5, to: 0.5 });
        assert_eq!(against(&results, Contender::Cat), Reached::Failed);
        assert_eq!(against(&results, Contender::Python), Reached::NotMeasured);
    }

    /// The second round was disturbed for both alike. A ratio of medians would be 2.5.
    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_each_round() {
        let mut results = Results::default();
        for (round, (ours, theirs)) in [(1000.0, 500.0), (100.0, 50.0), (900.0, 300.0)].into_iter().enumerate() {
            results.round = round;
            loop_of(&mut results, wq_run(1), Ok(ours));
            loop_of(&mut results, Contender::Lapin, Ok(theirs));
        }
        assert_eq!(against(&results, Contender::Lapin), Reached::Ratio { median: 2.0, from: 2.0, to: 3.0 });
    }

    #[test]
    fn cpu_time_is_compared_with_the_sum_of_the_parts() {
        let mut results = Results::default();
        loop_of(&mut results, wq_run(1), Ok(1000.0));
        loop_of(&mut results, wq_run(2), Ok(2000.0));
        let group = looping::cpu_group(looping::SMALL);
        for (contender, micros) in [(wq_run(1), 9.0), (wq_run(2), 15.0), (Contender::LapinMultiple, 6.0)] {
            results.add(&group, &contender.name(), Unit::Micros, Ok(micros));
        }
        let ratio = |results: &Results| verdicts(results)[0].reached;
        assert_eq!(ratio(&results), Reached::NotMeasured);
        results.add(runs::GUEST, runs::Host::Pooling.name(), Unit::Micros, Ok(4.0));
        assert_eq!(ratio(&results), Reached::Ratio { median: 1.5, from: 1.5, to: 1.5 });
    }
}
