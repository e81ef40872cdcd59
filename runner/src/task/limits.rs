//! The limits of a run, as a table.
//!
//! The command line and the messages are made from it, and the tables for users are held against it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is known of a limit but its value.
#[derive(Debug)]
pub struct Row {
    /// Without the two dashes.
    pub flag: &'static str,
    pub variable: Option<&'static str>,
    pub unit: Unit,
    /// As it is typed. A limit without one is not there unless it is asked for.
    pub default: Option<&'static str>,
    /// The limit of something that is granted, which is not there without it.
    pub is_grant: bool,
    /// The line of `--help`.
    pub help: &'static str,
    /// The outcome of what goes over the limit, as in logs, metrics and the `x-wq-outcome` header.
    pub outcome: Option<&'static str>,
    /// What the outcome says. `{}` stands for the value.
    pub says: &'static str,
}

/// How a limit is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Time,
    Bytes,
    Count,
    /// A count that is not 0.
    Positive,
}

/// The value of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Time(Duration),
    /// Bytes or a count.
    Number(u64),
}

/// One row a limit: what it is about, the field of [`Limits`] with its type, the variant of [`Limit`] if a run can go over
/// it, and the row of the table.
macro_rules! limits {
    ($($(#[$about:meta])* $field:ident: $type:ty $(=> $variant:ident)? = $row:expr;)*) => {
        /// The limits of one run. All sizes in bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Limits { $($(#[$about])* pub $field: $type,)* }

        /// The limit that a run went over, with its value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Limit { $($($variant(u64),)?)* }

        impl Limits {
            /// In the order of `--help`.
            pub const TABLE: &[&Row] = &[$(&$row),*];

            /// Asks for the value of each row.
            ///
            /// # Errors
            /// The row of a limit that always has a value, if it was given none.
            pub fn read(value: impl Fn(&'static Row) -> Option<Value>) -> Result<Limits, &'static Row> {
                Ok(Limits { $($field: { let row = const { &$row }; Field::of(value(row)).ok_or(row)? },)* })
            }

            /// The value of each row, in the order of [`Limits::TABLE`].
            pub fn values(&self) -> Vec<(&'static Row, Option<Value>)> {
                vec![$((const { &$row }, self.$field.value()),)*]
            }

            /// Whether a run under these limits has this one.
            pub fn have(&self, limit: Limit) -> bool {
                match limit { $($(Limit::$variant(value) => Some(value) == self.$field.into(),)?)* }
            }
        }

        impl Limit {
            fn row(self) -> (&'static Row, u64) {
                match self { $($(Limit::$variant(value) => (const { &$row }, value),)?)* }
            }
        }
    };
}

limits! {
    /// Time from before the instantiation, so that a `start` function counts too.
    timeout: Duration = Row {
        flag: "timeout", variable: Some("WQ_TIMEOUT"), unit: Unit::Time, default: Some("25m"),
        help: "How long one run may take",
        outcome: Some("timeout"),
        ..Row::NONE
    };
    /// Over all memories and tables of the instance together.
    memory: u64 => Memory = Row {
        flag: "max-memory-size", unit: Unit::Bytes, default: Some("512MiB"),
        help: "Memory of the guest: all memories and tables together",
        outcome: Some("memory"), says: "the guest needed more than {} bytes of memory",
        ..Row::NONE
    };
    /// More than this fails the run: a result that was cut short is no result.
    stdout: u64 => Stdout = Row {
        flag: "max-stdout", unit: Unit::Bytes, default: Some("16MiB"),
        help: "Maximum output on stdout; a run that writes more fails",
        outcome: Some("output"), says: "the guest wrote more than {} bytes to stdout",
        ..Row::NONE
    };
    /// What comes after this is dropped, and a line in the log says so.
    stderr: u64 = Row {
        flag: "max-stderr", unit: Unit::Bytes, default: Some("1MiB"),
        help: "Maximum output on stderr; the rest is dropped",
        ..Row::NONE
    };
    /// A larger message is not run.
    message: u64 = Row {
        flag: "max-message", unit: Unit::Bytes, default: Some("128MiB"),
        help: "Maximum size of a message; a larger one is not run",
        outcome: Some("message"),
        ..Row::NONE
    };
    /// Units of wasmtime's fuel. Counting them makes a guest slower, so there is no limit by default.
    fuel: Option<u64> => Fuel = Row {
        flag: "fuel", unit: Unit::Positive,
        help: "Units of work, about one for each instruction, after which a run is stopped [default: not counted]",
        outcome: Some("fuel"), says: "the guest used up {} units of fuel",
        ..Row::NONE
    };
    stack: u64 => Stack = Row {
        flag: "max-wasm-stack", unit: Unit::Bytes, default: Some("512KiB"),
        help: "Stack for the guest's calls",
        outcome: Some("stack"), says: "the guest overflowed its stack of {} bytes",
        ..Row::NONE
    };
    /// Files, sockets, streams and timers that are open at once, of the host's and of a component's counting.
    resources: u64 => Resources = Row {
        flag: "max-resources", unit: Unit::Count, default: Some("1000"),
        help: "Open files, sockets and other handles at a time",
        outcome: Some("resources"), says: "the guest held more than {} files and other handles open",
        ..Row::NONE
    };
    /// What one call of the guest to the host may carry.
    hostcall: u64 => Hostcall = Row {
        flag: "max-hostcall", unit: Unit::Bytes, default: Some("128MiB"),
        help: "Maximum amount of data that the guest passes to the host in one call",
        outcome: Some("hostcall"), says: "the guest handed over more than {} bytes in one call",
        ..Row::NONE
    };
    /// What one call for random bytes may ask for.
    random: u64 => Random = Row {
        flag: "max-random-size", unit: Unit::Bytes, default: Some("16MiB"),
        help: "Maximum number of random bytes that one call may ask for",
        outcome: Some("random"), says: "the guest asked for more than {} random bytes at once",
        ..Row::NONE
    };
    /// Instances, memories and tables of a component, each, and memories of a module.
    instances: u64 => Instances = Row {
        flag: "max-instances", unit: Unit::Count, default: Some("200"),
        help: "Maximum number of instances, of memories and of tables of a component",
        outcome: Some("instances"), says: "the guest is made of more than {} instances, memories or tables",
        ..Row::NONE
    };
    /// What a run may keep in a folder of its own. There is no folder without it.
    scratch: Option<u64> => Scratch = Row {
        flag: "scratch", unit: Unit::Bytes, is_grant: true,
        help: "Give each run an empty folder /tmp of this size, which is deleted after the run",
        outcome: Some("scratch"), says: "the guest filled its scratch folder of {} bytes",
        ..Row::NONE
    };
}

impl Row {
    /// What most limits have not.
    const NONE: Row = Row {
        flag: "",
        variable: None,
        unit: Unit::Count,
        default: None,
        is_grant: false,
        help: "",
        outcome: None,
        says: "",
    };
}

/// A type that a limit can have.
trait Field: Sized {
    fn of(value: Option<Value>) -> Option<Self>;
    fn value(&self) -> Option<Value>;
}

impl Field for Duration {
    fn of(value: Option<Value>) -> Option<Duration> {
        if let Some(Value::Time(time)) = value { Some(time) } else { None }
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Time(*self))
    }
}

impl Field for u64 {
    fn of(value: Option<Value>) -> Option<u64> {
        if let Some(Value::Number(number)) = value { Some(number) } else { None }
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Number(*self))
    }
}

impl Field for Option<u64> {
    fn of(value: Option<Value>) -> Option<Option<u64>> {
        if value.is_none() { Some(None) } else { u64::of(value).map(Some) }
    }

    fn value(&self) -> Option<Value> {
        self.map(Value::Number)
    }
}

/// A minute, and one of everything else, in megabytes where it has a size; none that has to be asked for.
#[cfg(any(test, fuzzing))]
impl Default for Limits {
    fn default() -> Limits {
        let value = |row: &Row| match row.unit {
            _ if row.default.is_none() => None,
            Unit::Time => Some(Value::Time(Duration::from_secs(60))),
            Unit::Bytes => Some(Value::Number(1 << 20)),
            Unit::Count | Unit::Positive => Some(Value::Number(1)),
        };
        Limits::read(value).unwrap_or_else(|row| unreachable!("{} has a value", row.flag))
    }
}

impl Limit {
    /// The name in logs, metrics and the `x-wq-outcome` header.
    pub fn name(self) -> &'static str {
        let (row, _) = self.row();
        row.outcome.unwrap_or(row.flag)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (row, value) = self.row();
        write!(f, "{} (--{})", row.says.replacen("{}", &value.to_string(), 1), row.flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Outcome, Verdict};

    #[test]
    fn a_limit_says_its_name_its_value_and_its_flag() {
        assert_eq!(Limit::Stdout(5).name(), "output");
        assert_eq!(Limit::Stdout(5).to_string(), "the guest wrote more than 5 bytes to stdout (--max-stdout)");
    }

    #[test]
    fn the_two_that_are_outcomes_of_their_own_have_the_names_of_their_rows() {
        let name = |flag| Limits::TABLE.iter().find(|row| row.flag == flag).unwrap().outcome;
        assert_eq!(name("timeout"), Some(Outcome::TimedOut(Duration::ZERO).name()));
        assert_eq!(name("max-message"), Some(Verdict::TooLarge(1).name()));
    }

    #[test]
    fn every_row_says_what_a_run_did_that_went_over_it() {
        for row in Limits::TABLE {
            // The two that are outcomes of their own say it in `task.rs`, and one has no outcome.
            let is_said_elsewhere = ["timeout", "max-message", "max-stderr"].contains(&row.flag);
            assert_eq!(row.says.matches("{}").count(), usize::from(!is_said_elsewhere), "{}", row.flag);
        }
    }

    #[test]
    fn limits_are_read_from_their_values_as_they_were() {
        let limits = Limits { fuel: Some(7), timeout: Duration::from_millis(1), ..Limits::default() };
        let values = limits.values();
        let value = |row: &Row| values.iter().find(|(known, _)| known.flag == row.flag).and_then(|(_, value)| *value);
        let again = Limits::read(value).unwrap().values();
        assert!(again.iter().zip(&values).all(|((_, one), (_, other))| one == other));
        assert_eq!(
            values.iter().map(|(row, _)| row.flag).collect::<Vec<_>>(),
            Limits::TABLE.iter().map(|row| row.flag).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_limit_that_always_has_a_value_is_not_read_without_one() {
        let without = |flag: &str| Limits::read(|row| (row.flag != flag).then_some(Value::Number(7)));
        assert_eq!(without("max-stdout").unwrap_err().flag, "timeout", "a number is no time");
        let limits = Limits::default();
        assert!(limits.have(Limit::Memory(limits.memory)) && !limits.have(Limit::Memory(0)));
        assert!(!limits.have(Limit::Fuel(0)) && Limits { fuel: Some(0), ..limits }.have(Limit::Fuel(0)));
    }
}
