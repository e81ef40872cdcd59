//! A walk through a queue of an AMQP broker, which only hands messages over: what the walk came by is held until its end.
//!
//! A quorum queue counts what goes back as a hand-over (before RabbitMQ 4.3). A worker takes three of them for runs that
//! killed their workers, and the queue deletes a message at its delivery limit, which is 20 in RabbitMQ 4 where nobody set another
//! one. No message must die of being looked at. So one that was handed over twice already is put back as a copy, at the end of
//! its queue, and the copy's count begins anew.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties, Channel, Connection};

use super::Url;
use super::admin::{PUBLISH_TIMEOUT, answered, in_time};
use super::batch::Item;
use super::connection::{self, lost};
use super::convert::{self, Received};
use super::death;
use super::held::sent;
use super::looks::look_at;
use super::publisher::{Deadline, Publisher, name};
use crate::broker::error::Error;
use crate::broker::walk::{self, Fate, Fates, LEFT_BEHIND, PAGE_BYTES, RENEWED, Seen};
use crate::causes::chain;

/// A message that was handed over so often is put back as a copy.
const WORN: u64 = 2;

/// Fewer messages are asked for one by one, which also shows the end of a queue.
const WORTH_A_CONSUMER: usize = 20;

/// How many messages are asked for at the same time.
const SIDE_BY_SIDE: usize = 16;

/// How long a consumer may wait for a message that the broker counted as ready: another one may have it by now.
const IDLE: Duration = Duration::from_secs(1);

pub struct Walk {
    nodes: Vec<Url>,
    queue: String,
    opened: Option<(Connection, Channel)>,
    /// Made for the first message that is published.
    publisher: Option<Arc<Publisher>>,
    /// Messages that were ready at the beginning and did not come yet.
    ahead: u64,
    /// Marks the copies that this walk has put back, so that it does not come by them again.
    token: String,
}

struct Place {
    acker: Acker,
    properties: BasicProperties,
    body: Bytes,
    hand_overs: u64,
}

impl Walk {
    pub fn new(nodes: Vec<Url>, queue: &str) -> Walk {
        let token = uuid::Uuid::now_v7().to_string();
        Walk { nodes, queue: queue.to_owned(), opened: None, publisher: None, ahead: 0, token }
    }

    async fn channel(&mut self) -> Result<Channel, Error> {
        if let Some((_, channel)) = &self.opened {
            return Ok(channel.clone());
        }
        let connection = connection::connect(&self.nodes, "wq-run looks").await?;
        let opening = async { connection.create_channel().await.map_err(lost) };
        let channel = in_time(|| connection.status().connected(), "open a channel", opening).await?;
        let looking = look_at(&channel, &self.queue);
        self.ahead = in_time(|| channel.status().connected(), "look at a queue", looking).await?.messages;
        Ok(self.opened.insert((connection, channel)).1.clone())
    }

    /// So many messages over a consumer of their own. Without a free place it has nothing on its way when it is cancelled.
    async fn consume(&self, channel: &Channel, most: u16) -> Result<Vec<Delivery>, Error> {
        let places = async { channel.basic_qos(most, BasicQosOptions::default()).await.map_err(lost) };
        in_time(|| channel.status().connected(), "prefetch", places).await?;
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(name(&self.queue)?, "".into(), options, FieldTable::default());
        let mut consumer = answered(channel, "hand messages over", &self.queue, consuming, "consume from").await?;
        let mut deliveries = Vec::with_capacity(most.into());
        while deliveries.len() < most.into() {
            match tokio::time::timeout(IDLE, consumer.next()).await {
                Ok(Some(delivery)) => deliveries.push(delivery.map_err(connection::unreceived)?),
                Ok(None) | Err(_) => break,
            }
        }
        let cancelling =
            async { channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.map_err(lost) };
        in_time(|| channel.status().connected(), "stop delivering messages", cancelling).await?;
        // What was on its way.
        while let Ok(Some(delivery)) = tokio::time::timeout(IDLE, consumer.next()).await {
            deliveries.push(delivery.map_err(connection::unreceived)?);
        }
        Ok(deliveries)
    }

    /// Up to so many messages one by one; fewer at the end of the queue.
    async fn get(&self, channel: &Channel, most: usize) -> Result<Vec<Delivery>, Error> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut bytes = 0;
        while deliveries.len() < most && bytes < PAGE_BYTES {
            let side_by_side = SIDE_BY_SIDE.min(most - deliveries.len());
            let queue = name(&self.queue)?;
            let getting = (0..side_by_side).map(|_| channel.basic_get(queue.clone(), BasicGetOptions::default()));
            let got = answered(channel, "hand a message over", &self.queue, try_join_all(getting), "read").await?;
            let before = deliveries.len();
            deliveries.extend(got.into_iter().flatten().map(|got| got.delivery));
            bytes += deliveries[before..].iter().map(|delivery| delivery.data.len()).sum::<usize>();
            if deliveries.len() < before + side_by_side {
                break;
            }
        }
        Ok(deliveries)
    }

    fn seen(&self, delivery: Delivery) -> Option<Seen> {
        let Received { message, origin, properties, acker } = convert::received(delivery, &self.queue);
        let is_ours = |token: &serde_json::Value| *token == self.token.as_str();
        if message.headers.get(RENEWED).is_some_and(is_ours) {
            return None;
        }
        let hand_overs = convert::hand_overs(&message.headers);
        let body = message.body.clone();
        let death = death::of(&message.headers);
        let place = Box::new(Place { acker, properties, body, hand_overs });
        Some(Seen { message, origin, unreadable: None, death, place })
    }

    async fn publisher(&mut self) -> Result<Arc<Publisher>, Error> {
        let publisher = match self.publisher.take().filter(|publisher| publisher.usable()) {
            Some(publisher) => publisher,
            None => Arc::new(Publisher::connect(&self.nodes, "wq-run publish").await?),
        };
        Ok(self.publisher.insert(publisher).clone())
    }

    /// Publishes copies, and lets the queue forget the messages whose copies are confirmed.
    async fn replace(&mut self, to: &str, places: Vec<Place>, copies: Vec<Item>) -> Fates {
        let publisher = match self.publisher().await {
            Ok(publisher) => publisher,
            Err(error) => return Fates::unknown(places.len(), error),
        };
        let confirmed = publisher.publish_all(to, copies, Deadline::fixed(PUBLISH_TIMEOUT)).await;
        let mut failed = confirmed.failed;
        let mut each = Vec::with_capacity(places.len());
        for (place, confirmed) in places.into_iter().zip(confirmed.each) {
            // What is not confirmed stays taken, and goes back with the channel.
            let gone = if confirmed { self.forget(&place).await } else { Ok(Fate::Unknown) };
            each.push(gone.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                Fate::Unknown
            }));
        }
        Fates { each, failed }
    }

    async fn forget(&self, place: &Place) -> Result<Fate, Error> {
        let Some((_, channel)) = &self.opened else { return Err(Error::Lost { source: None }) };
        let acknowledging = async { sent(place.acker.ack(BasicAckOptions::default()).await) };
        in_time(|| channel.status().connected(), "take an acknowledgement", acknowledging).await?;
        Ok(Fate::Done)
    }

    fn copy(&self, place: &Place, without: &[&str]) -> BasicProperties {
        let is_ours = |user: &str| self.nodes.iter().all(|node| node.user() == user);
        convert::again(&place.properties, is_ours, without)
    }

    /// A copy that this walk knows.
    fn renewed(&self, place: &Place) -> Item {
        let copy = self.copy(place, &[]);
        let mut headers = copy.headers().clone().unwrap_or_default();
        headers.insert(RENEWED.into(), AMQPValue::LongString(self.token.as_str().into()));
        (copy.with_headers(headers), place.body.clone())
    }
}

#[async_trait]
impl walk::Walk for Walk {
    async fn next(&mut self, most: usize) -> Result<Vec<Seen>, Error> {
        let channel = self.channel().await?;
        loop {
            let mut deliveries = Vec::new();
            let places = u16::try_from(most).unwrap_or(u16::MAX);
            if most >= WORTH_A_CONSUMER && self.ahead >= places.into() {
                deliveries = self.consume(&channel, places).await?;
                self.ahead -= if deliveries.len() == usize::from(places) { u64::from(places) } else { self.ahead };
            }
            if deliveries.is_empty() {
                deliveries = self.get(&channel, most).await?;
            }
            if deliveries.is_empty() {
                return Ok(Vec::new());
            }
            let seen: Vec<Seen> = deliveries.into_iter().filter_map(|delivery| self.seen(delivery)).collect();
            if !seen.is_empty() {
                return Ok(seen);
            }
        }
    }

    async fn pass(&mut self, seen: Vec<Seen>) -> Result<(), Error> {
        let worn: Vec<Place> = places(seen).filter(|place| place.hand_overs >= WORN).collect();
        if worn.is_empty() {
            return Ok(());
        }
        let copies = worn.iter().map(|place| self.renewed(place)).collect();
        let queue = self.queue.clone();
        let renewed = self.replace(&queue, worn, copies).await;
        match renewed.failed {
            Some(error @ Error::Lost { .. }) => Err(error),
            Some(error) => {
                tracing::warn!(
                    error = %chain(&error),
                    "messages could not be replaced by copies: showing them counts as a delivery against their delivery limit"
                );
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn move_to(&mut self, queue: &str, seen: Vec<Seen>) -> Fates {
        let without: Vec<&str> = LEFT_BEHIND.into_iter().chain(death::HEADERS).collect();
        let places: Vec<Place> = places(seen).collect();
        let copies = places.iter().map(|place| (self.copy(place, &without), place.body.clone())).collect();
        self.replace(queue, places, copies).await
    }

    async fn remove(&mut self, seen: Vec<Seen>) -> Fates {
        let mut answers = Vec::with_capacity(seen.len());
        for place in places(seen) {
            answers.push(self.forget(&place).await);
        }
        answers.into_iter().collect()
    }

    async fn unseen(&mut self) -> Result<u64, Error> {
        let channel = self.channel().await?;
        let looking = look_at(&channel, &self.queue);
        Ok(in_time(|| channel.status().connected(), "look at a queue", looking).await?.messages)
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        let closed = match &self.opened {
            // Answered in order, after the acknowledgements. What was taken and not acknowledged is ready again.
            Some((_, channel)) => connection::close_channel(channel).await,
            None => Ok(()),
        };
        if let Some((connection, _)) = &self.opened {
            let _ = connection::close(connection).await;
        }
        if let Some(publisher) = &self.publisher {
            // Everything is confirmed by now.
            let _ = publisher.close().await;
        }
        closed
    }
}

fn places(seen: Vec<Seen>) -> impl Iterator<Item = Place> {
    seen.into_iter().filter_map(|seen| seen.place().map(|place| *place))
}
