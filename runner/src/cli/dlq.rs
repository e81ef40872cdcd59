//! What can be typed after `wq-run dlq`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::broker::{self, Broker};
use super::durations::duration;
use super::numbers::whole;

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List dead letters, as a table on a terminal and as lines of JSON otherwise
    List {
        #[command(flatten)]
        of: DeadLettersOf,
        #[command(flatten)]
        filters: Filters,
        /// Print lines of JSON, also on a terminal
        #[arg(short, long)]
        json: bool,
    },
    /// Show everything about dead letters: the reason, stderr, properties, headers and body
    Show {
        #[command(flatten)]
        of: DeadLettersOf,
        #[command(flatten)]
        filters: Filters,
        /// Print a line of JSON for each, which `wq-run publish --json` reads
        #[arg(short, long)]
        json: bool,
        /// A case for each, as a line of JSON, which `wq-run exec --case` runs again
        #[arg(long, conflicts_with = "json")]
        case: bool,
    },
    /// Send dead letters back to the queues that they came from; their attempts start from zero
    Replay {
        #[command(flatten)]
        of: DeadLettersOf,
        #[command(flatten)]
        filters: Filters,
        /// Send all of them to this queue instead
        #[arg(long, value_name = "QUEUE")]
        to: Option<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Delete dead letters
    Purge {
        #[command(flatten)]
        of: DeadLettersOf,
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        doing: Doing,
    },
}

#[derive(Debug, Args)]
pub struct DeadLettersOf {
    #[command(flatten)]
    pub broker: Broker,

    /// Queue of the dead letters [default: QUEUE.dead]
    #[arg(long, value_name = "NAME", env = "WQ_DEAD_LETTER_QUEUE", help_heading = broker::HEADING)]
    pub dead_letter_queue: Option<String>,
}

const FILTERS: &str = "Which dead letters; without a filter, all of them";

#[derive(Debug, Args)]
pub struct Filters {
    /// Only those with this message id; may be repeated
    #[arg(long = "id", value_name = "ID", help_heading = FILTERS)]
    pub ids: Vec<String>,

    /// Only those with this outcome: exit, trap, timeout, memory and so on; may be repeated, or listed with commas
    #[arg(long = "outcome", value_name = "OUTCOME", value_delimiter = ',', help_heading = FILTERS)]
    pub outcomes: Vec<String>,

    /// Only those whose guest exited with this code; may be repeated, or listed with commas
    #[arg(long = "exit-code", value_name = "CODE", value_parser = whole(0_u8), value_delimiter = ',', help_heading = FILTERS)]
    pub exit_codes: Vec<u8>,

    /// Only those that are older than this
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = FILTERS)]
    pub older_than: Option<Duration>,

    /// Only the first N
    #[arg(long, value_name = "N", value_parser = whole(1_u64), help_heading = FILTERS)]
    pub limit: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Doing {
    /// Change nothing, and print what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// Print a line of JSON for each dead letter
    #[arg(short, long)]
    pub json: bool,
}
