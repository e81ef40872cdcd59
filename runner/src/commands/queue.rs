//! `wq-run queue`: makes a queue, looks at it, and takes messages out of it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::describe;
use super::pick::{Pick, Picked};
use super::process::{note, report, say};
use crate::broker::admin::{Admin, Got, Status};
use crate::cli;
use crate::config::{Target, queue_arguments_on, queue_type_on};
use crate::envelope;
use crate::error::{Error, ExitStatus};
use crate::streams;

pub async fn run(args: cli::Queue) -> Result<u8, Error> {
    let (cli::Queue::Declare { broker, .. }
    | cli::Queue::Status { broker, .. }
    | cli::Queue::Peek { broker, .. }
    | cli::Queue::Get { broker, .. }
    | cli::Queue::Purge { broker }) = &args;
    let target = Target::resolve(broker)?;
    run_on(&target, args).await.map_err(|error| error.on(&target.broker))
}

async fn run_on(target: &Target, args: cli::Queue) -> Result<u8, Error> {
    let Target { broker, queue } = target;
    match args {
        cli::Queue::Declare { queue_type, arguments, .. } => {
            let queue_type = queue_type_on(broker.kind(), queue_type.as_deref())?;
            let arguments = queue_arguments_on(broker.kind(), queue_type, arguments)?;
            broker.admin().declare(queue, queue_type, &arguments).await?;
            report(format!("declared {queue}"))?;
        }
        cli::Queue::Status { json, watch, .. } => {
            let mut admin = broker.admin();
            let told = tell(&mut *admin, queue, json, watch).await;
            let closed = admin.close().await;
            told?;
            closed?;
        }
        cli::Queue::Peek { which, .. } => {
            let peeked = peek(target, &which).await?;
            return Ok(ended(queue, peeked, &which));
        }
        cli::Queue::Get { which, .. } => {
            let mut admin = broker.admin();
            let got = get(&mut *admin, queue, &which).await;
            // Also after an error: what was printed before it is to be forgotten, and nothing else.
            let closed = admin.close().await;
            let got = got?;
            closed?;
            return Ok(ended(queue, got, &which));
        }
        cli::Queue::Purge { .. } => {
            let purged = broker.admin().purge(queue).await?;
            report(format!("purged {purged} from {queue}"))?;
        }
    }
    Ok(ExitStatus::Done.code())
}

/// Says that a queue was empty, but not to a program.
fn ended(queue: &str, printed: u64, which: &cli::Which) -> u8 {
    if printed > 0 {
        return ExitStatus::Done.code();
    }
    if !which.json {
        note(&format!("no messages in {queue}"));
    }
    match which.on_empty {
        cli::OnEmpty::Fail => ExitStatus::Empty.code(),
        cli::OnEmpty::Success => ExitStatus::Done.code(),
    }
}

/// Says what is in a queue, once or forever.
async fn tell(admin: &mut dyn Admin, queue: &str, json: bool, watch: Option<Duration>) -> Result<(), Error> {
    let status = admin.status(queue).await?;
    let Some(pause) = watch else {
        say(&if json { line(queue, &status).to_string() } else { numbers(queue, &status).join("\n") })?;
        if let Some(elsewhere) = status.elsewhere.filter(|_| !json) {
            note(elsewhere);
        }
        return Ok(());
    };
    let mut status = status;
    loop {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        if json {
            let mut line = line(queue, &status);
            line["at"] = now.into();
            say(&line.to_string())?;
        } else {
            say(&format!("{now}  {}", numbers(queue, &status).join("  ")))?;
        }
        tokio::time::sleep(pause).await;
        status = admin.status(queue).await?;
    }
}

fn line(queue: &str, status: &Status) -> Value {
    let Status { ready, running, delayed, workers, elsewhere: _ } = status;
    json!({ "queue": queue, "ready": ready, "running": running, "delayed": delayed, "workers": workers })
}

/// The numbers with their names. What a broker does not know is left out, and what it does not tell is named.
fn numbers(queue: &str, status: &Status) -> Vec<String> {
    let Status { ready, running, delayed, workers, elsewhere } = status;
    let mut numbers = vec![format!("queue {queue}"), format!("ready {ready}")];
    for (name, value) in [("running", running), ("delayed", delayed), ("workers", workers)] {
        match (value, elsewhere) {
            (Some(value), _) => numbers.push(format!("{name} {value}")),
            (None, Some(_)) => numbers.push(format!("{name} unknown")),
            (None, None) => {}
        }
    }
    numbers
}

/// Prints messages and leaves them where they are. Says how many.
async fn peek(Target { broker, queue }: &Target, which: &cli::Which) -> Result<u64, Error> {
    let can = &broker.kind().capabilities;
    let walk = broker.walk(queue);
    let mut pick = Pick::new(walk, None, Some(if which.all { u64::MAX } else { which.count }), can.most_seen);
    let peeked = peek_with(&mut pick, which.json).await;
    let closed = pick.walk.close().await;
    let peeked = peeked?;
    closed?;
    if peeked > 0 && can.most_seen.is_some() {
        let name = broker.kind().name;
        note(&format!("{name} may count this look as an attempt of each message that was shown"));
    }
    Ok(peeked)
}

async fn peek_with(pick: &mut Pick, json: bool) -> Result<u64, Error> {
    let mut printed = 0;
    loop {
        let picked = pick.next().await?;
        if picked.is_empty() {
            break;
        }
        for Picked { seen, .. } in &picked {
            let text = match json {
                true => format!("{}\n", envelope::line(&seen.message, &seen.origin)),
                // A blank line between two of them.
                false if printed > 0 => format!("\n{}", describe::message(seen, None, pick.now())),
                false => describe::message(seen, None, pick.now()),
            };
            streams::print(text.as_bytes()).map_err(unprinted)?;
            printed += 1;
        }
        pick.leave(picked.into_iter().map(|picked| picked.seen).collect()).await?;
    }
    pick.say_what_is_left().await?;
    Ok(printed)
}

/// Prints messages, each of which the queue forgets only after it is printed. Says how many.
async fn get(admin: &mut dyn Admin, queue: &str, which: &cli::Which) -> Result<u64, Error> {
    let mut printed = 0;
    while which.all || printed < which.count {
        let Some(got) = admin.take(queue, 1).await?.pop() else { break };
        if let Some(reason) = &got.unreadable {
            note(&format!("only a part of the message can be read: {reason}"));
        }
        print(&got, which.json).map_err(unprinted)?;
        got.forget().await?;
        printed += 1;
    }
    Ok(printed)
}

fn print(got: &Got, json: bool) -> std::io::Result<()> {
    match json {
        false => streams::print(&got.message.body),
        true => streams::print(format!("{}\n", envelope::line(&got.message, &got.origin)).as_bytes()),
    }
}

fn unprinted(source: std::io::Error) -> Error {
    Error::Io { doing: "write the message to stdout".into(), source }
}
