//! The limit: a consumer on the same client library that takes messages, acknowledges them, and does nothing else.

use std::io::Write as _;

use clap::Parser;
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use crate::Result;
use crate::queue::Consume;

#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    consume: Consume,
    /// Write each message to stdout before it is acknowledged
    #[arg(long)]
    print: bool,
}

pub fn run(args: &Args) -> Result<()> {
    // lapin has a thread of its own for the socket. With a single one beside it this is up to a third faster than with the
    // two that wq-run would have: the limit should be the best that there is.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(consume(&args.consume, args.print))
}

async fn consume(args: &Consume, prints: bool) -> Result<()> {
    let connection = Connection::connect(&args.broker, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(args.prefetch, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(args.queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    for taken in 1..=args.count {
        let delivery = consumer.next().await.ok_or("the broker ended the consumer")??;
        if prints {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&delivery.data)?;
            stdout.flush()?;
        }
        if taken.is_multiple_of(args.gather) || taken == args.count {
            let multiple = args.gather > 1;
            if !delivery.acker.ack(BasicAckOptions { multiple }).await? {
                return Err("an acknowledgement was not sent".into());
            }
        }
    }
    // Answered, in order: all acknowledgements have arrived.
    channel.close(200, "done".into()).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}
