//! A walk through a queue on a Redis. Anybody can look: nothing is handed over for it.

use async_trait::async_trait;
use redis::{Cmd, Value};

use super::admin::ANSWER_TIMEOUT;
use super::connection::Connection;
use super::convert::{self, Read};
use super::scripts::Script;
use super::store::add_changes;
use super::terms::{GROUP, LEASE, SYSTEM, millis};
use super::url::Url;
use super::value::{Field, fields, list, number, parts, text};
use crate::broker::error::Error;
use crate::broker::walk::{self, Fate, Fates, LEFT_BEHIND, Seen};
use crate::fault::{self, Point};
use crate::task::Origin;

pub struct Walk {
    url: Url,
    queue: String,
    connection: Option<Connection>,
    /// The id of the last entry that was looked at.
    at: String,
}

struct Place {
    id: String,
    /// What the message becomes elsewhere, where a script can't copy it.
    rewritten: Option<Vec<Field>>,
}

impl Walk {
    pub fn new(url: Url, queue: &str) -> Walk {
        Walk { url, queue: queue.to_owned(), connection: None, at: String::new() }
    }

    async fn connection(&mut self) -> Result<&Connection, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.url, &self.queue, Some(ANSWER_TIMEOUT)).await?,
        };
        Ok(self.connection.insert(connection))
    }

    fn seen(&self, entry: Value) -> Result<Seen, Error> {
        let [id, entry] = parts(entry)?;
        let Read { message, unreadable, rewritten } = convert::read(fields(entry)?);
        let place = Box::new(Place { id: text(id)?, rewritten });
        Ok(Seen { message, origin: Origin::of_queue(&self.queue, false, SYSTEM), unreadable, death: None, place })
    }

    /// Runs a script for each message.
    async fn change(
        &mut self,
        doing: &str,
        script: Script,
        to: Option<&str>,
        seen: Vec<Seen>,
        add_arguments: impl Fn(&mut Cmd, &Place) + Sync,
    ) -> Fates {
        let places: Vec<Box<Place>> = seen.into_iter().filter_map(Seen::place).collect();
        let queue = self.queue.clone();
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return Fates::unknown(places.len(), error),
        };
        let keys: Vec<&str> = [&*queue].into_iter().chain(to).collect();
        fault::reach(Point::Published);
        let changing = connection.run_all(doing, script, &keys, &places, |call, place| {
            call.arg(GROUP).arg(millis(LEASE)).arg(&place.id);
            add_arguments(call, place);
        });
        let answers = match changing.await {
            Ok(answers) => answers,
            Err(error) => return Fates::unknown(places.len(), error),
        };
        fault::reach(Point::Confirmed);
        let fate = |answer: Result<Value, Error>| match number(answer?)? {
            1 => Ok(Fate::Done),
            0 => Ok(Fate::Gone),
            _ => Err(Error::MissingQueue { queue: to.unwrap_or_default().to_owned(), source: None }),
        };
        answers.into_iter().map(fate).collect()
    }
}

#[async_trait]
impl walk::Walk for Walk {
    async fn next(&mut self, most: usize) -> Result<Vec<Seen>, Error> {
        loop {
            let (queue, at) = (self.queue.clone(), self.at.clone());
            let answer = self
                .connection()
                .await?
                .run("look at", Script::Look, &[&queue], |call| {
                    call.arg(GROUP).arg(millis(LEASE)).arg(&at).arg(most);
                })
                .await?;
            let [last, entries] = parts(answer)?;
            let last = text(last)?;
            if last.is_empty() {
                return Ok(Vec::new());
            }
            self.at = last;
            let seen = list(entries)?.into_iter().map(|entry| self.seen(entry)).collect::<Result<Vec<_>, _>>()?;
            if !seen.is_empty() {
                return Ok(seen);
            }
        }
    }

    async fn pass(&mut self, _seen: Vec<Seen>) -> Result<(), Error> {
        Ok(())
    }

    async fn move_to(&mut self, queue: &str, seen: Vec<Seen>) -> Fates {
        let changes = |call: &mut Cmd, place: &Place| add_changes(call, place.rewritten.as_deref(), &LEFT_BEHIND, &[]);
        self.change("move a message of", Script::Move, Some(queue), seen, changes).await
    }

    async fn remove(&mut self, seen: Vec<Seen>) -> Fates {
        self.change("delete a message of", Script::Remove, None, seen, |_, _| {}).await
    }

    async fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
