//! `wq-run publish`: puts messages into a queue, many at a time and each of them confirmed.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::input::{self, Chunk, Line, Source, Unreadable};
use super::process::{note, report, unwatched};
use crate::broker::admin::{Admin, Confirmed};
use crate::broker::{self, Kind};
use crate::cli;
use crate::config::{From, Publish};
use crate::envelope;
use crate::error::{Error, ExitStatus};
use crate::observe::progress::{Progress, Snapshot};
use crate::shutdown::{self, Signal};
use crate::task::Message;

/// Messages that wait for their confirmation at the same time, and about their bytes. A larger one goes alone.
const MOST_AT_ONCE: usize = 2000;
const BYTES_AT_ONCE: usize = 1 << 20;

/// The longest line, where the broker's own settings say how large a message can be: more than they ever allow.
const LONGEST_LINE: u64 = 512_000_000;

/// Room for what a line of JSON has beside the body of its message, in bytes.
const JSON_BESIDE: u64 = 1 << 20;

/// How long what is on its way may take after a signal.
const GRACE: Duration = Duration::from_secs(10);

/// So many runs of numbers are named.
const RUNS_NAMED: usize = 10;

pub async fn run(args: cli::Publish) -> Result<u8, Error> {
    let publish = Publish::resolve(args)?;
    run_on(&publish).await.map_err(|error| error.on(&publish.target.broker))
}

async fn run_on(publish: &Publish) -> Result<u8, Error> {
    let mut press = Press::new(publish);
    let progress = press.show();
    let printed = match &publish.from {
        From::Arguments(messages) => {
            let bodies = messages.iter().map(|message| Bytes::from(message.clone())).collect();
            press.print_all(bodies).await.map(|()| None)
        }
        From::File(path) => {
            let body = Source::open(path)?.read_whole(path)?;
            if body.is_empty() {
                let name = if path == Path::new("-") { "stdin".into() } else { path.display().to_string() };
                note(&format!("{name} is empty: the message has no body"));
            }
            press.print_all(vec![body]).await.map(|()| None)
        }
        From::Lines { path, json } => {
            let lines = Source::open(path)?.lines(longest_line(publish, *json));
            let lines = lines.map_err(|source| Error::Io { doing: "read lines".into(), source })?;
            press.print_lines(AtHand::new(lines), *json).await
        }
    };
    let Press { admin, confirmed, .. } = press;
    let closed = admin.close().await;
    drop(progress);
    let signal = printed?;
    let confirmed = confirmed.load(Ordering::Relaxed);
    // The broker has confirmed them, however the connection ends.
    report(format!("published {} to {}", messages(confirmed), publish.target.queue))?;
    closed?;
    Ok(signal.map_or(ExitStatus::Done.code(), Signal::exit_code))
}

/// A line of JSON takes more bytes than the message in it: up to six for each that is escaped, and its properties and headers.
fn longest_line(publish: &Publish, json: bool) -> usize {
    let most = publish.target.broker.kind().capabilities.max_message.unwrap_or(LONGEST_LINE).min(LONGEST_LINE);
    let longest = if json { most * 6 + JSON_BESIDE } else { most };
    usize::try_from(longest).unwrap_or(usize::MAX)
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".into() } else { format!("{count} messages") }
}

/// Publishes batch after batch, and counts what is confirmed.
struct Press<'a> {
    publish: &'a Publish,
    admin: Box<dyn Admin>,
    batch: Batch,
    /// Whoever shows the progress reads it too.
    confirmed: Arc<AtomicU64>,
}

#[derive(Default)]
struct Batch {
    /// By which people know the messages.
    numbers: Vec<u64>,
    messages: Vec<Message>,
    bytes: usize,
}

impl Batch {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.messages.is_empty() || self.messages.len() < MOST_AT_ONCE && self.bytes + bytes <= BYTES_AT_ONCE
    }

    fn add(&mut self, number: u64, message: Message) {
        self.bytes += message.body.len();
        self.numbers.push(number);
        self.messages.push(message);
    }
}

impl<'a> Press<'a> {
    fn new(publish: &'a Publish) -> Press<'a> {
        Press { publish, admin: publish.target.broker.admin(), batch: Batch::default(), confirmed: Arc::default() }
    }

    fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Shows how many are confirmed, unless the lines are being typed at the terminal where that would be shown.
    fn show(&self) -> Option<Progress> {
        let (all, typed) = match &self.publish.from {
            From::Arguments(messages) => (Some(messages.len() as u64), false),
            From::File(_) => (Some(1), false),
            From::Lines { path, .. } => (None, input::is_typed(path)),
        };
        let confirmed = self.confirmed.clone();
        let snapshot = move || {
            let done = confirmed.load(Ordering::Relaxed);
            Snapshot { done, finished: done, left: all.map(|all| all.saturating_sub(done)), ..Snapshot::default() }
        };
        (!typed).then(|| Progress::show(snapshot))
    }

    async fn print_all(&mut self, bodies: Vec<Bytes>) -> Result<(), Error> {
        for (number, body) in (1..).zip(bodies) {
            if !self.batch.has_room_for(body.len()) {
                self.print("message").await?;
            }
            self.batch.add(number, self.publish.stamp.message(body));
        }
        self.print("message").await
    }

    /// Publishes lines as they come, until there are no more or a signal says that it is enough.
    async fn print_lines(&mut self, mut at_hand: AtHand, json: bool) -> Result<Option<Signal>, Error> {
        let mut phases = shutdown::watch(GRACE, ExitStatus::Stuck.code()).map_err(unwatched)?;
        while at_hand.has_more() {
            tokio::select! {
                biased;
                signal = shutdown::requested(&mut phases) => {
                    note(&format!("stopped by {}: nothing more is sent", signal.name()));
                    return Ok(Some(signal));
                }
                () = at_hand.wait() => {}
            }
            while let Some(Line { number, text }) = at_hand.next(&self.batch) {
                match self.message(text, json) {
                    Ok(message) => self.batch.add(number, message),
                    Err(reason) => {
                        self.print("line").await?;
                        let message = format!("line {number} is not a message: {reason}");
                        return Err(self.stopped(message, "see --json: all lines before this one are published"));
                    }
                }
            }
            self.print("line").await?;
        }
        match at_hand.failed {
            None => Ok(None),
            Some(Unreadable::Io(source)) => {
                Err(Error::Io { doing: format!("read on, with {} published", messages(self.confirmed())), source })
            }
            Some(too_long) => Err(self.stopped(too_long.to_string(), "all lines before this one are published")),
        }
    }

    fn stopped(&self, message: String, hint: &str) -> Error {
        Error::configuration(format!("{message}; published {}", messages(self.confirmed())), hint)
    }

    fn message(&self, text: Bytes, json: bool) -> Result<Message, String> {
        if !json {
            return Ok(self.publish.stamp.message(text));
        }
        let message = self.publish.stamp.on(envelope::read(&text)?);
        let kind = self.publish.target.broker.kind();
        match &message.properties.expiration {
            Some(_) if !kind.capabilities.expiration => {
                Err(format!("it has an expiration, and {} lets no single message expire", kind.name))
            }
            Some(_) if !self.publish.delay.is_zero() => {
                Err("it has an expiration, and a message that is delayed can have none".into())
            }
            _ => Ok(message),
        }
    }

    /// Publishes what was gathered.
    async fn print(&mut self, what: &str) -> Result<(), Error> {
        let Batch { numbers, messages: batch, .. } = std::mem::take(&mut self.batch);
        let Some(last) = numbers.last() else { return Ok(()) };
        let queue = &self.publish.target.queue;
        let Confirmed { each, failed } = self.admin.publish(queue, batch, self.publish.delay).await;
        let is_confirmed = |at: usize| each.get(at).copied().unwrap_or(false);
        let unconfirmed: Vec<u64> =
            numbers.iter().enumerate().filter(|(at, _)| !is_confirmed(*at)).map(|(_, number)| *number).collect();
        self.confirmed.fetch_add((numbers.len() - unconfirmed.len()) as u64, Ordering::Relaxed);
        let Some(source) = failed else { return Ok(()) };
        if self.confirmed() == 0 && is_before_all(&source) {
            return Err(source.into());
        }
        let many = if unconfirmed.len() == 1 { "" } else { "s" };
        let done = format!(
            "published {}; not confirmed: {what}{many} {}; nothing was sent after {what} {last}",
            messages(self.confirmed()),
            runs(&unconfirmed),
        );
        Err(Error::Partly { done, source })
    }
}

/// Whether an error says that nothing of what it answers was sent. A request without an answer, or with one that cannot be read,
/// may have been carried out.
fn is_before_all(error: &broker::Error) -> bool {
    use broker::Error::{Mismatch, Unanswered, Unavailable};
    !matches!(error, Unanswered { .. } | Unavailable { .. } | Mismatch { .. })
        && matches!(error.kind(), Kind::Unreachable | Kind::Refused | Kind::Configuration)
}

/// Numbers as people list them: `3-7, 9`.
fn runs(numbers: &[u64]) -> String {
    let runs: Vec<&[u64]> = numbers.chunk_by(|one, next| one + 1 == *next).collect();
    let named = runs.iter().take(RUNS_NAMED).filter_map(|run| match (run.first()?, run.last()?) {
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    let rest: usize = runs.iter().skip(RUNS_NAMED).map(|run| run.len()).sum();
    if rest > 0 {
        text += &format!(" and {rest} more");
    }
    text
}

/// Lines that are complete and not yet published.
struct AtHand {
    lines: Receiver<Chunk>,
    ready: VecDeque<Line>,
    /// No more come.
    ended: bool,
    failed: Option<Unreadable>,
}

impl AtHand {
    fn new(lines: Receiver<Chunk>) -> AtHand {
        AtHand { lines, ready: VecDeque::new(), ended: false, failed: None }
    }

    fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.ended
    }

    /// Waits until there is a line, or none will come.
    async fn wait(&mut self) {
        if self.ready.is_empty() && !self.ended {
            let chunk = self.lines.recv().await;
            self.take(chunk);
        }
    }

    /// The next line, if it is there and fits into the batch.
    fn next(&mut self, batch: &Batch) -> Option<Line> {
        if self.ready.is_empty() && !self.ended {
            match self.lines.try_recv() {
                Ok(chunk) => self.take(Some(chunk)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.take(None),
            }
        }
        let next = self.ready.front()?;
        if batch.has_room_for(next.text.len()) { self.ready.pop_front() } else { None }
    }

    fn take(&mut self, chunk: Option<Chunk>) {
        match chunk {
            Some(Ok(lines)) => self.ready.extend(lines),
            Some(Err(failed)) => {
                self.ended = true;
                self.failed = Some(failed);
            }
            None => self.ended = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_named_in_runs_and_not_without_end() {
        assert_eq!(runs(&[3, 4, 5, 7, 9, 10]), "3-5, 7, 9-10");
        assert_eq!(runs(&[1]), "1");
        let scattered: Vec<u64> = (0..30).map(|number| number * 2).collect();
        assert_eq!(runs(&scattered), "0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 20 more");
    }

    #[test]
    fn a_batch_is_bounded_and_takes_one_message_of_any_size() {
        let mut batch = Batch::default();
        assert!(batch.has_room_for(BYTES_AT_ONCE * 100));
        batch.add(1, Message { body: vec![0; BYTES_AT_ONCE].into(), ..Message::default() });
        assert!(batch.has_room_for(0) && !batch.has_room_for(1));
        let mut batch = Batch::default();
        (0..MOST_AT_ONCE as u64).for_each(|number| batch.add(number, Message::default()));
        assert!(!batch.has_room_for(0));
    }
}
