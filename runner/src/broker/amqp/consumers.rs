//! The consumers of one session, as one stream of deliveries that never brings more than are wanted.
//!
//! A settlement frees a place in a consumer's prefetch, and the broker fills it at once. An unwanted message has to be given
//! back, and some queues count that as an attempt. So a consumer has to be cancelled in time. But a cancel may cross a delivery
//! on its way, which a quorum queue then takes back, and counts as well. Only a consumer whose places are all taken has no
//! delivery on its way. Therefore a count is shared among consumers with one place each. Before a settlement would make room
//! for one message too many, the consumer that delivered the message is cancelled.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join, join_all};
use futures_util::stream::{self, BoxStream, SelectAll};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};

use super::config::ACKNOWLEDGEMENT_TIMEOUT;
use super::connection::{lost, queue_error};
use super::publisher::name;
use crate::broker::Error;

/// For what follows a run: writing its result, publishing a retry, the broker's look at the clock once a minute.
const ACKNOWLEDGEMENT_MARGIN: Duration = Duration::from_secs(5 * 60);

pub struct Consumers {
    /// A stream's last item is `None`.
    streams: SelectAll<BoxStream<'static, (ShortString, Option<lapin::Result<Delivery>>)>>,
    /// Those that are not cancelled.
    live: Vec<ShortString>,
    quota: Quota,
}

pub enum Next {
    /// With the consumer that it came over.
    Delivery(ShortString, Delivery),
    Failed(lapin::Error),
    /// The broker ended a consumer.
    Cancelled,
    /// We have ended all of them.
    Ended,
}

/// How many deliveries are still wanted, and how many the broker may send. This decides whether a consumer has to be cancelled
/// before a settlement.
#[derive(Debug)]
struct Quota {
    /// Deliveries that are still wanted.
    left: u64,
    /// Places for them at the broker. Never more than are wanted.
    places: u64,
}

impl Consumers {
    /// Starts to consume: `wanted` messages in all, `prefetch` of them at the same time.
    ///
    /// # Errors
    /// When the broker will not have it. The channel is then closed.
    pub async fn open(
        channel: &Channel,
        queue: &str,
        prefetch: u16,
        wanted: u64,
        arguments: &FieldTable,
    ) -> Result<Consumers, Error> {
        let quota = Quota { left: 0, places: 0 };
        let mut consumers = Consumers { streams: SelectAll::new(), live: Vec::new(), quota };
        consumers.begin(channel, queue, prefetch, wanted, arguments).await?;
        Ok(consumers)
    }

    /// As [`Consumers::open`], after [`Consumers::cancel_all`]. With 0, nothing is wanted for now.
    ///
    /// # Errors
    /// The same.
    pub async fn begin(
        &mut self,
        channel: &Channel,
        queue: &str,
        prefetch: u16,
        wanted: u64,
        arguments: &FieldTable,
    ) -> Result<(), Error> {
        let (count, places) = if wanted == u64::MAX {
            (1, prefetch)
        } else {
            (u16::try_from(wanted).map_or(prefetch, |wanted| prefetch.min(wanted)), 1)
        };
        let queue_name = name(queue)?;
        // For each consumer that follows on this channel. None waits for the answer to another: lapin sends a request at the
        // first poll, and these are polled in order.
        let qos = channel.basic_qos(places, BasicQosOptions::default());
        let consume =
            |_| channel.basic_consume(queue_name.clone(), "".into(), BasicConsumeOptions::default(), arguments.clone());
        let (qos, consumers) = join(qos, join_all((0..count).map(consume))).await;
        qos.map_err(lost)?;
        self.quota = Quota { left: wanted, places: u64::from(count) * u64::from(places) };
        for consumer in consumers {
            self.add(consumer.map_err(|error| queue_error(error, queue, "consume from"))?);
        }
        Ok(())
    }

    fn add(&mut self, consumer: Consumer) {
        let tag = consumer.tag();
        self.live.push(tag.clone());
        let named = consumer.map(Some).chain(stream::once(async { None })).map(move |item| (tag.clone(), item));
        self.streams.push(named.boxed());
    }

    pub async fn next(&mut self) -> Next {
        loop {
            match self.streams.next().await {
                Some((tag, Some(Ok(delivery)))) => {
                    self.quota.delivered();
                    return Next::Delivery(tag, delivery);
                }
                Some((_, Some(Err(error)))) => return Next::Failed(error),
                Some((tag, None)) if self.live.contains(&tag) => return Next::Cancelled,
                // As asked.
                Some((_, None)) => {}
                None => return Next::Ended,
            }
        }
    }

    /// How many of ours the broker counts.
    pub fn live(&self) -> u64 {
        self.live.len() as u64
    }

    /// To be called before a delivery of this consumer is settled.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn make_room(&mut self, channel: &Channel, tag: &ShortString) -> Result<(), Error> {
        if self.makes_room(tag) { Ok(()) } else { self.cancel(channel, tag.clone()).await }
    }

    /// Whether a delivery of this consumer can be settled as it is. If not, the consumer has to be cancelled first.
    pub fn makes_room(&mut self, tag: &ShortString) -> bool {
        // One that is cancelled makes no room.
        !self.live.contains(tag) || self.quota.has_room_for_one_more()
    }

    /// Takes nothing more. What is on its way still comes.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn cancel_all(&mut self, channel: &Channel) -> Result<(), Error> {
        while let Some(tag) = self.live.last().cloned() {
            self.cancel(channel, tag).await?;
        }
        Ok(())
    }

    async fn cancel(&mut self, channel: &Channel, tag: ShortString) -> Result<(), Error> {
        self.live.retain(|live| *live != tag);
        let cancelled = channel.basic_cancel(tag, BasicCancelOptions::default()).await;
        cancelled.map_err(lost)
    }
}

impl Quota {
    fn delivered(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.places = self.places.saturating_sub(1);
    }

    /// Whether the broker may fill a place that a settlement frees. If so, counts that place.
    fn has_room_for_one_more(&mut self) -> bool {
        let room = self.places < self.left;
        self.places += u64::from(room);
        room
    }
}

/// RabbitMQ 4.3 lets each consumer say how long it may have a message. Earlier ones take no notice. We ask for no less than its
/// default.
pub fn arguments(longest_hold: Duration) -> FieldTable {
    let timeout = longest_hold.saturating_add(ACKNOWLEDGEMENT_MARGIN).max(ACKNOWLEDGEMENT_TIMEOUT);
    // In milliseconds, and in 32 bits of them, which a timer of the broker can count: 49 days.
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut arguments = FieldTable::default();
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(timeout.into()));
    arguments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Place {
        Free,
        OnTheWay,
        Held,
        Cancelled,
    }

    fn step(places: &mut [Place], quota: &mut Quota, which: usize, sent: &mut u64) {
        let at = which % places.len();
        places[at] = match places[at] {
            Place::Free => {
                *sent += 1;
                Place::OnTheWay
            }
            Place::OnTheWay => {
                quota.delivered();
                Place::Held
            }
            // Settled.
            Place::Held if quota.has_room_for_one_more() => Place::Free,
            Place::Held | Place::Cancelled => Place::Cancelled,
        };
    }

    proptest! {
        /// By the books of a broker with a queue that is never empty.
        #[test]
        fn a_broker_hands_over_what_is_wanted_and_no_more(
            wanted in 1u64..40, prefetch in 1u64..6, steps in proptest::collection::vec(0usize..60, 0..500),
        ) {
            let count = prefetch.min(wanted);
            let mut quota = Quota { left: wanted, places: count };
            let mut places = vec![Place::Free; count as usize];
            let mut sent = 0;
            for which in steps {
                step(&mut places, &mut quota, which, &mut sent);
                prop_assert!(sent <= wanted);
            }
            // And all of them, if everybody goes on.
            for which in 0..3 * 40 * places.len() {
                step(&mut places, &mut quota, which, &mut sent);
            }
            prop_assert_eq!(sent, wanted);
            prop_assert!(places.iter().all(|place| *place == Place::Cancelled));
        }
    }
}
