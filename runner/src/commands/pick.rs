//! Walks through a queue in pages, and picks out messages.

use std::time::SystemTime;

use super::process::note;
use crate::broker::Error;
use crate::broker::walk::{End, PAGE_BYTES, Seen, Walk};
use crate::config::Filters;

/// How large the messages of a queue are is not known before. So pages begin small, and each is at most twice as long as the
/// one before it.
const FIRST_PAGE: usize = 20;
const MOST_IN_A_PAGE: usize = 500;

pub struct Pick {
    pub walk: Box<dyn Walk>,
    filters: Option<Filters>,
    /// How many more are wanted.
    wanted: u64,
    /// How many more messages may be held, where a walk holds what it leaves.
    room: u64,
    holds: bool,
    page: usize,
    now: SystemTime,
}

/// A message that was picked out, and how it died.
pub struct Picked {
    pub seen: Seen,
    pub end: End,
}

impl Pick {
    /// `most_seen` is how many messages the broker lets a walk leave behind, where it counts them.
    pub fn new(walk: Box<dyn Walk>, filters: Option<Filters>, wanted: Option<u64>, most_seen: Option<u64>) -> Pick {
        Pick {
            walk,
            filters,
            wanted: wanted.unwrap_or(u64::MAX),
            room: most_seen.unwrap_or(u64::MAX),
            holds: most_seen.is_some(),
            page: FIRST_PAGE,
            now: SystemTime::now(),
        }
    }

    /// The moment that ages are counted from.
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// The next messages that are wanted; none if there are no more. Others are left behind.
    pub async fn next(&mut self) -> Result<Vec<Picked>, Error> {
        loop {
            let most = self.page_size();
            if most == 0 {
                return Ok(Vec::new());
            }
            let page = self.walk.next(most).await?;
            if page.is_empty() {
                return Ok(Vec::new());
            }
            self.learn(&page);
            let (mut picked, mut left) = (Vec::new(), Vec::new());
            for seen in page {
                let end = seen.end();
                let is_wanted = self.filters.as_ref().is_none_or(|filters| filters.take(&seen, &end, self.now));
                if is_wanted && self.wanted > 0 {
                    self.wanted -= 1;
                    picked.push(Picked { seen, end });
                } else {
                    left.push(seen);
                }
            }
            self.leave(left).await?;
            if !picked.is_empty() {
                return Ok(picked);
            }
        }
    }

    /// Wants nothing more: there is no queue to walk through.
    pub fn end(&mut self) {
        self.wanted = 0;
    }

    /// Leaves messages where they are.
    pub async fn leave(&mut self, seen: Vec<Seen>) -> Result<(), Error> {
        self.room = self.room.saturating_sub(seen.len() as u64);
        self.walk.pass(seen).await
    }

    /// Says so if there is more than the walk came by. To be called at its end.
    pub async fn say_what_is_left(&mut self) -> Result<(), Error> {
        if !self.holds || self.wanted == 0 {
            return Ok(());
        }
        let unseen = self.walk.unseen().await?;
        if unseen > 0 {
            note(&format!(
                "about {unseen} more messages were not shown: this broker shows messages only by delivering them, and \
                 does not deliver all at once"
            ));
        }
        Ok(())
    }

    fn page_size(&self) -> usize {
        // Where any message will do, no other one has to be handed over.
        let wanted = match &self.filters {
            Some(filters) if !filters.takes_any() && self.wanted > 0 => u64::MAX,
            _ => self.wanted,
        };
        let most = wanted.min(self.room);
        usize::try_from(most).unwrap_or(usize::MAX).min(self.page)
    }

    fn learn(&mut self, page: &[Seen]) {
        let bytes: usize = page.iter().map(|seen| seen.message.body.len()).sum();
        let each = (bytes / page.len().max(1)).max(1);
        self.page = (PAGE_BYTES / each).clamp(1, MOST_IN_A_PAGE.min(self.page * 2));
    }
}
