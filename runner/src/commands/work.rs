//! `wq-run work`: runs a guest for each message of a queue.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::process::{can_write, unwatched};
use super::remains;
use super::showing::Showing;
use crate::broker::{self, outbox};
use crate::causes::chain;
use crate::cli;
use crate::config::{Listen, Work};
use crate::error::{Error, ExitStatus, broker_status};
use crate::locks::lock;
use crate::observe::health::Health;
use crate::observe::listen::Listener;
use crate::observe::metrics::{Build, Metrics};
use crate::observe::summary::{self, Summary};
use crate::observe::{Counts, Served};
use crate::sandbox::{self, Loading, Sandbox};
use crate::shutdown::{self, Signal};
use crate::sink::{Format, Needs, Sinks, Spec};
use crate::streams::termination;
use crate::task::Refused;
use crate::version;
use crate::worker::depth::{Asker, Queues};
use crate::worker::record::{self, Cases};
use crate::worker::{self, Mode, StopReason, Stopped, Worker};

/// For closing a connection over which nothing was taken. If it is cut off instead, that is only a line in the broker's log.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

pub async fn run(args: cli::Work) -> Result<u8, Error> {
    let began = Instant::now();
    // First of all: the folders of --dir, which are looked at next, may be on a disk that does not answer.
    let mut phases = shutdown::watch(args.shutdown_timeout, ExitStatus::Stuck.code()).map_err(unwatched)?;
    let config = Work::resolve(args)?;
    if config.results.iter().any(|spec| spec.needs == Needs::Stdout) {
        can_write("redirect it, or name another place for results: --result (WQ_RESULT)")?;
    }
    let queue = config.subscription.queue.clone();
    let dead_letter_queue = config.subscription.dead_letter_queue.clone();
    let (served, asker) = serve(&config)?;
    // It connects while the guest is loaded, and takes nothing before the worker says so.
    let subscription = broker::subscribe(&config.broker, config.subscription);
    let results = (config.results.as_slice(), config.result_format);
    let ready = tokio::select! {
        ready = get_ready(config.loading, config.sandbox, results, &config.broker, config.outbox, config.record) => {
            ready.map_err(|error| Err(error.on(&config.broker)))
        }
        // Compiling can take minutes, and nothing is in hand yet.
        signal = shutdown::requested(&mut phases) => {
            let exit_status = signal.exit_code();
            let reason = StopReason::Signal(signal).to_string();
            let work = summary::Work::none(began.elapsed());
            let summary = Summary { queue: queue.clone(), reason, exit_status, work };
            summary.say();
            termination::about(move || summary.for_people());
            Err(Ok(exit_status))
        }
    };
    let (sandbox, sinks, cases) = match ready {
        Ok(ready) => ready,
        Err(end) => {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, subscription.close()).await;
            return end;
        }
    };
    if let Some(metrics) = &served.metrics {
        metrics.loaded(sandbox.compiled_in());
    }
    let (mode, concurrency) = (config.worker.mode, config.worker.concurrency);
    let (guest, digest) = (sandbox.name().to_owned(), sandbox.digest().to_owned());
    let mut worker = Worker::new(config.worker, sandbox, sinks, config.policy, served, cases.clone());
    let observers = worker.observers();
    let so_far = observers.clone();
    termination::about(move || summary::Work::of(&so_far).for_people());
    let has_begun = Arc::new(AtomicBool::new(false));
    let showing = Arc::new(Mutex::new(None));
    worker.when_ready({
        let (has_begun, showing, observers) = (has_begun.clone(), showing.clone(), observers.clone());
        let (queue, broker) = (queue.clone(), config.broker.clone());
        move || {
            has_begun.store(true, Ordering::Relaxed);
            tracing::info!(
                queue,
                broker = %broker,
                guest,
                guest.digest = digest,
                mode = %mode,
                concurrency,
                "working"
            );
            *lock(&showing) = Showing::begin(observers, mode, concurrency as u64, &broker, &queue);
        }
    });
    let Stopped { reason, counts, closed } = worker.run(subscription, phases).await;
    drop(lock(&showing).take());
    if let Some(cases) = cases {
        cases.say_what_is_missing();
    }
    if let Some(asker) = asker {
        asker.end().await;
    }
    if let Err(error) = &closed {
        tracing::error!(
            error = %chain(error),
            "the connection did not end cleanly: the last acknowledgements may not have arrived"
        );
    }
    let reason = match reason {
        StopReason::BrokerFailed(error) if !has_begun.load(Ordering::Relaxed) => {
            // There is no work to sum up: the error says it all.
            termination::about(String::new);
            return Err(Error::from(error).on(&config.broker));
        }
        reason => reason,
    };
    let mut status = status(mode, &reason, counts, closed.is_ok(), config.fail_on_empty);
    let mut failed = None;
    if config.dead_letters_fail && closed.is_ok() && matches!(reason, StopReason::Empty) {
        match remains::dead_letters(&config.broker, &queue, &dead_letter_queue).await {
            Ok(Some(count)) => {
                tracing::error!(
                    queue = &dead_letter_queue,
                    dead_letters = count,
                    "the queue is empty, but it has dead letters (--on-dead-letters fail)"
                );
                status = ExitStatus::DeadLettersRemain;
            }
            Ok(None) => {}
            // The summary comes first: the work was done.
            Err(error) => {
                status = broker_status(&error);
                failed = Some(error);
            }
        }
    }
    let status = status.code();
    let work = summary::Work::of(&observers);
    let summary = Summary { queue, reason: reason.to_string(), exit_status: status, work };
    summary.say();
    if let StopReason::BrokerFailed(error) = reason {
        failed = Some(error);
    }
    if let Some(error) = failed {
        return Err(Error::from(error).on(&config.broker));
    }
    termination::about(move || summary.for_people());
    Ok(status)
}

/// Starts what `--listen` asks for. It answers from now on: loading a guest can take longer than a probe waits.
fn serve(config: &Work) -> Result<(Served, Option<Asker>), Error> {
    let Some(Listen { address, bounds }) = config.listen else { return Ok((Served::default(), None)) };
    let refused = |cause: std::io::Error| {
        Error::configuration(
            format!("cannot listen on {address}: {cause}"),
            "--listen (WQ_LISTEN) needs an address of this host and a port that no other program has",
        )
    };
    let listener = Listener::bind(address).map_err(refused)?;
    let bound = listener.address().map_err(refused)?;
    let worker::Options { concurrency, prefetch, .. } = config.worker;
    let health = Arc::new(Health::watched(bounds, concurrency.max(prefetch)));
    let build = Build { version: env!("CARGO_PKG_VERSION"), commit: version::commit(), wasmtime: sandbox::WASMTIME };
    let queue = config.subscription.queue.clone();
    let metrics = Arc::new(Metrics::new(&queue, build, health.clone()));
    let dead_letter_queue = config.dead_letters_known.then(|| config.subscription.dead_letter_queue.clone());
    let queues = Queues { queue, dead_letter_queue };
    let unstarted = |source| Error::Io { doing: "start a thread (--listen)".into(), source };
    let asker = Asker::start(config.broker.clone(), queues, metrics.clone()).map_err(unstarted)?;
    listener.serve(health.clone(), metrics.clone()).map_err(unstarted)?;
    tracing::info!(address = %bound, "listening");
    Ok((Served { health, metrics: Some(metrics) }, Some(asker)))
}

/// All that can be wrong for every message is found out here, before one is taken.
async fn get_ready(
    loading: Loading,
    options: sandbox::Options,
    (results, format): (&[Spec], Format),
    broker: &broker::Url,
    outbox: Option<outbox::Options>,
    record: Option<record::Options>,
) -> Result<(Sandbox, Sinks, Option<Arc<Cases>>), Error> {
    let sandbox = Sandbox::load(loading, options).await?;
    let outbox = match outbox {
        Some(options) => Some(broker.outbox(options).await?),
        None => None,
    };
    Ok((sandbox, Sinks::open(results, format, outbox).await?, open_cases(record).await?))
}

async fn open_cases(options: Option<record::Options>) -> Result<Option<Arc<Cases>>, Error> {
    let Some(options) = options else { return Ok(None) };
    let folder = options.folder.clone();
    let opened = Cases::open(options).await.map_err(|cause| Error::no_cases(&folder, &cause));
    Ok(Some(Arc::new(opened?)))
}

/// What the worker's end means to who started it. The worst that happened wins.
fn status(mode: Mode, reason: &StopReason, counts: Counts, closed_cleanly: bool, fail_on_empty: bool) -> ExitStatus {
    // Messages that were withdrawn say nothing about the work.
    let Counts { acked, retried, dead_lettered, rejected, released, unsettled, withdrawn: _ } = counts;
    // Either way it was not done, and will not be tried again.
    let dead_lettered = dead_lettered + rejected;
    match reason {
        StopReason::Bug(_) => return ExitStatus::Bug,
        StopReason::Stuck => return ExitStatus::Stuck,
        StopReason::BrokerFailed(error) => return broker_status(error),
        StopReason::HostFault(_) => return ExitStatus::NotDelivered,
        StopReason::Refused(Refused::Configuration, _) => return ExitStatus::Configuration,
        StopReason::Refused(Refused::Right, _) => return ExitStatus::Refused,
        StopReason::BreakerOpen { .. } => return ExitStatus::BreakerOpen,
        StopReason::Done
        | StopReason::Empty
        | StopReason::Unserved(_)
        | StopReason::Missing(_)
        | StopReason::Signal(_) => {}
    }
    if !closed_cleanly {
        return ExitStatus::NotDelivered;
    }
    // A count has to answer for each of its messages. A drain or a service took those up again that came back.
    if matches!(mode, Mode::Count(_)) {
        if unsettled > 0 {
            return ExitStatus::NotDelivered;
        }
        if dead_lettered > 0 {
            return ExitStatus::DeadLettered;
        }
        // Messages that were given back because of a signal are told by the signal's own status.
        if retried > 0 || (released > 0 && !matches!(reason, StopReason::Signal(_))) {
            return ExitStatus::TaskFailed;
        }
    }
    match (reason, mode) {
        // Asked to stop, and stopped with everything settled: a service's good end.
        (StopReason::Signal(_), Mode::Forever) if released == 0 => ExitStatus::Done,
        // The signal came while the last of them ran, and it was finished.
        (StopReason::Signal(_), Mode::Count(count)) if acked == count => ExitStatus::Done,
        (StopReason::Signal(Signal::Interrupt), _) => ExitStatus::Interrupted,
        (StopReason::Signal(Signal::Terminate), _) => ExitStatus::Terminated,
        (StopReason::Empty | StopReason::Unserved(_) | StopReason::Missing(_), Mode::Drain) if dead_lettered > 0 => {
            ExitStatus::DeadLettered
        }
        // The queue is not empty.
        (StopReason::Unserved(_) | StopReason::Missing(_), Mode::Drain) => ExitStatus::TaskFailed,
        (StopReason::Empty | StopReason::Unserved(_), _) if fail_on_empty && acked == 0 => ExitStatus::Empty,
        _ => ExitStatus::Done,
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Done => write!(f, "the count is reached"),
            StopReason::Empty => write!(f, "the queue is empty"),
            StopReason::Unserved(ready) => write!(
                f,
                "{ready} messages are ready, but the broker delivers none of them to this worker: another consumer may have them for itself (a single active consumer, or one of a higher priority)"
            ),
            StopReason::Missing(retries) => write!(
                f,
                "{retries} retries have not come back to the queue: it may be full and refuse them, or somebody took them"
            ),
            StopReason::BreakerOpen { tries } => write!(
                f,
                "the breaker is open (--breaker), and {tries} messages that were tried after pauses failed too; the other messages stay in the queue"
            ),
            StopReason::Signal(signal) => write!(f, "{}", signal.name()),
            StopReason::HostFault(fault) | StopReason::Refused(_, fault) => write!(f, "{fault}"),
            // Said once more by `main`, with its hint.
            StopReason::BrokerFailed(error) => write!(f, "{}", chain(error)),
            StopReason::Stuck => write!(f, "a guest could not be stopped"),
            StopReason::Bug(panic) => write!(f, "a bug in wq-run: {panic}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Counts =
        Counts { acked: 0, retried: 0, dead_lettered: 0, rejected: 0, released: 0, unsettled: 0, withdrawn: 0 };

    #[test]
    fn only_a_message_that_is_done_ends_one_shot_mode_with_0() {
        let one_shot = |counts| status(Mode::Count(1), &StopReason::Done, counts, true, false);
        assert_eq!(one_shot(Counts { acked: 1, ..NONE }), ExitStatus::Done);
        assert_eq!(one_shot(Counts { retried: 1, ..NONE }), ExitStatus::TaskFailed);
        assert_eq!(one_shot(Counts { released: 1, ..NONE }), ExitStatus::TaskFailed);
        assert_eq!(one_shot(Counts { dead_lettered: 1, ..NONE }), ExitStatus::DeadLettered);
        assert_eq!(one_shot(Counts { rejected: 1, ..NONE }), ExitStatus::DeadLettered);
        assert_eq!(one_shot(Counts { unsettled: 1, ..NONE }), ExitStatus::NotDelivered);
    }

    #[test]
    fn an_acknowledgement_that_may_be_lost_is_no_success() {
        for mode in [Mode::Count(1), Mode::Drain, Mode::Forever] {
            let acked = Counts { acked: 1, ..NONE };
            assert_eq!(status(mode, &StopReason::Done, acked, false, false), ExitStatus::NotDelivered);
        }
    }

    #[test]
    fn an_empty_queue_is_a_success_unless_told_otherwise() {
        let empty = |mode, counts, fail| status(mode, &StopReason::Empty, counts, true, fail);
        for mode in [Mode::Count(1), Mode::Drain] {
            assert_eq!(empty(mode, NONE, false), ExitStatus::Done);
            assert_eq!(empty(mode, NONE, true), ExitStatus::Empty);
        }
        assert_eq!(empty(Mode::Drain, Counts { acked: 3, ..NONE }, true), ExitStatus::Done);
        assert_eq!(empty(Mode::Drain, Counts { acked: 3, retried: 2, ..NONE }, false), ExitStatus::Done);
        assert_eq!(empty(Mode::Drain, Counts { acked: 3, dead_lettered: 1, ..NONE }, false), ExitStatus::DeadLettered);
    }

    #[test]
    fn a_drain_that_leaves_messages_behind_is_no_success() {
        for reason in [StopReason::Unserved(2), StopReason::Missing(2)] {
            let left = |counts| status(Mode::Drain, &reason, counts, true, false);
            assert_eq!(left(Counts { acked: 3, ..NONE }), ExitStatus::TaskFailed);
            assert_eq!(left(Counts { acked: 3, dead_lettered: 1, ..NONE }), ExitStatus::DeadLettered);
        }
        // To one that waits for a message there is none.
        let unserved = |fail| status(Mode::Count(1), &StopReason::Unserved(2), NONE, true, fail);
        assert_eq!((unserved(false), unserved(true)), (ExitStatus::Done, ExitStatus::Empty));
    }

    #[test]
    fn a_signal_is_a_success_only_where_the_work_was_done_all_the_same() {
        let signal = |mode, counts| status(mode, &StopReason::Signal(Signal::Terminate), counts, true, false);
        assert_eq!(signal(Mode::Forever, Counts { acked: 2, ..NONE }), ExitStatus::Done);
        assert_eq!(signal(Mode::Forever, Counts { acked: 2, released: 1, ..NONE }), ExitStatus::Terminated);
        assert_eq!(signal(Mode::Count(1), NONE), ExitStatus::Terminated);
        assert_eq!(signal(Mode::Count(2), Counts { acked: 1, ..NONE }), ExitStatus::Terminated);
        assert_eq!(signal(Mode::Count(1), Counts { acked: 1, ..NONE }), ExitStatus::Done);
        assert_eq!(signal(Mode::Count(1), Counts { released: 1, ..NONE }), ExitStatus::Terminated);
        assert_eq!(signal(Mode::Drain, Counts { acked: 2, ..NONE }), ExitStatus::Terminated);
    }
}
