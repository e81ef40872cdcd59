//! The loop over one session of a broker with leases, once it is open: takes, renews and settles.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gather::Gather;
use super::leases::{Leases, Renewed, Taken, Terms};
use super::settling::{Delivered, Reply, Settled, Settling, TRY_AGAIN};
use crate::broker::bounds::{ABORT_TIMEOUT, ANSWER_TIMEOUT, answered, answered_within, sleep_until};
use crate::broker::command::Command;
use crate::broker::error::Error;
use crate::broker::link::Link;
use crate::broker::subscription::{Depth, Options};
use crate::causes::chain;
use crate::message_span::MessageSpan;
use crate::task::Settlement;

/// How long giving messages back at the end may take. Those that are not given back come again when their leases end.
pub const CLOSE_WITHIN: Duration = ABORT_TIMEOUT;

/// How soon to try again to renew leases after an error that may pass.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// A delivery counts as lost by our clock when one fifth of its lease is left: its run has to be stopped before the next one
/// begins.
const MARGIN: u32 = 5;

/// A call that is under way. It goes on from one turn of the loop to the next.
type Call<T> = Option<BoxFuture<'static, Result<T, Error>>>;

pub struct Session<L: Leases> {
    leases: Arc<L>,
    terms: Terms,
    options: Options,
    /// Deliveries that the worker has.
    held: HashMap<u64, Delivered<L::Lease>>,
    next_number: u64,
    /// Messages that may still be taken.
    left: u64,
    taking: Call<Vec<Taken<L::Lease>>>,
    take_began: Instant,
    /// Tells the take that is under way that its end is waited for.
    hurry: CancellationToken,
    next_take: Instant,
    /// Since when takes have failed.
    failing_since: Option<Instant>,
    renewing: Call<Renewed>,
    renewal: Renewal,
    next_renewal: Instant,
    /// No delivery expires before this.
    next_expiry: Option<Instant>,
    looking: Call<Depth>,
    /// Questions for the depth that are still to be answered.
    probes: usize,
    /// The last look found messages: they are taken before the next look. Where looks are slow, one question would otherwise
    /// follow the other, and nothing be taken.
    take_first: bool,
    /// Settlements that are still to begin.
    waiting: VecDeque<Settling<L::Lease>>,
    settling: FuturesUnordered<BoxFuture<'static, Settled>>,
    gather: Gather,
    /// When settlements are given up after an abort, and what tells them.
    give_up_at: Option<Instant>,
    give_up: CancellationToken,
    /// Whether the broker has done anything for us in this session.
    worked: bool,
}

/// What the last renewal is about.
struct Renewal {
    began: Instant,
    numbers: Vec<u64>,
}

impl<L: Leases> Session<L> {
    pub fn new(leases: L, options: Options, left: u64) -> Session<L> {
        let (now, terms) = (Instant::now(), leases.terms());
        Session {
            leases: Arc::new(leases),
            terms,
            gather: Gather::new(terms.together, &options),
            options,
            held: HashMap::new(),
            next_number: 1,
            left,
            taking: None,
            take_began: now,
            hurry: CancellationToken::new(),
            next_take: now,
            failing_since: None,
            renewing: None,
            renewal: Renewal { began: now, numbers: Vec::new() },
            next_renewal: now + terms.renew,
            next_expiry: None,
            looking: None,
            probes: 0,
            take_first: false,
            waiting: VecDeque::new(),
            settling: FuturesUnordered::new(),
            give_up_at: None,
            give_up: CancellationToken::new(),
            worked: false,
        }
    }

    /// Until the worker is done, or the broker fails.
    pub async fn run(&mut self, link: &mut Link) -> Result<(), Error> {
        loop {
            self.begin_settlements();
            let room = self.room();
            let idle = self.taking.is_none() && self.looking.is_none();
            // It goes together with the settlements that are being gathered.
            let is_time = self.gather.due().is_none();
            let takes_next = !link.cancelled && room > 0 && is_time && (self.probes == 0 || self.take_first);
            if self.probes > 0 && idle && !takes_next {
                self.look();
            }
            let may_take = takes_next && idle;
            let take_overdue = self.taking.is_some().then(|| self.take_began + self.terms.wait + ANSWER_TIMEOUT);
            tokio::select! {
                biased;
                command = link.commands.recv() => match command {
                    Some(Command::Settle { tag, settlement, reply }) => {
                        let is_of_this = tag.session == link.session;
                        let held = if is_of_this { self.held.remove(&tag.number) } else { None };
                        match held {
                            Some(delivered) => self.settle(delivered, settlement, reply, false),
                            // If nobody waits for the answer, its end is reported as lost.
                            None => {
                                if let Some(reply) = reply {
                                    let lost = if is_of_this { Error::lease_lost() } else { Error::Lost { source: None } };
                                    let _ = reply.send(Err(lost));
                                }
                            }
                        }
                    }
                    Some(Command::Want) => {
                        self.left = link.wanted();
                        self.next_take = Instant::now();
                        self.hurry.cancel();
                    }
                    Some(Command::Cancel) => {
                        link.cancelled = true;
                        self.gather.end();
                        self.hurry.cancel();
                    }
                    Some(Command::Probe) => {
                        self.probes += 1;
                        self.hurry.cancel();
                    }
                    Some(Command::Close { reply }) => {
                        let _ = reply.send(self.close().await);
                        return Ok(());
                    }
                    None => {
                        let _ = self.close().await;
                        return Ok(());
                    }
                },
                Some(settled) = self.settling.next(), if !self.settling.is_empty() => {
                    self.worked |= settled.result.is_ok();
                    settled.answer();
                    // There is room for another one.
                    self.next_take = Instant::now();
                }
                taken = done(&mut self.taking) => self.on_taken(taken, link)?,
                renewed = done(&mut self.renewing) => self.on_renewed(renewed)?,
                depth = done(&mut self.looking) => {
                    self.probes -= 1;
                    let depth = depth?;
                    self.take_first = depth.ready > 0;
                    link.depth(depth);
                }
                () = sleep_until(self.next_expiry) => self.expire(),
                () = tokio::time::sleep_until(self.next_renewal), if self.renewing.is_none() => self.renew(),
                () = sleep_until(Some(self.next_take)), if may_take => self.take(room),
                () = sleep_until(self.gather.due()), if !self.waiting.is_empty() => {}
                () = sleep_until(take_overdue), if L::REMOTE => self.on_overdue_take(link)?,
                () = link.abort.cancelled(), if self.give_up_at.is_none() => {
                    self.give_up_at = Some(Instant::now() + ABORT_TIMEOUT);
                }
                () = sleep_until(self.give_up_at), if !self.give_up.is_cancelled() => self.give_up.cancel(),
            }
        }
    }

    /// How many messages may be taken now.
    fn room(&self) -> usize {
        let prefetch = usize::from(self.options.prefetch);
        let settling = self.waiting.len() + self.settling.len();
        let room = match self.terms.together {
            // So many wait to be settled that the file seems to be locked: what is taken now would wait as well.
            true if settling > prefetch => 0,
            true => prefetch.saturating_sub(self.held.len()),
            false => prefetch.saturating_sub(self.held.len() + settling),
        };
        usize::try_from(self.left).map_or(room, |left| room.min(left))
    }

    fn take(&mut self, room: usize) {
        self.take_began = Instant::now();
        self.take_first = false;
        self.hurry = CancellationToken::new();
        if self.probes > 0 {
            self.hurry.cancel();
        }
        let (leases, hurry) = (self.leases.clone(), self.hurry.clone());
        self.taking = Some(Box::pin(async move { leases.take(room, hurry).await }));
    }

    fn on_taken(&mut self, taken: Result<Vec<Taken<L::Lease>>, Error>, link: &Link) -> Result<(), Error> {
        let now = Instant::now();
        let taken = match taken {
            Err(error) if L::passes(&error) => {
                self.next_take = now + self.terms.poll.max(TRY_AGAIN);
                let since = *self.failing_since.get_or_insert(now);
                return if since.elapsed() > self.options.reconnect_timeout { Err(error) } else { Ok(()) };
            }
            taken => taken?,
        };
        self.failing_since = None;
        self.worked = true;
        self.next_take = now + self.terms.poll;
        if link.cancelled {
            self.give_back(taken, false);
            return Ok(());
        }
        for Taken { lease, mut handed } in taken {
            let number = self.next_number;
            self.next_number += 1;
            self.left = self.left.saturating_sub(1);
            handed.origin.delivery_tag = number;
            let delivered = self.delivered(lease, handed.span());
            let (lost, span) = (delivered.lost.clone(), delivered.span.clone());
            self.next_expiry = earlier(self.next_expiry, delivered.expires);
            self.held.insert(number, delivered);
            link.deliver(link.tag(number), lost, span, handed);
        }
        Ok(())
    }

    /// A delivery of the last take. Its lease counts from the take's beginning, since nobody knows how old an answer is.
    fn delivered(&self, lease: L::Lease, span: MessageSpan) -> Delivered<L::Lease> {
        let expires = self.expiry(self.take_began);
        Delivered { lease: Arc::new(lease), lost: CancellationToken::new(), span, expires }
    }

    /// Gives back what the worker has not seen.
    fn give_back(&mut self, taken: Vec<Taken<L::Lease>>, at_close: bool) {
        for Taken { lease, handed } in taken {
            let delivered = self.delivered(lease, handed.span());
            came_too_late(&delivered.span);
            self.settle(delivered, Settlement::Release, None, at_close);
        }
    }

    /// The broker has gone, as far as takes tell. What runs can perhaps still be settled, and a worker that leaves needs no
    /// more messages.
    fn on_overdue_take(&mut self, link: &Link) -> Result<(), Error> {
        let error = Error::Unanswered { doing: "hand out messages".into() };
        if !link.cancelled {
            return Err(error);
        }
        tracing::warn!(error = %chain(&error), "messages may have to wait until their leases end before they are delivered again");
        self.taking = None;
        Ok(())
    }

    fn renew(&mut self) {
        let began = Instant::now();
        self.next_renewal = began + self.terms.renew;
        if self.held.is_empty() {
            return;
        }
        let held: Vec<_> = self.held.iter().map(|(number, delivered)| (*number, delivered.lease.clone())).collect();
        self.renewal = Renewal { began, numbers: held.iter().map(|(number, _)| *number).collect() };
        let (leases, bound) = (self.leases.clone(), self.terms.renew);
        self.renewing = Some(Box::pin(async move {
            let renewing = leases.renew(held);
            if L::REMOTE { answered_within(bound, "renew leases", renewing).await } else { renewing.await }
        }));
    }

    fn on_renewed(&mut self, renewed: Result<Renewed, Error>) -> Result<(), Error> {
        let now = Instant::now();
        let Renewed { lost, unconfirmed } = match renewed {
            Ok(renewed) => renewed,
            Err(error) if L::passes(&error) || is_unanswered(&error) => {
                self.next_renewal = now + RENEW_AGAIN.min(self.terms.renew);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.next_renewal = now + self.terms.renew;
        if !unconfirmed.is_empty() {
            self.next_renewal = now + RENEW_AGAIN.min(self.terms.renew);
        }
        let expires = self.expiry(self.renewal.began);
        for number in std::mem::take(&mut self.renewal.numbers) {
            if !unconfirmed.contains(&number)
                && let Some(delivered) = self.held.get_mut(&number)
            {
                delivered.expires = expires;
            }
        }
        for number in lost {
            // One that is being settled is told by its settlement.
            if let Some(delivered) = self.held.remove(&number) {
                let _entered = delivered.span.enter();
                tracing::warn!("the lease ran out, and another worker has the message");
            }
        }
        Ok(())
    }

    /// When a claim ends that was confirmed by a call that began then.
    fn expiry(&self, began: Instant) -> Option<Instant> {
        L::REMOTE.then(|| began + self.terms.lease - self.terms.lease / MARGIN)
    }

    /// Ends the claims that nobody has confirmed in time.
    fn expire(&mut self) {
        let now = Instant::now();
        let expired = self.held.extract_if(|_, delivered| delivered.expires.is_some_and(|expires| expires <= now));
        for (_, delivered) in expired {
            let _entered = delivered.span.enter();
            tracing::warn!("no renewal of the lease was confirmed in time; another worker may have the message");
        }
        self.next_expiry = self.held.values().filter_map(|delivered| delivered.expires).min();
    }

    fn look(&mut self) {
        let leases = self.leases.clone();
        self.looking = Some(Box::pin(async move {
            let looking = leases.depth();
            if L::REMOTE { answered("count the messages in a queue", looking).await } else { looking.await }
        }));
    }

    fn settle(&mut self, delivered: Delivered<L::Lease>, settlement: Settlement, reply: Option<Reply>, at_close: bool) {
        let until = Instant::now() + self.options.publish_timeout;
        self.waiting.push_back(Settling { delivered, settlement, reply, until, at_close });
        self.gather.add(Instant::now());
        if self.terms.together {
            self.next_take = Instant::now();
        }
    }

    fn begin_settlements(&mut self) {
        if self.waiting.is_empty() || !self.gather.begins(self.waiting.len(), self.held.len(), Instant::now()) {
            return;
        }
        while self.settling.len() < self.terms.settlements
            && let Some(next) = self.waiting.pop_front()
        {
            self.settling.push(Box::pin(next.settle(self.leases.clone(), self.give_up.clone())));
        }
    }

    /// Makes the settlements that are left, and gives back what is held.
    async fn close(&mut self) -> Result<(), Error> {
        for delivered in std::mem::take(&mut self.held).into_values() {
            self.settle(delivered, Settlement::Release, None, true);
        }
        let until = self.close_until();
        let finished = self.finish(until).await;
        let closing = self.leases.close();
        let closed =
            if L::REMOTE { answered_within(CLOSE_WITHIN, "end the connection", closing).await } else { closing.await };
        finished.and(closed)
    }

    /// After an error that ends the session: what is held is lost, and all that is under way is awaited. Returns whether the
    /// broker did anything for us.
    pub async fn fail(mut self) -> bool {
        self.held.clear();
        self.waiting.clear();
        let until = self.close_until();
        let _ = self.finish(until).await;
        self.worked
    }

    fn close_until(&self) -> Instant {
        let wait = if self.taking.is_some() || self.looking.is_some() { self.terms.wait } else { Duration::ZERO };
        self.give_up_at.unwrap_or_else(|| Instant::now() + wait + CLOSE_WITHIN)
    }

    /// Awaits the take, the look (which may hold messages as well) and all settlements, including those that have not begun.
    /// Gives back what the take brings.
    ///
    /// # Errors
    /// When something that the session had, and the worker had not, was not given back.
    async fn finish(&mut self, until: Instant) -> Result<(), Error> {
        self.hurry.cancel();
        self.gather.end();
        let mut to_give_back = self.waiting.iter().filter(|settling| settling.at_close).count();
        let mut given_back = Ok(());
        loop {
            self.begin_settlements();
            if self.taking.is_none() && self.looking.is_none() && self.settling.is_empty() {
                return given_back;
            }
            tokio::select! {
                biased;
                Some(settled) = self.settling.next(), if !self.settling.is_empty() => {
                    if settled.at_close {
                        to_give_back -= 1;
                        given_back = given_back.and(settled.result);
                    } else {
                        settled.answer();
                    }
                }
                taken = done(&mut self.taking) => match taken {
                    Ok(taken) => {
                        to_give_back += taken.len();
                        self.give_back(taken, true);
                    }
                    Err(error) => tracing::debug!(error = %chain(&error), "the last take failed"),
                },
                // Nobody waits for what it found. What it holds is given back by the adapter's end.
                _ = done(&mut self.looking) => {}
                () = tokio::time::sleep_until(until) => {
                    let all = to_give_back == 0 && self.taking.is_none() && self.looking.is_none();
                    let unanswered = || Error::Unanswered { doing: "take messages back".into() };
                    return given_back.and_then(|()| if all { Ok(()) } else { Err(unanswered()) });
                }
            }
        }
    }
}

/// Tells of a message that goes back before its worker has seen it. Some brokers count such a hand-over: without this line, the
/// log would not explain the number of the message's next attempt.
pub fn came_too_late(span: &MessageSpan) {
    span.in_scope(|| tracing::debug!("came too late; giving it back"));
}

fn is_unanswered(error: &Error) -> bool {
    matches!(error, Error::Unanswered { .. })
}

/// The result of a call, as soon as it is there. A call that is not done when this is dropped goes on.
async fn done<T>(call: &mut Call<T>) -> Result<T, Error> {
    let Some(under_way) = call else { return std::future::pending().await };
    let result = under_way.await;
    *call = None;
    result
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
