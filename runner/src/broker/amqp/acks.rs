//! Gathers acknowledgements, so that one AMQP acknowledgement covers several messages.
//!
//! A broker takes one acknowledgement for all deliveries up to a tag. With runs of microseconds, acknowledging each one
//! separately would be most of the work. Such an acknowledgement says the same about each delivery, so it may only reach as far
//! as all of them are done. Until it is sent, nothing counts any of them as acknowledged.
//!
//! A broker does not answer an acknowledgement. It does answer other requests, in order: the next answer on the channel proves
//! that what was sent before has arrived.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicQosOptions};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::lost;
use super::held::{Held, sent};
use crate::broker::{Error, Unproven};

/// The most that is ready and not sent. Also at most a quarter of the prefetch, so that the broker always has places to
/// fill while these are on their way.
const MOST: usize = 64;
const OF_PREFETCH: usize = 4;

/// How long one may wait for others.
const LONGEST: Duration = Duration::from_millis(2);

pub(super) struct Acks {
    ready: BTreeMap<u64, Ready>,
    since: Option<Instant>,
    most: usize,
    /// Some were sent, and nothing was answered after that.
    unproven: Unproven,
    /// A request whose answer proves what was sent before it.
    proof: Option<BoxFuture<'static, Result<(), Error>>>,
    /// Some were sent after that request.
    sent_since: bool,
}

struct Ready {
    held: Box<Held>,
    reply: Option<Reply>,
}

type Reply = oneshot::Sender<Result<(), Error>>;

impl Acks {
    /// `unproven` is set as long as some were sent that the broker is not known to have processed.
    pub fn new(prefetch: u16, unproven: Unproven) -> Acks {
        let most = (usize::from(prefetch) / OF_PREFETCH).clamp(1, MOST);
        Acks { ready: BTreeMap::new(), since: None, most, unproven, proof: None, sent_since: false }
    }

    pub fn add(&mut self, tag: u64, held: Box<Held>, reply: Option<Reply>) {
        self.since.get_or_insert_with(Instant::now);
        self.ready.insert(tag, Ready { held, reply });
    }

    pub fn is_full(&self) -> bool {
        self.ready.len() >= self.most
    }

    /// When they have to be sent at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + LONGEST)
    }

    /// Sends all of them. Those before `first_held`, the first delivery that is not done, go together.
    ///
    /// # Errors
    /// When one can't be sent.
    pub async fn send(&mut self, first_held: Option<u64>) -> Result<(), Error> {
        self.since = None;
        let mut together = std::mem::take(&mut self.ready);
        if !together.is_empty() {
            self.note_sent();
        }
        let alone = first_held.map_or_else(BTreeMap::new, |first| together.split_off(&first));
        let mut result = Ok(());
        if let Some((_, last)) = together.last_key_value() {
            // With one that is `multiple` for itself, nothing else is meant.
            let multiple = together.len() > 1;
            let answer = sent(last.held.acker.ack(BasicAckOptions { multiple }).await);
            result = tell(answer, together.into_values());
        }
        for ready in alone.into_values() {
            let answer = sent(ready.held.acker.ack(BasicAckOptions::default()).await);
            result = tell(answer, [ready]).and(result);
        }
        result
    }

    /// Asks for a proof of what was sent, unless one is under way. For a count: its consumers have one place each.
    pub fn prove(&mut self, channel: &Channel) {
        if self.proof.is_none() && self.unproven.is_set() {
            self.sent_since = false;
            let channel = channel.clone();
            // A request that changes nothing.
            self.proof =
                Some(Box::pin(async move { channel.basic_qos(1, BasicQosOptions::default()).await.map_err(lost) }));
        }
    }

    /// Returns when a proof has come. Never without [`Acks::prove`].
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn proven(&mut self) -> Result<(), Error> {
        let Some(proof) = &mut self.proof else { return std::future::pending().await };
        let answer = proof.await;
        self.proof = None;
        answer?;
        self.unproven.set(self.sent_since);
        Ok(())
    }

    /// Waits for a proof of all that was sent. The answer to the cancel of a consumer is no proof: lapin also returns it when
    /// the connection is lost.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn prove_now(&mut self, channel: &Channel) -> Result<(), Error> {
        if self.unproven.is_set() {
            channel.basic_qos(1, BasicQosOptions::default()).await.map_err(lost)?;
            self.are_proven();
        }
        Ok(())
    }

    /// Something was sent that the broker does not answer: acknowledgements, or a reject.
    pub fn note_sent(&mut self) {
        self.sent_since = true;
        self.unproven.set(true);
    }

    /// The broker has answered something else that was asked after the last of them was sent.
    pub fn are_proven(&mut self) {
        self.sent_since = false;
        self.unproven.set(false);
    }
}

/// Answers everybody whom one acknowledgement was for.
fn tell(answer: Result<(), Error>, ready: impl IntoIterator<Item = Ready>) -> Result<(), Error> {
    for Ready { reply, .. } in ready {
        if let Some(reply) = reply {
            // An error can't be copied; what became of the connection, the session says.
            let _ = reply.send(if answer.is_ok() { Ok(()) } else { Err(Error::Lost { source: None }) });
        }
    }
    answer
}
