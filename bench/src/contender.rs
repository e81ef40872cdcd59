//! Who takes part, as command lines. All of them take from one queue and echo what they get.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// Where the programs and the guests are.
pub struct Tools {
    /// What is measured, and the build of `--against` if one was named.
    pub builds: Vec<WqRun>,
    pub bench: PathBuf,
    pub native_worker: PathBuf,
    pub python_worker: PathBuf,
    pub python: PathBuf,
    /// A Python that has huey, litequeue and redis, if one was named.
    pub peers_python: Option<PathBuf>,
    pub wasmtime: PathBuf,
    pub amqp_consume: PathBuf,
    pub amqp_publish: PathBuf,
    pub echo: PathBuf,
    /// The same guest, compiled ahead by the `wasmtime` of this run.
    pub echo_cwasm: PathBuf,
    /// A guest of an interpreter's size, if it was built.
    pub interpreter: Option<Interpreter>,
    /// CPython as a module, if it is there.
    pub cpython: Option<PathBuf>,
}

/// A build of wq-run.
pub struct WqRun {
    pub program: PathBuf,
    /// The program that runs a guest in the sandbox of this build. An older build comes with none if nobody kept it.
    pub guest_bench: Option<PathBuf>,
    /// Filled.
    pub cache: PathBuf,
    /// Whether it knows `--compile fast`.
    pub compiles_fast: bool,
}

pub struct Interpreter {
    pub guest: PathBuf,
    pub cwasm: PathBuf,
}

/// Which build of wq-run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    Now,
    /// That of `--against`.
    Before,
}

/// How the rows of the build of `--against` end.
pub const BEFORE: &str = ", before";

impl Build {
    /// The name of what this build does.
    pub fn of(self, name: &str) -> String {
        match self {
            Build::Now => name.to_owned(),
            Build::Before => format!("{name}{BEFORE}"),
        }
    }
}

impl Tools {
    pub fn build(&self, build: Build) -> &WqRun {
        match build {
            Build::Now => &self.builds[0],
            Build::Before => &self.builds[1],
        }
    }

    pub fn has_before(&self) -> bool {
        self.builds.len() > 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    WqRun {
        build: Build,
        concurrency: u16,
    },
    /// The same with its log at the default level, a line for each message.
    WqRunLogging,
    Lapin,
    /// One acknowledgement for `GATHER` messages.
    LapinMultiple,
    Cat,
    Native,
    Python,
    Wasmtime,
}

/// Deliveries that a consumer may have at hand in the loop, for everybody. Who takes one message has room for one.
pub const PREFETCH: u16 = 200;
pub const GATHER: u64 = 20;

/// wq-run says at its end what it did, and nothing on the way. Builds of before 0.2.0 said it elsewhere.
const ONLY_THE_END: &str = "warn,wq_run::observe::summary=info,wq_run::commands=info";

impl Contender {
    pub fn name(self) -> String {
        match self {
            Contender::WqRun { build, concurrency } => build.of(&format!("wq-run, concurrency {concurrency}")),
            Contender::WqRunLogging => "wq-run, concurrency 1, a log line per message".into(),
            Contender::Lapin => "bare lapin, ack each".into(),
            Contender::LapinMultiple => format!("bare lapin, one ack per {GATHER}"),
            Contender::Cat => "amqp-consume + cat".into(),
            Contender::Native => "amqp-consume + native worker".into(),
            Contender::Python => "amqp-consume + Python worker".into(),
            Contender::Wasmtime => "amqp-consume + wasmtime run".into(),
        }
    }

    /// About how many messages of 5 bytes a second on two cores: how much work to hand out, so that all take a similar
    /// time.
    pub fn usual_rate(self) -> f64 {
        match self {
            Contender::WqRun { .. } => 40_000.0,
            Contender::WqRunLogging => 15_000.0,
            Contender::Lapin => 15_000.0,
            Contender::LapinMultiple => 80_000.0,
            Contender::Cat | Contender::Native => 1_200.0,
            Contender::Python => 80.0,
            Contender::Wasmtime => 200.0,
        }
    }

    /// The command that takes `count` messages and ends.
    pub fn command(self, tools: &Tools, url: &str, queue: &str, count: u64) -> Command {
        match self {
            Contender::WqRun { build, concurrency } => {
                let mut command = loop_of(tools, build, url, queue, concurrency);
                command.arg("--drain");
                command
            }
            Contender::WqRunLogging => {
                let mut command = wq_run(tools, Build::Now, url, queue);
                command.args(["--drain", "--result", "none", "--prefetch", &PREFETCH.to_string()]);
                command
            }
            Contender::Lapin => lapin(tools, url, queue, count),
            Contender::LapinMultiple => {
                let mut command = lapin(tools, url, queue, count);
                command.args(["--gather", &GATHER.to_string()]);
                command
            }
            Contender::Cat | Contender::Native | Contender::Python | Contender::Wasmtime => {
                let mut command = Command::new(&tools.amqp_consume);
                command.args(["--url", url, "--queue", queue]);
                command.args(["--prefetch-count", &prefetch(count).to_string(), "--count", &count.to_string()]);
                // It would take options of its command for its own.
                command.arg("--").args(self.worker(tools));
                command
            }
        }
    }

    /// What `amqp-consume` starts for each message.
    fn worker(self, tools: &Tools) -> Vec<OsString> {
        match self {
            Contender::Native => vec![tools.native_worker.clone().into()],
            Contender::Python => vec![tools.python.clone().into(), tools.python_worker.clone().into()],
            Contender::Wasmtime => wasmtime_run(tools, &tools.echo_cwasm),
            _ => vec!["cat".into()],
        }
    }

    /// The number of messages that were done, from the contender's stderr; `None` for one that only has an exit status.
    pub fn claims(self, stderr: &str) -> Option<Result<u64>> {
        match self {
            Contender::WqRun { .. } | Contender::WqRunLogging => Some(acked(stderr)),
            _ => None,
        }
    }
}

/// What wq-run does in a loop, without when it ends.
pub fn loop_of(tools: &Tools, build: Build, url: &str, queue: &str, concurrency: u16) -> Command {
    let mut command = wq_run(tools, build, url, queue);
    command.args(["--result", "none", "--concurrency", &concurrency.to_string()]);
    command.args(["--prefetch", &PREFETCH.to_string()]);
    command.env("RUST_LOG", ONLY_THE_END);
    command
}

/// The worker, with a compiled guest.
pub fn wq_run(tools: &Tools, build: Build, url: &str, queue: &str) -> Command {
    let mut command = worker(tools, build, &tools.echo, url, queue);
    command.arg("--cache-dir").arg(&tools.build(build).cache);
    command
}

/// The worker; where compiled code lies has to be added.
pub fn worker(tools: &Tools, build: Build, guest: &Path, url: &str, queue: &str) -> Command {
    let mut command = Command::new(&tools.build(build).program);
    command.arg("work").arg(guest).args(["--log-format", "json"]);
    command.env("BROKER_URL", url).env("QUEUE", queue).env_remove("RUST_LOG");
    command
}

pub fn lapin(tools: &Tools, url: &str, queue: &str, count: u64) -> Command {
    let mut command = Command::new(&tools.bench);
    command.args(["lapin", "--queue", queue, "--count", &count.to_string()]);
    command.args(["--prefetch", &prefetch(count).to_string()]);
    command.env("BROKER_URL", url);
    command
}

pub fn wasmtime_run(tools: &Tools, cwasm: &Path) -> Vec<OsString> {
    let program = tools.wasmtime.clone().into();
    vec![program, "run".into(), "--allow-precompiled".into(), cwasm.into()]
}

/// More than the messages that are asked for would be taken only to be given back.
fn prefetch(count: u64) -> u16 {
    u16::try_from(count).map_or(PREFETCH, |count| count.min(PREFETCH))
}

/// The count in wq-run's last line; all messages are acked, or something went wrong.
fn acked(stderr: &str) -> Result<u64> {
    let line = stderr
        .lines()
        .rev()
        .find(|line| line.contains("\"message\":\"stopped\""))
        .ok_or("wq-run did not say its count")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    let count = |name: &str| line[name].as_u64();
    let others = ["retried", "dead_lettered", "released", "unsettled"];
    if let Some(other) = others.iter().find(|name| count(name) != Some(0)) {
        return Err(format!("wq-run {other} messages: {line}").into());
    }
    count("acked").ok_or_else(|| format!("wq-run did not say its count: {line}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_believed_only_if_nothing_else_happened() {
        let line = |unsettled: u64| {
            format!(
                "{{\"message\":\"working\"}}\n{{\"message\":\"stopped\",\"acked\":20,\"retried\":0,\
                 \"dead_lettered\":0,\"released\":0,\"unsettled\":{unsettled}}}\n"
            )
        };
        assert_eq!(acked(&line(0)).unwrap(), 20);
        assert!(acked(&line(1)).is_err());
        assert!(acked("").is_err());
    }
}
