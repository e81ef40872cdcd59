//! How durations are typed, and how long they may be.

use std::time::Duration;

/// No wait is longer than this, so that sums of times can't overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Not every broker keeps a message for longer: one of them takes 49 days at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return Err(format!("expected a duration with its unit: {text}s, {text}m or {text}h"));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("expected a duration of at most 100 years (36500d)".into()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("expected a duration, such as 90s, 25m or 1h30m".into()),
    }
}

pub fn pause(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        pause if pause > LONGEST_PAUSE => Err("expected a duration of at most 30 days (30d)".into()),
        pause => Ok(pause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("90").unwrap_err().contains("90s"));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn durations_are_bounded() {
        assert_eq!(duration("36500d"), Ok(LONGEST));
        for endless in ["36501d", "300000000000y", "18446744073709551615s"] {
            assert!(duration(endless).unwrap_err().contains("100 years"), "{endless}");
        }
        assert_eq!(pause("30d"), Ok(LONGEST_PAUSE));
        assert!(pause("31d").unwrap_err().contains("30 days"));
        // Nothing that is parsed may overflow where times are added.
        let _ = std::time::Instant::now() + LONGEST + LONGEST;
    }
}
