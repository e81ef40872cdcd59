//! `wq-run dlq replay`: a dead letter is in its queue before it leaves the others, so that nothing is lost whenever this ends.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use serde_json::Value;

use super::list;
use super::round::{Round, Said, dead_letters};
use crate::broker::walk::{Fate, Seen};
use crate::cli;
use crate::commands::pick::Picked;
use crate::commands::process::{note, say};
use crate::config::DeadLetters;
use crate::error::Error;
use crate::visible::one_line;

const HINT: &str = "name the queue with --to, or the queue that they came from with --queue (QUEUE)";

/// Refuses what would come back to the dead letters forever.
pub fn check(letters: &DeadLetters, to: Option<&str>) -> Result<(), Error> {
    if to == Some(&letters.dead_letter_queue) {
        let message = format!("the dead letters are in {} already", letters.dead_letter_queue);
        return Err(Error::configuration(message, HINT));
    }
    Ok(())
}

pub async fn replay(round: &mut Round<'_>, to: Option<&str>, doing: &cli::Doing) -> Result<Said, Error> {
    let mut replayed: BTreeMap<String, u64> = BTreeMap::new();
    let (mut gone, mut stay, mut again) = (0, 0, 0);
    let mut ids = Ids::default();
    loop {
        let picked = round.next().await?;
        if picked.is_empty() {
            break;
        }
        let (picked, came_back): (Vec<Picked>, Vec<Picked>) =
            picked.into_iter().partition(|picked| ids.are_new(picked));
        again += came_back.len() as u64;
        round.pick.leave(came_back.into_iter().map(|picked| picked.seen).collect()).await?;
        let (groups, homeless) = by_queue(round.letters, to, picked);
        stay += homeless.len() as u64;
        round.pick.leave(homeless).await?;
        for (to, picked) in groups {
            let lines: Vec<String> = picked.iter().map(|picked| line(picked, &to, doing)).collect();
            let seen: Vec<Seen> = picked.into_iter().map(|picked| picked.seen).collect();
            let count = replayed.entry(to.clone()).or_default();
            if doing.dry_run {
                *count += seen.len() as u64;
                lines.iter().try_for_each(|line| say(line))?;
                round.pick.leave(seen).await?;
                continue;
            }
            let fates = round.pick.walk.move_to(&to, seen).await;
            *count += fates.count(Fate::Done);
            gone += fates.count(Fate::Gone);
            if doing.json {
                let done = lines.iter().zip(&fates.each).filter(|(_, fate)| **fate == Fate::Done);
                done.map(|(line, _)| line).try_for_each(|line| say(line))?;
            }
            if let Some(source) = fates.failed {
                let total = replayed.values().sum();
                return Err(Error::Partly {
                    done: format!("replayed {}, and then failed", dead_letters(total)),
                    source,
                });
            }
        }
    }
    round.pick.say_what_is_left().await?;
    if gone > 0 {
        note(&format!("somebody else took {} in the meantime", dead_letters(gone)));
    }
    if again > 0 {
        note(&format!("not replayed: {}, because a message with the same id was just replayed", dead_letters(again)));
    }
    let report = (!doing.json).then(|| {
        let verb = if doing.dry_run { "would replay" } else { "replayed" };
        let line = |(to, count): (&String, &u64)| format!("{verb} {} to {}", dead_letters(*count), one_line(to));
        let mut lines: Vec<String> = replayed.iter().map(line).collect();
        if lines.is_empty() {
            lines.push(format!("{verb} {}", dead_letters(0)));
        }
        lines.join("\n")
    });
    let then = (stay > 0).then(|| {
        let message = format!("not replayed: {}, because the original queue is not known", dead_letters(stay));
        Error::configuration(message, HINT)
    });
    Ok(Said { report, then })
}

/// The ids that were replayed. A message that dies again at once lies behind the others, where the walk comes by once more:
/// without this, it would be replayed for as long as it dies.
#[derive(Default)]
struct Ids {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Ids {
    /// Whether this one has another id than all before. A message without an id is always new.
    fn are_new(&mut self, picked: &Picked) -> bool {
        let id = picked.seen.message.properties.message_id.as_deref();
        id.is_none_or(|id| self.hashes.insert(self.hasher.hash_one(id)))
    }
}

/// Dead letters by the queues that they go to. Those of which that is not known are the last.
fn by_queue(
    letters: &DeadLetters,
    to: Option<&str>,
    picked: Vec<Picked>,
) -> (BTreeMap<String, Vec<Picked>>, Vec<Seen>) {
    let (mut groups, mut homeless) = (BTreeMap::<String, Vec<Picked>>::new(), Vec::new());
    let elsewhere = |queue: &&str| *queue != letters.dead_letter_queue;
    for picked in picked {
        let died_in = picked.end.queue.as_deref().filter(elsewhere);
        match to.or(died_in).or(letters.queue.as_deref().filter(elsewhere)) {
            Some(queue) => groups.entry(queue.to_owned()).or_default().push(picked),
            None => homeless.push(picked.seen),
        }
    }
    (groups, homeless)
}

fn line(picked: &Picked, to: &str, doing: &cli::Doing) -> String {
    if doing.json {
        let mut summary = list::summary(picked);
        summary.insert("to".into(), to.into());
        summary.insert("replayed".into(), (!doing.dry_run).into());
        return Value::Object(summary).to_string();
    }
    let id = picked.seen.message.properties.message_id.as_deref().unwrap_or("one without an id");
    format!("would replay {} to {}", one_line(id), one_line(to))
}
