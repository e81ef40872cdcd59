//! `wq-run dlq list`.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::round::Round;
use crate::broker::walk::End;
use crate::commands::describe::age;
use crate::commands::pick::Picked;
use crate::commands::process::note;
use crate::error::Error;
use crate::streams::{self, print};
use crate::visible::one_line;

/// The width of a terminal that does not tell its own.
const WIDTH: usize = 80;

/// Less of an error says nothing.
const LEAST_OF_AN_ERROR: usize = 24;

/// The space between two columns, and before an error on a line of its own.
const BETWEEN: usize = 2;

const HEADINGS: [&str; COLUMNS] = ["ID", "AGE", "OUTCOME", "EXIT", "ATTEMPTS", "ERROR"];
const COLUMNS: usize = 6;

type Row = [String; COLUMNS];

pub async fn list(round: &mut Round<'_>, json: bool) -> Result<(), Error> {
    let mut table = (!json && streams::out_is_terminal()).then(|| Table::new(streams::out_width().unwrap_or(WIDTH)));
    let mut listed = 0;
    loop {
        let picked = round.next().await?;
        if picked.is_empty() {
            break;
        }
        listed += picked.len();
        let now = round.pick.now();
        let text = match &mut table {
            Some(table) => table.rows(picked.iter().map(|picked| row(picked, now)).collect()),
            None => picked.iter().map(line).collect(),
        };
        print(text.as_bytes()).map_err(|source| Error::Io { doing: "write to stdout".into(), source })?;
        round.pick.leave(picked.into_iter().map(|picked| picked.seen).collect()).await?;
    }
    if listed == 0 && table.is_some() {
        note(&format!("no dead letters in {}", round.letters.dead_letter_queue));
    }
    round.pick.say_what_is_left().await?;
    Ok(())
}

fn row(Picked { seen, end }: &Picked, now: SystemTime) -> Row {
    let unknown = || "-".to_owned();
    let text = |text: Option<&String>| text.map_or_else(unknown, |text| one_line(text));
    let number = |number: Option<u64>| number.map_or_else(unknown, |number| number.to_string());
    let age = end.at.map_or_else(unknown, |at| age(now.duration_since(at).unwrap_or_default()));
    [
        text(seen.message.properties.message_id.as_ref()),
        age,
        text(end.outcome.as_ref()),
        number(end.exit_code),
        number(end.attempts),
        text(end.error.as_ref()),
    ]
}

/// What is known of it as a line of JSON: `null` is not known.
pub fn summary(Picked { seen, end }: &Picked) -> Map<String, Value> {
    let End { queue, outcome, exit_code, attempts, error, stderr: _, guest, first_failed_at, at } = end.clone();
    let time = |at: Option<SystemTime>| at.map(|at| humantime::format_rfc3339_millis(at).to_string());
    let known = [
        ("id", Value::from(seen.message.properties.message_id.clone())),
        ("died_at", time(at).into()),
        ("first_failed_at", time(first_failed_at).into()),
        ("queue", queue.into()),
        ("outcome", outcome.into()),
        ("exit_code", exit_code.into()),
        ("attempts", attempts.into()),
        ("error", error.into()),
        ("guest", guest.into()),
        ("body_bytes", seen.message.body.len().into()),
    ];
    known.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn line(picked: &Picked) -> String {
    format!("{}\n", Value::Object(summary(picked)))
}

/// A table whose columns are as wide as its first rows need. The last one ends with the terminal; where that leaves too little of an
/// error, each has a line of its own.
struct Table {
    width: usize,
    columns: Option<[usize; COLUMNS]>,
}

impl Table {
    fn new(width: usize) -> Table {
        Table { width, columns: None }
    }

    fn rows(&mut self, rows: Vec<Row>) -> String {
        let mut text = String::new();
        let columns = match self.columns {
            Some(columns) => columns,
            None => {
                let mut columns = HEADINGS.map(str::len);
                for row in &rows {
                    for (width, cell) in columns.iter_mut().zip(row) {
                        *width = (*width).max(cell.chars().count());
                    }
                }
                self.columns = Some(columns);
                self.row(&mut text, columns, &HEADINGS.map(str::to_owned));
                columns
            }
        };
        for row in &rows {
            self.row(&mut text, columns, row);
        }
        text
    }

    fn row(&self, text: &mut String, columns: [usize; COLUMNS], row: &Row) {
        let [cells @ .., error] = row;
        let [widths @ .., _] = columns;
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + BETWEEN));
        }
        let before = widths.iter().map(|width| width + BETWEEN).sum::<usize>();
        let is_beside = before + LEAST_OF_AN_ERROR <= self.width;
        if !is_beside {
            line.truncate(line.trim_end().len());
            line.push('\n');
            line.extend(std::iter::repeat_n(' ', BETWEEN));
        }
        let room = self.width.saturating_sub(if is_beside { line.chars().count() } else { BETWEEN });
        if error.chars().count() <= room {
            line.push_str(error);
        } else {
            line.extend(error.chars().take(room.saturating_sub(1)));
            line.push('…');
        }
        line.push('\n');
        text.push_str(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_cuts_errors_alone() {
        let row = |id: &str, error: &str| [id, "3h", "exit", "1", "3", error].map(str::to_owned);
        let mut table = Table::new(67);
        let first =
            table.rows(vec![row("m1", "short"), row("a longer id", "the guest exited with 1 and said much more")]);
        let expected = "\
ID           AGE  OUTCOME  EXIT  ATTEMPTS  ERROR
m1           3h   exit     1     3         short
a longer id  3h   exit     1     3         the guest exited with 1…
";
        assert_eq!(first, expected);
        assert!(first.lines().all(|line| line.chars().count() <= 67));
        // Later rows have the same columns, and no heading.
        assert_eq!(table.rows(vec![row("m2", "x")]), "m2           3h   exit     1     3         x\n");
    }

    #[test]
    fn an_error_that_has_no_room_in_the_table_has_a_line_of_its_own() {
        let error = "the guest exited with 1, which is told at length and beyond the end of any line";
        let row = |outcome: &'static str| ["01a2298a-120c-73a9-bde7-5d34a1bc0d75", "10h5m", outcome, "1", "3", error];
        let shown = Table::new(80).rows(vec![row("exit").map(str::to_owned), row("empty-output").map(str::to_owned)]);
        let expected = "\
ID                                    AGE    OUTCOME       EXIT  ATTEMPTS
  ERROR
01a2298a-120c-73a9-bde7-5d34a1bc0d75  10h5m  exit          1     3
  the guest exited with 1, which is told at length and beyond the end of any li…
01a2298a-120c-73a9-bde7-5d34a1bc0d75  10h5m  empty-output  1     3
  the guest exited with 1, which is told at length and beyond the end of any li…
";
        assert_eq!(shown, expected);
        assert!(shown.lines().all(|line| line.chars().count() <= 80));
    }
}
