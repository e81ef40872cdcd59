//! What can be typed after `wq-run queue`.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::broker::{Broker, OnEmpty};
use super::durations::duration;
use super::numbers::whole;
use crate::broker::{BrokerKind, kinds};

#[derive(Debug, Subcommand)]
pub enum Queue {
    /// Create a durable queue; an existing queue is left as it is
    Declare {
        #[command(flatten)]
        broker: Broker,
        #[arg(long = "type", value_name = "TYPE", value_parser = PossibleValuesParser::new(kinds::queue_types()), help = type_help())]
        queue_type: Option<String>,
        #[command(flatten)]
        arguments: Arguments,
    },
    /// Show how many messages are in a queue
    Status {
        #[command(flatten)]
        broker: Broker,
        /// Print a line of JSON; numbers that the broker does not report are null
        #[arg(short, long)]
        json: bool,
        /// Print again and again, until a signal comes
        #[arg(short, long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_parser = interval)]
        watch: Option<Duration>,
    },
    /// Print the next messages of a queue without removing them; some brokers count this as an attempt
    Peek {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        which: Which,
    },
    /// Take messages out of a queue, for example results, and print their bodies
    Get {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        which: Which,
    },
    /// Delete the messages that no worker has
    Purge {
        #[command(flatten)]
        broker: Broker,
    },
}

/// Which messages are printed, and how.
#[derive(Debug, Args)]
pub struct Which {
    /// Number of messages
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = whole(1_u64), conflicts_with = "all")]
    pub count: u64,
    /// All messages that are ready
    #[arg(short, long)]
    pub all: bool,
    /// Print a line of JSON for each message, with its properties and headers; the body is text or base64
    #[arg(short, long)]
    pub json: bool,
    /// How to end when there is no message: `success` is exit status 0, `fail` is 79
    #[arg(long, value_name = "RESULT", default_value = "fail")]
    pub on_empty: OnEmpty,
}

/// What a queue is made with.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Exchange to which the broker moves dead letters
    #[arg(long, value_name = "NAME")]
    pub dead_letter_exchange: Option<String>,
    /// Number of deliveries after which the broker itself dead-letters a message; -1 means no limit
    #[arg(long, value_name = "N", value_parser = whole(-1_i64))]
    pub delivery_limit: Option<i64>,
    /// Highest priority
    #[arg(long, value_name = "N", value_parser = whole(1_u8))]
    pub max_priority: Option<u8>,
    /// Maximum number of messages in the queue
    #[arg(long, value_name = "N", value_parser = whole(1_u64))]
    pub max_length: Option<u64>,
    /// How long a message stays if nobody takes it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub message_ttl: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected a duration of at least 100ms".into()),
        interval => Ok(interval.max(Duration::from_millis(100))),
    }
}

fn type_help() -> String {
    let of = |kind: &&BrokerKind| format!("{} on {}", kind.queue_types[0], kind.name);
    let defaults: Vec<String> = kinds::KINDS.iter().filter(|kind| !kind.queue_types.is_empty()).map(of).collect();
    format!("The type of the queue, on brokers that have several [default: {}]", defaults.join(", "))
}
