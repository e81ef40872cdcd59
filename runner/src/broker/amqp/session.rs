//! The loop over one AMQP connection that consumes: hands deliveries to the worker, and does what it asks.
//!
//! The loop of a session waits for nothing that a broker may leave unanswered: each step has a bound, and what has to be
//! published goes on beside the loop. So acknowledgements never queue behind somebody's retry.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::aside::{Aside, Order, Published, What};
use super::config::Config;
use super::connection::{self, lost, overdue, stands, unreceived};
use super::consumers::{Consumers, Next, arguments};
use super::convert::{self, Received};
use super::filter::Server;
use super::held::{Held, give_back, reject};
use super::looks::{Found, Looks, is_stream, look_at};
use super::retries::{Outlook, Retries};
use super::{delays, publisher};
use crate::broker::bounds::{answered, sleep_until};
use crate::broker::{Command, Depth, Error, Handed, Link, Options, Tag, Unproven};
use crate::causes::chain;
use crate::task::Settlement;

pub(super) struct Session<'a> {
    config: Arc<Config>,
    retries: &'a mut Retries,
    connection: Connection,
    channel: Channel,
    consumers: Consumers,
    /// What the broker takes with a consumer of this queue.
    arguments: FieldTable,
    /// Whether the stream of deliveries has not ended yet.
    is_consuming: bool,
    /// Messages that the worker has, or whose copies are being published, by delivery tag.
    held: BTreeMap<u64, Box<Held>>,
    /// Settlements that the broker does not know yet.
    acks: Acks,
    aside: Arc<Aside>,
    publishing: FuturesUnordered<BoxFuture<'static, Copied>>,
    looks: Looks,
}

type Reply = oneshot::Sender<Result<(), Error>>;

/// The result of publishing a message's copy. The original is held until then.
struct Copied {
    number: u64,
    published: Result<Published, Error>,
    /// The message is given back, with its copy or without one.
    is_given_back: bool,
    reply: Option<Reply>,
}

/// The next thing that a session has to do.
enum Todo {
    Command(Option<Command>),
    SendAcks,
    Copied(Copied),
    Next(Next),
}

enum Step {
    Go,
    Closed,
}

/// Starts to consume, and looks at the queue right after that. The broker gets all requests before it answers the first: `select`
/// polls in order, and lapin sends a request at the first poll.
async fn open(
    channel: &Channel,
    queue: &str,
    prefetch: u16,
    wanted: u64,
    arguments: &FieldTable,
) -> Result<(Consumers, Found), Error> {
    let opening = pin!(Consumers::open(channel, queue, prefetch, wanted, arguments));
    let looking = pin!(look_at(channel, queue));
    match select(opening, looking).await {
        Either::Left((consumers, looking)) => Ok((consumers?, answered("look at the queue", looking).await?)),
        // A refusal ends the channel, and so both. Its reason is with the request that was refused.
        Either::Right((found, opening)) => Ok((opening.await?, found?)),
    }
}

impl<'a> Session<'a> {
    /// Starts to consume: `wanted` messages in all.
    ///
    /// # Errors
    /// When the broker will not have it, or when the queue is none that can be worked on.
    pub(super) async fn open(
        config: Arc<Config>,
        (connection, mut channel, server): (Connection, Channel, Server),
        (wanted, unproven): (u64, Unproven),
        retries: &'a mut Retries,
    ) -> Result<Session<'a>, Error> {
        let Options { queue, prefetch, longest_hold, .. } = &config.options;
        // A count gives each message a consumer, with one place: there is nothing to gather.
        let acks = Acks::new(if wanted == u64::MAX { *prefetch } else { 1 }, unproven);
        let mut arguments = arguments(*longest_hold);
        let mut opened = open(&channel, queue, *prefetch, wanted, &arguments).await;
        if let Err(Error::Mismatch { .. }) = opened {
            // A broker may know an argument, and refuse it for this type of queue. The channel is gone with that.
            channel = connection.create_channel().await.map_err(lost)?;
            arguments = FieldTable::default();
            opened = open(&channel, queue, *prefetch, wanted, &arguments).await;
        }
        let (consumers, found) = opened?;
        if answered("look at the queue", is_stream(&connection, &channel, queue, &found)).await? {
            return Err(Error::Stream { queue: queue.clone() });
        }
        Ok(Session {
            aside: Arc::new(Aside::new(config.clone(), &server)),
            config,
            retries,
            connection,
            channel,
            consumers,
            arguments,
            is_consuming: true,
            held: BTreeMap::new(),
            acks,
            publishing: FuturesUnordered::new(),
            looks: Looks::default(),
        })
    }

    /// Works until the worker closes the subscription. `wanted` is as it was when the session was opened.
    ///
    /// # Errors
    /// When the connection is lost, or does not answer.
    pub(super) async fn run(mut self, link: &mut Link, wanted: u64) -> Result<(), Error> {
        // What the worker has said while the session was made.
        if link.cancelled {
            answered("cancel a consumer", self.consumers.cancel_all(&self.channel)).await?;
        } else if link.wanted() != wanted {
            answered("hand out messages", self.want(link.wanted())).await?;
        }
        let status = (self.connection.status().clone(), self.channel.status().clone());
        let abort = link.abort.clone();
        let counts = self.config.options.count.is_some();
        loop {
            if counts && !link.cancelled {
                self.acks.prove(&self.channel);
            }
            let (acks_due, is_consuming) = (self.acks.due(), self.is_consuming);
            let todo = tokio::select! {
                biased;
                command = link.commands.recv() => Todo::Command(command),
                () = sleep_until(acks_due) => Todo::SendAcks,
                proven = self.acks.proven(), if counts => {
                    proven?;
                    continue;
                }
                Some(copied) = self.publishing.next(), if !self.publishing.is_empty() => Todo::Copied(copied),
                next = self.consumers.next(), if is_consuming => Todo::Next(next),
                // Without consumers nothing else tells of it, and there may be something to settle.
                () = connection::gone(|| stands(&status)), if !is_consuming => {
                    return Err(Error::Lost { source: None });
                }
            };
            let Some(todo) = self.at_once(todo, link) else { continue };
            self.is_consuming &= !matches!(todo, Todo::Next(Next::Ended));
            // The end of a session has bounds of its own, and the connection goes away by it.
            let ends = matches!(todo, Todo::Command(None | Some(Command::Close { .. })));
            let doing = todo.name();
            let step = tokio::select! {
                biased;
                step = self.on(todo, link) => step?,
                error = overdue(&status, &abort, doing), if !ends => return Err(error),
            };
            if let Step::Closed = step {
                return Ok(());
            }
        }
    }

    /// Does what needs no answer of the broker's, as most deliveries and acknowledgements do not; or returns what is left to do.
    fn at_once(&mut self, todo: Todo, link: &Link) -> Option<Todo> {
        match todo {
            Todo::Next(Next::Delivery(consumer, delivery)) => {
                self.on_delivery(consumer, delivery, link);
                None
            }
            Todo::Command(Some(Command::Settle { tag, settlement: Settlement::Ack, reply }))
                if tag.session == link.session =>
            {
                match self.held.get(&tag.number) {
                    Some(held) if self.consumers.makes_room(&held.consumer) => {
                        self.gather(tag.number, reply, link).then_some(Todo::SendAcks)
                    }
                    _ => Some(Todo::Command(Some(Command::Settle { tag, settlement: Settlement::Ack, reply }))),
                }
            }
            todo => Some(todo),
        }
    }

    async fn on(&mut self, todo: Todo, link: &mut Link) -> Result<Step, Error> {
        match todo {
            Todo::Command(command) => self.on_command(command, link).await,
            Todo::SendAcks => self.send_acks().await.map(|()| Step::Go),
            Todo::Copied(copied) => self.on_copied(copied, link).await,
            Todo::Next(Next::Delivery(consumer, delivery)) => {
                self.on_delivery(consumer, delivery, link);
                Ok(Step::Go)
            }
            // A refusal here, such as for a late acknowledgement, ends the channel but not the worker, which goes on with a new
            // session.
            Todo::Next(Next::Failed(error)) => Err(unreceived(error)),
            Todo::Next(Next::Cancelled) => Err(self.why_cancelled().await),
            // As asked. There may be something to settle.
            Todo::Next(Next::Ended) => Ok(Step::Go),
        }
    }

    fn on_delivery(&mut self, consumer: ShortString, delivery: Delivery, link: &Link) {
        let (delivery_tag, lost, handed) = self.hold(consumer, delivery);
        let span = self.held[&delivery_tag].span.clone();
        link.deliver(link.tag(delivery_tag), lost, span, handed);
    }

    /// Notes that a message is with us.
    fn hold(&mut self, consumer: ShortString, delivery: Delivery) -> (u64, CancellationToken, Handed) {
        let Received { message, origin, properties, acker } = convert::received(delivery, &self.config.options.queue);
        self.retries.delivered(&properties);
        let (body, delivery_tag) = (message.body.clone(), origin.delivery_tag);
        let (attempt, unfinished) = convert::attempt(&message.headers, origin.redelivered, &self.config.options.queue);
        let can_be_retried = publisher::can_be_retried(&self.connection, &properties, &self.config.options.queue);
        let handed = Handed { message, origin, attempt, unfinished, can_be_retried, unreadable: None };
        let (lost, span) = (CancellationToken::new(), handed.span());
        let held = Held { acker, consumer, properties, body, unfinished, is_settling: false, lost: lost.clone(), span };
        self.held.insert(delivery_tag, Box::new(held));
        (delivery_tag, lost, handed)
    }

    async fn on_command(&mut self, command: Option<Command>, link: &mut Link) -> Result<Step, Error> {
        match command {
            Some(Command::Settle { tag, settlement, reply }) => self.on_settle(tag, settlement, reply, link).await?,
            Some(Command::Want) => {
                if !link.cancelled {
                    self.want(link.wanted()).await?;
                }
            }
            Some(Command::Cancel) => {
                if !link.cancelled {
                    link.cancelled = true;
                    self.send_acks().await?;
                    // Awaited before anything is settled: otherwise the broker would fill the free place with the next
                    // message, whose return counts as a failed delivery.
                    self.consumers.cancel_all(&self.channel).await?;
                    self.acks.prove_now(&self.channel).await?;
                }
            }
            Some(Command::Probe) => {
                self.send_acks().await?;
                let depth = self.depth().await?;
                self.acks.are_proven();
                link.depth(depth);
            }
            Some(Command::Close { reply }) => {
                let _ = reply.send(link.closed(self.close(link).await));
                return Ok(Step::Closed);
            }
            // The worker has gone without a word.
            None => {
                let _ = self.close(link).await;
                return Ok(Step::Closed);
            }
        }
        Ok(Step::Go)
    }

    /// Takes so many messages from now on.
    async fn want(&mut self, wanted: u64) -> Result<(), Error> {
        self.send_acks().await?;
        self.consumers.cancel_all(&self.channel).await?;
        let Options { queue, prefetch, .. } = &self.config.options;
        self.is_consuming = true;
        self.consumers.begin(&self.channel, queue, *prefetch, wanted, &self.arguments).await
    }

    async fn on_settle(
        &mut self,
        tag: Tag,
        settlement: Settlement,
        reply: Option<Reply>,
        link: &Link,
    ) -> Result<(), Error> {
        let number = tag.number;
        let Some(held) = self.held.get(&number).filter(|_| tag.session == link.session) else {
            // Of an earlier connection, or settled before.
            tell(reply, Err(Error::Lost { source: None }));
            return Ok(());
        };
        self.consumers.make_room(&self.channel, &held.consumer).await?;
        let what = match settlement {
            Settlement::Ack => return self.acknowledge(number, reply, link).await,
            Settlement::Release => return self.give_back(number, reply, link).await,
            Settlement::Reject { .. } => {
                self.acks.note_sent();
                return self.end(number, reply, reject).await;
            }
            Settlement::DeadLetter { failure } => What::DeadLetter { failure },
            Settlement::Retry { after, failure } => What::Retry { after, failure },
        };
        let order = Order { what, properties: held.properties.clone(), body: held.body.clone() };
        let publishing = held.span.clone().around(self.aside.clone().publish(order, link.abort.clone()));
        self.publish(number, publishing, false, reply);
        Ok(())
    }

    /// Gives a message back, so that nobody counts it as handed over.
    async fn give_back(&mut self, number: u64, reply: Option<Reply>, link: &Link) -> Result<(), Error> {
        if self.aside.returns_are_free() {
            return self.end(number, reply, give_back).await;
        }
        let Some(held) = self.held.get(&number) else { return Ok(()) };
        let what = What::GiveBack { unfinished: held.unfinished };
        let order = Order { what, properties: held.properties.clone(), body: held.body.clone() };
        let publishing = held.span.clone().around(self.aside.clone().give_back(order, link.abort.clone()));
        self.publish(number, publishing, true, reply);
        Ok(())
    }

    /// Publishes the copy of a message beside the loop.
    fn publish(
        &mut self,
        number: u64,
        publishing: impl Future<Output = Result<Published, Error>> + Send + 'static,
        is_given_back: bool,
        reply: Option<Reply>,
    ) {
        if let Some(held) = self.held.get_mut(&number) {
            held.is_settling = true;
        }
        let copying = async move { Copied { number, published: publishing.await, is_given_back, reply } };
        self.publishing.push(Box::pin(copying));
    }

    async fn on_copied(&mut self, copied: Copied, link: &Link) -> Result<Step, Error> {
        let Copied { number, published, is_given_back, reply } = copied;
        match published {
            Ok(Published::Nothing) => self.end(number, reply, give_back).await?,
            Ok(published) => {
                if let Published::Delayed { life, mark } = published {
                    self.retries.published(mark, life, Instant::now());
                }
                self.acknowledge(number, reply, link).await?;
            }
            Err(error) if is_given_back => {
                if let Some(held) = self.held.get(&number) {
                    let _entered = held.span.enter();
                    tracing::warn!(
                        error = %chain(&error),
                        "the message could not be published again: it is given back, and the broker may count this as an attempt"
                    );
                }
                self.end(number, reply, give_back).await?;
            }
            Err(error) => {
                // The copy is not known to be safe, so the original stays.
                let given_back = self.end(number, None, give_back).await;
                // If it could not be given back either, it comes again over the next connection.
                tell(reply, Err(if given_back.is_ok() { error } else { Error::Lost { source: None } }));
                given_back?;
            }
        }
        Ok(Step::Go)
    }

    /// Acknowledges a delivery, together with others if there are any.
    async fn acknowledge(&mut self, number: u64, reply: Option<Reply>, link: &Link) -> Result<(), Error> {
        if self.gather(number, reply, link) {
            self.send_acks().await?;
        }
        Ok(())
    }

    /// Keeps an acknowledgement for others. Returns whether they are to be sent now.
    fn gather(&mut self, number: u64, reply: Option<Reply>, link: &Link) -> bool {
        let Some(held) = self.held.remove(&number) else { return false };
        self.acks.add(number, held, reply);
        // With nothing left to do for the worker, nothing more would gather.
        self.acks.is_full() || self.held.is_empty() || link.cancelled
    }

    /// Ends a delivery that is not acknowledged. A connection over which that could not be sent will not carry anything else.
    async fn end(
        &mut self,
        number: u64,
        reply: Option<Reply>,
        how: impl AsyncFnOnce(&Held) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(held) = self.held.remove(&number) else { return Ok(()) };
        let ended = how(&held).await;
        let broken = ended.is_err() && !self.channel.status().connected();
        tell(reply, ended);
        if broken { Err(Error::Lost { source: None }) } else { Ok(()) }
    }

    async fn send_acks(&mut self) -> Result<(), Error> {
        // One whose copy is being published is not done either.
        let first_held = self.held.first_key_value().map(|(number, _)| *number);
        self.acks.send(first_held).await
    }

    async fn depth(&mut self) -> Result<Depth, Error> {
        let Options { queue, count, longest_pause, .. } = &self.config.options;
        let found = look_at(&self.channel, queue).await?;
        let others = found.consumers > self.consumers.live();
        let ready = found.messages;
        if count.is_some() || ready > 0 {
            self.retries.busy(others);
            return Ok(Depth { ready, ..Depth::default() });
        }
        let now = Instant::now();
        let mut delayed = 0;
        for life in self.retries.to_look_at(*longest_pause, now) {
            let messages = match self.looks.at(&self.connection, &delays::name(queue, life)).await {
                Ok(found) => found.map(|found| found.messages),
                // Without the right to look there, we have put nothing there either.
                Err(Error::Forbidden { .. }) => None,
                Err(error) => return Err(error),
            };
            self.retries.looked(life, messages, now);
            delayed += messages.unwrap_or_default();
        }
        let Outlook { delayed, missing } = self.retries.outlook(delayed, others, now);
        Ok(Depth { ready, delayed, missing })
    }

    /// The broker ended the consumer: because the queue is gone, or its leader is, or an acknowledgement took too long.
    async fn why_cancelled(&mut self) -> Error {
        let queue = &self.config.options.queue;
        match self.looks.at(&self.connection, queue).await {
            Ok(None) => Error::MissingQueue { queue: queue.clone(), source: None },
            Ok(Some(_)) => Error::Broken { reason: "the broker cancelled the consumer".into() },
            Err(error) => error,
        }
    }

    /// Gives back what is held, and makes sure that every settlement has reached the broker.
    async fn close(&mut self, link: &Link) -> Result<(), Error> {
        let settling = async {
            self.consumers.cancel_all(&self.channel).await?;
            // What was on its way to us, and nobody has seen. The end of the channel would count it as handed over.
            while let Next::Delivery(consumer, delivery) = self.consumers.next().await {
                self.hold(consumer, delivery);
            }
            let left: Vec<u64> =
                self.held.iter().filter(|(_, held)| !held.is_settling).map(|(number, _)| *number).collect();
            for number in left {
                self.give_back(number, None, link).await?;
            }
            while let Some(copied) = self.publishing.next().await {
                self.on_copied(copied, link).await?;
            }
            self.send_acks().await?;
            connection::close_channel(&self.channel).await
        };
        answered("take the last settlements", settling).await?;
        // The channel's end was answered, so the settlements are safe, whatever becomes of the connections.
        let _ = tokio::join!(self.aside.close(), connection::close(&self.connection));
        Ok(())
    }
}

impl Todo {
    /// For an error about a broker that leaves it unanswered.
    fn name(&self) -> &'static str {
        match self {
            Todo::Command(Some(Command::Settle { .. })) | Todo::SendAcks | Todo::Copied(_) => "take a settlement",
            Todo::Command(Some(Command::Cancel)) => "cancel a consumer",
            Todo::Command(Some(Command::Want)) => "hand out messages",
            Todo::Command(Some(Command::Probe)) => "count the messages in a queue",
            Todo::Command(None | Some(Command::Close { .. })) => "end the connection",
            Todo::Next(_) => "say why it cancelled the consumer",
        }
    }
}

fn tell(reply: Option<Reply>, answer: Result<(), Error>) {
    if let Some(reply) = reply {
        let _ = reply.send(answer);
    }
}
