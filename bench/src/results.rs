//! What was measured: a row for each thing that was measured of each contender, a value for each round.

use crate::stats::{Rounds, median};
use crate::{Result, stats};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Messages per second.
    Rate,
    Millis,
    Micros,
    /// MiB.
    Memory,
}

#[derive(Debug)]
pub struct Row {
    pub group: String,
    pub name: String,
    pub unit: Unit,
    values: Rounds,
    /// A round that lost or failed something makes the row a failure, however fast the others were.
    pub failed: Vec<String>,
}

#[derive(Default)]
pub struct Results {
    pub rows: Vec<Row>,
    /// The one that is measured now.
    pub round: usize,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Rate => "messages/s",
            Unit::Millis => "ms",
            Unit::Micros => "µs",
            Unit::Memory => "MiB",
        }
    }

    /// Three figures are what such a measurement is worth.
    pub fn show(self, value: f64) -> String {
        match value.abs() {
            large if large >= 100.0 => thousands(value.round() as i64),
            medium if medium >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        }
    }
}

impl Row {
    /// `None` where anything failed.
    pub fn median(&self) -> Option<f64> {
        median(&self.values()?)
    }

    /// The least and the greatest; `None` where anything failed.
    pub fn range(&self) -> Option<(f64, f64)> {
        stats::range(&self.values()?)
    }

    /// `None` where anything failed.
    pub fn rounds(&self) -> Option<&Rounds> {
        self.failed.is_empty().then_some(&self.values)
    }

    fn values(&self) -> Option<Vec<f64>> {
        Some(self.rounds()?.values().copied().collect())
    }
}

impl Results {
    pub fn add(&mut self, group: &str, name: &str, unit: Unit, measured: Result<f64>) {
        let at = self.rows.iter().position(|row| row.group == group && row.name == name).unwrap_or_else(|| {
            let (group, name) = (group.to_owned(), name.to_owned());
            self.rows.push(Row { group, name, unit, values: Rounds::new(), failed: Vec::new() });
            self.rows.len() - 1
        });
        match measured {
            Ok(value) => drop(self.rows[at].values.insert(self.round, value)),
            Err(error) => {
                eprintln!("FAILED: {group}: {name}: {error}");
                self.rows[at].failed.push(error.to_string());
            }
        }
    }

    pub fn row(&self, group: &str, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.group == group && row.name == name)
    }

    /// The groups in the order in which they were measured.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !groups.contains(&row.group.as_str()) {
                groups.push(&row.group);
            }
        }
        groups
    }
}

fn thousands(value: i64) -> String {
    let digits = value.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_a_failure_has_no_median() {
        let mut results = Results::default();
        results.add("loop", "fast", Unit::Rate, Ok(9.0));
        results.round = 1;
        results.add("loop", "fast", Unit::Rate, Ok(11.0));
        assert_eq!(results.row("loop", "fast").unwrap().median(), Some(10.0));
        results.add("loop", "fast", Unit::Rate, Err("it lost a message".into()));
        assert_eq!(results.row("loop", "fast").unwrap().median(), None);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(Unit::Rate.show(1_234_567.4), "1,234,567");
        assert_eq!(Unit::Rate.show(123.4), "123");
        assert_eq!(Unit::Millis.show(12.34), "12.3");
        assert_eq!(Unit::Micros.show(0.5), "0.50");
    }
}
