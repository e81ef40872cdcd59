//! The flags by which `wq-run exec` runs a case again.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

const CASE: &str = "Case";

#[derive(Debug, Args)]
pub struct Case {
    /// Run a case again and say whether the same came out; `-` is stdin. Ends with 0 if it did and with 1 if not
    #[arg(long, value_name = "FILE", help_heading = CASE)]
    pub case: Option<PathBuf>,

    /// Give the guest /wq/message.json, where the case does not know whether it had it
    #[arg(long, requires = "case", help_heading = CASE)]
    pub metadata: bool,

    /// Unpack the message by its content_encoding, where the case does not know whether it was
    #[arg(long, requires = "case", help_heading = CASE)]
    pub decode: bool,

    /// The flags that were typed, or set by a variable: they come before what the case says.
    #[arg(skip)]
    typed: Vec<String>,
}

impl Case {
    pub(super) fn note_typed(&mut self, matches: &ArgMatches) {
        let is_typed = |name: &str| {
            matches
                .value_source(name)
                .is_some_and(|source| matches!(source, ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        self.typed = matches.ids().map(|id| id.as_str().to_owned()).filter(|name| is_typed(name)).collect();
    }

    /// Whether a flag was typed, by its name without the dashes.
    pub fn is_typed(&self, flag: &str) -> bool {
        let name = flag.replace('-', "_");
        self.typed.iter().any(|typed| typed == flag || *typed == name)
    }
}
