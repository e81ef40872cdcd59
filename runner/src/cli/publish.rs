//! What can be typed after `wq-run publish`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::broker::Broker;
use super::durations::pause;
use super::numbers::whole;

const PROPERTIES: &str = "Properties of every message";

#[derive(Debug, Args)]
pub struct Publish {
    #[command(flatten)]
    pub broker: Broker,

    /// Messages, one for each argument [default: stdin as one message]
    #[arg(value_name = "MESSAGE", conflicts_with_all = ["file", "lines", "json"])]
    pub messages: Vec<String>,

    /// A file as one message (- is stdin)
    #[arg(short, long, value_name = "PATH", conflicts_with_all = ["lines", "json"])]
    pub file: Option<PathBuf>,

    /// A file with one message on each line (- is stdin); each line is published as soon as it is complete
    #[arg(short, long, value_name = "PATH")]
    pub lines: Option<PathBuf>,

    /// Read lines of JSON, from stdin or from --lines: messages with properties and headers, as `queue get
    /// --json`, `queue peek --json` and `dlq show --json` print them
    #[arg(long)]
    pub json: bool,

    /// Deliver the messages after this long
    #[arg(long, value_name = "DURATION", value_parser = pause, conflicts_with = "expiration")]
    pub delay: Option<Duration>,

    /// Header of the messages; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header, help_heading = PROPERTIES)]
    pub headers: Vec<(String, String)>,

    /// Message id, for a single message [default: a new id for each]
    #[arg(long, value_name = "ID", conflicts_with_all = ["lines", "json"], help_heading = PROPERTIES)]
    pub message_id: Option<String>,

    /// Content type
    #[arg(long, value_name = "TYPE", help_heading = PROPERTIES)]
    pub content_type: Option<String>,

    /// Correlation id
    #[arg(long, value_name = "ID", help_heading = PROPERTIES)]
    pub correlation_id: Option<String>,

    /// Queue for replies
    #[arg(long, value_name = "QUEUE", help_heading = PROPERTIES)]
    pub reply_to: Option<String>,

    /// Priority, for queues that have priorities
    #[arg(long, value_name = "N", value_parser = whole(0_u8), help_heading = PROPERTIES)]
    pub priority: Option<u8>,

    /// Message type
    #[arg(long = "type", value_name = "TYPE", help_heading = PROPERTIES)]
    pub kind: Option<String>,

    /// How long the broker keeps a message that nobody takes
    #[arg(long, value_name = "DURATION", value_parser = pause, help_heading = PROPERTIES)]
    pub expiration: Option<Duration>,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a header is written NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_name_and_any_value() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(header("a="), Ok(("a".into(), String::new())));
        assert!(header("=b").is_err() && header("a").is_err());
    }
}
