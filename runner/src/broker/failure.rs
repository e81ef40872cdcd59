//! The `x-wq-*` headers, which describe the failed runs of a message. Every broker writes and reads them in the same way.

use serde_json::{Map, Value};

use crate::task::{Failure, Usage};

/// The number of the run that failed last.
pub const ATTEMPT: &str = "x-wq-attempt";
/// The queue in which it failed.
pub const QUEUE: &str = "x-wq-queue";
/// The settlement that followed: `retry` or `dead-letter`.
const SETTLEMENT: &str = "x-wq-settlement";
pub const OUTCOME: &str = "x-wq-outcome";
pub const EXIT_CODE: &str = "x-wq-exit-code";
pub const ERROR: &str = "x-wq-error";
pub const LAST_FAILED_AT: &str = "x-wq-last-failed-at";
pub const FIRST_FAILED_AT: &str = "x-wq-first-failed-at";
pub const GUEST: &str = "x-wq-guest";
pub const STDERR: &str = "x-wq-stderr";
/// What the run used, as far as it is known.
pub const PEAK_MEMORY: &str = "x-wq-peak-memory-bytes";
pub const CPU: &str = "x-wq-cpu-ms";
pub const FUEL: &str = "x-wq-fuel";

/// How many earlier hand-overs ended without a word, on a copy that took the place of a message given back: the number, a space,
/// and the queue. The broker's own count begins anew with a copy.
pub const UNFINISHED: &str = "x-wq-unfinished";

/// All that tell of a failure. Values of an earlier failure are not true of the next one.
pub const NAMES: [&str; 13] = [
    ATTEMPT,
    QUEUE,
    SETTLEMENT,
    OUTCOME,
    EXIT_CODE,
    ERROR,
    LAST_FAILED_AT,
    FIRST_FAILED_AT,
    GUEST,
    STDERR,
    PEAK_MEMORY,
    CPU,
    FUEL,
];

/// Those that are numbers. All others are text.
pub const NUMERIC: [&str; 5] = [ATTEMPT, EXIT_CODE, PEAK_MEMORY, CPU, FUEL];

/// So many of [`headers`] make a retry what it is. The others tell people what happened.
pub const REQUIRED: usize = 3;

/// The next life of a message that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Retry,
    DeadLetter,
}

/// How earlier versions wrote the attempt of a retry, which had no [`SETTLEMENT`] then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmarked {
    /// The run that failed.
    Failed,
    /// The run that comes next.
    Next,
}

/// A header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Text(String),
    Number(u64),
}

/// The headers of a message after a failed run, the most important ones first.
///
/// `first_failed_at` is what the message says of an earlier failure.
pub fn headers(
    failure: &Failure,
    queue: &str,
    next: Next,
    first_failed_at: Option<String>,
) -> Vec<(&'static str, Content)> {
    let text = |text: &str| Content::Text(text.to_owned());
    let at = humantime::format_rfc3339_millis(failure.at).to_string();
    let mut headers = vec![
        (ATTEMPT, Content::Number(failure.attempt.into())),
        (QUEUE, text(queue)),
        (SETTLEMENT, text(next.name())),
        (OUTCOME, text(failure.outcome)),
    ];
    if let Some(code) = failure.exit_code {
        headers.push((EXIT_CODE, Content::Number(code.into())));
    }
    headers.extend([
        (LAST_FAILED_AT, text(&at)),
        (FIRST_FAILED_AT, Content::Text(first_failed_at.unwrap_or(at))),
        (GUEST, text(&failure.guest)),
        (ERROR, text(&failure.error)),
    ]);
    let Usage { peak_memory, cpu, fuel } = failure.usage;
    let cpu = cpu.map(|cpu| u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX));
    for (name, value) in [(PEAK_MEMORY, peak_memory), (CPU, cpu), (FUEL, fuel)] {
        headers.extend(value.map(|value| (name, Content::Number(value))));
    }
    // The last one, since it is cut to what is left.
    headers.push((STDERR, text(&failure.stderr)));
    headers
}

/// As many of [`headers`] as fit into so many bytes, of which each takes `overhead` beside its name and its text. An error
/// is cut at its end, and stderr at its beginning.
///
/// `None` if not even the required ones fit.
pub fn fitting(
    headers: Vec<(&'static str, Content)>,
    mut room: usize,
    overhead: usize,
) -> Option<Vec<(&'static str, Content)>> {
    let mut fitting = Vec::with_capacity(headers.len());
    for (number, (name, content)) in headers.into_iter().enumerate() {
        let left = room.saturating_sub(overhead + name.len());
        let content = match content {
            Content::Text(text) if text.len() > left && name == ERROR => {
                Content::Text(text[..text.floor_char_boundary(left)].to_owned())
            }
            Content::Text(text) if text.len() > left && name == STDERR => {
                Content::Text(text[text.ceil_char_boundary(text.len() - left)..].to_owned())
            }
            content => content,
        };
        let length = match &content {
            Content::Text(text) => text.len(),
            Content::Number(_) => size_of::<u64>(),
        };
        let size = overhead + name.len() + length;
        if size <= room {
            room -= size;
            fitting.push((name, content));
        } else if number < REQUIRED {
            return None;
        }
    }
    Some(fitting)
}

/// The size of the required headers of a retry.
pub fn required_size(queue: &str, overhead: usize) -> usize {
    let texts = [ATTEMPT, QUEUE, queue, SETTLEMENT, Next::Retry.name()].map(str::len);
    REQUIRED * overhead + texts.iter().sum::<usize>() + size_of::<u64>()
}

/// How many runs of a message failed in this queue, as the message says.
///
/// A count from another queue is another message's: a result carries the number of the run that it comes from, and may be
/// the message of the next worker. And a dead letter that somebody moved back to its queue begins anew.
pub fn failed_runs(headers: &Map<String, Value>, queue: &str, unmarked: Unmarked) -> u32 {
    if headers.get(QUEUE).is_none_or(|counted_in| counted_in != queue) {
        return 0;
    }
    let number = headers.get(ATTEMPT).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    match (headers.get(SETTLEMENT), unmarked) {
        (None, Unmarked::Next) => number.unwrap_or(0).saturating_sub(1),
        (None, Unmarked::Failed) => number.unwrap_or(0),
        (Some(settlement), _) if settlement == Next::Retry.name() => number.unwrap_or(0),
        (Some(_), _) => 0,
    }
}

/// Whether it was us who put this message aside.
pub fn is_dead_letter(headers: &Map<String, Value>) -> bool {
    headers.get(SETTLEMENT).is_some_and(|settlement| settlement == Next::DeadLetter.name())
}

/// How many hand-overs of a message in this queue ended without a word before it was copied, as the message says.
pub fn unfinished(headers: &Map<String, Value>, queue: &str) -> u32 {
    let said = headers.get(UNFINISHED).and_then(Value::as_str).and_then(|said| said.split_once(' '));
    said.filter(|(_, counted_in)| *counted_in == queue).and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

/// The value of [`UNFINISHED`].
pub fn unfinished_in(queue: &str, number: u32) -> String {
    format!("{number} {queue}")
}

impl Next {
    /// As the log has it.
    fn name(self) -> &'static str {
        match self {
            Next::Retry => "retry",
            Next::DeadLetter => "dead-letter",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::task::Settlement;

    fn failure(exit_code: Option<u8>) -> Failure {
        Failure {
            outcome: "exit",
            exit_code,
            error: "the guest exited, with an ä".into(),
            stderr: "öüß and more".into(),
            guest: "sha256:00".into(),
            attempt: 2,
            at: SystemTime::UNIX_EPOCH,
            usage: Usage { peak_memory: Some(1 << 40), cpu: Some(Duration::from_millis(1)), fuel: Some(7) },
        }
    }

    fn written(next: Next) -> Map<String, Value> {
        let headers = headers(&failure(Some(1)), "q", next, None);
        let value = |content| match content {
            Content::Text(text) => Value::from(text),
            Content::Number(number) => number.into(),
        };
        headers.into_iter().map(|(name, content)| (name.to_owned(), value(content))).collect()
    }

    #[test]
    fn every_header_that_is_written_is_known() {
        let headers = headers(&failure(Some(1)), "q", Next::Retry, None);
        let mut names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let mut known = NAMES.to_vec();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
        for (name, content) in headers {
            assert_eq!(matches!(content, Content::Number(_)), NUMERIC.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_retry_goes_on_counting_and_a_dead_letter_begins_anew() {
        for unmarked in [Unmarked::Failed, Unmarked::Next] {
            assert_eq!(failed_runs(&written(Next::Retry), "q", unmarked), 2);
            assert_eq!(failed_runs(&written(Next::Retry), "another", unmarked), 0);
            assert_eq!(failed_runs(&written(Next::DeadLetter), "q", unmarked), 0);
            assert_eq!(failed_runs(&Map::new(), "q", unmarked), 0);
        }
    }

    #[test]
    fn a_count_of_hand_overs_holds_in_its_own_queue() {
        let headers = |value: Value| Map::from_iter([(UNFINISHED.to_owned(), value)]);
        let written = |queue| headers(unfinished_in(queue, 2).into());
        assert_eq!(unfinished(&written("a queue"), "a queue"), 2);
        assert_eq!(unfinished(&written("another"), "a queue"), 0);
        for value in [Value::from(2), "2".into(), "two q".into(), "-1 q".into(), " q".into(), Value::Null] {
            assert_eq!(unfinished(&headers(value), "q"), 0);
        }
        assert_eq!(unfinished(&Map::new(), "q"), 0);
    }

    #[test]
    fn a_retry_of_an_earlier_version_is_read_as_it_was_meant() {
        let mut headers = written(Next::Retry);
        headers.remove(SETTLEMENT);
        assert_eq!(failed_runs(&headers, "q", Unmarked::Failed), 2);
        assert_eq!(failed_runs(&headers, "q", Unmarked::Next), 1);
        headers.insert(ATTEMPT.into(), "many".into());
        assert_eq!(failed_runs(&headers, "q", Unmarked::Next), 0);
    }

    #[test]
    fn names_of_settlements_are_those_of_the_log() {
        let failure = Box::new(failure(None));
        let retry = Settlement::Retry { after: Duration::ZERO, failure: failure.clone() };
        assert_eq!(Next::Retry.name(), retry.name());
        assert_eq!(Next::DeadLetter.name(), Settlement::DeadLetter { failure }.name());
    }

    proptest! {
        #[test]
        fn what_fits_is_within_its_room_and_holds_the_count_or_nothing(room in 0usize..400, overhead in 0usize..9) {
            let all = headers(&failure(Some(1)), "q", Next::Retry, None);
            match fitting(all.clone(), room, overhead) {
                Some(fitting) => {
                    prop_assert_eq!(&fitting[..REQUIRED], &all[..REQUIRED]);
                    let size = |(name, content): &(&str, Content)| overhead + name.len() + match content {
                        Content::Text(text) => text.len(),
                        Content::Number(_) => 8,
                    };
                    prop_assert!(fitting.iter().map(size).sum::<usize>() <= room);
                }
                None => prop_assert!(room < required_size("q", overhead)),
            }
        }
    }
}
