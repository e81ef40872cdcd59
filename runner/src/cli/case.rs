//! The flags by which `wq-run exec` runs a case again.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

const CASE: &str = "Case";

#[derive(Debug, Args)]
pub struct Case {
    /// Run a case again and compare it with the recorded run; `-` is stdin. Exits with 0 if they match and with 1 if not
    #[arg(long, value_name = "FILE", help_heading = CASE)]
    pub case: Option<PathBuf>,

    /// Give the guest /wq/message.json if the case does not record whether the run had it
    #[arg(long, requires = "case", help_heading = CASE)]
    pub metadata: bool,

    /// Decompress the message as its content_encoding says if the case does not record whether the run did
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
