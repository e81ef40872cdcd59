//! `wq-run exec`: runs a guest once, without a queue.

mod replay;

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;

use super::process::{can_read, unwatched};
use crate::cli;
use crate::config::Exec;
use crate::error::{Error, ExitStatus};
use crate::sandbox::{Env, Input, Sandbox};
use crate::shutdown::{self, Phase, Signal};
use crate::streams;
use crate::task::{Limit, Outcome, Report, Usage};

/// What a shell reports for a program that abort(), an out-of-memory kill or a file size limit ended, and what
/// timeout(1) reports.
const TRAP: u8 = 134;
const MEMORY: u8 = 137;
const OUTPUT: u8 = 153;
const TIMEOUT: u8 = 124;

/// A failure that says nothing else.
const SILENT: u8 = 1;

pub async fn run(args: cli::Exec) -> Result<u8, Error> {
    let case = match &args.case.case {
        Some(file) => Some(replay::read(file, &args.guest.limits)?),
        None => {
            can_read()?;
            None
        }
    };
    let config = Exec::resolve(args, case)?;
    let counts_fuel = config.sandbox.limits.fuel.is_some();
    let sandbox = Sandbox::load(config.loading, config.sandbox).await?;
    let (given, _metadata) = match &config.replay {
        Some(replay) => {
            replay::say_what_is_other(replay, &sandbox);
            replay::given(replay, &sandbox, config.max_message)?
        }
        None => (replay::Given { stdin: read_stdin(config.max_message)?, env: Env::default(), dirs: Vec::new() }, None),
    };
    // After stdin, so that a person who types it in can still leave with Ctrl-C.
    let mut phases = shutdown::watch(Duration::ZERO, ExitStatus::Stuck.code()).map_err(unwatched)?;
    let cancel = CancellationToken::new();
    let replay::Given { stdin, env, dirs } = given;
    let run =
        sandbox.run(Input { stdin, env, dirs, cancel: cancel.clone().into(), withdraw: CancellationToken::new() });
    tokio::pin!(run);
    let mut signal = None;
    let report = loop {
        tokio::select! {
            report = &mut run => break report,
            Ok(()) = phases.changed() => {
                if let Phase::Draining(received) | Phase::Aborting(received) = *phases.borrow_and_update() {
                    signal = Some(received);
                    cancel.cancel();
                }
            }
        }
    };
    let Report { outcome, stdout, stderr_tail, duration, usage, .. } = report;
    // The reader of the result may be slow, and Ctrl-C should end that too.
    shutdown::end_at_once();
    let written = streams::print(&stdout);
    if !matches!(outcome, Outcome::Succeeded | Outcome::Exited(_) | Outcome::Interrupted) {
        tracing::error!(outcome = outcome.name(), error = %outcome, "the guest failed");
    }
    if config.stats {
        let stats = Stats { run: duration, usage, counts_fuel, compiled_in: sandbox.compiled_in() };
        streams::err::push(stats.text(streams::err::speaks_json()).as_bytes());
    }
    // A run that did not come to an end of its own says nothing.
    let compared = config
        .replay
        .filter(|_| outcome.is_the_guests())
        .map(|replay| replay::compare(&replay.case, &outcome, &stdout, &stderr_tail));
    written.map_err(|source| Error::Io { doing: "write the result to stdout".into(), source })?;
    Ok(match compared {
        Some(true) => ExitStatus::Done.code(),
        Some(false) => ExitStatus::Warned.code(),
        None => status(&outcome, signal),
    })
}

/// What `--stats` tells.
struct Stats {
    run: Duration,
    usage: Usage,
    counts_fuel: bool,
    compiled_in: Option<Duration>,
}

impl Stats {
    /// A line for each figure; or one line of JSON, with the names that the log has for them.
    fn text(&self, json: bool) -> String {
        let Stats { run, usage: Usage { peak_memory, cpu, fuel }, counts_fuel, compiled_in } = self;
        if json {
            let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let stats = serde_json::json!({
                "message": "stats",
                "duration_ms": millis(run),
                "cpu_ms": cpu.as_ref().map(millis),
                "peak_memory_bytes": peak_memory,
                "fuel": fuel,
                "compile_ms": compiled_in.as_ref().map(millis),
                "cached": compiled_in.is_none(),
            });
            return format!("{stats}\n");
        }
        let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let or = |text: Option<String>, otherwise: &str| text.unwrap_or_else(|| otherwise.to_owned());
        let memory = peak_memory.map(|peak| format!("{} ({peak} bytes)", ByteSize(peak).display().iec()));
        let no_fuel = if *counts_fuel { "unknown" } else { "not counted (--fuel)" };
        let lines = [
            ("run time", seconds(*run)),
            ("CPU time", or(cpu.map(seconds), "unknown")),
            ("peak memory", or(memory, "unknown")),
            ("fuel", or(fuel.map(|fuel| fuel.to_string()), no_fuel)),
            ("compile time", or(compiled_in.map(seconds), "none, the guest's code is from the cache (--cache-dir)")),
        ];
        lines.iter().map(|(name, value)| format!("{name:<12}  {value}\n")).collect()
    }
}

fn status(outcome: &Outcome, signal: Option<Signal>) -> u8 {
    match outcome {
        Outcome::Succeeded => ExitStatus::Done.code(),
        Outcome::Exited(code) => *code,
        Outcome::Silent => SILENT,
        Outcome::Trapped(_) | Outcome::Crashed(_) => TRAP,
        Outcome::TimedOut(_) => TIMEOUT,
        Outcome::LimitExceeded(Limit::Memory(_)) => MEMORY,
        Outcome::LimitExceeded(Limit::Stdout(_)) => OUTPUT,
        // The rest of the limits end a guest by a trap.
        Outcome::LimitExceeded(_) => TRAP,
        Outcome::Withdrawn | Outcome::Interrupted => signal.map_or(ExitStatus::Bug.code(), Signal::exit_code),
        Outcome::HostFault(_) => ExitStatus::NotDelivered.code(),
        Outcome::Stuck(_) | Outcome::Blocked(_) => ExitStatus::Stuck.code(),
    }
}

fn read_stdin(limit: u64) -> Result<Bytes, Error> {
    let mut stdin = Vec::new();
    std::io::stdin()
        .lock()
        .take(limit.saturating_add(1))
        .read_to_end(&mut stdin)
        .map_err(|source| Error::Io { doing: "read stdin".into(), source })?;
    if stdin.len() as u64 > limit {
        return Err(Error::configuration(format!("stdin is larger than {limit} bytes"), "raise --max-message"));
    }
    Ok(stdin.into())
}
