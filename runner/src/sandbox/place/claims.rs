//! Checks what a guest's process reports of a run. A guest may have taken its process over.

use std::sync::LazyLock;
use std::time::Duration;

use crate::sandbox::world::options::Options;
use crate::task::{Outcome, Usage};

/// The longest text of a trap or a fault. Longer ones are cut.
pub const MAX_TEXT: usize = 4096;

/// The outcome, if a run can have ended like this; `None` if only the worker itself could say so.
pub fn believable(outcome: Outcome, options: &Options, is_cancelled: bool) -> Option<Outcome> {
    match outcome {
        Outcome::Succeeded => Some(outcome),
        Outcome::Silent => options.output_is_due.then_some(outcome),
        Outcome::Exited(code) => (code != 0).then_some(outcome),
        Outcome::Trapped(text) => Some(Outcome::Trapped(cut(text))),
        Outcome::HostFault(text) => Some(Outcome::HostFault(cut(text))),
        Outcome::TimedOut(timeout) => (timeout == options.limits.timeout).then_some(outcome),
        Outcome::LimitExceeded(limit) => options.limits.have(limit).then_some(outcome),
        Outcome::Interrupted => is_cancelled.then_some(outcome),
        // About its process and the other ones, of which it knows nothing.
        Outcome::Withdrawn | Outcome::Crashed(_) | Outcome::Blocked(_) | Outcome::Stuck(_) => None,
    }
}

/// Cuts the usage that a process reports to what a run of this duration can have used.
pub fn possible(usage: Usage, options: &Options, elapsed: Duration) -> Usage {
    static PROCESSORS: LazyLock<u32> = LazyLock::new(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        u32::try_from(processors).unwrap_or(u32::MAX)
    });
    let limits = &options.limits;
    Usage {
        peak_memory: usage.peak_memory.map(|peak| peak.min(limits.memory)),
        cpu: usage.cpu.map(|cpu| cpu.min(elapsed.saturating_mul(*PROCESSORS))),
        fuel: usage.fuel.zip(limits.fuel).map(|(used, given)| used.min(given)),
    }
}

/// Both ends cut: the child to keep its frames within bounds, the worker because it can't know that the child did.
pub fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
    text
}

/// The same for what a child is about to say.
pub fn sayable(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Trapped(text) => Outcome::Trapped(cut(text)),
        Outcome::HostFault(text) => Outcome::HostFault(cut(text)),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Limit;

    #[test]
    fn a_process_cannot_claim_what_only_the_worker_can_know() {
        let claims = [
            Outcome::Silent,
            Outcome::Exited(0),
            Outcome::Withdrawn,
            Outcome::Interrupted,
            Outcome::Crashed("x".into()),
            Outcome::Blocked(1),
            Outcome::Stuck(Duration::ZERO),
            Outcome::TimedOut(Duration::ZERO),
            Outcome::LimitExceeded(Limit::Memory(1)),
            Outcome::LimitExceeded(Limit::Fuel(1)),
            Outcome::LimitExceeded(Limit::Scratch(0)),
        ];
        for claim in claims {
            assert_eq!(believable(claim.clone(), &Options::default(), false), None, "{claim:?}");
        }
        let limit = Outcome::LimitExceeded(Limit::Memory(Options::default().limits.memory));
        assert_eq!(believable(limit.clone(), &Options::default(), false), Some(limit));
        assert_eq!(believable(Outcome::Interrupted, &Options::default(), true), Some(Outcome::Interrupted));
    }

    #[test]
    fn a_process_cannot_claim_to_have_used_more_than_it_could() {
        let second = Duration::from_secs(1);
        let claimed = Usage { peak_memory: Some(u64::MAX), cpu: Some(Duration::MAX), fuel: Some(7) };
        let mut options = Options::default();
        let possible_of = |options: &Options| possible(claimed, options, second);
        assert_eq!(possible_of(&options).peak_memory, Some(options.limits.memory));
        assert!(possible_of(&options).cpu.is_some_and(|cpu| cpu >= second && cpu < 10_000 * second));
        assert_eq!(possible_of(&options).fuel, None, "nobody counts it");
        options.limits.fuel = Some(5);
        assert_eq!(possible_of(&options).fuel, Some(5));
        let modest = Usage { peak_memory: Some(1), cpu: Some(second / 2), fuel: Some(1) };
        assert_eq!(possible(modest, &options, second), modest);
    }

    #[test]
    fn a_text_of_any_length_is_cut_between_characters() {
        let Some(Outcome::Trapped(text)) = believable(Outcome::Trapped("ä€".repeat(9999)), &Options::default(), false)
        else {
            panic!("a trap is believed");
        };
        assert!(text.len() <= MAX_TEXT && text.starts_with("ä€"));
        assert!(
            matches!(sayable(Outcome::HostFault("x".repeat(9999))), Outcome::HostFault(text) if text.len() == MAX_TEXT)
        );
    }
}
