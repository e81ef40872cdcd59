//! A broker for these tests that keeps books, whose calls take their time and fail, and a worker that leaves at any moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::scripted::{TERMS, in_time, options, passing, subscribe, taken};
use crate::broker::error::Error;
use crate::broker::leased::{Held, Leases, Renewed, Taken, Terms};
use crate::broker::subscription::{Depth, Notice, Options};
use crate::task::Settlement;

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    messages: u64,
    prefetch: u16,
    count: Option<u64>,
    /// How many messages the worker settles before it leaves.
    settlements: usize,
    /// Whether it says so first, and not only closes.
    cancels: bool,
    at_once: usize,
    /// Whether takes and settlements are made together.
    together: bool,
}

struct Books {
    random: fastrand::Rng,
    ready: VecDeque<u64>,
    /// Messages by their leases.
    leased: BTreeMap<u64, u64>,
    acked: BTreeSet<u64>,
    taken: u64,
    taking: bool,
    settling: usize,
    case: Case,
}

#[derive(Clone)]
struct Keeper<const REMOTE: bool>(Arc<Mutex<Books>>);

impl<const REMOTE: bool> Keeper<REMOTE> {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().expect("no test panics here")
    }

    /// The way to the broker, or back.
    async fn way(&self) {
        let micros = self.books().random.u64(0..2000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    fn may_fail(&self) -> Result<(), Error> {
        if self.books().random.u8(0..8) == 0 { Err(passing()) } else { Ok(()) }
    }
}

impl<const R: bool> Leases for Keeper<R> {
    type Place = Keeper<R>;
    type Lease = u64;
    const REMOTE: bool = R;

    async fn open(place: &Keeper<R>, _options: &Options) -> Result<Keeper<R>, Error> {
        Ok(place.clone())
    }

    fn terms(&self) -> Terms {
        let Case { at_once, together, .. } = self.books().case;
        Terms { renew: Duration::from_millis(2), settlements: at_once, together, ..TERMS }
    }

    async fn take(&self, room: usize, hurry: CancellationToken) -> Result<Vec<Taken<u64>>, Error> {
        assert!(!std::mem::replace(&mut self.books().taking, true), "two takes at a time");
        self.way().await;
        let failed = self.may_fail();
        let taken: Vec<u64> = {
            let mut books = self.books();
            let room = if failed.is_ok() { room.min(books.ready.len()) } else { 0 };
            let messages: Vec<u64> = books.ready.drain(..room).collect();
            let leases: Vec<u64> = messages
                .into_iter()
                .map(|message| {
                    books.taken += 1;
                    let lease = books.taken;
                    books.leased.insert(lease, message);
                    lease
                })
                .collect();
            // Those that are being settled have left their places, where takes are made together with settlements.
            let room = usize::from(books.case.prefetch) * if books.case.together { 2 } else { 1 };
            assert!(books.leased.len() <= room, "more than there is room for");
            leases
        };
        if taken.is_empty() && failed.is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(5), hurry.cancelled()).await;
        }
        // What was taken is on its way: a call that is dropped here loses it.
        self.way().await;
        self.books().taking = false;
        failed.map(|()| taken.into_iter().map(self::taken).collect())
    }

    async fn renew(&self, _leases: Vec<(u64, Arc<u64>)>) -> Result<Renewed, Error> {
        self.way().await;
        self.may_fail().map(|()| Renewed::default())
    }

    async fn settle(&self, lease: &Arc<u64>, settlement: &Settlement) -> Result<Held, Error> {
        self.books().settling += 1;
        self.way().await;
        let failed = self.may_fail();
        {
            let mut books = self.books();
            assert!(books.settling <= books.case.at_once, "more settlements than at once");
            books.settling -= 1;
            if failed.is_ok() {
                let Some(message) = books.leased.remove(lease) else { return Ok(Held::Lost) };
                match settlement {
                    Settlement::Ack => drop(books.acked.insert(message)),
                    _ => books.ready.push_back(message),
                }
            }
        }
        failed.map(|()| Held::Yes)
    }

    async fn depth(&self) -> Result<Depth, Error> {
        assert!(!self.books().taking, "a look beside a take");
        Ok(Depth { ready: self.books().ready.len() as u64, ..Depth::default() })
    }

    async fn close(&self) -> Result<(), Error> {
        assert!(!self.books().taking, "the end beside a take");
        Ok(())
    }

    fn passes(error: &Error) -> bool {
        matches!(error, Error::Unpublished { .. })
    }
}

/// Works until it is time to leave.
async fn work<const REMOTE: bool>(case: Case) -> Arc<Mutex<Books>> {
    let books = Books {
        random: fastrand::Rng::with_seed(case.seed),
        ready: (0..case.messages).collect(),
        leased: BTreeMap::new(),
        acked: BTreeSet::new(),
        taken: 0,
        taking: false,
        settling: 0,
        case,
    };
    let keeper = Keeper::<REMOTE>(Arc::new(Mutex::new(books)));
    let options = options(case.prefetch, case.count);
    let (mut subscription, _went) = subscribe::<Keeper<REMOTE>>(keeper.clone(), options);
    let mut runs = JoinSet::new();
    let (mut started, mut settled) = (0, 0);
    while settled < case.settlements && keeper.books().acked.len() < case.messages as usize {
        tokio::select! {
            Some(run) = runs.join_next() => {
                settled += 1;
                let run: Result<(), Error> = run.expect("no run panics");
                run.expect("nothing is lost");
                if case.count == Some(started) && runs.is_empty() {
                    break;
                }
            }
            Some(notice) = subscription.next() => match notice {
                Notice::Delivery(delivery) => {
                    started += 1;
                    subscription.probe();
                    let keeper = keeper.clone();
                    runs.spawn(async move {
                        keeper.way().await;
                        let how = keeper.books().random.u8(0..4);
                        match how {
                            0 => delivery.receipt.settle(Settlement::Release).await,
                            // Dropped, as by a panic.
                            1 => {
                                drop(delivery);
                                Ok(())
                            }
                            _ => delivery.receipt.settle(Settlement::Ack).await,
                        }
                    });
                }
                Notice::Established => subscription.probe(),
                Notice::Depth(_) => {}
                other => panic!("{other:?}"),
            },
        }
    }
    if case.cancels {
        subscription.cancel();
    }
    while let Some(run) = runs.join_next().await {
        run.expect("no run panics").expect("nothing is lost");
    }
    subscription.close().await.expect("the end is clean");
    keeper.0
}

fn case() -> impl Strategy<Value = Case> {
    let count = prop::option::weighted(0.3, 1u64..12);
    (any::<u64>(), 0u64..20, 1u16..6, count, 0usize..25, any::<bool>(), 1usize..5, any::<bool>()).prop_map(
        |(seed, messages, prefetch, count, settlements, cancels, at_once, together)| Case {
            seed,
            messages,
            prefetch,
            count,
            settlements,
            cancels,
            at_once,
            together,
        },
    )
}

proptest! {
    // A smaller case takes other ways, since its calls take other times.
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_acknowledged_or_given_back_whenever_the_worker_leaves(case in case(), remote in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let books = runtime.block_on(in_time(async {
            if remote { work::<true>(case).await } else { work::<false>(case).await }
        }));
        let books = books.lock().expect("no test panics here");
        prop_assert!(books.leased.is_empty() && !books.taking, "away: {:?}", books.leased);
        let mut all: Vec<u64> = books.ready.iter().copied().chain(books.acked.iter().copied()).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..case.messages).collect::<Vec<_>>());
        prop_assert!(case.count.is_none_or(|count| books.taken <= count));
    }
}
