//! The results as text: the same for the terminal and for the file.

use std::fmt::Write as _;

use crate::results::{Results, Row};
use crate::targets::{Verdict, verdicts};

pub struct Setting {
    pub machine: Vec<(&'static str, String)>,
    /// How it was measured, a sentence each.
    pub method: Vec<String>,
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
    text += "\n## Against the targets\n\nRatios of medians.\n\n";
    text += "| work | against | target | reached | |\n| --- | --- | --- | --- | --- |\n";
    for Verdict { work, against, bound, ratio } in verdicts(results) {
        let (reached, verdict) = match ratio {
            Some(ratio) if bound.holds(ratio) => (format!("{} ×", figures(ratio)), "yes"),
            Some(ratio) => (format!("{} ×", figures(ratio)), "**no**"),
            None => ("not measured".into(), "**no**"),
        };
        let _ = writeln!(text, "| {work} | {against} | {} | {reached} | {verdict} |", bound.show());
    }
    text += "\n## Everything\n\nThe median of the rounds, with the least and the greatest.\n";
    for group in results.groups() {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.group == group).collect();
        let unit = rows.first().map_or("", |row| row.unit.name());
        let _ = write!(text, "\n### {}\n\n| | {unit} | from | to |\n| --- | ---: | ---: | ---: |\n", heading(group));
        for row in rows {
            let show = |value: Option<f64>| value.map_or_else(|| "failed".to_owned(), |value| row.unit.show(value));
            let range = row.range().filter(|_| row.failed.is_empty());
            let (from, to) = (show(range.map(|range| range.0)), show(range.map(|range| range.1)));
            let _ = writeln!(text, "| {} | {} | {from} | {to} |", row.name, show(row.median()));
        }
    }
    text
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

    #[test]
    fn what_failed_is_told_as_failed_and_never_as_a_number() {
        let mut results = Results::default();
        results.add("loop, 5 B", "bare lapin, ack each", Unit::Rate, Ok(9000.0));
        results.add("loop, 5 B", "bare lapin, ack each", Unit::Rate, Err("lost".into()));
        let text = markdown(&results, &Setting { machine: Vec::new(), method: Vec::new() });
        assert!(text.contains("| bare lapin, ack each | failed | failed | failed |"), "{text}");
        assert!(!text.contains("9,000"), "{text}");
        assert!(text.contains("### Loop, 5 B"), "{text}");
    }
}
