//! What the probes tell: whether the worker moves, and whether it takes messages.
//!
//! The worker notes what it is at, in plain numbers; whoever asks judges them, in another thread. Nothing here makes a message
//! wait.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior};

use super::breaker::BreakerState;
use crate::locks::lock;

/// How often the loop gives a sign of life if nothing else wakes it.
const BEAT: Duration = Duration::from_secs(1);

/// How long the loop may give none. Each of its steps is over in an instant, and a machine that is as busy as this keeps no
/// connection either: heartbeats are due every few seconds.
const SILENCE: Duration = Duration::from_secs(10);

/// What a message that is under way is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its guest runs, or waits for its turn.
    Running,
    /// Its result is written.
    Delivering,
    /// The broker is told what becomes of it.
    Settling,
}

/// How long a message may be at each stage. The parts of the worker hold to these bounds by themselves; this notices when one
/// does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    pub running: Duration,
    pub delivering: Duration,
    pub settling: Duration,
}

/// What is known of a worker.
#[derive(Debug)]
pub struct Health {
    /// The worker's moments are told in milliseconds since this one.
    origin: Instant,
    is_watched: bool,
    bounds: Bounds,
    /// The moment of the last sign of life.
    beat: AtomicU64,
    /// The time for which the loop has run, in milliseconds. It stands still while the process is stopped, as by SIGSTOP.
    clock: AtomicU64,
    /// A cell for each message that can be under way: 0, or its stage and the time on `clock` when that began.
    under_way: Box<[AtomicU64]>,
    /// Where a free cell is looked for first.
    next: AtomicUsize,
    phase: Mutex<Phase>,
    is_connected: AtomicBool,
    /// How many times it has begun to consume.
    connections: AtomicU64,
    /// Messages that this worker has.
    in_flight: AtomicU64,
    breaker: BreakerState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest is being loaded. That has a bound of its own.
    Starting,
    Working,
    /// It takes nothing more: why.
    Stopping(String),
    /// It takes nothing more, and its process has to end: why.
    Failed(String),
    /// The loop has ended, and the connections do. That has a bound of its own.
    Closing,
}

/// A message that is under way. Dropped when it is not.
#[derive(Debug)]
pub struct Place {
    health: Arc<Health>,
    cell: usize,
}

/// Wakes the loop for its signs of life.
pub struct Heart(Option<Interval>);

impl Default for Health {
    /// Of a worker that nobody watches.
    fn default() -> Health {
        Health::new(false, Bounds::default(), 0)
    }
}

impl Health {
    /// Of a worker that is watched. At most `places` messages are under way at the same time.
    pub fn watched(bounds: Bounds, places: usize) -> Health {
        Health::new(true, bounds, places)
    }

    fn new(is_watched: bool, bounds: Bounds, places: usize) -> Health {
        Health {
            origin: Instant::now(),
            is_watched,
            bounds,
            beat: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            under_way: (0..places).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
            phase: Mutex::new(Phase::Starting),
            is_connected: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            breaker: BreakerState::default(),
        }
    }

    // --- what the worker notes ---

    /// The loop begins.
    pub fn works(&self) -> Heart {
        self.beat.store(self.now(), Ordering::Relaxed);
        *lock(&self.phase) = Phase::Working;
        Heart(self.is_watched.then(|| {
            let mut interval = tokio::time::interval(BEAT);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// The loop moves.
    pub fn beats(&self) {
        if self.is_watched {
            let now = self.now();
            let passed = now.saturating_sub(self.beat.swap(now, Ordering::Relaxed));
            self.clock.fetch_add(passed.min(2 * millis(BEAT)), Ordering::Relaxed);
        }
    }

    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.is_connected.store(true, Ordering::Relaxed);
    }

    pub fn disconnected(&self) {
        self.is_connected.store(false, Ordering::Relaxed);
    }

    /// A message was handed to this worker.
    pub fn taken(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One has ended.
    pub fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nothing more is taken. `failed` if the process has to end for it.
    pub fn stops(&self, why: &impl ToString, failed: bool) {
        if self.is_watched {
            *lock(&self.phase) = if failed { Phase::Failed(why.to_string()) } else { Phase::Stopping(why.to_string()) };
        }
    }

    /// The loop has ended.
    pub fn closes(&self) {
        let mut phase = lock(&self.phase);
        if !matches!(*phase, Phase::Failed(_)) {
            *phase = Phase::Closing;
        }
    }

    /// Where the worker says whether its breaker is open.
    pub fn breaker(&self) -> &BreakerState {
        &self.breaker
    }

    /// A message is under way from now on. `None` if nobody watches.
    pub fn enter(self: &Arc<Health>) -> Option<Place> {
        let cells = self.under_way.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mark = self.mark(Stage::Running);
        let takes = |cell: &usize| {
            self.under_way[*cell].compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let cell = (0..cells).map(|offset| first.wrapping_add(offset) % cells).find(takes)?;
        Some(Place { health: self.clone(), cell })
    }

    /// What a cell holds of a stage that begins now.
    fn mark(&self, stage: Stage) -> u64 {
        self.clock.load(Ordering::Relaxed) << 2 | stage.mark()
    }

    // --- what others read ---

    /// Whether the worker moves; the error says why it does not.
    ///
    /// # Errors
    /// When it has to be started anew.
    pub fn is_alive(&self) -> Result<(), String> {
        match &*lock(&self.phase) {
            Phase::Failed(why) => return Err(why.clone()),
            Phase::Starting | Phase::Closing => return Ok(()),
            Phase::Working | Phase::Stopping(_) => {}
        }
        let silent = Duration::from_millis(self.now().saturating_sub(self.beat.load(Ordering::Relaxed)));
        if silent > SILENCE {
            return Err(format!("the worker's loop has not moved for {}", seconds(silent)));
        }
        let clock = self.clock.load(Ordering::Relaxed);
        for cell in &self.under_way {
            let mark = cell.load(Ordering::Relaxed);
            let Some(stage) = Stage::of_mark(mark) else { continue };
            let since = Duration::from_millis(clock.saturating_sub(mark >> 2));
            let (what, bound) = match stage {
                Stage::Running => ("a guest has not been stopped", self.bounds.running),
                Stage::Delivering => ("a result has not been delivered or given up", self.bounds.delivering),
                Stage::Settling => ("a settlement has not been made or given up", self.bounds.settling),
            };
            if since > bound {
                return Err(format!("{what} for {}; it has {}", seconds(since), seconds(bound)));
            }
        }
        Ok(())
    }

    /// Whether the worker takes messages; the error says why it does not.
    ///
    /// # Errors
    /// When it does not, for now or any more.
    pub fn is_ready(&self) -> Result<(), String> {
        match &*lock(&self.phase) {
            Phase::Starting => return Err("starting: the guest is being loaded".into()),
            Phase::Stopping(why) | Phase::Failed(why) => return Err(format!("stopping: {why}")),
            Phase::Closing => return Err("stopping: the connections are being closed".into()),
            Phase::Working => {}
        }
        if !self.is_connected() {
            return Err(match self.connections.load(Ordering::Relaxed) {
                0 => "not connected to the broker yet".into(),
                _ => "not connected to the broker: the connection was lost".into(),
            });
        }
        if self.breaker.is_open() {
            return Err("paused: too many messages failed in a row (--breaker)".into());
        }
        Ok(())
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// How many messages this worker has: those that have ended are not among them, those that wait for their turn are.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many times a connection was made again.
    pub fn reconnects(&self) -> u64 {
        self.connections.load(Ordering::Relaxed).saturating_sub(1)
    }

    fn now(&self) -> u64 {
        millis(self.origin.elapsed())
    }
}

impl Heart {
    /// Returns when the next sign of life is due.
    pub async fn is_due(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

impl Place {
    pub fn is_at(&self, stage: Stage) {
        self.health.under_way[self.cell].store(self.health.mark(stage), Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.health.under_way[self.cell].store(0, Ordering::Relaxed);
    }
}

impl Stage {
    /// Two bits, not both of them 0.
    fn mark(self) -> u64 {
        match self {
            Stage::Running => 1,
            Stage::Delivering => 2,
            Stage::Settling => 3,
        }
    }

    fn of_mark(mark: u64) -> Option<Stage> {
        [Stage::Running, Stage::Delivering, Stage::Settling].into_iter().find(|stage| stage.mark() == mark & 3)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        running: Duration::from_secs(30),
        delivering: Duration::from_secs(20),
        settling: Duration::from_secs(10),
    };

    /// A worker that consumes.
    async fn working(places: usize) -> Arc<Health> {
        let health = Arc::new(Health::watched(BOUNDS, places));
        drop(health.works());
        health.connected();
        assert_eq!((health.is_alive(), health.is_ready()), (Ok(()), Ok(())));
        health
    }

    /// Time passes, in which the loop moves.
    fn pass(health: &Health, duration: Duration) {
        health.clock.fetch_add(millis(duration), Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_stage_that_outlives_its_bound_turns_the_probe_red_until_it_ends() {
        for (stage, bound, says) in [
            (Stage::Running, BOUNDS.running, "guest"),
            (Stage::Delivering, BOUNDS.delivering, "result"),
            (Stage::Settling, BOUNDS.settling, "settlement"),
        ] {
            let health = working(3).await;
            let (other, place) = (health.enter().unwrap(), health.enter().unwrap());
            pass(&health, Duration::from_secs(5));
            place.is_at(stage);
            pass(&health, bound);
            other.is_at(Stage::Delivering);
            assert_eq!(health.is_alive(), Ok(()), "{stage:?}");
            pass(&health, Duration::from_millis(1));
            assert!(health.is_alive().unwrap_err().contains(says), "{:?}", health.is_alive());
            assert_eq!(health.is_ready(), Ok(()), "it still takes messages");
            drop(place);
            assert_eq!(health.is_alive(), Ok(()), "{stage:?}");
        }
    }

    #[tokio::test]
    async fn each_message_has_a_cell_of_its_own_as_long_as_there_is_one() {
        let health = working(2).await;
        let places = [health.enter(), health.enter()];
        let [Some(one), Some(other)] = &places else { panic!("there are two") };
        assert_ne!(one.cell, other.cell);
        assert!(health.enter().is_none());
        drop(places);
        assert!(health.under_way.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
        for _ in 0..5 {
            assert!(health.enter().is_some());
        }
    }

    #[tokio::test]
    async fn a_loop_that_stands_still_turns_the_probe_red_and_time_stands_still_for_what_is_under_way() {
        // As it looks when the process was stopped for an hour, in which no sign of life came.
        let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(3600)) else { return };
        let health = Health { origin: long_ago, ..Health::watched(BOUNDS, 1) };
        *lock(&health.phase) = Phase::Working;
        assert!(health.is_alive().unwrap_err().contains("1h"), "{:?}", health.is_alive());
        health.beats();
        assert_eq!(health.is_alive(), Ok(()));
        assert!(health.clock.load(Ordering::Relaxed) <= 2 * millis(BEAT));
    }

    #[tokio::test]
    async fn a_worker_is_ready_only_while_it_consumes() {
        let health = Health::watched(BOUNDS, 1);
        assert!(health.is_ready().unwrap_err().contains("guest is being loaded"));
        drop(health.works());
        assert!(health.is_ready().unwrap_err().contains("not connected to the broker yet"));
        health.connected();
        assert_eq!(health.is_ready(), Ok(()));
        health.disconnected();
        assert!(health.is_ready().unwrap_err().contains("connection was lost"));
        health.connected();
        assert_eq!((health.is_ready(), health.reconnects()), (Ok(()), 1));
        health.breaker().set_open(true);
        assert!(health.is_ready().unwrap_err().contains("--breaker"));
        health.breaker().set_open(false);
        health.stops(&"SIGTERM", false);
        assert!(health.is_ready().unwrap_err().contains("SIGTERM"));
        assert_eq!(health.is_alive(), Ok(()));
        health.closes();
        assert!(health.is_ready().is_err());
        assert_eq!(health.is_alive(), Ok(()));
    }

    #[tokio::test]
    async fn a_worker_that_failed_is_not_alive_until_its_end() {
        let health = working(1).await;
        health.stops(&"a guest could not be stopped", true);
        health.closes();
        assert_eq!(health.is_alive(), Err("a guest could not be stopped".into()));
    }
}
