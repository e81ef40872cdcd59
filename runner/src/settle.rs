//! The policy: which settlement follows from which verdict.
//!
//! It is pure: the table of the contract, and nothing else.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::task::{Attempt, Failure, Outcome, Settlement, Usage, Verdict};

#[derive(Clone, Debug)]
pub struct Policy {
    /// Runs that one message gets, the first included.
    pub max_attempts: u32,
    pub exits: ExitMap,
    pub backoff: Backoff,
    /// Messages that failed for good are rejected, and the broker's dead-lettering decides.
    pub rejects: bool,
}

/// What an exit code asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Ack,
    Retry,
    DeadLetter,
    Release,
}

/// Exit code to action: the user's ranges first, then the built-in table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitMap(Vec<(RangeInclusive<u8>, Action)>);

/// Pauses between the attempts: `initial`, then `factor` times longer each time, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
    pub factor: f64,
}

// === impl Policy ===

impl Policy {
    /// Whether this counts as the task done: its output is delivered and its message acknowledged.
    pub fn succeeds(&self, verdict: &Verdict) -> bool {
        self.action(verdict) == Action::Ack
    }

    /// Whether the guest was run, and failed: its message is tried again, or put aside.
    pub fn is_failed_run(&self, verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Run(_)) && matches!(self.action(verdict), Action::Retry | Action::DeadLetter)
    }

    /// Whether a message is given up, because this many of its runs ended without an outcome.
    ///
    /// It takes at least three such runs, even with `--max-attempts 1` or `2`: some brokers also count messages that a worker
    /// gave back, and a few restarts must not make a message a dead letter.
    pub fn gives_up(&self, unfinished: u32) -> bool {
        const AT_LEAST: u32 = 3;
        unfinished >= self.max_attempts.max(AT_LEAST)
    }

    /// The longest pause that it makes.
    pub fn longest_pause(&self) -> Duration {
        match self.max_attempts {
            0 | 1 => Duration::ZERO,
            // The last attempt is followed by none.
            attempts => self.backoff.pause(attempts - 1, 1.0),
        }
    }

    /// Decides about a message after its run.
    ///
    /// `stderr` is the end of the guest's stderr. `jitter` is a random number in `0.0..1.0`, passed in so that this function
    /// stays pure.
    pub fn decide(
        &self,
        verdict: &Verdict,
        stderr: &str,
        guest: &str,
        attempt: Attempt,
        now: SystemTime,
        jitter: f64,
    ) -> Settlement {
        let failure = || {
            Box::new(Failure {
                outcome: verdict.name(),
                exit_code: verdict.exit_code(),
                error: verdict.to_string(),
                stderr: stderr.to_owned(),
                guest: guest.to_owned(),
                attempt: attempt.number,
                at: now,
                usage: Usage::default(),
            })
        };
        let put_aside = || match self.rejects {
            true => Settlement::Reject { failure: failure() },
            false => Settlement::DeadLetter { failure: failure() },
        };
        match self.action(verdict) {
            Action::Ack => Settlement::Ack,
            Action::Release => Settlement::Release,
            Action::DeadLetter => put_aside(),
            Action::Retry if attempt.is_last() => put_aside(),
            Action::Retry => {
                Settlement::Retry { after: self.backoff.pause(attempt.number, jitter), failure: failure() }
            }
        }
    }

    fn action(&self, verdict: &Verdict) -> Action {
        match verdict {
            Verdict::Run(outcome) => self.after_run(outcome),
            // The same the next time.
            Verdict::Abandoned(_)
            | Verdict::TooLarge(_)
            | Verdict::Unreadable(_)
            | Verdict::Undecodable(_)
            | Verdict::Undeliverable(_) => Action::DeadLetter,
            Verdict::Refused(..) | Verdict::HostFault(_) => Action::Release,
        }
    }

    fn after_run(&self, outcome: &Outcome) -> Action {
        match outcome {
            Outcome::Succeeded => self.exits.action(0),
            Outcome::Exited(code) => self.exits.action(*code),
            Outcome::Silent
            | Outcome::Trapped(_)
            | Outcome::TimedOut(_)
            | Outcome::Stuck(_)
            | Outcome::Crashed(_)
            | Outcome::LimitExceeded(_) => Action::Retry,
            Outcome::Withdrawn | Outcome::Interrupted | Outcome::HostFault(_) | Outcome::Blocked(_) => Action::Release,
        }
    }
}

// === impl ExitMap ===

impl ExitMap {
    fn action(&self, code: u8) -> Action {
        // The last entry wins, as with any option that is given twice.
        if let Some((_, action)) = self.0.iter().rev().find(|(codes, _)| codes.contains(&code)) {
            return *action;
        }
        match code {
            0 => Action::Ack,
            // 3 is rabbitmq-cli-consumer's "reject", 65 is EX_DATAERR.
            3 | 65 => Action::DeadLetter,
            // rabbitmq-cli-consumer's "nack and requeue".
            6 => Action::Release,
            _ => Action::Retry,
        }
    }
}

/// `17=dead-letter,20-29=retry`
impl FromStr for ExitMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = |entry: &str| {
            let (codes, action) = entry.split_once('=').ok_or_else(|| format!("`{entry}` is not CODE=ACTION"))?;
            let code = |text: &str| {
                text.trim().parse::<u8>().map_err(|_| format!("`{text}` is not an exit code from 0 to 255"))
            };
            let (first, last) = codes.split_once('-').unwrap_or((codes, codes));
            let codes = code(first)?..=code(last)?;
            if codes.is_empty() {
                return Err(format!("the range `{first}-{last}` is empty"));
            }
            let action = match action.trim() {
                "ack" => Action::Ack,
                "retry" => Action::Retry,
                "dead-letter" => Action::DeadLetter,
                "release" => Action::Release,
                other => {
                    return Err(format!("`{other}` is none of ack, retry, dead-letter, release"));
                }
            };
            Ok((codes, action))
        };
        text.split(',').map(entry).collect::<Result<_, _>>().map(ExitMap)
    }
}

// === impl Backoff ===

impl Backoff {
    /// The pause after attempt number `attempt`: between half of its nominal length and all of it.
    ///
    /// The random half keeps messages that failed together from coming back together.
    pub fn pause(&self, attempt: u32, jitter: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let nominal = self.initial.as_secs_f64() * self.factor.powi(exponent);
        // `min` also answers infinity, and NaN (0 times infinity), with the cap.
        let seconds = nominal.min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(seconds * (0.5 + jitter / 2.0)).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::{Limit, Refused, Undeliverable};

    fn policy() -> Policy {
        Policy {
            max_attempts: 3,
            exits: ExitMap::default(),
            backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300), factor: 2.0 },
            rejects: false,
        }
    }

    fn settlement(verdict: &Verdict, number: u32) -> &'static str {
        policy().decide(verdict, "", "sha256:00", Attempt { number, max: 3 }, SystemTime::UNIX_EPOCH, 0.5).name()
    }

    #[test]
    fn the_contract_table_holds() {
        let table = [
            (Verdict::Run(Outcome::Succeeded), "ack", "ack"),
            (Verdict::Run(Outcome::Exited(3)), "dead-letter", "dead-letter"),
            (Verdict::Run(Outcome::Exited(65)), "dead-letter", "dead-letter"),
            (Verdict::Run(Outcome::Exited(6)), "release", "release"),
            (Verdict::Run(Outcome::Exited(4)), "retry", "dead-letter"),
            (Verdict::Run(Outcome::Exited(75)), "retry", "dead-letter"),
            (Verdict::Run(Outcome::Exited(1)), "retry", "dead-letter"),
            (Verdict::Run(Outcome::Silent), "retry", "dead-letter"),
            (Verdict::Run(Outcome::Trapped(String::new())), "retry", "dead-letter"),
            (Verdict::Run(Outcome::TimedOut(Duration::ZERO)), "retry", "dead-letter"),
            (Verdict::Run(Outcome::Stuck(Duration::ZERO)), "retry", "dead-letter"),
            (Verdict::Run(Outcome::LimitExceeded(Limit::Memory(1))), "retry", "dead-letter"),
            (Verdict::Run(Outcome::LimitExceeded(Limit::Stdout(1))), "retry", "dead-letter"),
            (Verdict::TooLarge(1), "dead-letter", "dead-letter"),
            (Verdict::Run(Outcome::LimitExceeded(Limit::Fuel(1))), "retry", "dead-letter"),
            (Verdict::Run(Outcome::Crashed(String::new())), "retry", "dead-letter"),
            (Verdict::Abandoned(3), "dead-letter", "dead-letter"),
            (Verdict::Undeliverable(Undeliverable::TooLarge(String::new())), "dead-letter", "dead-letter"),
            (Verdict::Undeliverable(Undeliverable::NoReplyTo), "dead-letter", "dead-letter"),
            (Verdict::Undeliverable(Undeliverable::Unwritable(String::new())), "dead-letter", "dead-letter"),
            (Verdict::Unreadable(String::new()), "dead-letter", "dead-letter"),
            (Verdict::Undeliverable(Undeliverable::NoRequester(String::new())), "dead-letter", "dead-letter"),
            (Verdict::Undecodable(String::new()), "dead-letter", "dead-letter"),
            (Verdict::Refused(Refused::Configuration, String::new()), "release", "release"),
            (Verdict::Run(Outcome::Withdrawn), "release", "release"),
            (Verdict::Run(Outcome::Interrupted), "release", "release"),
            (Verdict::Run(Outcome::HostFault(String::new())), "release", "release"),
            (Verdict::Run(Outcome::Blocked(128)), "release", "release"),
            (Verdict::HostFault(String::new()), "release", "release"),
        ];
        for (verdict, first, last) in table {
            assert_eq!(settlement(&verdict, 1), first, "{verdict:?} at the first attempt");
            assert_eq!(settlement(&verdict, 3), last, "{verdict:?} at the last attempt");
        }
    }

    #[test]
    fn what_is_left_to_the_broker_is_called_a_rejection() {
        let policy = Policy { rejects: true, ..policy() };
        let failed = Verdict::Run(Outcome::Exited(1));
        let decide =
            |number| policy.decide(&failed, "", "", Attempt { number, max: 3 }, SystemTime::UNIX_EPOCH, 0.5).name();
        assert_eq!([decide(1), decide(3)], ["retry", "reject"]);
    }

    #[test]
    fn the_longest_pause_is_the_one_before_the_last_attempt() {
        let with = |max_attempts| Policy { max_attempts, ..policy() }.longest_pause().as_secs();
        assert_eq!([1, 2, 3, 4, 100].map(with), [0, 1, 2, 4, 300]);
    }

    #[test]
    fn a_message_that_takes_its_workers_down_is_given_up() {
        let with = |max_attempts| Policy { max_attempts, ..policy() };
        assert!(!with(3).gives_up(2) && with(3).gives_up(3));
        assert!(!with(1).gives_up(2) && with(1).gives_up(3));
        assert!(!with(10).gives_up(9) && with(10).gives_up(10));
    }

    #[test]
    fn the_users_exit_map_comes_before_the_built_in_table() {
        let map: ExitMap = "10=ack, 20-29=retry,3=retry,25=dead-letter".parse().unwrap();
        assert_eq!(map.action(10), Action::Ack);
        assert_eq!(map.action(3), Action::Retry);
        assert_eq!(map.action(24), Action::Retry);
        assert_eq!(map.action(25), Action::DeadLetter);
        assert_eq!(map.action(65), Action::DeadLetter);
        assert_eq!(map.action(0), Action::Ack);
    }

    #[test]
    fn a_bad_exit_map_is_refused_with_the_part_that_is_bad() {
        for (text, part) in
            [("", "``"), ("17", "`17`"), ("300=retry", "`300`"), ("1=drop", "`drop`"), ("9-3=retry", "9-3")]
        {
            let error = text.parse::<ExitMap>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_pause_lies_between_half_its_nominal_length_and_the_cap(
            initial in 0u64..10_000, max in 0u64..1_000_000, factor in 1.0f64..10.0, attempt: u32, jitter in 0.0f64..1.0,
        ) {
            let backoff = Backoff { initial: Duration::from_millis(initial), max: Duration::from_millis(max), factor };
            let pause = backoff.pause(attempt, jitter);
            prop_assert!(pause <= backoff.max);
            prop_assert!(pause >= backoff.initial.min(backoff.max) / 2);
        }

        #[test]
        fn no_exit_map_can_make_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<ExitMap>();
        }
    }
}
