//! Brokers for the tests of the worker: one that is driven step by step, with real receipts, and one that keeps books.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Command, Delivery, Depth, Error, Handed, Link, Notice, Subscription};
use crate::task::{Message, Origin, Settlement};

pub(crate) struct Fake {
    link: Link,
    notices: mpsc::UnboundedReceiver<Notice>,
    /// Keeps the channel open, as a subscription does.
    _commands: mpsc::UnboundedSender<Command>,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let (link, notices, commands) = Link::channel(watch::channel(true).1);
        Fake { link, notices, _commands: commands }
    }

    pub(crate) fn deliver(&mut self, number: u64) -> Box<Delivery> {
        let origin = Origin { delivery_tag: number, ..Origin::default() };
        let handed = Handed {
            message: Message::default(),
            origin,
            attempt: 1,
            unfinished: 0,
            can_be_retried: true,
            unreadable: None,
        };
        self.link.deliver(self.link.tag(number), CancellationToken::new(), handed.span(), handed);
        match self.notices.try_recv() {
            Ok(Notice::Delivery(delivery)) => delivery,
            other => panic!("a delivery was sent, and not {other:?}"),
        }
    }

    /// What has been settled since the last call: the delivery's number, and how.
    pub(crate) fn settled(&mut self) -> Vec<(u64, &'static str)> {
        let mut settled = Vec::new();
        while let Ok(command) = self.link.commands.try_recv() {
            if let Command::Settle { tag, settlement, .. } = command {
                settled.push((tag.number, settlement.name()));
            }
        }
        settled
    }
}

/// A broker that keeps books, and loses the connection after every so many settlements.
pub(crate) struct Bookkeeper {
    link: Link,
    ready: VecDeque<Entry>,
    held: BTreeMap<u64, (Entry, CancellationToken)>,
    next_number: u64,
    prefetch: usize,
    lose_after: Option<usize>,
    settlements: usize,
    /// How many more the worker wants.
    left: u64,
    books: Arc<Mutex<Books>>,
}

#[derive(Clone)]
struct Entry {
    body: Bytes,
    attempt: u32,
}

/// What became of the messages.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) acked: Vec<Bytes>,
    pub(crate) dead: Vec<Bytes>,
    pub(crate) left: Vec<Bytes>,
    /// Acknowledged before its result was written, which must never be.
    pub(crate) acked_unwritten: Vec<Bytes>,
    /// The numbers of all deliveries, and of those that the worker is known to have been handed: none of them was under way
    /// when it left.
    pub(crate) delivered: Vec<u64>,
    pub(crate) handed: Vec<u64>,
}

impl Bookkeeper {
    /// Starts a broker that has these messages. `written` is where the worker's sink writes.
    pub(crate) fn subscribe(
        messages: Vec<Bytes>,
        prefetch: usize,
        lose_after: Option<usize>,
        written: Arc<Mutex<Vec<Bytes>>>,
    ) -> (Subscription, Arc<Mutex<Books>>) {
        let (begun, begun_rx) = watch::channel(false);
        let (link, notices, commands) = Link::channel(begun_rx);
        let (wanted, abort) = (link.wanted.clone(), link.abort.clone());
        let books = Arc::new(Mutex::new(Books::default()));
        let keeper = Bookkeeper {
            link,
            ready: messages.into_iter().map(|body| Entry { body, attempt: 1 }).collect(),
            held: BTreeMap::new(),
            next_number: 1,
            prefetch,
            lose_after,
            settlements: 0,
            left: u64::MAX,
            books: books.clone(),
        };
        let task = tokio::spawn(keeper.serve(written));
        (Subscription { notices, commands, wanted, begun, abort, task }, books)
    }

    async fn serve(mut self, written: Arc<Mutex<Vec<Bytes>>>) {
        self.link.established();
        loop {
            self.fill();
            match self.link.commands.recv().await {
                Some(Command::Settle { tag, settlement, reply }) => {
                    let known = tag.session == self.link.session;
                    let held = if known { self.held.remove(&tag.number) } else { None };
                    if let Some((entry, _)) = &held {
                        self.settle(entry.clone(), &settlement, &written.lock().expect("no test panics here"));
                    }
                    let settled = if held.is_some() { Ok(()) } else { Err(Error::Lost { source: None }) };
                    if let Some(reply) = reply {
                        let _ = reply.send(settled);
                    }
                    // Only what moves the books on: what a lost connection left behind must not lose the next one.
                    if held.is_some() && settlement != Settlement::Release {
                        self.settlements += 1;
                        if self.lose_after.is_some_and(|count| self.settlements.is_multiple_of(count)) {
                            self.lose();
                        }
                    }
                }
                Some(Command::Want) => self.left = self.link.wanted(),
                Some(Command::Cancel) => self.link.cancelled = true,
                Some(Command::Probe) => self.link.depth(Depth { ready: self.ready.len() as u64, ..Depth::default() }),
                Some(Command::Close { reply }) => {
                    self.take_back();
                    self.books.lock().expect("no test panics here").left =
                        self.ready.drain(..).map(|entry| entry.body).collect();
                    let _ = reply.send(Ok(()));
                    return;
                }
                None => return,
            }
        }
    }

    fn fill(&mut self) {
        while !self.link.cancelled && self.left > 0 && self.held.len() < self.prefetch {
            let Some(entry) = self.ready.pop_front() else { return };
            self.left -= 1;
            let number = self.next_number;
            self.next_number += 1;
            let lost = CancellationToken::new();
            let message = Message { body: entry.body.clone(), ..Message::default() };
            let handed = Handed {
                message,
                origin: Origin { delivery_tag: number, ..Origin::default() },
                attempt: entry.attempt,
                unfinished: 0,
                can_be_retried: true,
                unreadable: None,
            };
            self.held.insert(number, (entry, lost.clone()));
            self.link.deliver(self.link.tag(number), lost, handed.span(), handed);
            let mut books = self.books.lock().expect("no test panics here");
            books.delivered.push(number);
            if !self.link.notices.is_closed() {
                books.handed.push(number);
            }
        }
    }

    fn settle(&mut self, entry: Entry, settlement: &Settlement, written: &[Bytes]) {
        let mut books = self.books.lock().expect("no test panics here");
        match settlement {
            Settlement::Ack => {
                if !written.contains(&entry.body) {
                    books.acked_unwritten.push(entry.body.clone());
                }
                books.acked.push(entry.body);
            }
            Settlement::DeadLetter { .. } | Settlement::Reject { .. } => books.dead.push(entry.body),
            Settlement::Retry { .. } => self.ready.push_back(Entry { attempt: entry.attempt + 1, ..entry }),
            Settlement::Release => self.ready.push_front(entry),
        }
    }

    /// The connection is gone, and there again at once.
    fn lose(&mut self) {
        self.take_back();
        self.link.session += 1;
        self.link.notify(Notice::Lost(Error::Lost { source: None }));
        self.link.established();
    }

    fn take_back(&mut self) {
        for (_, (entry, lost)) in std::mem::take(&mut self.held) {
            lost.cancel();
            self.ready.push_front(entry);
        }
    }
}
