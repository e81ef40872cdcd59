//! `wq-run publish`: puts a message into a queue.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use bytes::Bytes;

use super::process::{can_read, report};
use crate::cli;
use crate::config::Target;
use crate::error::{Error, ExitStatus};
use crate::task::Properties;

pub async fn run(args: cli::Publish) -> Result<u8, Error> {
    let target = Target::resolve(&args.broker)?;
    let bodies = bodies(&args)?;
    publish(&target, &args, bodies).await.map_err(|error| error.on(&target.broker))
}

async fn publish(Target { broker, queue }: &Target, args: &cli::Publish, bodies: Vec<Bytes>) -> Result<u8, Error> {
    let total = bodies.len();
    let mut admin = broker.admin();
    for (confirmed, body) in bodies.into_iter().enumerate() {
        let properties = Properties {
            // Every message gets an identity here, so that its results can be told apart from those of a copy.
            message_id: Some(uuid::Uuid::now_v7().to_string()),
            correlation_id: args.correlation_id.clone(),
            reply_to: args.reply_to.clone(),
            content_type: args.content_type.clone(),
            ..Properties::default()
        };
        if let Err(source) = admin.publish(queue, properties, body).await {
            return Err(if confirmed == 0 { source.into() } else { Error::Unpublished { confirmed, total, source } });
        }
    }
    admin.close().await?;
    let messages = if total == 1 { "message" } else { "messages" };
    report(format!("published {total} {messages} to {queue}"))?;
    Ok(ExitStatus::Done.code())
}

fn bodies(args: &cli::Publish) -> Result<Vec<Bytes>, Error> {
    if !args.messages.is_empty() {
        return Ok(args.messages.iter().map(|message| Bytes::from(message.clone())).collect());
    }
    if let Some(path) = &args.lines {
        return lines(path);
    }
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let mut body = Vec::new();
    open(path)?.read_to_end(&mut body).map_err(|source| unreadable(path, source))?;
    Ok(vec![body.into()])
}

/// The lines of a file without their ends; bytes that are no UTF-8 stay as they are.
fn lines(path: &Path) -> Result<Vec<Bytes>, Error> {
    let mut reader = BufReader::new(open(path)?);
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).map_err(|source| unreadable(path, source))? == 0 {
            return Ok(lines);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        lines.push(line.into());
    }
}

fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    if path == Path::new("-") {
        can_read()?;
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path).map_err(|source| unreadable(path, source))?;
    Ok(Box::new(file))
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::configuration(format!("cannot read {}: {source}", path.display()), "see --file and --lines; - is stdin")
}
