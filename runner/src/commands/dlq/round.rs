//! One way through the dead letters of a queue, whatever is done with them.

use std::collections::BTreeSet;

use crate::broker;
use crate::commands::pick::{Pick, Picked};
use crate::commands::process::{note, report};
use crate::config::{DeadLetters, Filters};
use crate::error::{Error, ExitStatus};

/// What is said once the broker has confirmed all of it.
#[derive(Default)]
pub struct Said {
    pub report: Option<String>,
    /// An error that takes nothing of it back.
    pub then: Option<Error>,
}

/// One way through the dead letters.
pub struct Round<'a> {
    pub letters: &'a DeadLetters,
    pub pick: Pick,
    /// Ids that were asked for and did not come yet.
    pub missing: BTreeSet<String>,
    /// How many came.
    count: u64,
}

impl<'a> Round<'a> {
    pub fn begin(letters: &'a DeadLetters, filters: Filters) -> Round<'a> {
        let DeadLetters { broker, dead_letter_queue, .. } = letters;
        let walk = broker.walk(dead_letter_queue);
        let missing = filters.ids.iter().cloned().collect();
        let limit = filters.limit;
        let pick = Pick::new(walk, Some(filters), limit, broker.kind().capabilities.most_seen);
        Round { letters, pick, missing, count: 0 }
    }

    /// The next dead letters; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Picked>, Error> {
        let picked = match self.pick.next().await {
            Err(broker::Error::MissingQueue { queue, source })
                if self.count == 0 && queue == self.letters.dead_letter_queue =>
            {
                self.expect_none(broker::Error::MissingQueue { queue, source }).await?;
                self.pick.end();
                Vec::new()
            }
            picked => picked?,
        };
        self.count += picked.len() as u64;
        for Picked { seen, .. } in &picked {
            if let Some(id) = &seen.message.properties.message_id {
                self.missing.remove(id);
            }
        }
        Ok(picked)
    }

    /// Accepts that the dead-letter queue is missing, if the queue of its messages exists: the dead-letter queue is made with
    /// the first dead letter, so there is none yet.
    async fn expect_none(&self, missing: broker::Error) -> Result<(), Error> {
        let Some(queue) = &self.letters.queue else { return Err(missing.into()) };
        let mut admin = self.letters.broker.admin();
        let status = admin.status(queue).await;
        let closed = admin.close().await;
        status?;
        Ok(closed?)
    }

    /// Gives back what is held, whatever became of the work, and reports once the broker has confirmed it. Says which ids were
    /// not there.
    pub async fn end(self, worked: Result<Said, Error>) -> Result<u8, Error> {
        let Round { pick, missing, .. } = self;
        let closed = pick.walk.close().await;
        let Said { report: done, then } = worked?;
        closed?;
        if let Some(done) = done {
            report(done)?;
        }
        if let Some(error) = then {
            return Err(error);
        }
        for id in &missing {
            note(&format!("no dead letter has the id {id}"));
        }
        Ok(if missing.is_empty() { ExitStatus::Done } else { ExitStatus::Empty }.code())
    }
}

/// "1 dead letter", "2 dead letters".
pub fn dead_letters(count: u64) -> String {
    if count == 1 { "1 dead letter".into() } else { format!("{count} dead letters") }
}
