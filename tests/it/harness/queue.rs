//! A queue on one of the brokers, seen through something else than the code under test: lapin, SQL, and the words
//! of Redis.
//!
//! When a test is over, its queue must be empty. A test has to take out each message that it leaves there on purpose, and so
//! looks at it.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rusqlite::OptionalExtension as _;
use wq_run::broker::{Capabilities, Url};

use super::rabbitmq::RabbitMq;
use super::redis::{Answer, Redis};
use super::sqs::{Emulator, KEYS, Sqs, with_keys};
use super::{eventually, run, wq_run};

pub struct Queue<'a> {
    pub name: String,
    pub broker: Broker<'a>,
}

pub enum Broker<'a> {
    Quorum(&'a RabbitMq),
    Classic(&'a RabbitMq),
    Redis(&'a Redis),
    Sqlite(tempfile::TempDir),
    Sqs(&'a Sqs),
    /// A queue that keeps order.
    SqsFifo(&'a Sqs),
}

/// A message as it lies in a queue.
#[derive(Debug)]
pub struct Found {
    pub body: Vec<u8>,
    /// Properties as text, by the names that AMQP gives them.
    pub properties: BTreeMap<String, String>,
    /// Headers as text.
    pub headers: BTreeMap<String, String>,
    /// Whether it was handed over before.
    pub redelivered: bool,
    /// Whether it goes away by itself after a time.
    pub expires: bool,
}

/// Runs a test on every kind of queue: each promise holds on all of them. `WQ_TEST_QUEUES` names some: `sqlite,redis`. Only by
/// name come `fauxqs`, another emulator of SQS, and `sqs-fifo`.
pub fn on_every_queue(test: impl Fn(&Queue)) {
    let some = std::env::var("WQ_TEST_QUEUES");
    let is_named = |kind| some.as_ref().is_ok_and(|some| some.split(',').any(|wanted| wanted == kind));
    let is_wanted = |kind| some.is_err() || is_named(kind);
    if is_wanted("sqlite") {
        test(&Queue::new(Broker::Sqlite(tempfile::tempdir().expect("a folder"))));
    }
    if let Some(redis) = is_wanted("redis").then(Redis::shared).flatten() {
        test(&Queue::new(Broker::Redis(redis)));
    }
    if let Some(sqs) = is_wanted("sqs").then(|| Sqs::shared(Emulator::Ministack)).flatten() {
        test(&Queue::new(Broker::Sqs(sqs)));
    }
    if let Some(sqs) = is_named("sqs-fifo").then(|| Sqs::shared(Emulator::Ministack)).flatten() {
        test(&Queue::new(Broker::SqsFifo(sqs)));
    }
    if let Some(sqs) = is_named("fauxqs").then(|| Sqs::shared(Emulator::Fauxqs)).flatten() {
        test(&Queue::new(Broker::Sqs(sqs)));
    }
    if is_wanted("rabbitmq") {
        on_rabbitmq(test);
    }
}

/// The same for a test that uses the library in its own process.
pub fn on_every_queue_by_library(test: impl Fn(&Queue)) {
    on_every_queue(|queue| match queue.sqs() {
        None => test(queue),
        Some(_) => with_keys(|| test(queue)),
    });
}

/// Runs a test on both kinds of queue of a RabbitMQ.
pub fn on_rabbitmq(test: impl Fn(&Queue)) {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    test(&Queue::new(Broker::Quorum(rabbitmq)));
    test(&Queue::new(Broker::Classic(rabbitmq)));
}

impl Queue<'_> {
    pub fn new(broker: Broker<'_>) -> Queue<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let mut name = format!("q{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        if let Broker::SqsFifo(_) = broker {
            name.push_str(".fifo");
        }
        let queue = Queue { name, broker };
        queue.declare(&queue.name);
        queue
    }

    pub fn url(&self) -> String {
        match &self.broker {
            Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => rabbitmq.url(),
            Broker::Redis(redis) => redis.url(),
            Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => sqs.url(),
            Broker::Sqlite(folder) => format!("sqlite:{}", folder.path().join("q.db").display()),
        }
    }

    /// What this kind of broker can do. A promise that one cannot hold is left out by this, and never by the broker's name.
    pub fn can(&self) -> Capabilities {
        self.url().parse::<Url>().expect("it is an address").kind().capabilities
    }

    /// The emulator, if it is one of SQS's queues.
    pub fn sqs(&self) -> Option<&Sqs> {
        match self.broker {
            Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => Some(sqs),
            _ => None,
        }
    }

    /// The default dead-letter queue of this queue.
    pub fn dead_letter_queue(&self) -> String {
        match self.broker {
            Broker::Sqs(_) | Broker::SqsFifo(_) => self.named("dead"),
            _ => format!("{}.dead", self.name),
        }
    }

    /// A name that begins with this queue's.
    pub fn named(&self, name: &str) -> String {
        match self.broker {
            Broker::Sqs(_) => format!("{}-{name}", self.name),
            Broker::SqsFifo(_) => format!("{}-{name}.fifo", self.name.trim_end_matches(".fifo")),
            _ => format!("{}.{name}", self.name),
        }
    }

    /// wq-run with the environment of the Kubernetes page.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = wq_run(args);
        command.envs(self.environment());
        command
    }

    /// The environment of the Kubernetes page, and keys where a broker wants some.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("BROKER_URL", self.url()), ("QUEUE", self.name.clone())];
        if self.sqs().is_some() {
            variables.extend(KEYS.map(|(name, value)| (name, value.to_owned())));
        }
        variables
    }

    pub fn publish(&self, bodies: &[&str]) {
        run(self.command(&["publish"]).args(bodies)).exits(0);
    }

    /// Publishes with an identity that is not of our making.
    pub fn publish_as(&self, message_id: &str, body: &str) {
        if let Broker::Redis(redis) = self.broker {
            redis.ask(&["XADD", &self.name, "*", "body", body, "message_id", message_id]);
        } else if let Some(sqs) = self.sqs() {
            let id = serde_json::json!({ "message-id": { "DataType": "String", "StringValue": message_id } });
            sqs.send(&self.name, body, id);
        } else if let Broker::Sqlite(_) = self.broker {
            self.publish(&[body]);
            let sql = "UPDATE message SET properties = json_set(properties, '$.message_id', ?1)
                 WHERE id = (SELECT max(id) FROM message)";
            assert_eq!(self.sql().execute(sql, [message_id]).expect("changed"), 1);
        } else {
            let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(message_id.into());
            self.publish_with(properties, body.as_bytes());
        }
    }

    /// Publishes with properties and headers that `wq-run publish` has no flags for.
    pub fn publish_with(&self, properties: BasicProperties, body: &[u8]) {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &self.broker else { panic!("for AMQP") };
        on_channel(rabbitmq, async |channel| {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let confirm = channel.basic_publish("".into(), self.name.as_str().into(), options, body, properties).await;
            confirm.expect("published").await.expect("confirmed");
        });
    }

    /// How many messages are ready.
    pub fn depth(&self) -> u64 {
        self.depth_of(&self.name)
    }

    /// Takes all messages from their workers, as another worker does after their leases have run out. No worker gets them before
    /// [`Queue::end_leases`]. The new lease is short enough to count as valid.
    pub fn take_over(&self) {
        let taken = match &self.broker {
            Broker::Redis(redis) => redis_claim(redis, &self.name, "0"),
            _ => self.change_leases("lease = lease + 1000000, lease_until = lease_until + 1800000"),
        };
        assert!(taken > 0, "no worker has a message");
    }

    pub fn end_leases(&self) {
        match &self.broker {
            Broker::Redis(redis) => redis_claim(redis, &self.name, LEASE_MILLIS),
            _ => self.change_leases("lease = NULL, lease_until = NULL"),
        };
    }

    fn change_leases(&self, how: &str) -> usize {
        let sql = format!("UPDATE message SET {how} WHERE lease IS NOT NULL");
        self.sql().execute(&sql, []).expect("changed")
    }

    /// How many messages of the embedded queue are not settled, with a worker or not.
    pub fn in_hand_or_ready(&self) -> i64 {
        self.sql().query_row("SELECT count(*) FROM message", [], |row| row.get(0)).expect("counted")
    }

    /// The name of another queue, which is not made.
    pub fn name_beside(&self, name: &str) -> String {
        self.named(name)
    }

    /// Makes another queue of the same kind. The test has to leave it empty, or look at what it leaves.
    pub fn beside(&self, name: &str) -> String {
        let name = self.named(name);
        self.declare(&name);
        name
    }

    /// Makes a queue of the same kind.
    pub fn declare(&self, name: &str) {
        let types: &[&str] = match self.broker {
            Broker::Quorum(_) => &["--type", "quorum"],
            Broker::Classic(_) => &["--type", "classic"],
            Broker::SqsFifo(_) => &["--type", "fifo"],
            Broker::Sqlite(_) | Broker::Redis(_) | Broker::Sqs(_) => &[],
        };
        run(self.command(&["queue", "declare"]).args(types).env("QUEUE", name)).exits(0);
    }

    /// Makes another queue with arguments of its own.
    pub fn beside_with(&self, name: &str, arguments: &[(&str, AMQPValue)]) -> String {
        let (Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq)) = &self.broker else { panic!("for AMQP") };
        let name = format!("{}.{name}", self.name);
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        on_channel(rabbitmq, async |channel| {
            channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), table).await.expect("declared");
        });
        name
    }

    /// Deletes a queue, with all that is in it.
    pub fn delete(&self, name: &str) {
        match &self.broker {
            Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => on_channel(rabbitmq, async |channel| {
                let options = lapin::options::QueueDeleteOptions::default();
                channel.queue_delete(name.into(), options).await.expect("deleted");
            }),
            Broker::Redis(redis) => drop(redis.ask(&["DEL", name])),
            Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => drop(sqs.on(name, "DeleteQueue", serde_json::json!({}))),
            Broker::Sqlite(_) => {
                self.sql().execute("DELETE FROM queue WHERE name = ?1", [name]).expect("deleted");
            }
        }
    }

    /// How many dead letters there are.
    pub fn dead_depth(&self) -> u64 {
        self.depth_of(&self.dead_letter_queue())
    }

    pub fn depth_of(&self, name: &str) -> u64 {
        match &self.broker {
            Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => on_channel(rabbitmq, async |channel| {
                let options = QueueDeclareOptions::durable().passive();
                let declared = channel.queue_declare(name.into(), options, FieldTable::default()).await;
                declared.map_or(0, |queue| queue.message_count().into())
            }),
            Broker::Redis(redis) => redis_depth(redis, name),
            Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => sqs.ready(name),
            Broker::Sqlite(_) => self
                .sql()
                .query_row(
                    "SELECT count(*) FROM message WHERE queue = ?1 AND (lease IS NULL OR lease_until < ?2)",
                    rusqlite::params![name, uptime()],
                    |row| row.get::<_, i64>(0),
                )
                .expect("counted")
                .cast_unsigned(),
        }
    }

    /// Waits until that many messages are ready: a broker learns of a worker's death in its own time.
    pub fn wait_for_depth(&self, depth: u64) {
        eventually(&format!("{} has {depth} messages", self.name), || (self.depth() == depth).then_some(()));
    }

    /// Takes a message out, waiting for it.
    pub fn take(&self) -> Found {
        eventually(&format!("a message in {}", self.name), || self.try_take(&self.name))
    }

    /// Takes a dead letter out, waiting for it.
    pub fn take_dead(&self) -> Found {
        let dead = self.dead_letter_queue();
        eventually(&format!("a dead letter in {dead}"), || self.try_take(&dead))
    }

    /// Moves a dead letter back with all that it carries, as a shovel does.
    pub fn move_back(&self) {
        let dead = self.dead_letter_queue();
        match &self.broker {
            Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => {
                let got = on_channel(rabbitmq, async |channel| {
                    let got = channel.basic_get(dead.as_str().into(), BasicGetOptions::default()).await;
                    let got = got.expect("the queue is there").expect("there is a dead letter").delivery;
                    got.ack(BasicAckOptions::default()).await.expect("acknowledged");
                    got
                });
                self.publish_with(got.properties, &got.data);
            }
            Broker::Redis(redis) => {
                let entry = redis.ask(&["XRANGE", &dead, "-", "+", "COUNT", "1"]).list().remove(0).list();
                let mut words = vec![b"XADD".to_vec(), self.name.clone().into_bytes(), b"*".to_vec()];
                words.extend(entry[1].clone().list().into_iter().map(Answer::bytes));
                redis.ask(&words);
                redis.ask(&["XDEL", &dead, &entry[0].clone().text()]);
            }
            Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => {
                let received = sqs.receive(&dead).expect("there is a dead letter");
                sqs.send(&self.name, received["Body"].as_str().expect("text"), received["MessageAttributes"].clone());
            }
            Broker::Sqlite(_) => {
                let moved = self.sql().execute("UPDATE message SET queue = ?1 WHERE queue = ?2", [&self.name, &dead]);
                assert_eq!(moved.expect("moved"), 1);
            }
        }
    }

    /// Takes a message out of another queue, waiting for it.
    pub fn take_from(&self, name: &str) -> Found {
        eventually(&format!("a message in {name}"), || self.try_take(name))
    }

    pub fn try_take(&self, name: &str) -> Option<Found> {
        match &self.broker {
            Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => on_channel(rabbitmq, async |channel| {
                let got = channel.basic_get(name.into(), BasicGetOptions::default()).await.ok()??;
                got.delivery.ack(BasicAckOptions::default()).await.expect("acknowledged");
                let text = |value: &AMQPValue| match value {
                    AMQPValue::LongString(text) => text.to_string(),
                    AMQPValue::LongUInt(number) => number.to_string(),
                    other => format!("{other:?}"),
                };
                let of = &got.delivery.properties;
                let properties = [
                    ("message_id", of.message_id().as_ref().map(ToString::to_string)),
                    ("correlation_id", of.correlation_id().as_ref().map(ToString::to_string)),
                    ("content_type", of.content_type().as_ref().map(ToString::to_string)),
                    ("app_id", of.app_id().as_ref().map(ToString::to_string)),
                    ("delivery_mode", of.delivery_mode().map(|mode| mode.to_string())),
                ];
                let headers = got.delivery.properties.headers().iter().flat_map(|table| table.inner());
                Some(Found {
                    properties: properties
                        .into_iter()
                        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                        .collect(),
                    headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
                    redelivered: got.delivery.redelivered,
                    expires: got.delivery.properties.expiration().is_some(),
                    body: got.delivery.data,
                })
            }),
            Broker::Redis(redis) => redis_take(redis, name),
            Broker::Sqs(sqs) | Broker::SqsFifo(sqs) => sqs.take(name),
            Broker::Sqlite(_) => {
                let sql = self.sql();
                let found: Option<(i64, Vec<u8>, String, String, i64)> = sql
                    .query_row(
                        "SELECT id, bytes, properties, headers, handovers
                         FROM message JOIN body ON body.message = message.id
                         WHERE id = (
                             SELECT min(id) FROM message WHERE queue = ?1 AND available_at <= ?2
                             AND (lease IS NULL OR lease_until < ?2))",
                        rusqlite::params![name, uptime()],
                        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
                    )
                    .optional()
                    .expect("looked");
                let found = found.map(|(id, body, properties, headers, handovers)| {
                    sql.execute("DELETE FROM message WHERE id = ?1", [id]).expect("deleted");
                    (body, properties, headers, handovers)
                });
                found.map(|(body, properties, headers, handovers)| {
                    let parsed = |text: &str| -> BTreeMap<String, serde_json::Value> {
                        serde_json::from_str(text).expect("it is JSON")
                    };
                    let (properties, headers) = (parsed(&properties), parsed(&headers));
                    let text = |value: serde_json::Value| value.as_str().map_or(value.to_string(), str::to_owned);
                    Found {
                        body,
                        redelivered: handovers > 0,
                        expires: false,
                        properties: properties.into_iter().map(|(name, value)| (name, text(value))).collect(),
                        headers: headers.into_iter().map(|(name, value)| (name, text(value))).collect(),
                    }
                })
            }
        }
    }

    pub fn sql(&self) -> rusqlite::Connection {
        let Broker::Sqlite(folder) = &self.broker else { panic!("for SQLite") };
        let connection = rusqlite::Connection::open(folder.path().join("q.db")).expect("the queue file opens");
        connection.busy_timeout(super::PATIENCE).expect("set");
        connection
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.depth(), 0, "messages are left in {}", self.name);
        assert_eq!(self.dead_depth(), 0, "dead letters of {} are left", self.name);
        if let Broker::Sqlite(_) = self.broker {
            let rows: i64 =
                self.sql().query_row("SELECT count(*) FROM message", [], |row| row.get(0)).expect("counted");
            assert_eq!(rows, 0, "messages are left unsettled");
        }
        if let Broker::Redis(redis) = self.broker {
            let left = redis.number(&["XLEN", &self.name]);
            assert_eq!(left, 0, "messages are left unsettled");
            assert_eq!(redis.number(&["ZCARD", &format!("{{{}}}:delayed", self.name)]), 0, "retries are left");
            assert_eq!(redis.number(&["XLEN", &format!("{{{}}}:delayed:body", self.name)]), 0, "bodies are left");
        }
        if let Some(sqs) = self.sqs() {
            assert_eq!(sqs.hidden(&self.name), 0, "messages are left unsettled");
        }
    }
}

/// The group of every queue on a Redis, and how long a message stays with a worker that is not heard of.
const GROUP: &str = "wq-run";
const LEASE_MILLIS: &str = "15000";

/// Messages that no worker has, and that do not wait for the end of a pause.
fn redis_depth(redis: &Redis, name: &str) -> u64 {
    let all = redis.number(&["XLEN", name]);
    let groups =
        if redis.number(&["EXISTS", name]) == 1 { redis.ask(&["XINFO", "GROUPS", name]).list() } else { vec![] };
    let pending: i64 = groups.into_iter().map(|group| group.fields()["pending"].clone().number()).sum();
    let ended = match pending {
        0 => 0,
        _ => redis.ask(&["XPENDING", name, GROUP, "IDLE", LEASE_MILLIS, "-", "+", "10000"]).list().len() as i64,
    };
    (all - pending + ended).cast_unsigned()
}

/// Gives the messages that workers hold to another consumer, which has been idle for this long.
fn redis_claim(redis: &Redis, name: &str, idle: &str) -> usize {
    let pending = redis.ask(&["XPENDING", name, GROUP, "-", "+", "100"]).list();
    let ids: Vec<String> = pending.into_iter().map(|entry| entry.list().remove(0).text()).collect();
    for id in &ids {
        redis.ask(&["XCLAIM", name, GROUP, "another", "0", id, "IDLE", idle, "JUSTID"]);
    }
    ids.len()
}

/// A message whose pause is over, and that nobody has moved into its queue: workers do that.
fn redis_due(redis: &Redis, name: &str) -> Option<Answer> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_millis().to_string();
    let due = ["ZRANGEBYSCORE", &format!("{{{name}}}:delayed"), "-inf", &now, "LIMIT", "0", "1"];
    let id = redis.ask(&due).list().into_iter().next()?.text();
    redis.ask(&["XRANGE", &format!("{{{name}}}:delayed:body"), &id, &id]).list().into_iter().next()
}

fn redis_take(redis: &Redis, name: &str) -> Option<Found> {
    if redis.number(&["EXISTS", name]) == 0 {
        return None;
    }
    const TESTER: &str = "tester";
    let ended = redis.ask(&["XPENDING", name, GROUP, "IDLE", LEASE_MILLIS, "-", "+", "1"]).list();
    let (entry, redelivered) = match ended.into_iter().next() {
        Some(ended) => {
            let id = ended.list().remove(0).text();
            (redis.ask(&["XCLAIM", name, GROUP, TESTER, "0", &id]).list().remove(0), true)
        }
        None if redis_due(redis, name).is_some() => (redis_due(redis, name)?, false),
        None => {
            let read = ["XREADGROUP", "GROUP", GROUP, TESTER, "COUNT", "1", "STREAMS", name, ">"];
            let stream = redis.ask(&read).list().into_iter().next()?.list();
            (stream[1].clone().list().remove(0), false)
        }
    };
    let [id, fields] = <[Answer; 2]>::try_from(entry.list()).expect("an id and its fields");
    let id = id.text();
    redis.ask(&["XACK", name, GROUP, &id]);
    redis.ask(&["XDEL", name, &id]);
    redis.ask(&["XDEL", &format!("{{{name}}}:delayed:body"), &id]);
    redis.ask(&["ZREM", &format!("{{{name}}}:delayed"), &id]);
    let mut found =
        Found { body: Vec::new(), properties: BTreeMap::new(), headers: BTreeMap::new(), redelivered, expires: false };
    for (name, value) in fields.fields() {
        match name.as_str() {
            "body" => found.body = value.bytes(),
            "message_id" | "correlation_id" | "reply_to" | "content_type" | "content_encoding" | "type"
            | "priority" | "timestamp" | "app_id" => drop(found.properties.insert(name, value.text())),
            _ => drop(found.headers.insert(name, value.text())),
        }
    }
    Some(found)
}

/// The clock of the embedded queue, in milliseconds.
fn uptime() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Does something on a channel of its own, and waits for it.
pub fn on_channel<T>(rabbitmq: &RabbitMq, work: impl AsyncFnOnce(&Channel) -> T) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let connection =
            Connection::connect(&rabbitmq.url(), ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.expect("confirms");
        let value = work(&channel).await;
        let _ = connection.close(200, "done".into()).await;
        value
    })
}
