//! A walk through a queue of a queue file. Anybody can look: nothing is taken for it.

use std::path::PathBuf;

use async_trait::async_trait;

use super::SYSTEM;
use super::admin::BUSY;
use super::row::Row;
use super::store::Store;
use crate::broker::error::Error;
use crate::broker::walk::{self, Fate, Fates, LEFT_BEHIND, Seen};
use crate::fault::{self, Point};
use crate::task::Origin;

pub struct Walk {
    path: PathBuf,
    queue: String,
    /// Opened for the first look.
    store: Option<Store>,
    /// The number of the last message that was seen.
    at: i64,
}

/// The number of a message.
struct Place(i64);

impl Walk {
    pub fn new(path: PathBuf, queue: &str) -> Walk {
        Walk { path, queue: queue.to_owned(), store: None, at: i64::MIN }
    }

    fn store(&mut self) -> Result<&mut Store, Error> {
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path, &self.queue, BUSY)?,
        };
        Ok(self.store.insert(store))
    }

    /// Only what is done in the file that everybody sees is done.
    fn change(
        &mut self,
        seen: Vec<Seen>,
        change: impl FnOnce(&mut Store, &[i64]) -> Result<Vec<Fate>, Error>,
    ) -> Fates {
        let ids: Vec<i64> = seen.into_iter().filter_map(Seen::place).map(|place: Box<Place>| place.0).collect();
        let changed = self.store().and_then(|store| {
            fault::reach(Point::Published);
            let fates = change(store, &ids)?;
            store.require_in_place()?;
            fault::reach(Point::Confirmed);
            Ok(fates)
        });
        match changed {
            Ok(each) => Fates { each, failed: None },
            Err(error) => Fates::unknown(ids.len(), error),
        }
    }
}

#[async_trait]
impl walk::Walk for Walk {
    async fn next(&mut self, most: usize) -> Result<Vec<Seen>, Error> {
        let (queue, at) = (self.queue.clone(), self.at);
        let rows = self.store()?.look(&queue, at, most)?;
        self.at = rows.last().map_or(at, |(id, _)| *id);
        let seen = rows.into_iter().map(|(id, Row { message, handovers, unreadable, .. })| {
            let delivery_tag = id.cast_unsigned();
            let origin = Origin { delivery_tag, ..Origin::of_queue(&queue, handovers > 0, SYSTEM) };
            Seen { message, origin, unreadable, death: None, place: Box::new(Place(id)) }
        });
        Ok(seen.collect())
    }

    async fn pass(&mut self, _seen: Vec<Seen>) -> Result<(), Error> {
        Ok(())
    }

    async fn move_to(&mut self, queue: &str, seen: Vec<Seen>) -> Fates {
        let from = self.queue.clone();
        self.change(seen, |store, ids| store.move_all(&from, ids, queue, &LEFT_BEHIND))
    }

    async fn remove(&mut self, seen: Vec<Seen>) -> Fates {
        let from = self.queue.clone();
        self.change(seen, |store, ids| store.remove_all(&from, ids))
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
