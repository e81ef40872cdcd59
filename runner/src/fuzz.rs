//! Entry points for fuzzing: each function hands any bytes to one reader of foreign input.
//!
//! It panics if that reader breaks a promise. `make fuzz` searches for such bytes with libFuzzer; the tests here run the
//! seeds in `fuzz/seeds`.
//!
//! No binary that is shipped has this module.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub use crate::broker::fuzz::{headers, queue_file, url as broker_url};
pub use crate::case::fuzz::case;
pub use crate::sandbox::fuzz::{cache_entry, frames, guest, packed_guest};
use crate::settle::ExitMap;

/// `--exit-map`: an accepted map gives each exit code an action, and a refusal shows the text that is wrong.
pub fn exit_map(bytes: &[u8]) {
    use crate::settle::{Backoff, Policy};
    use crate::task::{Attempt, Outcome};

    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let exits = match text.parse::<ExitMap>() {
        Ok(exits) => exits,
        Err(error) => {
            assert!(!error.is_empty());
            return;
        }
    };
    let backoff = Backoff { initial: Default::default(), max: Default::default(), factor: 1.0 };
    let policy = Policy { max_attempts: 3, exits, backoff, rejects: false };
    for code in 0..=u8::MAX {
        let outcome = if code == 0 { Outcome::Succeeded } else { Outcome::Exited(code) };
        policy.decide(&outcome.into(), "", "", Attempt { number: 1, max: 3 }, std::time::SystemTime::UNIX_EPOCH, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::AssertUnwindSafe;
    use std::path::{Path, PathBuf};

    use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 9] = [
        ("broker_url", broker_url),
        ("cache_entry", cache_entry),
        ("case", case),
        ("exit_map", exit_map),
        ("frames", frames),
        ("guest", guest),
        ("headers", headers),
        ("packed_guest", packed_guest),
        ("queue_file", queue_file),
    ];

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
    }

    /// The files of a folder, by name without the ending.
    fn names(folder: &Path) -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        std::fs::read_dir(folder).unwrap().map(|entry| stem(entry.unwrap().path())).collect()
    }

    /// The bytes of a seed, as `scripts/fuzz.sh` writes them: `.hex` holds bytes, where `00*12` stands for twelve zeros and `#` begins a
    /// comment; anything else is the text that it is, without the newline at its end.
    fn decoded(path: &Path) -> Vec<u8> {
        let text = std::fs::read_to_string(path).unwrap();
        if path.extension().is_none_or(|extension| extension != "hex") {
            return text.strip_suffix('\n').unwrap_or(&text).as_bytes().to_vec();
        }
        let mut bytes = Vec::new();
        for line in text.lines() {
            for word in line.split('#').next().unwrap().split_ascii_whitespace() {
                let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
                let part = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).unwrap();
                bytes.extend(part.repeat(times.parse().unwrap()));
            }
        }
        bytes
    }

    /// Says which bytes make a target panic, in the form of a seed.
    fn try_on(name: &str, target: Target, bytes: &[u8]) {
        // The target's own panic is printed before this one.
        if std::panic::catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
            panic!("{name} panics with the seed\n{}", HEXLOWER.encode(bytes));
        }
    }

    #[test]
    fn every_fuzz_target_holds_for_its_seeds_and_for_damaged_ones() {
        /// More than this takes too long for each run of the tests.
        const DAMAGED: usize = 48;
        let rounds = std::env::var("WQ_FUZZ_ROUNDS").map_or(DAMAGED, |rounds| rounds.parse().unwrap());
        let mut random = fastrand::Rng::with_seed(35);
        for (name, target) in TARGETS {
            let mut seeds: Vec<PathBuf> = std::fs::read_dir(folder().join("seeds").join(name))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            seeds.sort();
            assert!(!seeds.is_empty(), "{name} has no seed");
            for seed in seeds {
                let whole = decoded(&seed);
                try_on(name, target, &whole);
                for round in 0..rounds {
                    let mut damaged = whole.clone();
                    if round % 3 == 0 {
                        damaged.truncate(random.usize(..=whole.len()));
                    } else if !damaged.is_empty() {
                        for _ in 0..random.usize(1..=3) {
                            let at = random.usize(..damaged.len());
                            damaged[at] ^= 1 << random.u8(..8);
                        }
                    }
                    try_on(name, target, &damaged);
                }
            }
        }
    }

    #[test]
    fn every_fuzz_target_has_a_program_and_seeds() {
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&folder().join("targets")), targets);
        assert_eq!(names(&folder().join("seeds")), targets);
        let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        for name in targets {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "Cargo.toml has no {name}");
        }
    }
}
