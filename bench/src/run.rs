//! `wq-bench run`: the rounds.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

use crate::broker::RabbitMq;
use crate::contender::{Interpreter, PREFETCH, Tools, WqRun};
use crate::measure::{
    Bench, Scale, cpython, embedded, interpreter, latency, looping, memory, one_shot, proof, publish, redis, runs,
};
use crate::queue::{Kind, Queues};
use crate::redis_server::RedisServer;
use crate::report::{Setting, markdown};
use crate::results::Results;
use crate::targets::{Reached, verdicts};
use crate::{Result, machine, plot, process};

#[derive(Parser)]
pub struct Args {
    /// A few rounds of little work
    #[arg(long)]
    quick: bool,
    /// Rounds; in each one everybody comes once, and what is compared is compared within it [default: 5, and 2 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// About how long one contender works in one round of the loop
    #[arg(long)]
    seconds: Option<f64>,
    /// Messages of the long run for memory [default: 1000000, and 20000 with --quick]
    #[arg(long, env = "WQ_BENCH_MESSAGES")]
    messages: Option<u64>,
    /// The kind of queue; durable, either of them
    #[arg(long, value_enum, default_value_t = Kind::Classic)]
    queue_type: Kind,
    /// Only measurements whose names hold one of these: guest, start, latency, loop, publish, idle, peak, embedded, depth,
    /// redis, cpython, interpreter
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where RESULTS.md and results.svg go
    #[arg(long)]
    out: PathBuf,
    /// The program to measure
    #[arg(long, default_value = "target/release/wq-run")]
    wq_run: PathBuf,
    /// An older build, to be measured beside it in the same rounds. If a wq-bench-guest lies beside it, that one too
    #[arg(long, value_name = "WQ_RUN")]
    against: Option<PathBuf>,
    #[arg(long, default_value = "build/guests/echo-rust.wasm")]
    echo: PathBuf,
    /// A guest of an interpreter's size; without it nothing is said of one
    #[arg(long)]
    interpreter: Option<PathBuf>,
    /// CPython as a module for WASI; without it nothing is said of it
    #[arg(long)]
    cpython: Option<PathBuf>,
    /// A redis-server; without it nothing is said of Redis
    #[arg(long)]
    redis_server: Option<PathBuf>,
    /// A Python with huey, litequeue and redis; without it nothing is said of them
    #[arg(long)]
    peers_python: Option<PathBuf>,
    /// The native `wasmtime`, not a script that starts it
    #[arg(long)]
    wasmtime: PathBuf,
}

/// What is measured, by the name that `--only` knows.
type Measure = (&'static str, fn(&mut Bench));

const MEASURES: [Measure; 12] = [
    ("guest", runs::round),
    ("start", one_shot::round),
    ("latency", latency::round),
    ("loop", looping::round),
    ("publish", publish::round),
    ("memory, idle", memory::idle_round),
    ("memory, peak", memory::peak_round),
    ("embedded", embedded::round),
    ("embedded, depth", embedded::depth_round),
    ("redis", redis::round),
    ("cpython", cpython::round),
    ("interpreter", interpreter::round),
];

const FULL: Scale = Scale {
    seconds: 2.0,
    starts: 15,
    latencies: 300,
    guest_runs: 5_000,
    few_messages: 1_000,
    many_messages: 1_000_000,
    many_every: 2,
    deep: 1_000_000,
};

const QUICK: Scale = Scale {
    seconds: 0.7,
    starts: 6,
    latencies: 100,
    guest_runs: 1_000,
    few_messages: 1_000,
    many_messages: 20_000,
    many_every: 1,
    deep: 100_000,
};

pub fn run(args: Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut scale = if args.quick { QUICK } else { FULL };
    scale.seconds = args.seconds.unwrap_or(scale.seconds);
    scale.many_messages = args.messages.unwrap_or(scale.many_messages);
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 5 });
    let asked = |name: &str| args.only.is_empty() || args.only.iter().any(|only| name.contains(only.as_str()));
    let measures: Vec<Measure> = MEASURES.into_iter().filter(|(name, _)| asked(name)).collect();
    if measures.is_empty() {
        return Err(format!("nothing is called {}: see --help", args.only.join(" or ")).into());
    }
    let work = tempfile::tempdir()?;
    let tools = tools(&args, work.path(), &asked)?;
    eprintln!("starting a RabbitMQ");
    let rabbitmq = RabbitMq::start()?;
    let redis_server = args.redis_server.as_deref();
    let redis = redis_server.filter(|_| asked("redis")).map(RedisServer::start).transpose()?;
    let url = rabbitmq.url();
    let queues = Queues::connect(&url, args.queue_type)?;
    let results = Results::default();
    let mut bench = Bench { tools, queues, url, redis, deep: None, results, scale, queue_number: 0.into() };
    eprintln!("trying everybody once");
    proof::check(&bench)?;
    std::fs::create_dir_all(&args.out)?;
    let mut setting = Setting {
        machine: machine::describe(&bench.tools, redis_server),
        method: Vec::new(),
        partial: !args.only.is_empty(),
    };
    for round in 0..rounds {
        bench.results.round = round;
        for (name, measure) in &measures {
            eprintln!("round {} of {rounds}, {:.0} s: {name}", round + 1, started.elapsed().as_secs_f64());
            measure(&mut bench);
        }
        // After each round, so that a run that is stopped was not for nothing.
        setting.method = method(&args, round + 1, scale);
        std::fs::write(args.out.join("RESULTS.md"), markdown(&bench.results, &setting))?;
        let note = format!("{}; medians of {} rounds; {:?} queue", setting.machine[0].1, round + 1, args.queue_type);
        std::fs::write(args.out.join("results.svg"), plot::svg(&bench.results, &note))?;
    }
    println!("{}", markdown(&bench.results, &setting));
    let failed = bench.results.rows.iter().filter(|row| !row.failed.is_empty()).count();
    let verdicts = verdicts(&bench.results);
    let missed = verdicts.iter().filter(|v| !v.is_met() && v.reached != Reached::NotMeasured).count();
    eprintln!("{:.0} s; {missed} targets missed; {failed} measurements failed", started.elapsed().as_secs_f64());
    bench.queues.close()?;
    // A target that is missed is a result; a message that is lost is not.
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn method(args: &Args, rounds: usize, scale: Scale) -> Vec<String> {
    vec![
        format!(
            "{rounds} rounds; in each, every contender did everything once, in an order that turned with the round. \
             Other work on the machine hits all alike, so ratios are those of one round."
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
            "Few messages are {}, many are {}, at concurrency 2; of memory in one round of {}, since that takes a minute.",
            scale.few_messages, scale.many_messages, scale.many_every
        ),
        format!(
            "The deep embedded queue has {} messages before each round, and is worked on for about {} s. Peers on SQLite wait for the disk as wq-run does, but \
             for the row that says otherwise.",
            scale.deep, scale.seconds
        ),
        "CPU time per message is what the kernel counts for the process and its children, of the broker's nothing.".into(),
    ]
}

/// Finds everything, and compiles ahead what is compiled ahead.
fn tools(args: &Args, work: &Path, asked: &dyn Fn(&str) -> bool) -> Result<Tools> {
    let bench = std::env::current_exe()?;
    let here = bench.parent().ok_or("wq-bench is in no folder")?.to_owned();
    let python = python()?;
    let compile = |guest: &Path, name: &str| -> Result<PathBuf> {
        let cwasm = work.join(name);
        process::run(Command::new(&args.wasmtime).arg("compile").arg(guest).arg("-o").arg(&cwasm))?.succeeded()?;
        Ok(cwasm)
    };
    let mut builds = vec![build(&args.wq_run, work.join("cache"))?];
    builds[0].guest_bench.get_or_insert_with(|| here.join("wq-bench-guest"));
    if let Some(before) = &args.against {
        builds.push(build(before, work.join("cache-before"))?);
    }
    // Compiling these takes a while.
    let cpython = args.cpython.clone().filter(|_| asked("cpython") || asked("memory, idle"));
    let interpreter = match args.interpreter.as_ref().filter(|_| asked("interpreter")) {
        Some(guest) => {
            eprintln!("compiling the interpreter");
            Some(Interpreter { cwasm: compile(guest, "interpreter.cwasm")?, guest: guest.clone() })
        }
        None => None,
    };
    let tools = Tools {
        builds,
        native_worker: here.join("wq-bench-worker"),
        python_worker: "bench/worker.py".into(),
        python,
        peers_python: args.peers_python.clone(),
        wasmtime: args.wasmtime.clone(),
        amqp_consume: process::installed("amqp-consume")?,
        amqp_publish: process::installed("amqp-publish")?,
        echo: args.echo.clone(),
        echo_cwasm: compile(&args.echo, "echo.cwasm")?,
        interpreter,
        cpython,
        bench,
    };
    eprintln!("compiling the guests");
    let interpreter = tools.interpreter.as_ref().map(|interpreter| &interpreter.guest);
    for guest in [Some(&tools.echo), interpreter, tools.cpython.as_ref()].into_iter().flatten() {
        for build in &tools.builds {
            let mut command = Command::new(&build.program);
            command.arg("compile").arg(guest).arg("--cache-dir").arg(&build.cache);
            process::run(&mut command)?.succeeded()?;
        }
    }
    Ok(tools)
}

fn build(program: &Path, cache: PathBuf) -> Result<WqRun> {
    let guest_bench = Some(program.with_file_name("wq-bench-guest")).filter(|beside| beside.is_file());
    let help = Command::new(program).args(["work", "--help"]).output();
    let help = help.map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let compiles_fast = String::from_utf8_lossy(&help.stdout).contains("--compile ");
    Ok(WqRun { program: program.to_owned(), guest_bench, cache, compiles_fast })
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
