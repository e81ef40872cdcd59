//! What can be typed after `wq-run dlq`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::broker::{self, Broker};
use super::durations::duration;

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List dead letters: a table on a terminal, lines of JSON otherwise
    List {
        #[command(flatten)]
        of: DeadLettersOf,
        #[command(flatten)]
        filters: Filters,
        /// Lines of JSON, also on a terminal
        #[arg(short, long)]
        json: bool,
    },
    /// Show all that is known of dead letters: why they died, stderr, properties, headers and body
    Show {
        #[command(flatten)]
        of: DeadLettersOf,
        #[command(flatten)]
        filters: Filters,
        /// A line of JSON for each, which `wq-run publish --json` reads
        #[arg(short, long)]
        json: bool,
    },
    /// Send dead letters back to the queues in which they died, where they get all of their attempts again
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

    /// Where the dead letters are [default: QUEUE.dead]
    #[arg(long, value_name = "NAME", env = "WQ_DEAD_LETTER_QUEUE", help_heading = broker::HEADING)]
    pub dead_letter_queue: Option<String>,
}

const FILTERS: &str = "Which dead letters; without a filter, all of them";

#[derive(Debug, Args)]
pub struct Filters {
    /// Those with this message id; may be repeated
    #[arg(long = "id", value_name = "ID", help_heading = FILTERS)]
    pub ids: Vec<String>,

    /// Those that ended like this: exit, trap, timeout, memory and so on; may be repeated, or listed with commas
    #[arg(long = "outcome", value_name = "OUTCOME", value_delimiter = ',', help_heading = FILTERS)]
    pub outcomes: Vec<String>,

    /// Those whose guest exited with this code; may be repeated, or listed with commas
    #[arg(long = "exit-code", value_name = "CODE", value_delimiter = ',', help_heading = FILTERS)]
    pub exit_codes: Vec<u8>,

    /// Those that died longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = FILTERS)]
    pub older_than: Option<Duration>,

    /// The first N of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = FILTERS)]
    pub limit: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Doing {
    /// Change nothing, and say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// A line of JSON for each dead letter
    #[arg(short, long)]
    pub json: bool,
}
