//! `wq-run dlq purge`.

use serde_json::Value;

use super::list;
use super::round::{Round, Said, dead_letters};
use crate::broker;
use crate::broker::walk::Fate;
use crate::cli;
use crate::commands::process::{note, report, say};
use crate::config::DeadLetters;
use crate::error::{Error, ExitStatus};
use crate::visible::one_line;

/// Deletes all of them, which takes a broker one step.
pub async fn all(letters: &DeadLetters) -> Result<u8, Error> {
    let DeadLetters { broker, queue, dead_letter_queue } = letters;
    let mut admin = broker.admin();
    let purged = match admin.purge(dead_letter_queue).await {
        // It is made with the first dead letter.
        Err(missing @ broker::Error::MissingQueue { .. }) => match queue {
            Some(queue) => admin.status(queue).await.map(|_| 0),
            None => Err(missing),
        },
        purged => purged,
    };
    let closed = admin.close().await;
    let purged = purged?;
    closed?;
    report(format!("deleted {} from {dead_letter_queue}", dead_letters(purged)))?;
    Ok(ExitStatus::Done.code())
}

pub async fn purge(round: &mut Round<'_>, doing: &cli::Doing) -> Result<Said, Error> {
    let (mut deleted, mut gone) = (0, 0);
    let queue = &round.letters.dead_letter_queue;
    loop {
        let picked = round.next().await?;
        if picked.is_empty() {
            break;
        }
        let lines: Vec<String> = picked
            .iter()
            .map(|picked| match (doing.json, doing.dry_run) {
                (true, dry_run) => {
                    let mut summary = list::summary(picked);
                    summary.insert("deleted".into(), (!dry_run).into());
                    Value::Object(summary).to_string()
                }
                (false, _) => {
                    let id = picked.seen.message.properties.message_id.as_deref().unwrap_or("one without an id");
                    format!("would delete {}", one_line(id))
                }
            })
            .collect();
        let seen: Vec<_> = picked.into_iter().map(|picked| picked.seen).collect();
        if doing.dry_run {
            deleted += seen.len() as u64;
            lines.iter().try_for_each(|line| say(line))?;
            round.pick.leave(seen).await?;
            continue;
        }
        let fates = round.pick.walk.remove(seen).await;
        deleted += fates.count(Fate::Done);
        gone += fates.count(Fate::Gone);
        if doing.json {
            let done = lines.iter().zip(&fates.each).filter(|(_, fate)| **fate == Fate::Done);
            done.map(|(line, _)| line).try_for_each(|line| say(line))?;
        }
        if let Some(source) = fates.failed {
            let done = format!("deleted {} from {queue}, and then failed", dead_letters(deleted));
            return Err(Error::Partly { done, source });
        }
    }
    round.pick.say_what_is_left().await?;
    if gone > 0 {
        note(&format!("somebody else took {} in the meantime", dead_letters(gone)));
    }
    let verb = if doing.dry_run { "would delete" } else { "deleted" };
    let report = (!doing.json).then(|| format!("{verb} {} from {queue}", dead_letters(deleted)));
    Ok(Said { report, then: None })
}
