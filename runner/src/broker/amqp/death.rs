//! What the broker writes on a message that it dead-letters by itself.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::delays;
use crate::broker::walk::Death;

/// The queues out of which the broker dead-lettered the message.
pub const DEATHS: &str = "x-death";

/// All headers of that kind. A message that begins anew has none of them.
pub const HEADERS: [&str; 7] = [
    DEATHS,
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// The last time that the broker dead-lettered this message. The expiry by which a retry leaves its delay queue does not count.
pub fn of(headers: &Map<String, Value>) -> Option<Death> {
    let deaths = headers.get(DEATHS)?.as_array()?;
    let text = |death: &Value, name: &str| death.get(name).and_then(Value::as_str).map(str::to_owned);
    // The latest one comes first.
    let died = |death: &&Value| !text(death, "queue").is_some_and(|queue| delays::is_name(&queue));
    let death = deaths.iter().find(died)?;
    let since_1970 = death.get("time").and_then(Value::as_u64).map(Duration::from_secs);
    Some(Death {
        queue: text(death, "queue"),
        reason: text(death, "reason"),
        at: since_1970.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_did_not_die_of_its_pause() {
        let of = |text: &str| of(&serde_json::from_str(text).unwrap());
        let pause = r#"{"queue": "q.delay.1s", "reason": "expired", "time": 5}"#;
        assert_eq!(of(&format!("{{\"x-death\": [{pause}]}}")), None);
        let death =
            of(&format!("{{\"x-death\": [{pause}, {{\"queue\": \"q\", \"reason\": \"rejected\", \"time\": 4}}]}}"));
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(4);
        assert_eq!(death, Some(Death { queue: Some("q".into()), reason: Some("rejected".into()), at: Some(at) }));
    }

    #[test]
    fn a_header_of_any_shape_is_read() {
        for strange in
            ["1", "[]", "[1]", "[{}]", "{\"queue\": 1}", "[{\"time\": -1}]", "[{\"time\": 18446744073709551615}]"]
        {
            let headers = serde_json::from_str(&format!("{{\"x-death\": {strange}}}")).unwrap();
            assert!(of(&headers).is_none_or(|death| death.queue.is_none()), "{strange}");
        }
    }
}
