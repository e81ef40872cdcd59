//! A walk through a queue of SQS, which only hands messages over: what the walk came by is hidden from others until its end.
//!
//! A FIFO queue hands out no more of a group while some of it is hidden, so that a walk sees the first of each group only.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::admin::{Held, LOOK, held};
use super::client::Client;
use super::kept::{Hidden, Keeping};
use super::queue::{BATCH, Entry, Queue};
use super::url::Url;
use crate::broker::error::Error;
use crate::broker::leased::Held as StillHeld;
use crate::broker::walk::{self, Death, Fate, Fates, LEFT_BEHIND, Seen};
use crate::fault::{self, Point};

pub struct Walk {
    url: Url,
    name: String,
    opened: Option<(Queue, Keeping)>,
}

impl Walk {
    pub fn new(url: Url, queue: &str) -> Walk {
        Walk { url, name: queue.to_owned(), opened: None }
    }

    async fn opened(&mut self) -> Result<&(Queue, Keeping), Error> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => {
                let client: Arc<Client> = Client::new(&self.url)?;
                let queue = Queue::find(&client, &self.url, &self.name).await?;
                (queue, Keeping::start(Hidden { lease: self.url.lease() }))
            }
        };
        Ok(self.opened.insert(opened))
    }

    async fn delete(&mut self, held: &[Held]) -> Fates {
        let mut fates = Fates::all(Fate::Done, 0);
        for batch in held.chunks(BATCH) {
            let entries: Vec<Entry> = batch.iter().map(|held| Entry::delete(&held.handle)).collect();
            let Some(queue) = batch.first().map(|held| &held.queue) else { break };
            let deleted: Fates = match queue.batch(&entries).await {
                Ok(answers) => answers.into_iter().map(|answer| answer.map(fate)).collect(),
                Err(error) => Fates::unknown(batch.len(), error),
            };
            for (held, fate) in batch.iter().zip(&deleted.each) {
                if *fate != Fate::Unknown {
                    held.forgotten();
                }
            }
            fates.each.extend(deleted.each);
            fates.failed = fates.failed.or(deleted.failed);
        }
        fates
    }
}

#[async_trait]
impl walk::Walk for Walk {
    async fn next(&mut self, most: usize) -> Result<Vec<Seen>, Error> {
        let url = self.url.clone();
        let (queue, keeping) = self.opened().await?;
        let mut seen = Vec::new();
        while seen.len() < most {
            let received = queue.receive(most - seen.len(), LOOK, url.lease()).await?;
            if received.is_empty() {
                break;
            }
            for received in received {
                let death = received.redriven_from().map(|from| Death {
                    queue: Some(from.to_owned()),
                    reason: Some("redrive".into()),
                    at: None,
                });
                let (message, origin, unreadable, held) = held(received, queue, &url, &keeping.kept, true);
                seen.push(Seen { message, origin, unreadable, death, place: Box::new(held) });
            }
        }
        Ok(seen)
    }

    async fn pass(&mut self, _seen: Vec<Seen>) -> Result<(), Error> {
        Ok(())
    }

    async fn move_to(&mut self, queue: &str, seen: Vec<Seen>) -> Fates {
        let held = held_of(seen);
        let count = held.len();
        let to = match self.opened().await {
            Ok((from, _)) => Queue::find(&from.client.clone(), &self.url, queue).await,
            Err(error) => Err(error),
        };
        let to = match to {
            Ok(to) => to,
            Err(error) => return Fates::unknown(count, error),
        };
        let copies = held.iter().map(|held| held.copy(&LEFT_BEHIND)).collect();
        fault::reach(Point::Published);
        let confirmed = to.send_all(copies, Duration::ZERO).await;
        fault::reach(Point::Confirmed);
        // What is not confirmed is given back at the end.
        let (sent, unsent): (Vec<_>, Vec<_>) =
            held.into_iter().enumerate().partition(|(at, _)| confirmed.each.get(*at) == Some(&true));
        let (places, sent): (Vec<usize>, Vec<Held>) = sent.into_iter().unzip();
        drop(unsent);
        let deleted = self.delete(&sent).await;
        let mut fates = Fates::all(Fate::Unknown, count);
        let mut lost = None;
        for (place, fate) in places.into_iter().zip(deleted.each) {
            if let Some(known) = fates.each.get_mut(place) {
                *known = match fate {
                    // Its copy is there, so it is not simply somebody else's.
                    Fate::Gone => {
                        lost.get_or_insert_with(Error::lease_lost);
                        Fate::Unknown
                    }
                    fate => fate,
                };
            }
        }
        fates.failed = confirmed.failed.or(deleted.failed).or(lost);
        fates
    }

    async fn remove(&mut self, seen: Vec<Seen>) -> Fates {
        self.delete(&held_of(seen)).await
    }

    async fn unseen(&mut self) -> Result<u64, Error> {
        let (queue, _) = self.opened().await?;
        Ok(queue.counts().await?.ready)
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        match self.opened {
            Some((_, keeping)) => keeping.end().await,
            None => Ok(()),
        }
    }
}

fn held_of(seen: Vec<Seen>) -> Vec<Held> {
    seen.into_iter().filter_map(Seen::place).map(|held: Box<Held>| *held).collect()
}

fn fate(held: StillHeld) -> Fate {
    match held {
        StillHeld::Yes => Fate::Done,
        StillHeld::Lost => Fate::Gone,
    }
}
