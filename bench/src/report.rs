//! The results as text: the same for the terminal and for the file.

use std::fmt::Write as _;

use crate::contender::BEFORE;
use crate::results::{Results, Row};
use crate::targets::{Reached, Verdict, compared, verdicts};

pub struct Setting {
    pub machine: Vec<(&'static str, String)>,
    /// How it was measured, a sentence each.
    pub method: Vec<String>,
    /// Whether only a part was asked for: of what was not, nothing is said.
    pub partial: bool,
}

pub fn markdown(results: &Results, setting: &Setting) -> String {
    let mut text = String::from("# Results\n\nWritten by `make bench`.\n\n## Where\n\n| | |\n| --- | --- |\n");
    for (what, which) in &setting.machine {
        let _ = writeln!(text, "| {what} | {which} |");
    }
    text += "\n## How\n\n";
    for sentence in &setting.method {
        let _ = writeln!(text, "- {sentence}");
    }
    text += &targets(results, setting.partial);
    text += &before(results);
    text += "\n## Everything\n\nThe median of the rounds, with the least and the greatest.\n";
    for group in results.groups() {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.group == group).collect();
        let unit = rows.first().map_or("", |row| row.unit.name());
        let _ = write!(text, "\n### {}\n\n| | {unit} | from | to |\n| --- | ---: | ---: | ---: |\n", heading(group));
        for row in rows {
            let show = |value: Option<f64>| value.map_or_else(|| "failed".to_owned(), |value| row.unit.show(value));
            let (from, to) = (show(row.range().map(|range| range.0)), show(row.range().map(|range| range.1)));
            let _ = writeln!(text, "| {} | {} | {from} | {to} |", row.name, show(row.median()));
        }
    }
    text
}

fn targets(results: &Results, partial: bool) -> String {
    let mut text = String::from(
        "\n## Against the targets\n\nThe median of the ratios of each round, with the least and the greatest.\n\n\
         | work | against | target | reached | from | to | | why this target |\n\
         | --- | --- | --- | ---: | ---: | ---: | --- | --- |\n",
    );
    for verdict in verdicts(results) {
        if partial && verdict.reached == Reached::NotMeasured {
            continue;
        }
        let met = if verdict.is_met() { "yes" } else { "**no**" };
        let Verdict { work, against, bound, why, reached } = verdict;
        let _ = writeln!(text, "| {work} | {against} | {} | {} | {met} | {why} |", bound.show(), cells(reached));
    }
    text
}

/// What this build did beside the one of `--against`; nothing without one.
fn before(results: &Results) -> String {
    let mut text = String::new();
    for row in &results.rows {
        let Some(now) = row.name.strip_suffix(BEFORE).and_then(|name| results.row(&row.group, name)) else { continue };
        let show = |row: &Row| row.median().map_or_else(|| "failed".to_owned(), |value| row.unit.show(value));
        let unit = row.unit.name();
        let (is, was, reached) = (show(now), show(row), cells(compared(Some(now), Some(row))));
        let _ = writeln!(text, "| {}, {} | {unit} | {is} | {was} | {reached} |", row.group, now.name);
    }
    if text.is_empty() {
        return text;
    }
    "\n## Against the build before\n\nMedians, and the median of the ratios of each round, now through before, with the \
     least and the greatest.\n\n| work | | now | before | ratio | from | to |\n\
     | --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned()
        + &text
}

/// Three cells.
fn cells(reached: Reached) -> String {
    match reached {
        Reached::Ratio { median, from, to } => {
            format!("{} × | {} | {}", figures(median), figures(from), figures(to))
        }
        Reached::Failed => "failed | |".into(),
        Reached::NotMeasured => "not measured | |".into(),
    }
}

/// Three figures.
fn figures(ratio: f64) -> String {
    match ratio {
        large if large >= 100.0 => format!("{large:.0}"),
        medium if medium >= 10.0 => format!("{medium:.1}"),
        small => format!("{small:.2}"),
    }
}

fn heading(group: &str) -> String {
    let mut letters = group.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Unit;

    fn report(results: &Results, partial: bool) -> String {
        markdown(results, &Setting { machine: Vec::new(), method: Vec::new(), partial })
    }

    #[test]
    fn what_failed_is_told_as_failed_and_never_as_a_number() {
        let mut results = Results::default();
        results.add("loop, 5 B", "bare lapin, ack each", Unit::Rate, Ok(9000.0));
        results.add("loop, 5 B", "bare lapin, ack each", Unit::Rate, Err("lost".into()));
        let text = report(&results, false);
        assert!(text.contains("| bare lapin, ack each | failed | failed | failed |"), "{text}");
        assert!(!text.contains("9,000"), "{text}");
        assert!(text.contains("### Loop, 5 B"), "{text}");
    }

    #[test]
    fn what_was_not_asked_for_is_missed_only_in_a_whole_run() {
        assert!(report(&Results::default(), false).contains("| not measured | | | **no** |"));
        assert!(!report(&Results::default(), true).contains("not measured"));
    }

    #[test]
    fn a_build_is_compared_with_the_one_before() {
        let mut results = Results::default();
        for (round, (now, before)) in [(3000.0, 1000.0), (2000.0, 500.0)].into_iter().enumerate() {
            results.round = round;
            results.add("loop, 5 B", "wq-run, concurrency 1", Unit::Rate, Ok(now));
            results.add("loop, 5 B", "wq-run, concurrency 1, before", Unit::Rate, Ok(before));
        }
        let text = report(&results, true);
        let line = "| loop, 5 B, wq-run, concurrency 1 | messages/s | 2,500 | 750 | 3.50 × | 3.00 | 4.00 |";
        assert!(text.contains(line), "{text}");
        results.rows.pop();
        assert!(!report(&results, true).contains("before"));
    }
}
