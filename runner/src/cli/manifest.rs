//! The flags of `wq-run manifest`: what a cluster has to know, and all flags of `work`.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};

use super::durations::duration;
use super::kubernetes::{Amount, Completions, EnvFrom, Key, Mount, Name, Source};
use super::numbers::whole;

const PODS: &str = "Pods";
const JOB: &str = "Job";
const SCALING: &str = "Scaling";

#[derive(Debug, Subcommand)]
pub enum Manifest<W: Args> {
    /// Print a Job: one message for each pod, or with --drain pods that work until the queue is empty
    Job(Job<W>),
    /// Print a Deployment of workers that run until they are stopped
    Worker(Worker<W>),
    /// Print objects that KEDA scales with the queue: a ScaledJob, or with --forever a Deployment and a ScaledObject
    Keda(Keda<W>),
}

#[derive(Debug, Args)]
pub struct Job<W: Args> {
    #[command(flatten)]
    pub pods: Pods,

    #[command(flatten)]
    pub bounds: JobBounds,

    /// Number of pods that have to succeed; `auto` counts the messages that are in the queue now
    #[arg(long, value_name = "N|auto", conflicts_with = "drain", help_heading = JOB)]
    pub completions: Option<Completions>,

    /// Pods that run at the same time
    #[arg(long, value_name = "N", default_value = "2", value_parser = whole(1_u32), help_heading = JOB)]
    pub parallelism: u32,

    #[command(flatten)]
    pub working: Working<W>,
}

#[derive(Debug, Args)]
pub struct Worker<W: Args> {
    #[command(flatten)]
    pub pods: Pods,

    /// Number of pods
    #[arg(long, value_name = "N", default_value = "2", value_parser = whole(0_u32), help_heading = SCALING)]
    pub replicas: u32,

    #[command(flatten)]
    pub working: Working<W>,
}

#[derive(Debug, Args)]
pub struct Keda<W: Args> {
    #[command(flatten)]
    pub pods: Pods,

    #[command(flatten)]
    pub bounds: JobBounds,

    #[command(flatten)]
    pub scaling: Scaling,

    #[command(flatten)]
    pub working: Working<W>,
}

#[derive(Debug, Args)]
pub struct Pods {
    /// Output format
    #[arg(short, long, value_name = "FORM", default_value = "yaml", help_heading = PODS)]
    pub output: Output,

    /// Name of the objects [default: the queue's name]
    #[arg(long, value_name = "NAME", help_heading = PODS)]
    pub name: Option<Name>,

    /// Namespace of the objects [default: that of kubectl]
    #[arg(short, long, value_name = "NAME", help_heading = PODS)]
    pub namespace: Option<Name>,

    /// The image of wq-run
    #[arg(long, value_name = "IMAGE", default_value = "localhost/wq-run:dev", help_heading = PODS)]
    pub image: String,

    /// Where pods find the guest: configmap/NAME, image/IMAGE or pvc/NAME; GUEST is a path in it [default: ConfigMaps with
    /// the file GUEST, which are printed too]
    #[arg(long, value_name = "SOURCE", help_heading = PODS)]
    pub guest_from: Option<Source>,

    /// A volume in each pod: PATH=pvc/NAME, PATH=configmap/NAME, PATH=secret/NAME, PATH=image/IMAGE or
    /// PATH=emptydir[/SIZE]; may be repeated
    #[arg(long, value_name = "PATH=SOURCE", help_heading = PODS)]
    pub mount: Vec<Mount>,

    /// The Secret with the broker's URL, and its key
    #[arg(long, value_name = "NAME[/KEY]", default_value = "broker/BROKER_URL", help_heading = PODS)]
    pub broker_secret: Key,

    /// Environment variables of each pod, for --env K and for credentials: secret/NAME or configmap/NAME; may be repeated
    #[arg(long, value_name = "SOURCE", help_heading = PODS)]
    pub env_from: Vec<EnvFrom>,

    /// Service account of the pods, for a role in a cloud; its token is not mounted
    #[arg(long, value_name = "NAME", help_heading = PODS)]
    pub service_account: Option<Name>,

    /// Resource requests of a pod, such as cpu=500m,memory=256Mi [default: 100m for each guest that runs, and the memory to start
    /// and to compile the guest]
    #[arg(long, value_name = "NAME=AMOUNT", value_delimiter = ',', help_heading = PODS)]
    pub requests: Vec<Amount>,

    /// Resource limits of a pod, such as memory=2Gi [default: the memory that the limits of the runs allow]
    #[arg(long, value_name = "NAME=AMOUNT", value_delimiter = ',', help_heading = PODS)]
    pub limits: Vec<Amount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Yaml,
    /// A List as JSON
    Json,
}

#[derive(Debug, Args)]
pub struct JobBounds {
    /// Failed pods after which the Job fails [default: --max-attempts for each pod]
    #[arg(long, value_name = "N", value_parser = whole(0_u32), help_heading = JOB)]
    pub backoff_limit: Option<u32>,

    /// How long to keep a Job that has ended, with the logs of its pods
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = duration, help_heading = JOB)]
    pub ttl: Duration,
}

#[derive(Debug, Args)]
pub struct Scaling {
    /// Messages for each pod [default: --count, or 10]
    #[arg(long, value_name = "N", value_parser = whole(1_u32), help_heading = SCALING)]
    pub messages_per_pod: Option<u32>,

    /// Minimum number of pods
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole(0_u32), help_heading = SCALING)]
    pub min_replicas: u32,

    /// Maximum number of pods
    #[arg(long, value_name = "N", default_value = "10", value_parser = whole(1_u32), help_heading = SCALING)]
    pub max_replicas: u32,

    /// How often KEDA looks at the queue
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = SCALING)]
    pub polling_interval: Duration,

    /// How long the queue has to be empty before the last pod of a Deployment is removed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = SCALING)]
    pub cooldown: Duration,

    /// The Secret that KEDA reads to reach the broker [default: that of --broker-secret]
    #[arg(long, value_name = "NAME", help_heading = SCALING)]
    pub scaler_secret: Option<Name>,
}

impl<W: Args> Manifest<W> {
    pub fn parts(&self) -> (&Pods, &Working<W>) {
        match self {
            Manifest::Job(Job { pods, working, .. })
            | Manifest::Worker(Worker { pods, working, .. })
            | Manifest::Keda(Keda { pods, working, .. }) => (pods, working),
        }
    }
}

/// The flags of `work`, and which of them were given.
#[derive(Debug)]
pub struct Working<W> {
    pub work: W,
    /// By flags and by variables, in the order of the help.
    pub given: Vec<Given>,
    /// All that `work` of this build knows.
    pub known: Vec<String>,
}

/// A flag that was given, without its dashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub flag: String,
    /// Empty if it takes none.
    pub values: Vec<String>,
}

impl<W: Args> Args for Working<W> {
    fn augment_args(command: Command) -> Command {
        W::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        W::augment_args_for_update(command)
    }
}

impl<W: Args> FromArgMatches for Working<W> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Working<W>, clap::Error> {
        let mut matches = matches.clone();
        settle_contradictions(&mut matches)?;
        let command = W::augment_args(Command::new("work"));
        let flags: Vec<(&Arg, &str)> = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?))).collect();
        let mut all: Vec<Given> = flags.iter().filter_map(|(arg, flag)| given(&matches, arg, flag)).collect();
        // A flag of every command, which is none of `work` alone.
        all.extend(typed_value(&matches, "log_format", "log-format"));
        Ok(Working {
            given: all,
            known: flags.iter().map(|(_, flag)| (*flag).to_owned()).collect(),
            work: W::from_arg_matches(&matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Working::from_arg_matches(matches)?;
        Ok(())
    }
}

/// As `work` itself has it: a flag that was typed comes before a variable that says the opposite.
fn settle_contradictions(matches: &mut ArgMatches) -> Result<(), clap::Error> {
    for (one, flag, other) in [("forever", "--wait", "wait"), ("no_cache", "--cache-dir", "cache_dir")] {
        if !matches.get_flag(one) {
            continue;
        }
        if matches.value_source(other) == Some(ValueSource::CommandLine) {
            let text = format!("--{} cannot be used with {flag}\n", one.replace('_', "-"));
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        }
        let _ = matches.try_clear_id(other);
    }
    Ok(())
}

fn given(matches: &ArgMatches, arg: &Arg, flag: &str) -> Option<Given> {
    let id = arg.get_id().as_str();
    // The broker's address, which has a password in it.
    if arg.is_hide_env_values_set()
        || !matches!(matches.value_source(id)?, ValueSource::CommandLine | ValueSource::EnvVariable)
    {
        return None;
    }
    let values = match arg.get_action().takes_values() {
        true => matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect(),
        false => Vec::new(),
    };
    Some(Given { flag: flag.to_owned(), values })
}

fn typed_value(matches: &ArgMatches, id: &str, flag: &str) -> Option<Given> {
    if matches.try_contains_id(id).ok()? && matches.value_source(id)? == ValueSource::CommandLine {
        let value = matches.get_raw(id)?.next_back()?.to_string_lossy().into_owned();
        return Some(Given { flag: flag.to_owned(), values: vec![value] });
    }
    None
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli;

    fn job(line: &[&str]) -> Result<Job<cli::Work>, clap::Error> {
        let line = ["wq-run", "manifest", "job"].iter().chain(line);
        match cli::Cli::try_parse_from(line)?.command {
            cli::Command::Manifest(Manifest::Job(job)) => Ok(job),
            _ => panic!("job"),
        }
    }

    #[test]
    fn what_was_given_is_told_from_what_has_its_default() {
        let job = job(&["task.wasm", "--env=A=b", "--metadata", "--timeout=5m", "--env=C=d", "--", "--env=x"]).unwrap();
        let given: Vec<(&str, Vec<&str>)> = job
            .working
            .given
            .iter()
            .map(|given| (given.flag.as_str(), given.values.iter().map(String::as_str).collect()))
            .collect();
        assert!(given.contains(&("env", vec!["A=b", "C=d"])), "{given:?}");
        assert!(given.contains(&("metadata", vec![])) && given.contains(&("timeout", vec!["5m"])), "{given:?}");
        assert!(!given.iter().any(|(flag, _)| *flag == "max-attempts"), "{given:?}");
        assert_eq!(job.working.work.guest.args, ["--env=x"]);
        assert!(job.working.known.contains(&"concurrency".to_owned()));
    }

    #[test]
    fn two_flags_that_contradict_each_other_are_refused() {
        let kind = |line: &[&str]| job(line).unwrap_err().kind();
        assert_eq!(kind(&["t.wasm", "--forever", "--wait", "1s"]), ErrorKind::ArgumentConflict);
        assert_eq!(kind(&["t.wasm", "--no-cache", "--cache-dir", "x"]), ErrorKind::ArgumentConflict);
        assert_eq!(kind(&["t.wasm", "--drain", "--completions", "3"]), ErrorKind::ArgumentConflict);
    }
}
