//! A message as people read it: on a terminal, whatever its producer wrote into it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::broker::walk::{End, Seen};
use crate::visible::{lines, one_line};

/// More of a body is not shown: `--json` has all of it.
const MOST_OF_A_BODY: usize = 4096;

/// All that is known of a message. `end` is how it died, if it did.
pub fn message(seen: &Seen, end: Option<&End>, now: SystemTime) -> String {
    let mut text = String::new();
    let properties = match serde_json::to_value(&seen.message.properties) {
        Ok(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    if let Some(id) = &seen.message.properties.message_id {
        field(&mut text, "id", id);
    }
    if let Some(end) = end {
        died(&mut text, end, now);
    }
    if let Some(reason) = seen.unreadable.as_ref().filter(|_| end.is_none()) {
        field(&mut text, "unreadable", reason);
    }
    let told = ["message_id"];
    entries(&mut text, "properties", properties.iter().filter(|(name, _)| !told.contains(&name.as_str())));
    // What it died of is told already.
    let of_its_end = |name: &str| end.is_some() && crate::broker::walk::LEFT_BEHIND.contains(&name);
    entries(&mut text, "headers", seen.message.headers.iter().filter(|(name, _)| !of_its_end(name)));
    if let Some(stderr) = end.and_then(|end| end.stderr.as_ref()).filter(|stderr| !stderr.is_empty()) {
        field(&mut text, "stderr", "");
        block(&mut text, stderr);
    }
    body(&mut text, &seen.message.body);
    text
}

fn died(text: &mut String, end: &End, now: SystemTime) {
    let End { queue, outcome, exit_code, attempts, error, stderr: _, guest, first_failed_at, at } = end;
    let time = |at: &SystemTime| {
        let age = now
            .duration_since(*at)
            .map_or_else(|_| "in the future".to_owned(), |age| format!("{} ago", self::age(age)));
        format!("{}, {age}", humantime::format_rfc3339_seconds(*at))
    };
    let number = |number: &u64| number.to_string();
    let known = [
        ("queue", queue.clone()),
        ("outcome", outcome.clone()),
        ("exit code", exit_code.as_ref().map(number)),
        ("attempts", attempts.as_ref().map(number)),
        ("error", error.clone()),
        ("died", at.as_ref().map(time)),
        ("first failed", first_failed_at.as_ref().map(time)),
        ("guest", guest.clone()),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            field(text, name, &value);
        }
    }
}

fn body(text: &mut String, body: &[u8]) {
    let bytes = if body.len() == 1 { "1 byte".to_owned() } else { format!("{} bytes", body.len()) };
    let shown = &body[..body.len().min(MOST_OF_A_BODY)];
    let shown = match std::str::from_utf8(shown) {
        Ok(shown) => Some(shown),
        // It may have been cut in the middle of a character.
        Err(error) if error.error_len().is_none() && shown.len() < body.len() => {
            std::str::from_utf8(&shown[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    match shown {
        Some(shown) if shown.len() == body.len() => field(text, "body", &bytes),
        Some(shown) => field(text, "body", &format!("{bytes}, of which these are the first {}", shown.len())),
        None => field(text, "body", &format!("{bytes}, which is not text; --json prints it as base64")),
    }
    block(text, shown.unwrap_or_default());
}

fn field(text: &mut String, name: &str, value: &str) {
    // Writing to a text does not fail.
    let _ = match value {
        "" => writeln!(text, "{name}"),
        value => writeln!(text, "{name:<13} {}", one_line(value)),
    };
}

fn entries<'a>(text: &mut String, name: &str, entries: impl Iterator<Item = (&'a String, &'a Value)>) {
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        return;
    }
    field(text, name, "");
    for (name, value) in entries {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(text, "  {}: {}", one_line(name), one_line(&value));
    }
}

fn block(text: &mut String, block: &str) {
    for line in lines(block).lines() {
        let _ = writeln!(text, "  {line}");
    }
}

/// About how long: `3h`, `12d`. In two units where one alone says little.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => format!("{minutes}m{}s", seconds % 60),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 10 => format!("{hours}h{}m", minutes % 60),
        () if days < 3 => format!("{hours}h"),
        () if days < 10 => format!("{days}d{}h", hours % 24),
        () => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_as_exact_as_it_needs_to_be() {
        let ages = [0, 119, 125, 599, 600, 10_799, 10_800, 36_000, 259_199, 259_200, 864_000];
        let shown = ["0s", "119s", "2m5s", "9m59s", "10m", "179m", "3h0m", "10h", "71h", "3d0h", "10d"];
        assert_eq!(ages.map(|seconds| age(Duration::from_secs(seconds))), shown);
    }

    #[test]
    fn no_part_of_a_message_can_fool_a_terminal() {
        let mut shown = String::new();
        body(&mut shown, "one\ntwo\r\x1b[2Jthree\u{202e}".as_bytes());
        assert_eq!(shown, "body          20 bytes\n  one\n  two\\r\\u{1b}[2Jthree\\u{202e}\n");
    }

    #[test]
    fn a_body_is_shown_as_far_as_it_is_text() {
        let shown = |bytes: &[u8]| {
            let mut text = String::new();
            body(&mut text, bytes);
            text
        };
        assert!(shown(b"\xff").contains("1 byte, which is not text"));
        let long = "ä".repeat(MOST_OF_A_BODY);
        assert!(shown(format!("x{long}").as_bytes()).contains("the first 4095"));
        assert_eq!(shown(b""), "body          0 bytes\n");
    }
}
