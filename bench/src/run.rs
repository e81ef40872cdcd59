//! `wq-bench run`: the rounds.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

use crate::broker::RabbitMq;
use crate::contender::{Interpreter, PREFETCH, Tools};
use crate::measure::{Bench, Scale, interpreter, latency, looping, memory, one_shot, proof, runs};
use crate::queue::{Kind, Queues};
use crate::report::{Setting, markdown};
use crate::results::Results;
use crate::targets::verdicts;
use crate::{Result, machine, plot, process};

#[derive(Parser)]
pub struct Args {
    /// A few rounds of little work
    #[arg(long)]
    quick: bool,
    /// Rounds; in each one everybody comes once
    #[arg(long)]
    rounds: Option<usize>,
    /// About how long one contender works in one round of the loop
    #[arg(long)]
    seconds: Option<f64>,
    /// Messages of the long run for memory [default: 100000, and 20000 with --quick]
    #[arg(long, env = "WQ_BENCH_MESSAGES")]
    messages: Option<u64>,
    /// The kind of queue; durable, either of them
    #[arg(long, value_enum, default_value_t = Kind::Classic)]
    queue_type: Kind,
    /// Only measurements whose name holds this: guest, start, latency, loop, memory, embedded, interpreter
    #[arg(long)]
    only: Option<String>,
    /// Where RESULTS.md and results.svg go
    #[arg(long)]
    out: PathBuf,
    /// The program to measure
    #[arg(long, default_value = "target/release/wq-run")]
    wq_run: PathBuf,
    #[arg(long, default_value = "build/guests/echo-rust.wasm")]
    echo: PathBuf,
    /// A guest of an interpreter's size; without it nothing is said of one
    #[arg(long)]
    interpreter: Option<PathBuf>,
    /// A Python with huey and litequeue; without it nothing is said of them
    #[arg(long)]
    peers_python: Option<PathBuf>,
    /// The native `wasmtime`, not a script that starts it
    #[arg(long)]
    wasmtime: PathBuf,
}

/// What is measured, by the name that `--only` knows.
type Measure = (&'static str, fn(&mut Bench));

const MEASURES: [Measure; 8] = [
    ("guest", runs::guest_round),
    ("start", one_shot::round),
    ("latency", latency::round),
    ("loop", looping::round),
    ("memory, idle", memory::idle_round),
    ("memory, peak", memory::peak_round),
    ("embedded", runs::embedded_round),
    ("interpreter", interpreter::round),
];

const FULL: Scale =
    Scale { seconds: 2.0, starts: 15, latencies: 300, guest_runs: 5_000, few_messages: 1_000, many_messages: 100_000 };

const QUICK: Scale =
    Scale { seconds: 0.7, starts: 6, latencies: 100, guest_runs: 1_000, few_messages: 1_000, many_messages: 20_000 };

pub fn run(args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut scale = if args.quick { QUICK } else { FULL };
    scale.seconds = args.seconds.unwrap_or(scale.seconds);
    scale.many_messages = args.messages.unwrap_or(scale.many_messages);
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 5 });
    let work = tempfile::tempdir()?;
    let tools = tools(&args, work.path())?;
    eprintln!("starting a RabbitMQ");
    let rabbitmq = RabbitMq::start()?;
    let url = rabbitmq.url();
    let queues = Queues::connect(&url, args.queue_type)?;
    let mut bench = Bench { tools, queues, url, results: Results::default(), scale, round: 0, queue_number: 0.into() };
    eprintln!("trying everybody once");
    proof::check(&bench)?;
    let asked = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    for round in 0..rounds {
        bench.round = round;
        for (name, measure) in MEASURES.iter().filter(|(name, _)| asked(name)) {
            eprintln!("round {} of {rounds}, {:.0} s: {name}", round + 1, started.elapsed().as_secs_f64());
            measure(&mut bench);
        }
    }
    let setting = Setting { machine: machine::describe(&bench.tools), method: method(&args, rounds, scale) };
    let text = markdown(&bench.results, &setting);
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("RESULTS.md"), &text)?;
    let note = format!("{}; medians of {rounds} rounds; {:?} queue", setting.machine[0].1, args.queue_type);
    std::fs::write(args.out.join("results.svg"), plot::svg(&bench.results, &note))?;
    println!("{text}");
    let failed = bench.results.rows.iter().filter(|row| !row.failed.is_empty()).count();
    let missed = verdicts(&bench.results).iter().filter(|v| v.ratio.is_none_or(|ratio| !v.bound.holds(ratio))).count();
    eprintln!("{:.0} s; {missed} targets missed; {failed} measurements failed", started.elapsed().as_secs_f64());
    bench.queues.close()?;
    // A target that is missed is a result; a message that is lost is not.
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn method(args: &Args, rounds: usize, scale: Scale) -> Vec<String> {
    vec![
        format!(
            "{rounds} rounds; in each, every contender did everything once, in an order that turned with the round. \
             Other work on the machine hits all alike."
        ),
        format!(
            "Durable {} queues with persistent messages, filled and confirmed before the clock starts; prefetch \
             {PREFETCH} for everybody.",
            if args.queue_type == Kind::Quorum { "quorum" } else { "classic" }
        ),
        format!(
            "The loop is timed from the start of the process to its exit, for about {} s. wq-run discards its results \
             (`--result none`), amqp-consume's workers write theirs to /dev/null; bare lapin has none.",
            scale.seconds
        ),
        "wq-run logs only its end, but for the row that says otherwise; it has its guest compiled ahead, but for the \
         rows that say otherwise."
            .into(),
        "Nothing counts that was not done: exit status, wq-run's own counts and an empty queue are looked at after each \
         run, and what everybody prints before the first one."
            .into(),
        "Starts, latencies and runs of a guest are medians or quantiles within a round, and medians over the rounds."
            .into(),
        format!(
            "Few messages are {}, many are {}, at concurrency 2.",
            scale.few_messages, scale.many_messages
        ),
    ]
}

/// Finds everything, and compiles ahead what is compiled ahead.
fn tools(args: &Args, work: &Path) -> Result<Tools> {
    let bench = std::env::current_exe()?;
    let here = bench.parent().ok_or("wq-bench is in no folder")?.to_owned();
    let python = python()?;
    let compile = |guest: &Path, name: &str| -> Result<PathBuf> {
        let cwasm = work.join(name);
        process::run(Command::new(&args.wasmtime).arg("compile").arg(guest).arg("-o").arg(&cwasm))?.succeeded()?;
        Ok(cwasm)
    };
    let interpreter = match &args.interpreter {
        Some(guest) => {
            eprintln!("compiling the interpreter");
            Some(Interpreter { cwasm: compile(guest, "interpreter.cwasm")?, guest: guest.clone() })
        }
        None => None,
    };
    let tools = Tools {
        wq_run: args.wq_run.clone(),
        guest_bench: here.join("wq-bench-guest"),
        native_worker: here.join("wq-bench-worker"),
        python_worker: "bench/worker.py".into(),
        python,
        peers_python: args.peers_python.clone(),
        wasmtime: args.wasmtime.clone(),
        amqp_consume: process::installed("amqp-consume")?,
        echo: args.echo.clone(),
        echo_cwasm: compile(&args.echo, "echo.cwasm")?,
        interpreter,
        cache: work.join("cache"),
        bench,
    };
    for guest in [Some(&tools.echo), tools.interpreter.as_ref().map(|interpreter| &interpreter.guest)].iter().flatten()
    {
        let mut command = Command::new(&tools.wq_run);
        command.arg("compile").arg(guest).arg("--cache-dir").arg(&tools.cache);
        process::run(&mut command)?.succeeded()?;
    }
    Ok(tools)
}

/// The system's Python where there is one: it starts in a third of the time that one in a home folder takes. Elsewhere the
/// interpreter itself, since `python3` can be a script that looks for it.
fn python() -> Result<PathBuf> {
    let system = PathBuf::from("/usr/bin/python3");
    if system.is_file() {
        return Ok(system);
    }
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
