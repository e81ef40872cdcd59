//! The breaker: takes no more messages when many different ones fail in a row, and finds out when to go on.
//!
//! It is pure. It hears how runs ended and what time it is, and says how many runs may begin.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use crate::settle::Backoff;
use crate::task::Message;

#[derive(Clone, Debug)]
pub struct Options {
    /// So many different messages that fail in a row open the breaker; 0 is never.
    pub failures: u32,
    /// The pauses before each try.
    pub pauses: Backoff,
    /// The worker ends when so many tries have failed in a row; `None` is never.
    pub tries: Option<u32>,
}

/// A breaker is closed as long as messages are taken.
#[derive(Debug)]
pub struct Breaker {
    options: Options,
    state: State,
    /// Goes on with each change of the state: a run that began before it says nothing about what came after.
    round: u32,
}

#[derive(Debug)]
enum State {
    /// With the messages that failed since the last success.
    Closed { failed: HashSet<u64>, count: u32 },
    /// Nothing is taken until then. So many tries have failed.
    Open { until: Instant, tries: u32 },
    /// One message is taken, and decides.
    Trying { tries: u32, has_begun: bool },
}

/// What the end of a run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The guest did its work.
    Success,
    /// The guest failed with this message.
    Failure(Culprit),
    /// Nothing about the guest.
    Nothing,
}

/// Tells one message from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Culprit {
    key: u64,
    /// It has not failed before, whatever its key.
    is_new: bool,
}

/// What follows from the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing more is taken, and one message is tried after the pause.
    Opens { pause: Duration },
    /// The try failed. The next one comes after the pause.
    StaysOpen { pause: Duration },
    /// The last try failed.
    GivesUp { tries: u32 },
    /// The try succeeded, and all goes on.
    Closes,
}

impl Options {
    /// A worker without a breaker.
    #[cfg(test)]
    pub fn never() -> Options {
        Options::soon(0, None)
    }

    /// A breaker that tries again soon.
    #[cfg(test)]
    pub fn soon(failures: u32, tries: Option<u32>) -> Options {
        let pauses = Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(4), factor: 2.0 };
        Options { failures, pauses, tries }
    }
}

impl Breaker {
    pub fn new(options: Options) -> Breaker {
        Breaker { options, state: State::closed(), round: 0 }
    }

    /// So many different messages that fail in a row open it.
    pub fn failures(&self) -> u32 {
        self.options.failures
    }

    /// How many more runs may begin; `None` is any number.
    pub fn room(&self) -> Option<u64> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { .. } | State::Trying { has_begun: true, .. } => Some(0),
            State::Trying { has_begun: false, .. } => Some(1),
        }
    }

    /// A run begins. Returns the round that it belongs to.
    pub fn begin(&mut self) -> u32 {
        if let State::Trying { has_begun, .. } = &mut self.state {
            *has_begun = true;
        }
        self.round
    }

    /// When one message is to be tried.
    pub fn due(&self) -> Option<Instant> {
        if let State::Open { until, .. } = self.state { Some(until) } else { None }
    }

    /// The pause is over.
    pub fn try_one(&mut self) {
        if let State::Open { tries, .. } = self.state {
            self.enter(State::Trying { tries, has_begun: false });
        }
    }

    /// A run of this round has ended. `jitter` is a random number in `0.0..1.0`.
    pub fn ended(&mut self, round: u32, sign: Sign, now: Instant, jitter: f64) -> Option<Change> {
        if self.options.failures == 0 || round != self.round {
            return None;
        }
        match &mut self.state {
            State::Closed { failed, count } => match sign {
                Sign::Nothing => None,
                Sign::Success => {
                    failed.clear();
                    *count = 0;
                    None
                }
                Sign::Failure(Culprit { key, is_new }) => {
                    let is_another = failed.insert(key) || is_new;
                    *count += u32::from(is_another);
                    (*count >= self.options.failures).then(|| Change::Opens { pause: self.open(0, now, jitter) })
                }
            },
            // Of this round nothing has begun.
            State::Open { .. } => None,
            State::Trying { .. } if sign == Sign::Success => {
                self.enter(State::closed());
                Some(Change::Closes)
            }
            // A try that says nothing is counted too: a message that the guest gives back each time would otherwise be tried
            // without a bound.
            State::Trying { tries, .. } => {
                let tries = tries.saturating_add(1);
                let pause = self.open(tries, now, jitter);
                Some(match self.options.tries {
                    Some(most) if tries >= most => Change::GivesUp { tries },
                    _ => Change::StaysOpen { pause },
                })
            }
        }
    }

    fn open(&mut self, tries: u32, now: Instant, jitter: f64) -> Duration {
        let pause = self.options.pauses.pause(tries.saturating_add(1), jitter);
        self.enter(State::Open { until: now + pause, tries });
        pause
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.round = self.round.wrapping_add(1);
    }
}

impl State {
    fn closed() -> State {
        State::Closed { failed: HashSet::new(), count: 0 }
    }
}

impl Culprit {
    /// A message is identified by its id. Without an id, its first attempt always counts as another message, since several
    /// messages may have the same body. Later attempts are identified by the body.
    pub fn of(message: &Message, attempt: u32) -> Culprit {
        /// As much of a body as is looked at: a run must not wait for a hash of megabytes.
        const LOOKED_AT: usize = 64 << 10;
        let id = message.properties.message_id.as_deref().filter(|id| !id.is_empty());
        let mut hasher = DefaultHasher::new();
        match id {
            Some(id) => id.hash(&mut hasher),
            None => {
                message.body.len().hash(&mut hasher);
                message.body[..message.body.len().min(LOOKED_AT)].hash(&mut hasher);
            }
        }
        Culprit { key: hasher.finish(), is_new: id.is_none() && attempt == 1 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::Properties;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(failures: u32, tries: Option<u32>) -> Breaker {
        let pauses = Backoff { initial: SECOND, max: 60 * SECOND, factor: 2.0 };
        Breaker::new(Options { failures, pauses, tries })
    }

    fn failure(key: u64) -> Sign {
        Sign::Failure(Culprit { key, is_new: false })
    }

    fn culprit(id: Option<&str>, body: &'static str, attempt: u32) -> Culprit {
        let properties = Properties { message_id: id.map(str::to_owned), ..Properties::default() };
        Culprit::of(&Message { body: body.into(), properties, ..Message::default() }, attempt)
    }

    /// A breaker that has just opened, and when its first try is due.
    fn opened(tries: Option<u32>) -> (Breaker, Instant) {
        let (mut breaker, now) = (breaker(1, tries), Instant::now());
        let round = breaker.begin();
        assert!(matches!(breaker.ended(round, failure(1), now, 1.0), Some(Change::Opens { .. })));
        let due = breaker.due().unwrap();
        (breaker, due)
    }

    #[test]
    fn messages_are_told_apart_by_their_ids_and_without_one_by_their_first_attempts() {
        let sign = |culprit| Sign::Failure(culprit);
        let now = Instant::now();
        let opens = |culprits: &[Culprit]| {
            let mut breaker = breaker(2, None);
            culprits.iter().any(|culprit| {
                let round = breaker.begin();
                breaker.ended(round, sign(*culprit), now, 0.5).is_some()
            })
        };
        assert!(!opens(&[culprit(Some("a"), "x", 1), culprit(Some("a"), "y", 2), culprit(Some("a"), "x", 1)]));
        assert!(opens(&[culprit(Some("a"), "x", 1), culprit(Some("b"), "x", 1)]));
        assert!(!opens(&[culprit(None, "x", 1), culprit(None, "x", 2), culprit(Some(""), "x", 3)]));
        assert!(opens(&[culprit(None, "x", 1), culprit(None, "x", 1)]));
        assert!(opens(&[culprit(None, "x", 2), culprit(None, "y", 2)]));
    }

    #[test]
    fn a_run_that_began_before_the_breaker_opened_decides_nothing() {
        let now = Instant::now();
        let mut breaker = breaker(2, None);
        let early = breaker.begin();
        for key in [1, 2] {
            let round = breaker.begin();
            breaker.ended(round, failure(key), now, 0.5);
        }
        breaker.try_one();
        assert_eq!(breaker.room(), Some(1));
        assert_eq!(breaker.ended(early, Sign::Success, now, 0.5), None);
        let tried = breaker.begin();
        assert_eq!(breaker.ended(early, failure(3), now, 0.5), None);
        assert_eq!(breaker.ended(tried, Sign::Success, now, 0.5), Some(Change::Closes));
        // Nor does one that failed while the breaker was open count once it is closed again.
        for key in [4, 5, 6] {
            assert_eq!(breaker.ended(early, failure(key), now, 0.5), None);
        }
        assert_eq!(breaker.room(), None);
    }

    #[test]
    fn the_pause_before_each_try_is_longer_than_the_one_before_up_to_a_bound() {
        let (mut breaker, mut now) = opened(None);
        let mut pauses = Vec::new();
        for sign in [failure(1), Sign::Nothing, failure(1), failure(2), failure(1), failure(1), failure(1)] {
            breaker.try_one();
            let round = breaker.begin();
            let Some(Change::StaysOpen { pause }) = breaker.ended(round, sign, now, 1.0) else {
                panic!("it stays open")
            };
            assert_eq!(breaker.due(), Some(now + pause));
            now += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        breaker.try_one();
        let round = breaker.begin();
        assert_eq!(breaker.ended(round, Sign::Success, now, 1.0), Some(Change::Closes));
        // The next time it begins anew.
        let round = breaker.begin();
        assert_eq!(breaker.ended(round, failure(9), now, 1.0), Some(Change::Opens { pause: SECOND }));
    }

    #[test]
    fn a_worker_that_has_to_end_gives_up_after_its_tries() {
        let (mut breaker, now) = opened(Some(3));
        for tries in 1..=3 {
            breaker.try_one();
            let round = breaker.begin();
            let change = breaker.ended(round, failure(1), now, 0.5);
            assert_eq!(change == Some(Change::GivesUp { tries: 3 }), tries == 3, "{change:?}");
        }
    }

    /// What happens, with one message or another.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin,
        End(usize, Sign),
        PauseOver,
    }

    fn step() -> impl Strategy<Value = Step> {
        let sign = prop_oneof![2 => Just(Sign::Success), 6 => (0u64..6).prop_map(failure), 1 => Just(Sign::Nothing)];
        prop_oneof![
            6 => Just(Step::Begin),
            8 => (any::<usize>(), sign).prop_map(|(which, sign)| Step::End(which, sign)),
            1 => Just(Step::PauseOver),
        ]
    }

    proptest! {
        #[test]
        fn it_opens_at_the_last_of_so_many_different_messages_that_fail_in_a_row(
            failures in 1u32..6, signs in prop::collection::vec((0u64..8, prop::bool::weighted(0.8)), 0..60),
        ) {
            let now = Instant::now();
            let mut breaker = breaker(failures, None);
            let mut in_a_row = std::collections::BTreeSet::new();
            for (key, fails) in signs {
                let round = breaker.begin();
                let change = breaker.ended(round, if fails { failure(key) } else { Sign::Success }, now, 0.5);
                if fails { in_a_row.insert(key); } else { in_a_row.clear(); }
                let opens = in_a_row.len() >= failures as usize;
                prop_assert_eq!(change.is_some(), opens, "{:?}", in_a_row);
                prop_assert_eq!(breaker.room(), opens.then_some(0));
                if opens { break; }
            }
        }

        /// Whatever ends when, at most so many runs begin in a pause as tries were due.
        #[test]
        fn no_run_begins_while_it_is_open_but_one_a_try(steps in prop::collection::vec(step(), 0..200)) {
            let now = Instant::now();
            let mut breaker = breaker(3, None);
            let mut running: Vec<u32> = Vec::new();
            let mut allowed: Option<u64> = None;
            for step in steps {
                match step {
                    Step::Begin => {
                        prop_assert_eq!(breaker.room(), allowed);
                        if breaker.room() != Some(0) {
                            running.push(breaker.begin());
                            allowed = allowed.map(|left| left - 1);
                        }
                    }
                    Step::End(which, sign) if !running.is_empty() => {
                        let round = running.swap_remove(which % running.len());
                        match breaker.ended(round, sign, now, 0.5) {
                            None => {}
                            Some(Change::Closes) => {
                                prop_assert_eq!((sign, allowed), (Sign::Success, Some(0)));
                                allowed = None;
                            }
                            Some(Change::Opens { .. }) => {
                                prop_assert!(allowed.is_none() && matches!(sign, Sign::Failure(_)));
                                allowed = Some(0);
                            }
                            Some(Change::StaysOpen { .. }) => prop_assert!(allowed == Some(0) && sign != Sign::Success),
                            Some(Change::GivesUp { .. }) => prop_assert!(false, "it has no last try"),
                        }
                    }
                    Step::End(..) => {}
                    Step::PauseOver => {
                        if breaker.due().is_some() {
                            breaker.try_one();
                            allowed = Some(1);
                        }
                    }
                }
                prop_assert!(breaker.due().is_none() || breaker.room() == Some(0));
            }
        }

        #[test]
        fn one_that_is_off_never_opens(steps in prop::collection::vec(step(), 0..60)) {
            let mut breaker = breaker(0, Some(1));
            for step in steps {
                if let Step::End(_, sign) = step {
                    let round = breaker.begin();
                    prop_assert_eq!(breaker.ended(round, sign, Instant::now(), 0.5), None);
                }
            }
            prop_assert_eq!(breaker.room(), None);
        }
    }
}
