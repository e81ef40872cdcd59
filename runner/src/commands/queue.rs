//! `wq-run queue`

use super::say;
use crate::broker::admin::{Admin, QueueType, Status};
use crate::cli;
use crate::config::Target;
use crate::error::{Error, ExitStatus};

pub async fn run(args: cli::Queue) -> Result<u8, Error> {
    match args {
        cli::Queue::Declare { broker, kind } => {
            let Target { broker, queue } = Target::resolve(&broker)?;
            let kind = match kind {
                cli::QueueType::Quorum => QueueType::Quorum,
                cli::QueueType::Classic => QueueType::Classic,
            };
            Admin::new(&broker).declare(&queue, kind).await?;
            say(&format!("declared {queue}"));
        }
        cli::Queue::Status { broker } => {
            let Target { broker, queue } = Target::resolve(&broker)?;
            let Status { ready, running, delayed, workers } = Admin::new(&broker).status(&queue).await?;
            // A line a number, so that awk and people can read it.
            say(&format!("queue {queue}\nready {ready}"));
            for (name, value) in [("running", running), ("delayed", delayed), ("workers", workers)] {
                if let Some(value) = value {
                    say(&format!("{name} {value}"));
                }
            }
        }
        cli::Queue::Purge { broker } => {
            let Target { broker, queue } = Target::resolve(&broker)?;
            let purged = Admin::new(&broker).purge(&queue).await?;
            say(&format!("purged {purged} from {queue}"));
        }
    }
    Ok(ExitStatus::Done.code())
}
