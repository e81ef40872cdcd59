//! One message's way: run, deliver the result, settle. In this order, always.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::breaker::{Culprit, Sign};
use super::decode;
use super::environment;
use super::metadata::Metadata;
use super::record::{Begun, Cases};
use crate::blocking;
use crate::broker::{self, Delivery, Receipt};
use crate::case::End;
use crate::causes::chain;
use crate::fault::{self, Point};
use crate::observe::health::Stage;
use crate::observe::trace::{Carried, Span};
use crate::observe::{Observers, Pending, Settled};
use crate::sandbox::{Cancel, Input, Sandbox};
use crate::settle::Policy;
use crate::sink::{Failed, Identity, Record, Run, Sinks};
use crate::task::{Attempt, Message, Origin, Outcome, Report, Settlement, Verdict};

/// What every run needs.
pub(super) struct Context {
    pub(super) sandbox: Sandbox,
    pub(super) sinks: Sinks,
    /// Where a case of each run is saved.
    pub(super) cases: Option<Arc<Cases>>,
    pub(super) policy: Policy,
    pub(super) max_message: u64,
    pub(super) result_content_type: Option<String>,
    pub(super) metadata: bool,
    pub(super) decode: bool,
    /// The number of this pod, in a Job that counts its pods.
    pub(super) completion_index: Option<String>,
    /// Whether somebody wants to know which messages fail.
    pub(super) has_breaker: bool,
    /// Gives back what has not begun.
    pub(super) withdraw: CancellationToken,
    pub(super) abort: CancellationToken,
}

/// A message that the worker was handed: the duty to settle it, and to say how it ended.
pub(super) struct Job {
    // Dropped first: the message is given back, and then it is reported.
    pub(super) delivery: Box<Delivery>,
    pub(super) pending: Box<Pending>,
    /// The breaker's, when its run began.
    pub(super) round: u32,
}

/// What the end of one message's way means for the worker.
pub(super) struct Finished {
    pub(super) verdict: Verdict,
    /// Why the settlement could not be made, if the next one fares no better.
    pub(super) failed: Option<broker::Error>,
    pub(super) sign: Sign,
    pub(super) round: u32,
}

impl Finished {
    /// The end of one that says nothing about the guest.
    fn without_a_sign(verdict: Verdict, round: u32) -> Finished {
        Finished { verdict, failed: None, sign: Sign::Nothing, round }
    }
}

impl Job {
    pub(super) fn new(mut delivery: Box<Delivery>, observers: &Arc<Observers>) -> Job {
        let span = std::mem::take(&mut delivery.span);
        let Delivery { message, origin, attempt, receipt, .. } = &*delivery;
        let pending = Pending::new(observers, message, origin, *attempt, receipt.lost(), span);
        Job { delivery, pending: Box::new(pending), round: 0 }
    }
}

/// What is left of a run beside its outcome; nothing where there was none.
#[derive(Default)]
struct Left {
    stdout: Bytes,
    stderr_tail: String,
}

/// Takes a message from its delivery to its settlement. There is no other way out of here than through `Pending::end`, or, by a
/// panic, through the drops of `Pending` and of the receipt.
pub(super) fn process(context: Arc<Context>, mut job: Job) -> impl Future<Output = Finished> {
    job.pending.begins(Span::process(&job.delivery.message, &job.delivery.origin));
    let span = job.pending.log_span().clone();
    span.around(process_in_span(context, job))
}

/// There is one of these futures for each prefetched message, and the loop moves it. So it is kept small: the futures of rare steps
/// are boxed.
async fn process_in_span(context: Arc<Context>, Job { delivery, mut pending, round }: Job) -> Finished {
    let mut delivery = delivery;
    let receipt = delivery.receipt;
    let (message, origin) = (&mut delivery.message, &delivery.origin);
    let mut attempt = Attempt { number: delivery.attempt, max: context.policy.max_attempts };
    if !delivery.can_be_retried {
        tracing::warn!("the headers of the message leave no room for a retry: this run is its last");
        attempt.max = attempt.max.min(attempt.number);
    }
    let guest = context.sandbox.digest();
    let identity = context
        .sinks
        .identify_results()
        .then(|| Box::new(Identity::new(message, origin, guest, attempt, context.result_content_type.as_deref())));
    let culprit = context.has_breaker.then(|| Culprit::of(message, attempt.number));
    tracing::debug!("taken");
    fault::reach(Point::Delivered);
    let running = pending.trace().run(context.sandbox.name(), guest);
    let recorded = context.cases.as_ref().map(|_| Box::new(Begun::new(message, origin, attempt, running.carried())));
    let prepared = match delivery.unreadable.take() {
        Some(reason) => Err(Verdict::Unreadable(reason)),
        None => match judge(&context, message, delivery.unfinished) {
            Some(verdict) => Err(verdict),
            None => prepare(&context, message, origin, attempt, running.carried(), &receipt).await,
        },
    };
    let (mut verdict, left) = match prepared {
        Err(verdict) => (verdict, Left::default()),
        Ok((input, _metadata)) => {
            let Report { outcome, stdout, stderr_tail, duration, usage, .. } = context.sandbox.run(input).await;
            let began = !matches!(outcome, Outcome::Withdrawn | Outcome::Blocked(_));
            pending.facts.run = began.then_some(duration);
            pending.facts.usage = usage;
            pending.facts.result_bytes = stdout.len();
            (Verdict::Run(outcome), Left { stdout, stderr_tail })
        }
    };
    if !context.policy.succeeds(&verdict) {
        running.fail(verdict.name(), || verdict.to_string());
    }
    drop(running);
    if verdict == Verdict::Run(Outcome::Withdrawn) {
        // Dropping the receipt gives the message back, as it does for one that never got here.
        return Finished::without_a_sign(pending.give_back(verdict), round);
    }
    // Another worker may have the message by now, and deliver its result. So this result is discarded.
    if receipt.lost().is_cancelled() {
        // Being stuck is about the process and not about the message.
        let is_stuck = matches!(verdict, Verdict::Run(Outcome::Stuck(_)));
        let lost = Settled::LeaseLost("this worker no longer has the message: its result is discarded".into());
        let verdict = pending.end(verdict, lost);
        let verdict = if is_stuck { verdict } else { Outcome::Interrupted.into() };
        return Finished::without_a_sign(verdict, round);
    }
    fault::reach(Point::Finished);
    if let (Some(cases), Some(begun), Verdict::Run(outcome)) = (&context.cases, recorded, &verdict)
        && let Some(end) = End::of(outcome, &left.stdout, &left.stderr_tail, pending.facts.run, pending.facts.usage)
    {
        // The message is settled whether its case could be saved or not.
        let saving = Box::pin(cases.save(*begun, end, context.sandbox.name(), guest));
        tokio::select! {
            () = saving => {}
            () = context.abort.cancelled() => {}
        }
    }
    if context.policy.succeeds(&verdict) {
        pending.is_at(Stage::Delivering);
        let delivered = if context.sinks.discard() {
            Ok(())
        } else {
            let mut record =
                identity.map_or_else(Identity::default, |identity| *identity).with(left.stdout, pending.trace());
            if context.sinks.tell_of_runs() {
                let (id, outcome) = (pending.facts.message_id.clone(), verdict.name());
                record.run = Run { id, attempt: attempt.number, outcome, exit_code: verdict.exit_code() };
            }
            Box::pin(deliver(&context, record)).await
        };
        match delivered {
            Ok(()) => {}
            Err(Undelivered::As(failed)) => verdict = failed,
            Err(Undelivered::Unknown(reason)) => {
                // Dropping the receipt gives the message back, if there still is a connection for that.
                let is_lost = receipt.lost().is_cancelled();
                pending.end(verdict, if is_lost { Settled::LeaseLost(reason) } else { Settled::Unsettled(reason) });
                return Finished::without_a_sign(Outcome::Interrupted.into(), round);
            }
        }
    }
    fault::reach(Point::Recorded);
    let sign = match culprit {
        _ if context.policy.succeeds(&verdict) => Sign::Success,
        Some(culprit) if context.policy.is_failed_run(&verdict) => Sign::Failure(culprit),
        _ => Sign::Nothing,
    };
    let mut settlement =
        context.policy.decide(&verdict, &left.stderr_tail, guest, attempt, SystemTime::now(), fastrand::f64());
    if let Some(failure) = settlement.failure_mut() {
        failure.usage = pending.facts.usage;
    }
    if matches!((&settlement, &verdict), (Settlement::Release, Verdict::Run(Outcome::Exited(_)))) {
        // A guest that gives its message back gets it again at once, and would do so as fast as it can. Holding the
        // message for a moment keeps the loop slow on every kind of broker.
        Box::pin(async {
            tokio::select! {
                () = tokio::time::sleep(context.policy.backoff.initial) => {}
                () = context.abort.cancelled() => {}
                () = receipt.lost().cancelled() => {}
            }
        })
        .await;
    }
    let settling = pending.trace().settle(origin, settlement.name());
    let settled = Settled::from(&settlement);
    pending.is_at(Stage::Settling);
    let began = Instant::now();
    let answer = receipt.settle(settlement).await;
    pending.facts.settle = Some(began.elapsed());
    if let Err(error) = &answer {
        settling.fail("settle", || chain(error));
    }
    drop(settling);
    fault::reach(Point::Settled);
    let (settled, failed) = match answer {
        Ok(()) => (settled, None),
        Err(broker::Error::Aborted) => (Settled::Released, None),
        Err(error @ broker::Error::Unconfirmed) => (Settled::Unsettled(chain(&error)), None),
        Err(error) if error.leaves_open() => (Settled::LeaseLost(chain(&error)), None),
        Err(error) => (Settled::Failed(chain(&error)), Some(error)),
    };
    Finished { verdict: pending.end(verdict, settled), failed, sign, round }
}

/// The verdict on a message that is not worth a run.
fn judge(context: &Context, message: &Message, unfinished: u32) -> Option<Verdict> {
    if context.policy.gives_up(unfinished) {
        return Some(Verdict::Abandoned(unfinished));
    }
    if message.body.len() as u64 > context.max_message {
        return Some(Verdict::TooLarge(context.max_message));
    }
    context.sinks.undeliverable(message).map(Verdict::Undeliverable)
}

async fn unpack(context: &Context, encoding: String, message: &mut Message) -> Result<(), Verdict> {
    let (body, limit) = (std::mem::take(&mut message.body), context.max_message);
    message.body = match blocking::call(move || decode::decode(&encoding, &body, limit)).await {
        Ok(body) => body,
        Err(decode::Error::TooLarge) => return Err(Verdict::TooLarge(limit)),
        Err(decode::Error::Corrupt(reason)) => return Err(Verdict::Undecodable(reason)),
    };
    Ok(())
}

/// All that a run needs of its message, which has no body afterwards; or the verdict on one that cannot be prepared.
async fn prepare(
    context: &Context,
    message: &mut Message,
    origin: &Origin,
    attempt: Attempt,
    trace: &Carried,
    receipt: &Receipt,
) -> Result<(Input, Option<Metadata>), Verdict> {
    let encoding = &mut message.properties.content_encoding;
    if let Some(encoding) = encoding.take_if(|encoding| context.decode && decode::knows(encoding)) {
        Box::pin(unpack(context, encoding, message)).await?;
    }
    let index = context.completion_index.as_deref();
    let env = environment::of(message, origin, attempt, trace, index, context.sandbox.is_deterministic());
    let stdin = std::mem::take(&mut message.body);
    let metadata =
        if context.metadata { Some(Box::pin(metadata(context, message, origin, attempt)).await?) } else { None };
    let dirs = metadata.iter().map(Metadata::dir).collect();
    let cancel = Cancel::any(&context.abort, receipt.lost());
    Ok((Input { env, stdin, dirs, cancel, withdraw: context.withdraw.clone() }, metadata))
}

async fn metadata(
    context: &Context,
    message: &mut Message,
    origin: &Origin,
    attempt: Attempt,
) -> Result<Metadata, Verdict> {
    let (message, origin) = (std::mem::take(message), origin.clone());
    let room = context.sandbox.room();
    let written = blocking::call(move || Metadata::write(room.folder()?, &message, &origin, attempt)).await;
    written.map_err(|error| {
        Verdict::HostFault(format!("cannot write the guest's message.json (--metadata): {}", chain(&error)))
    })
}

/// Why a result is not where it should be.
enum Undelivered {
    As(Verdict),
    /// It is not known whether it is: why.
    Unknown(String),
}

/// Writes the result to all sinks, unless the worker is told to abort: a broker that raised an alarm can take long.
async fn deliver(context: &Context, record: Record) -> Result<(), Undelivered> {
    let written = tokio::select! {
        biased;
        written = context.sinks.write(&record) => written,
        () = context.abort.cancelled() => return Err(Undelivered::As(Outcome::Interrupted.into())),
    };
    written.map_err(|error| match error.failed() {
        Failed::As(verdict) => Undelivered::As(verdict),
        Failed::Lost => Undelivered::Unknown(format!("the result is not known to be delivered: {}", chain(&error))),
    })
}
