//! The flags of the limits of a run, made from their table.

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::durations::duration;
use super::numbers::{size, whole};
use crate::task::limits::{Limits, Row, Unit, Value};

const LIMITS: &str = "Limits of a run";
pub(super) const GRANTS: &str = "Grants";

/// The rows that are typed among the grants, as flags. Their values are read with those of the others.
#[derive(Debug)]
pub struct Granted;

fn flags(command: Command, are_grants: bool, heading: &'static str) -> Command {
    let rows = Limits::TABLE.iter().filter(|row| row.is_grant == are_grants);
    rows.fold(command, |command, row| command.arg(flag(row).help_heading(heading)))
}

fn flag(row: &Row) -> Arg {
    let mut flag = Arg::new(row.flag).long(row.flag).help(row.help);
    if let Some(variable) = row.variable {
        flag = flag.env(variable);
    }
    if let Some(default) = row.default {
        flag = flag.default_value(default);
    }
    match row.unit {
        Unit::Time => flag.value_name("DURATION").value_parser(|text: &str| duration(text).map(Value::Time)),
        Unit::Bytes => {
            flag.value_name("BYTES").value_parser(|text: &str| size(text).map(|size| Value::Number(size.as_u64())))
        }
        Unit::Count => flag.value_name("N").value_parser(|text: &str| whole(0)(text).map(Value::Number)),
        Unit::Positive => flag.value_name("N").value_parser(|text: &str| whole(1)(text).map(Value::Number)),
    }
}

impl Args for Limits {
    fn augment_args(command: Command) -> Command {
        flags(command, false, LIMITS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Limits::augment_args(command)
    }
}

impl FromArgMatches for Limits {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Limits, clap::Error> {
        // A command need not have the flags of grants.
        let typed = |row: &Row| matches.try_get_one(row.flag).ok().flatten().copied();
        Limits::read(typed).map_err(|row| {
            clap::Error::raw(ErrorKind::MissingRequiredArgument, format!("--{} has no value\n", row.flag))
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Limits::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Granted {
    fn augment_args(command: Command) -> Command {
        flags(command, true, GRANTS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Granted::augment_args(command)
    }
}

impl FromArgMatches for Granted {
    fn from_arg_matches(_: &ArgMatches) -> Result<Granted, clap::Error> {
        Ok(Granted)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}
