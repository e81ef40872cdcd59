//! Figures as people read them: lengths of time and rates, to about three digits.

use std::time::Duration;

/// A length of time: `4.2ms`, `12.4s`, `2h 3m`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..0.00995 => format!("{:.1}ms", seconds * 1e3),
        ..0.9995 => format!("{:.0}ms", seconds * 1e3),
        ..59.95 => format!("{seconds:.1}s"),
        _ => {
            let all = seconds.round() as u64;
            let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
            match hours {
                0 => format!("{minutes}m {seconds}s"),
                1..48 => format!("{hours}h {minutes}m"),
                _ => format!("{}d {}h", hours / 24, hours % 24),
            }
        }
    }
}

/// How many in a second: `412`, `0.04`.
pub fn rate(per_second: f64) -> String {
    match per_second {
        ..=0.0 => "0".into(),
        ..1.0 => format!("{per_second:.2}"),
        ..100.0 => format!("{per_second:.1}"),
        _ => count(per_second as u64),
    }
}

/// A number with its thousands apart: `1,240`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut spoken = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spoken.push(',');
        }
        spoken.push(digit);
    }
    spoken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_units_at_most() {
        let spoken = [0.0, 0.0042, 0.42, 0.9999, 12.44, 59.96, 61.0, 7384.0, 360_000.0];
        let spoken = spoken.map(|seconds| time(Duration::from_secs_f64(seconds)));
        assert_eq!(spoken, ["0.0ms", "4.2ms", "420ms", "1.0s", "12.4s", "1m 0s", "1m 1s", "2h 3m", "4d 4h"]);
    }

    #[test]
    fn a_rate_has_as_many_digits_as_it_needs() {
        let spoken = [0.0, 0.041, 4.06, 412.3, 12_345.6].map(rate);
        assert_eq!(spoken, ["0", "0.04", "4.1", "412", "12,345"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
