//! Whether a run of a case came out as the case says, and where it did not.

use super::form::Case;
use super::output::Output;

/// What came out of a run, now.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    pub outcome: &'a str,
    pub exit_code: Option<u8>,
    pub stdout: &'a [u8],
    /// The last of it.
    pub stderr: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: &'static str,
    pub was: String,
    pub is: String,
}

/// What can be compared.
pub const PARTS: [&str; 4] = ["outcome", "exit code", "stdout", "stderr"];

/// So many characters of a line are shown.
const MOST_OF_A_LINE: usize = 200;

impl Case {
    /// What came out differently, and what could be compared at all.
    pub fn differences(&self, now: Now) -> (Vec<Difference>, Vec<&'static str>) {
        let (mut differences, mut compared) = (Vec::new(), Vec::new());
        if let Some(outcome) = &self.run.outcome {
            compared.push(PARTS[0]);
            if outcome != now.outcome {
                differences.push(Difference { what: PARTS[0], was: outcome.clone(), is: now.outcome.to_owned() });
            }
            let code = |code: Option<u8>| code.map_or("none".to_owned(), |code| code.to_string());
            // A dead letter may have had no room for it.
            let is_known = self.run.exit_code.is_some() || outcome != "exit";
            if is_known && (self.run.exit_code.is_some() || now.exit_code.is_some()) {
                compared.push(PARTS[1]);
            }
            if is_known && self.run.exit_code != now.exit_code {
                differences.push(Difference { what: PARTS[1], was: code(self.run.exit_code), is: code(now.exit_code) });
            }
        }
        let outputs = [(PARTS[2], &self.run.stdout, now.stdout), (PARTS[3], &self.run.stderr, now.stderr.as_bytes())];
        for (what, output, is) in outputs {
            let Some(output) = output else { continue };
            let is_whole = !self.is_withheld(what);
            match output.is(is, is_whole) {
                None => {}
                Some(true) => compared.push(what),
                Some(false) => {
                    compared.push(what);
                    differences.push(difference(what, output, is, is_whole));
                }
            }
        }
        (differences, compared)
    }
}

/// The first line that is another one, where both are known; else the sizes.
fn difference(what: &'static str, was: &Output, is: &[u8], is_whole: bool) -> Difference {
    if let (Some(text), Ok(now), true) = (&was.text, std::str::from_utf8(is), is_whole && was.sha256.is_some()) {
        let (mut was_lines, mut now_lines) = (text.split('\n'), now.split('\n'));
        for number in 1_usize.. {
            let (one, other) = (was_lines.next(), now_lines.next());
            if one != other {
                return Difference { what, was: line(number, one), is: line(number, other) };
            }
            if one.is_none() {
                break;
            }
        }
    }
    let size = |bytes: u64| if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") };
    let was = match (was.bytes, &was.text) {
        (Some(bytes), _) => size(bytes),
        (None, Some(text)) => {
            format!("ending in {:?}", shortened(text.trim_end().rsplit('\n').next().unwrap_or_default()))
        }
        (None, None) => "not known".to_owned(),
    };
    Difference { what, was, is: format!("{} of other content", size(is.len() as u64)) }
}

fn line(number: usize, line: Option<&str>) -> String {
    match line {
        None => format!("no line {number}"),
        Some(line) => format!("line {number}: {:?}", shortened(line)),
    }
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MOST_OF_A_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::sample;
    use super::*;

    #[test]
    fn each_part_that_is_known_is_compared() {
        let case = sample();
        let same = Now { outcome: "exit", exit_code: Some(65), stdout: b"out", stderr: "err" };
        assert_eq!(case.differences(same), (Vec::new(), PARTS.to_vec()));
        for (now, what) in [
            (Now { outcome: "trap", ..same }, "outcome"),
            (Now { exit_code: Some(3), ..same }, "exit code"),
            (Now { exit_code: None, ..same }, "exit code"),
            (Now { stdout: b"", ..same }, "stdout"),
            (Now { stdout: b"out\n", ..same }, "stdout"),
            (Now { stderr: "er", ..same }, "stderr"),
        ] {
            let (differences, compared) = case.differences(now);
            assert_eq!(differences.iter().map(|difference| difference.what).collect::<Vec<_>>(), [what]);
            assert_eq!(compared, PARTS);
        }
        let mut unknown = case.clone();
        (unknown.run.outcome, unknown.run.exit_code, unknown.run.stdout) = (None, None, None);
        unknown.run.stderr = Some(Output::end("err".into()));
        assert_eq!(unknown.differences(Now { stderr: "the err", ..same }), (Vec::new(), vec!["stderr"]));
        assert_eq!(unknown.differences(Now { stderr: "error", ..same }).0.len(), 1);
        unknown.withheld = vec!["stderr".into()];
        assert_eq!(unknown.differences(same), (Vec::new(), Vec::new()));
        unknown.run.outcome = Some("exit".into());
        assert_eq!(unknown.differences(same), (Vec::new(), vec!["outcome"]));
    }

    #[test]
    fn a_difference_shows_the_first_line_that_is_another() {
        let mut case = sample();
        case.run.stdout = Some(Output::of(b"one\ntwo\n"));
        let of = |stdout: &'static [u8]| {
            let now = Now { outcome: "exit", exit_code: Some(65), stdout, stderr: "err" };
            let difference = case.differences(now).0.remove(0);
            (difference.was, difference.is)
        };
        assert_eq!(of(b"one\nt\x1b\n"), ("line 2: \"two\"".into(), "line 2: \"t\\u{1b}\"".into()));
        assert_eq!(of(b"one\ntwo"), ("line 3: \"\"".into(), "no line 3".into()));
        assert_eq!(of(b"\xff"), ("8 bytes".into(), "1 byte of other content".into()));
    }
}
