//! Queues of the broker: filled before the clock starts, and looked at after it has stopped.

use clap::{Parser, ValueEnum};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::runtime::Runtime;

use crate::Result;

/// What the bare consumers of all brokers are told.
#[derive(clap::Args)]
pub struct Consume {
    #[arg(long, env = "BROKER_URL", hide_env_values = true)]
    pub broker: String,
    #[arg(long)]
    pub queue: String,
    /// Leave after so many messages
    #[arg(long)]
    pub count: u64,
    #[arg(long, default_value_t = 200)]
    pub prefetch: u16,
    /// One acknowledgement for so many messages
    #[arg(long, default_value_t = 1)]
    pub gather: u64,
}

#[derive(Parser)]
pub struct Args {
    #[arg(long, env = "BROKER_URL", hide_env_values = true)]
    broker: String,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    count: u64,
    /// Bytes of each message
    #[arg(long, default_value_t = 5)]
    size: usize,
    #[arg(long, value_enum, default_value_t = Kind::Classic)]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Classic,
    Quorum,
}

/// What is in a queue, and how many have subscribed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub ready: u32,
    pub consumers: u32,
}

/// The bench's own connection.
pub struct Queues {
    pub runtime: Runtime,
    pub channel: Channel,
    connection: Connection,
    kind: Kind,
}

/// The broker's answer to a message, once it is there. lapin's own type for it has no public name.
pub trait Confirm: Future<Output = lapin::Result<Confirmation>> {}
impl<T: Future<Output = lapin::Result<Confirmation>>> Confirm for T {}

/// Bytes and messages that may be on their way to the broker without its confirmation.
const UNCONFIRMED_BYTES: usize = 32 << 20;
const UNCONFIRMED: usize = 2000;

const PERSISTENT: u8 = 2;

pub fn fill_command(args: &Args) -> Result<()> {
    let queues = Queues::connect(&args.broker, args.kind)?;
    queues.fill(&args.queue, args.count, args.size)?;
    queues.close()
}

/// The body of a message: its number, and then as much as it takes, without a line's end.
pub fn body(number: u64, size: usize) -> Vec<u8> {
    let mut body = format!("{number:05}").into_bytes();
    body.resize(size.max(5), b'.');
    body
}

impl Queues {
    pub fn connect(url: &str, kind: Kind) -> Result<Queues> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>((connection, channel))
        })?;
        Ok(Queues { runtime, channel, connection, kind })
    }

    /// A new durable queue.
    pub fn declare(&self, queue: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        if self.kind == Kind::Quorum {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        }
        let declared = self.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
        self.runtime.block_on(declared)?;
        Ok(())
    }

    /// A new durable queue with persistent messages, all of them confirmed.
    pub fn fill(&self, queue: &str, count: u64, size: usize) -> Result<()> {
        self.declare(queue)?;
        let window = (UNCONFIRMED_BYTES / size.max(1)).clamp(1, UNCONFIRMED);
        self.runtime.block_on(async {
            let mut confirms = Vec::with_capacity(window);
            for number in 0..count {
                confirms.push(self.publish(queue, &body(number, size)).await?);
                if confirms.len() == window {
                    confirmed(&mut confirms).await?;
                }
            }
            confirmed(&mut confirms).await
        })
    }

    pub async fn publish(&self, queue: &str, body: &[u8]) -> Result<impl Confirm + use<>> {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions::default();
        Ok(self.channel.basic_publish("".into(), queue.into(), options, body, properties).await?)
    }

    pub fn status(&self, queue: &str) -> Result<Status> {
        let passive = QueueDeclareOptions::durable().passive();
        let declared = self.channel.queue_declare(queue.into(), passive, FieldTable::default());
        let declared = self.runtime.block_on(declared)?;
        Ok(Status { ready: declared.message_count(), consumers: declared.consumer_count() })
    }

    /// How many messages are in a queue that nobody works on any more. What a consumer did not acknowledge is back in it a
    /// moment after its connection ended, so that is waited for.
    pub fn left(&self, queue: &str) -> Result<u32> {
        while self.status(queue)?.consumers > 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(self.status(queue)?.ready)
    }

    /// Deletes a queue; an error if anything was left in it.
    pub fn delete_empty(&self, queue: &str) -> Result<()> {
        let left = self.left(queue)?;
        self.delete(queue)?;
        if left == 0 { Ok(()) } else { Err(format!("{left} messages were left in the queue").into()) }
    }

    pub fn delete(&self, queue: &str) -> Result<()> {
        self.runtime.block_on(self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()))?;
        Ok(())
    }

    pub fn close(self) -> Result<()> {
        self.runtime.block_on(self.connection.close(200, "done".into()))?;
        Ok(())
    }
}

/// Waits for all of them; an error if the broker did not take one.
pub async fn confirmed(confirms: &mut Vec<impl Confirm>) -> Result<()> {
    for confirm in confirms.drain(..) {
        match confirm.await? {
            Confirmation::Ack(None) => {}
            other => return Err(format!("the broker did not confirm a message: {other:?}").into()),
        }
    }
    Ok(())
}
