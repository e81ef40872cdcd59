//! `wq-run queue`: makes a queue, looks at it, and takes messages out of it.

use data_encoding::BASE64;
use serde_json::Value;

use super::process::{report, say};
use crate::broker::admin::{Admin, Got, Status};
use crate::cli;
use crate::config::{Target, queue_type_on};
use crate::envelope;
use crate::error::{Error, ExitStatus};
use crate::streams;

pub async fn run(args: cli::Queue) -> Result<u8, Error> {
    let (cli::Queue::Declare { broker, .. }
    | cli::Queue::Status { broker }
    | cli::Queue::Get { broker, .. }
    | cli::Queue::Purge { broker }) = &args;
    let target = Target::resolve(broker)?;
    run_on(&target, args).await.map_err(|error| error.on(&target.broker))
}

async fn run_on(Target { broker, queue }: &Target, args: cli::Queue) -> Result<u8, Error> {
    match args {
        cli::Queue::Declare { queue_type, .. } => {
            let queue_type = queue_type_on(broker.kind(), queue_type.as_deref())?;
            broker.admin().declare(queue, queue_type).await?;
            report(format!("declared {queue}"))?;
        }
        cli::Queue::Status { .. } => {
            let Status { ready, running, delayed, workers } = broker.admin().status(queue).await?;
            // A line a number, so that awk and people can read it.
            say(&format!("queue {queue}\nready {ready}"))?;
            for (name, value) in [("running", running), ("delayed", delayed), ("workers", workers)] {
                if let Some(value) = value {
                    say(&format!("{name} {value}"))?;
                }
            }
        }
        cli::Queue::Get { count, all, json, on_empty, .. } => {
            let mut admin = broker.admin();
            let got = get(&mut *admin, queue, if all { u64::MAX } else { count }, json).await;
            // Also after an error: what was printed before it is to be forgotten, and nothing else.
            let closed = admin.close().await;
            let got = got?;
            closed?;
            if got == 0 && matches!(on_empty, cli::OnEmpty::Fail) {
                return Ok(ExitStatus::Empty.code());
            }
        }
        cli::Queue::Purge { .. } => {
            let purged = broker.admin().purge(queue).await?;
            report(format!("purged {purged} from {queue}"))?;
        }
    }
    Ok(ExitStatus::Done.code())
}

/// Prints up to so many messages, each of which the queue forgets only after it is printed. Says how many.
async fn get(admin: &mut dyn Admin, queue: &str, count: u64, json: bool) -> Result<u64, Error> {
    let mut printed = 0;
    while printed < count {
        let Some(got) = admin.take(queue, 1).await?.pop() else { break };
        if let Some(reason) = &got.unreadable {
            // stderr may have no reader, which is no reason to keep the message.
            streams::err::push(format!("wq-run: only a part of the message can be read: {reason}\n").as_bytes());
        }
        print(&got, json).map_err(|source| Error::Io { doing: "write the message to stdout".into(), source })?;
        got.forget().await?;
        printed += 1;
    }
    Ok(printed)
}

fn print(got: &Got, json: bool) -> std::io::Result<()> {
    if !json {
        return streams::print(&got.message.body);
    }
    let mut envelope = envelope::of(&got.message, &got.origin);
    let (body, encoding) = match std::str::from_utf8(&got.message.body) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (BASE64.encode(&got.message.body), "base64"),
    };
    envelope.insert("body".into(), body.into());
    envelope.insert("body_encoding".into(), encoding.into());
    streams::print(format!("{}\n", Value::Object(envelope)).as_bytes())
}
