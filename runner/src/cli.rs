//! What can be typed, and its help. No decisions: `config.rs` makes them.

mod broker;
mod case;
mod dlq;
mod durations;
pub mod generated;
mod guest;
mod help;
pub mod kubernetes;
mod limits;
mod listen;
pub mod manifest;
mod numbers;
mod publish;
mod queue;
mod version;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgGroup, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

pub use broker::{Broker, OnEmpty};
pub use case::Case;
pub use dlq::{DeadLetters, DeadLettersOf, Doing, Filters};
pub use guest::{Compile as HowToCompile, Compiling, EmptyOutput, Grants, Guest, Isolation, Wall};
pub use manifest::Manifest;
pub use publish::Publish;
pub use queue::{Arguments, Queue, Which};

use self::durations::{duration, pause};
use self::numbers::{factor, whole};
use crate::settle::ExitMap;
use crate::sink;
use crate::streams::termination;

/// Runs a WebAssembly guest in a sandbox for each message of a queue, and acknowledges the message when the guest succeeds.
#[derive(Debug, Parser)]
#[command(name = "wq-run", version, long_version = version::LONG.as_str(), max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Format of the log on stderr [default: text on a terminal, json otherwise]
    #[arg(long, global = true, env = "WQ_LOG_FORMAT", value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take messages from a queue, one by default, and run the guest for each
    Work(Work),
    /// Run the guest once, without a queue: stdin is the message
    Exec(Exec),
    /// Compile a guest into the cache, so that workers start at once
    Compile(Compile),
    /// Check whether a worker with these flags could run, without taking a message
    Check(Check),
    /// Show the kind of a guest, its imports and features, and whether it fits into a ConfigMap
    Inspect(Inspect),
    /// Put messages into a queue, and wait for the broker to confirm each
    Publish(Publish),
    /// Create, inspect and empty queues
    #[command(subcommand)]
    Queue(Queue),
    /// Print Kubernetes manifests for a worker, from the flags of `work`
    #[command(subcommand)]
    Manifest(Manifest<Work>),
    /// Print the completion script for a shell
    Completions(Completions),
    /// Write a manual page for each command into a folder
    #[command(hide = true)]
    Man(Man),
    /// List, show, replay and delete dead letters
    #[command(subcommand, name = "dlq")]
    DeadLetters(DeadLetters),
}

impl Cli {
    /// Reads the command line and the environment. Says what is wrong with them, or what was asked for, and exits.
    pub fn read() -> Cli {
        Cli::try_read(std::env::args_os()).unwrap_or_else(|error| {
            if error.use_stderr() && std::env::args_os().any(|word| word == "work") {
                let named = std::env::var_os(termination::VARIABLE).map(PathBuf::from);
                termination::keep(named.as_deref());
                termination::write(&error.to_string());
            }
            error.exit()
        })
    }

    /// All commands and flags.
    pub fn definition() -> clap::Command {
        numbers::take_negatives(help::described(Cli::command()))
    }

    /// A flag that was typed comes before a variable that says the opposite. Two flags that do are refused.
    fn try_read(line: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let mut command = Cli::definition();
        let line: Vec<OsString> = line.into_iter().collect();
        let matches = command
            .try_get_matches_from_mut(&line)
            .map_err(|error| if is_without_guest(&error) { no_guest(&command, &line) } else { error })?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        let Some((_, typed)) = matches.subcommand() else { return Ok(cli) };
        let from_variable = |flag: &str| typed.value_source(flag) == Some(ValueSource::EnvVariable);
        let mut refuse = |one: &str, other: &str| {
            Err(command.error(ErrorKind::ArgumentConflict, format!("{one} cannot be used with {other}")))
        };
        if let Command::Work(Work { guest, .. })
        | Command::Check(Check { work: Work { guest, .. }, .. })
        | Command::Exec(Exec { guest, .. })
        | Command::Compile(Compile { guest }) = &mut cli.command
            && guest.no_cache
            && guest.cache_dir.take().is_some()
            && !from_variable("cache_dir")
        {
            return refuse("--no-cache", "--cache-dir");
        }
        if let Command::Exec(exec) = &mut cli.command {
            exec.case.note_typed(typed);
        }
        if let Command::Work(work) | Command::Check(Check { work, .. }) = &mut cli.command
            && work.forever
            && work.wait.take().is_some()
            && !from_variable("wait")
        {
            return refuse("--forever", "--wait");
        }
        Ok(cli)
    }
}

const QUEUE: &str = broker::HEADING;
const SETTLING: &str = "Settling";
const GUEST: &str = guest::HEADING;
const RESULTS: &str = "Results";
const CHECK: &str = "Check";
const REPORTING: &str = "Reporting";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("mode").multiple(false))]
pub struct Work {
    #[command(flatten)]
    pub guest: Guest,

    #[command(flatten)]
    pub broker: Broker,

    /// Take N messages, then exit [default: 1]; WQ_MODE=count=N
    #[arg(short, long, value_name = "N", group = "mode", value_parser = whole(1_u64), help_heading = QUEUE)]
    pub count: Option<u64>,

    /// Work until the queue is empty; WQ_MODE=drain
    #[arg(long, group = "mode", help_heading = QUEUE)]
    pub drain: bool,

    /// Work until a signal stops the worker; WQ_MODE=forever
    #[arg(long, group = "mode", help_heading = QUEUE)]
    pub forever: bool,

    /// How long to wait for a message [default: forever; with --drain: not at all]
    #[arg(long, value_name = "DURATION", env = "WQ_WAIT", value_parser = duration, help_heading = QUEUE)]
    pub wait: Option<Duration>,

    /// How to end when no message came: `success` is exit status 0, `fail` is 79
    #[arg(long, value_name = "RESULT", default_value = "success", help_heading = QUEUE)]
    pub on_empty: OnEmpty,

    /// What to do if the queue is empty but has dead letters: `fail` exits with status 81
    #[arg(long, value_name = "WHAT", env = "WQ_ON_DEAD_LETTERS", default_value = "ignore", help_heading = QUEUE)]
    pub on_dead_letters: OnDeadLetters,

    /// How long to wait for a queue that does not exist yet [default: not at all]
    #[arg(long, value_name = "DURATION", env = "WQ_WAIT_FOR_QUEUE", value_parser = duration, help_heading = QUEUE)]
    pub wait_for_queue: Option<Duration>,

    /// Guests that run at the same time
    #[arg(long, value_name = "N", env = "WQ_CONCURRENCY", default_value = "1", value_parser = whole(1_u16), help_heading = QUEUE)]
    pub concurrency: u16,

    /// Maximum number of unacknowledged messages, including those being processed [default: --concurrency]
    #[arg(short, long, value_name = "N", value_parser = whole(1_u16), help_heading = QUEUE)]
    pub prefetch: Option<u16>,

    /// Runs of a message, including the first, before it becomes a dead letter
    #[arg(long, value_name = "N", env = "WQ_MAX_ATTEMPTS", default_value = "3", value_parser = whole(1_u32), help_heading = SETTLING)]
    pub max_attempts: u32,

    /// Pause before the second run of a message; a random part, up to half of it, is left out
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = pause, help_heading = SETTLING)]
    pub backoff_initial: Duration,

    /// The longest pause between two runs
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = pause, help_heading = SETTLING)]
    pub backoff_max: Duration,

    /// How many times longer each pause is than the one before
    #[arg(long, value_name = "FACTOR", default_value = "2", value_parser = factor, help_heading = SETTLING)]
    pub backoff_factor: f64,

    /// What to do after an exit code: CODE[-CODE]=ack|retry|dead-letter|release, separated by commas
    #[arg(long, value_name = "MAP", help_heading = SETTLING)]
    pub exit_map: Option<ExitMap>,

    /// Stop taking messages when N different messages have failed in a row; then try one message after each pause until one succeeds. 0
    /// turns this off
    #[arg(long, value_name = "N", env = "WQ_BREAKER", default_value = "0", value_parser = whole(0_u32), help_heading = SETTLING)]
    pub breaker: u32,

    /// Where dead letters go [default: QUEUE.dead]
    #[arg(long, value_name = "NAME", env = "WQ_DEAD_LETTER_QUEUE", help_heading = SETTLING)]
    pub dead_letter_queue: Option<String>,

    /// Who moves dead letters: wq-run, which adds the reason, or the queue's dead-letter exchange. Without such an exchange, the
    /// broker deletes them
    #[arg(long, value_name = "WHO", default_value = "wq-run", help_heading = SETTLING)]
    pub dead_letter_by: DeadLetterBy,

    #[arg(long, value_name = "SPEC", env = "WQ_RESULT", default_value = "stdout", value_delimiter = ',', help = result_help(), help_heading = RESULTS)]
    pub result: Vec<sink::Spec>,

    /// Format of results on stdout and in a folder: `raw` is what the guest wrote; `lines` adds a newline to results that
    /// do not end in one and are not empty; `json` is a line of JSON with the message's id, the attempt, the outcome and the result
    #[arg(long, value_name = "FORMAT", env = "WQ_RESULT_FORMAT", default_value = "raw", help_heading = RESULTS)]
    pub result_format: ResultFormat,

    /// Content type of results in queues
    #[arg(long, value_name = "TYPE", env = "WQ_RESULT_CONTENT_TYPE", help_heading = RESULTS)]
    pub result_content_type: Option<String>,

    /// How long publishing a result, a retry or a dead letter may take, including connecting and the confirmation
    #[arg(long, value_name = "DURATION", env = "WQ_PUBLISH_TIMEOUT", default_value = "30s", value_parser = duration, help_heading = RESULTS)]
    pub publish_timeout: Duration,

    /// Give the guest the message's properties and headers as /wq/message.json
    #[arg(long, help_heading = GUEST)]
    pub metadata: bool,

    /// Decompress messages whose content encoding is gzip or zstd, up to --max-message
    #[arg(long, help_heading = GUEST)]
    pub decode: bool,

    /// How long running guests may continue after the first SIGTERM or SIGINT
    #[arg(long, value_name = "DURATION", env = "WQ_SHUTDOWN_TIMEOUT", default_value = "25s", value_parser = duration, help_heading = QUEUE)]
    pub shutdown_timeout: Duration,

    /// How long to try to connect to the broker at the start
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = QUEUE)]
    pub connect_timeout: Duration,

    /// How long to try to reconnect after the connection was lost
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = QUEUE)]
    pub reconnect_timeout: Duration,

    /// Serve /metrics, /healthz and /readyz on this address: 127.0.0.1:9090 for this host only, 0.0.0.0:9090 for all
    #[arg(long, value_name = "ADDR", env = "WQ_LISTEN", value_parser = listen::address, help_heading = REPORTING)]
    pub listen: Option<SocketAddr>,

    /// Do not log messages that succeeded; failures, progress and the summary are still logged
    #[arg(long, help_heading = REPORTING)]
    pub quiet: bool,

    /// Save a case of each run in this folder, for `wq-run exec --case`; created if it does not exist
    #[arg(long, value_name = "DIR", help_heading = REPORTING)]
    pub record: Option<PathBuf>,

    /// File for the summary and the error at the end [default: /dev/termination-log, if it exists]
    #[arg(long, value_name = "PATH", env = "WQ_TERMINATION_LOG", help_heading = REPORTING)]
    pub termination_log: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub work: Work,

    /// Print a line of JSON for each finding
    #[arg(long, help_heading = CHECK)]
    pub json: bool,

    /// Exit with 1 if there are warnings but no errors
    #[arg(long, help_heading = CHECK)]
    pub strict: bool,

    /// The pod's terminationGracePeriodSeconds
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = CHECK)]
    pub grace_period: Duration,
}

#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    pub guest: Guest,

    /// Print the resource usage of the run to stderr: time, CPU time, memory, fuel and compile time
    #[arg(long)]
    pub stats: bool,

    #[command(flatten)]
    pub case: Case,
}

#[derive(Debug, Args)]
pub struct Compile {
    #[command(flatten)]
    pub guest: Guest,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// The guest
    #[arg(value_name = "GUEST", env = "WQ_GUEST")]
    pub path: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub compiling: Compiling,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: generated::Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// The folder; created if it does not exist
    pub folder: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnDeadLetters {
    Ignore,
    Fail,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ResultFormat {
    Raw,
    Lines,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DeadLetterBy {
    WqRun,
    Broker,
}

/// Whether all that is missing is the guest. An empty variable counts as none.
fn is_without_guest(error: &clap::Error) -> bool {
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) if error.kind() == ErrorKind::MissingRequiredArgument => {
            missing.as_slice()
        }
        Some(ContextValue::String(empty)) if error.kind() == ErrorKind::InvalidValue => std::slice::from_ref(empty),
        _ => return false,
    };
    matches!(missing, [guest] if guest == "<GUEST>")
}

/// clap's own error is not used: its usage line shows each flag that an environment variable sets as one that has to be typed.
fn no_guest(command: &clap::Command, line: &[OsString]) -> clap::Error {
    let words = line.iter().skip(1).filter_map(|word| word.to_str());
    let command = words.fold(command, |command, word| command.find_subcommand(word).unwrap_or(command));
    command.clone().error(
        ErrorKind::MissingRequiredArgument,
        "no guest is named: give the path of its file as the argument GUEST, or set WQ_GUEST",
    )
}

fn result_help() -> String {
    format!("Where results go: {}; may be repeated, or listed with commas", sink::kinds::forms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sandbox, shutdown};

    #[test]
    fn the_command_line_is_well_defined() {
        Cli::command().debug_assert();
    }

    #[test]
    fn who_names_no_guest_is_told_how_to_name_one() {
        // clap takes a flag that a variable sets for one that was typed.
        for line in [
            &["work"][..],
            &["work", "--queue", "work", "--timeout", "3m"],
            &["--log-format", "json", "exec"],
            &["check"],
            &["compile"],
            &["inspect"],
            &["manifest", "job", "--queue", "q"],
        ] {
            let line = ["wq-run"].iter().chain(line).map(OsString::from);
            let refused = Cli::try_read(line.clone()).unwrap_err();
            assert_eq!(refused.exit_code(), 2);
            let said = refused.to_string();
            assert!(
                said.starts_with(
                    "error: no guest is named: give the path of its file as the argument GUEST, or set WQ_GUEST\n"
                ),
                "{said}"
            );
            assert!(
                said.contains(" [OPTIONS] <GUEST>") && !said.contains("--timeout") && !said.contains("--queue"),
                "{said}"
            );
        }
    }

    #[test]
    fn what_follows_two_dashes_is_the_guests() {
        let line = ["wq-run", "work", "g.wasm", "--drain", "--", "--drain", "-u", "--help", "--"];
        let Command::Work(work) = Cli::try_parse_from(line).unwrap().command else { panic!("work") };
        assert_eq!(work.guest.args, ["--drain", "-u", "--help", "--"]);
        assert_eq!(work.broker.broker, None);
    }

    #[test]
    fn the_last_resort_comes_after_a_stuck_guest_and_before_the_pods_end() {
        const POD: Duration = Duration::from_secs(30);
        let Command::Work(work) = Cli::try_parse_from(["wq-run", "work", "g.wasm"]).unwrap().command else {
            panic!("work")
        };
        assert!(shutdown::LAST_RESORT_AFTER > sandbox::STUCK_AFTER);
        assert!(work.shutdown_timeout + shutdown::LAST_RESORT_AFTER < POD);
    }

    #[test]
    fn two_flags_that_contradict_each_other_are_refused() {
        let read = |flags: &[&str]| {
            Cli::try_read(["wq-run", "work", "g.wasm"].iter().chain(flags).map(OsString::from))
                .map_err(|error| error.kind())
        };
        assert_eq!(read(&["--no-cache", "--cache-dir", "x"]).unwrap_err(), ErrorKind::ArgumentConflict);
        assert_eq!(read(&["--forever", "--wait", "1s"]).unwrap_err(), ErrorKind::ArgumentConflict);
        assert!(read(&["--no-cache", "--forever"]).is_ok());
    }
}
