//! The flags that say which queue on which broker is meant.

use clap::{Args, ValueEnum};

use crate::broker::kinds;

pub const HEADING: &str = "Queue";

#[derive(Debug, Args)]
pub struct Broker {
    #[arg(short = 'u', long = "broker", value_name = "URL", env = "BROKER_URL", hide_env_values = true, help = broker_help(), help_heading = HEADING)]
    pub broker: Option<String>,

    /// The queue
    #[arg(short, long, value_name = "NAME", env = "QUEUE", help_heading = HEADING)]
    pub queue: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnEmpty {
    Success,
    Fail,
}

fn broker_help() -> String {
    format!(
        "The broker: {}. Several addresses, separated by commas, are the nodes of a cluster. BROKER_URL_FILE names a file with the \
         address",
        kinds::addresses()
    )
}
