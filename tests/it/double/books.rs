//! The double's queues, and what it has seen: who has which message, and what was settled.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::types::{AMQPValue, FieldTable};

use super::fault::Place;

#[derive(Clone, Debug, Default)]
pub struct Message {
    pub body: Vec<u8>,
    pub properties: AMQPProperties,
    pub redelivered: bool,
    expires: Option<Instant>,
}

#[derive(Default)]
pub struct Queue {
    pub ready: VecDeque<Message>,
    /// Handed over, and not settled.
    pub out: usize,
    /// Where messages go when they expire.
    dead_letters_to: Option<String>,
    time_to_live: Option<Duration>,
}

#[derive(Default)]
pub struct Books {
    pub queues: BTreeMap<String, Queue>,
    /// The queue that an exchange leads to.
    pub exchanges: BTreeMap<String, String>,
    /// The bodies of acknowledged messages, one for each acknowledgement.
    pub acked: Vec<Vec<u8>>,
    /// Breaches of the protocol by the client.
    pub breaches: Vec<String>,
    /// Every frame that was sent, or would have been.
    pub sent: Vec<Place>,
    counts: BTreeMap<(String, &'static str), u32>,
    /// When the fault struck for the first time.
    pub struck: Option<Instant>,
    /// Those that are open, and all that ever were.
    pub connections: usize,
    pub opened: u64,
}

impl Message {
    pub fn new(body: &str) -> Message {
        Message { body: body.into(), ..Message::default() }
    }
}

impl Books {
    pub fn declare(&mut self, name: &str, arguments: &FieldTable) {
        let text = |key: &str| match arguments.inner().get(key) {
            Some(AMQPValue::LongString(text)) => Some(text.to_string()),
            _ => None,
        };
        let number = |key: &str| match arguments.inner().get(key) {
            Some(AMQPValue::LongLongInt(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let queue = self.queues.entry(name.to_owned()).or_default();
        queue.dead_letters_to = text("x-dead-letter-routing-key");
        queue.time_to_live = number("x-message-ttl").map(Duration::from_millis);
    }

    /// Puts a message where it belongs; `false` when there is no such place.
    pub fn publish(&mut self, exchange: &str, key: &str, body: Vec<u8>, properties: AMQPProperties) -> bool {
        let name = if exchange.is_empty() { Some(key.to_owned()) } else { self.exchanges.get(exchange).cloned() };
        let Some(queue) = name.and_then(|name| self.queues.get_mut(&name)) else { return false };
        let own = properties.expiration().as_ref().and_then(|text| text.to_string().parse().ok());
        let life = [own.map(Duration::from_millis), queue.time_to_live].into_iter().flatten().min();
        let expires = life.map(|life| Instant::now() + life);
        queue.ready.push_back(Message { body, properties, redelivered: false, expires });
        true
    }

    /// Moves what has waited long enough. As a real broker does it, only from the head of a queue.
    pub fn expire(&mut self) {
        let now = Instant::now();
        let mut moved = Vec::new();
        for queue in self.queues.values_mut() {
            while queue.ready.front().is_some_and(|message| message.expires.is_some_and(|at| at <= now)) {
                let message = queue.ready.pop_front().expect("there is one");
                moved.extend(queue.dead_letters_to.clone().map(|to| (to, message)));
            }
        }
        for (to, message) in moved {
            let message = Message { expires: None, redelivered: false, ..message };
            self.queues.get_mut(&to).expect("a delay queue leads to a queue").ready.push_back(message);
        }
    }

    pub fn take(&mut self, queue: &str) -> Option<Message> {
        let queue = self.queues.get_mut(queue)?;
        let message = queue.ready.pop_front()?;
        queue.out += 1;
        Some(message)
    }

    /// A message that was handed over is ready again.
    pub fn give_back(&mut self, queue: &str, message: Message) {
        let queue = self.queues.get_mut(queue).expect("it came from there");
        queue.out -= 1;
        queue.ready.push_front(Message { redelivered: true, ..message });
    }

    pub fn forget(&mut self, queue: &str, message: Message, acked: bool) {
        self.queues.get_mut(queue).expect("it came from there").out -= 1;
        if acked {
            self.acked.push(message.body);
        }
    }

    /// Counts a frame, and says which one of its name it is.
    pub fn count(&mut self, role: &str, frame: &'static str) -> Place {
        let nth = self.counts.entry((role.to_owned(), frame)).or_default();
        *nth += 1;
        let place = Place { role: role.to_owned(), frame, nth: *nth };
        self.sent.push(place.clone());
        place
    }

    /// How many copies of a message there are, in all queues.
    pub fn copies(&self, body: &[u8]) -> usize {
        let all = self.queues.values().flat_map(|queue| &queue.ready);
        all.filter(|message| message.body == body).count()
    }

    pub fn holds(&self, queue: &str, body: &[u8]) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.ready.iter().any(|message| message.body == body))
    }

    /// Whether nothing is left to do in a queue, nor will be.
    pub fn is_done(&self, queue: &str) -> bool {
        let waits = |queue: &Queue| !queue.ready.is_empty() || queue.out > 0;
        !self
            .queues
            .iter()
            .any(|(name, other)| (name == queue || other.dead_letters_to.as_deref() == Some(queue)) && waits(other))
    }
}
