//! How numbers and sizes are typed, and what is said of one that cannot be used.

use bytesize::ByteSize;
use clap::Command;

/// The numbers of a flag: whole ones, up to the largest of their type.
pub trait Whole: TryFrom<i128> + Into<i128> + Copy + Send + Sync + 'static {
    const MOST: Self;
}

macro_rules! whole_numbers {
    ($($number:ident),*) => { $(impl Whole for $number { const MOST: $number = $number::MAX; })* };
}

whole_numbers!(u8, u16, u32, u64, i64);

/// An error names the largest number of a type if it is at most this, or if the number that was typed is larger.
const TELLING: i128 = u32::MAX as i128;

/// How the values of flags are called that take numbers.
const NAMES: [&str; 6] = ["N", "N|auto", "CODE", "FACTOR", "BYTES", "DURATION"];

/// Reads whole numbers of at least `least`.
pub fn whole<T: Whole>(least: T) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let (least, most): (i128, i128) = (least.into(), T::MOST.into());
        let number = text.parse::<i128>().ok();
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match number.filter(|number| *number >= least).and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None if most <= TELLING || is_digits && number.is_none_or(|number| number > most) => {
                Err(format!("expected a whole number from {least} to {most}"))
            }
            None => Err(format!("expected a whole number from {least}")),
        }
    }
}

pub fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "expected a size in bytes, such as 1048576, 64MiB or 1GB".into())
}

pub fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (1.0..=100.0).contains(factor));
    factor.ok_or_else(|| "expected a number from 1 to 100".into())
}

/// Has `-1` be the value of a flag that takes numbers, and so be refused as one. It is an unknown flag otherwise.
pub fn take_negatives(command: Command) -> Command {
    let takes_numbers =
        |arg: &clap::Arg| arg.get_value_names().is_some_and(|names| names.iter().any(|name| NAMES.contains(&&**name)));
    command.mut_subcommands(take_negatives).mut_args(|arg| match takes_numbers(&arg) {
        true => arg.allow_negative_numbers(true),
        false => arg,
    })
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_number_that_cannot_be_used_is_told_what_can() {
        assert_eq!(whole(1_u64)("7"), Ok(7));
        assert_eq!(whole(-1_i64)("-1"), Ok(-1));
        assert_eq!(whole(0_u8)("255"), Ok(255));
        for (refused, expected) in [
            (whole(1_u64)("0"), "expected a whole number from 1"),
            (whole(1_u64)("abc"), "expected a whole number from 1"),
            (whole(1_u64)("-1"), "expected a whole number from 1"),
            (whole(1_u64)("1.5"), "expected a whole number from 1"),
            (whole(1_u64)("18446744073709551616"), "expected a whole number from 1 to 18446744073709551615"),
        ] {
            assert_eq!(refused, Err(expected.into()));
        }
        for text in ["256", "-1", "abc", &"9".repeat(50)] {
            assert_eq!(whole(0_u8)(text), Err("expected a whole number from 0 to 255".into()));
        }
        assert_eq!(whole(-1_i64)("-2"), Err("expected a whole number from -1".into()));
        assert!(size("64MiB").is_ok() && size("x").unwrap_err().starts_with("expected a size"));
        assert_eq!(factor("0.5"), Err("expected a number from 1 to 100".into()));
    }

    /// Commands with something to do, as words to type.
    fn leaves(command: &Command, words: &[String]) -> Vec<(Vec<String>, Command)> {
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        let inner: Vec<_> =
            inner.flat_map(|inner| leaves(inner, &[words, &[inner.get_name().to_owned()]].concat())).collect();
        if inner.is_empty() { vec![(words.to_vec(), command.clone())] } else { inner }
    }

    #[test]
    fn every_flag_with_a_number_says_what_it_expects() {
        let all = Cli::definition();
        let mut flags = 0;
        for (words, command) in leaves(&all, &["wq-run".to_owned()]) {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                let names = arg.get_value_names().unwrap_or_default();
                if !arg.get_action().takes_values() || !names.iter().any(|name| NAMES.contains(&&**name)) {
                    continue;
                }
                flags += 1;
                // One that no text can be, a number that is too large, and one that is too small.
                for value in ["x".to_owned(), "9".repeat(50), "-1".to_owned()] {
                    let mut typed = vec![format!("--{long}"), value.clone()];
                    if arg.is_require_equals_set() {
                        typed = vec![typed.join("=")];
                    }
                    let parsed = all.clone().try_get_matches_from([words.clone(), typed].concat());
                    let refused = parsed.err().filter(|error| error.kind() != ErrorKind::MissingRequiredArgument);
                    let Some(refused) = refused else {
                        let fits = names[0] == "BYTES" && value != "x" || (long, &*value) == ("delivery-limit", "-1");
                        assert!(fits, "{words:?} --{long} {value} is taken");
                        continue;
                    };
                    assert_eq!(refused.kind(), ErrorKind::ValueValidation, "{words:?} --{long} {value}: {refused}");
                    let said = refused.to_string();
                    assert!(said.contains(": expected "), "{words:?} --{long} {value}: {said}");
                }
            }
        }
        assert!(flags > 100, "{flags}");
    }
}
