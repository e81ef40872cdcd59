//! Runs a guest many times without a queue, and prints the median time of a run in microseconds: in wq-run's sandbox, or
//! in the least that wasmtime asks for.
//!
//!     wq-bench-guest wq-run|wq-run-at-hand|wq-run-itself|on-demand|pooling GUEST RUNS

// A program that prints what it measured.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use futures_util::future::join_all;
use tokio::runtime::{Builder, Runtime};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig, Store,
    StoreLimits, StoreLimitsBuilder, WasmBacktraceDetails,
};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wq_run::sandbox::{
    Bounds, COMPILER_COMMAND, Compilation, Grants, Input, Isolation, Keep, Limits, Loading, Options, Sandbox, Stderr,
    Wall, serve_job,
};
use wq_run::task::Outcome;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MESSAGE: &[u8] = b"12345";

/// Runs that only warm things up, as a part of those that count.
const WARM_UP: usize = 10;

/// Runs that are asked for together, of which one at a time happens: as a worker does that has messages at hand.
const AT_HAND: usize = 100;

/// `wq-run work`'s defaults.
const MEMORY: usize = 512 << 20;
const STDOUT: usize = 16 << 20;
const STACK: usize = 512 << 10;
const HOST_STACK: usize = 1536 << 10;
const EPOCH_TICK: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    // The sandbox compiles in a process of its own, which is this program again.
    if std::env::args().nth(1).as_deref() == Some(COMPILER_COMMAND) {
        return match serve_job() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("wq-bench-guest: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match measure() {
        Ok(median) => {
            println!("{median:.2}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("wq-bench-guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<f64> {
    let mut words = std::env::args().skip(1);
    let mut word =
        || words.next().ok_or("usage: wq-bench-guest wq-run|wq-run-at-hand|wq-run-itself|on-demand|pooling GUEST RUNS");
    let (host, guest, runs) = (word()?, PathBuf::from(word()?), word()?.parse::<usize>()?);
    match host.as_str() {
        "wq-run" => sandbox(guest, runs, 1, Clock::Asking),
        "wq-run-at-hand" => sandbox(guest, runs, AT_HAND, Clock::Asking),
        "wq-run-itself" => sandbox(guest, runs, AT_HAND, Clock::Slot),
        "on-demand" => Bare::new(&guest, InstanceAllocationStrategy::OnDemand)?.measure(runs),
        "pooling" => Bare::new(&guest, InstanceAllocationStrategy::Pooling(pool()))?.measure(runs),
        other => Err(format!("knows no host `{other}`").into()),
    }
}

/// The times of runs, of which the first ones only warm things up.
struct Times {
    left_to_warm_up: usize,
    times: Vec<Duration>,
}

impl Times {
    fn new(runs: usize) -> Times {
        Times { left_to_warm_up: runs / WARM_UP, times: Vec::with_capacity(runs) }
    }

    fn run_is_over(&mut self, time: Duration, output: &Bytes) -> Result<()> {
        if output != MESSAGE {
            return Err(format!("the guest wrote {output:?}").into());
        }
        match self.left_to_warm_up.checked_sub(1) {
            Some(left) => self.left_to_warm_up = left,
            None => self.times.push(time),
        }
        Ok(())
    }

    /// In microseconds.
    fn median(mut self) -> Result<f64> {
        self.times.sort();
        let middle = self.times.get(self.times.len() / 2).ok_or("no runs were asked for")?;
        Ok(middle.as_secs_f64() * 1e6)
    }
}

/// Whose clock a run of the sandbox is timed by.
#[derive(Clone, Copy)]
enum Clock {
    /// The asking task's, from the request to the report: with the hand-over to a slot's thread and back.
    Asking,
    /// The slot's, from before the guest's world is made until its instance and store are gone.
    Slot,
}

/// As the worker calls it: a task of the runtime asks, a slot's thread runs.
fn sandbox(guest: PathBuf, runs: usize, at_hand: usize, clock: Clock) -> Result<f64> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let loading = Loading {
        guest,
        digest: None,
        cache: None,
        keep: Keep::Nothing,
        bounds: Bounds { timeout: Duration::from_secs(300), memory: 2 << 30 },
        compilation: Compilation::Optimised,
        isolation: Isolation::Thread,
        wall: Wall::Off,
        debug_info: false,
        concurrency: 1,
    };
    let Defaults { limits } = Defaults::try_parse_from(["wq-bench-guest"])?;
    let limits = Limits { memory: MEMORY as u64, stdout: STDOUT as u64, stack: STACK as u64, ..limits };
    let options = Options {
        limits,
        grants: Grants::default(),
        deterministic: false,
        argv0: None,
        args: Vec::new(),
        output_is_due: false,
        stderr: Stderr::Log,
    };
    let sandbox = runtime.block_on(Sandbox::load(loading, options))?;
    let run = || sandbox.run(Input::of(MESSAGE));
    runtime.block_on(async {
        let mut times = Times::new(runs);
        for _ in 0..(runs + runs / WARM_UP) / at_hand {
            let started = Instant::now();
            let reports = join_all((0..at_hand).map(|_| run())).await;
            let asking = started.elapsed().div_f64(at_hand as f64);
            for report in reports {
                if report.outcome != Outcome::Succeeded {
                    return Err(format!("{:?}", report.outcome).into());
                }
                let time = match clock {
                    Clock::Asking => asking,
                    Clock::Slot => report.duration,
                };
                times.run_is_over(time, &report.stdout)?;
            }
        }
        times.median()
    })
}

/// The limits that `wq-run work` has by default.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    limits: Limits,
}

/// As little as it takes, under the same limits: epochs, a limiter, preview 1 on an async linker, stdout captured.
struct Bare {
    engine: Engine,
    program: InstancePre<State>,
    runtime: Runtime,
}

struct State {
    wasi: WasiP1Ctx,
    limits: StoreLimits,
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(4).total_memories(4).total_tables(4).total_stacks(4).max_memory_size(MEMORY);
    // What a run wrote to is wiped in place instead of being given back to the kernel.
    pool.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(2 << 20).table_keep_resident(64 << 10);
    pool
}

impl Bare {
    fn new(guest: &std::path::Path, allocation: InstanceAllocationStrategy) -> Result<Bare> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.max_wasm_stack(STACK).async_stack_size(STACK + HOST_STACK);
        config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
        config.allocation_strategy(allocation);
        let engine = Engine::new(&config)?;
        let module = Module::from_file(&engine, guest)?;
        let mut linker = Linker::new(&engine);
        p1::add_to_linker_async(&mut linker, |state: &mut State| &mut state.wasi)?;
        let program = linker.instantiate_pre(&module)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let ticker = engine.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(EPOCH_TICK);
                ticker.increment_epoch();
            }
        });
        Ok(Bare { engine, program, runtime })
    }

    fn measure(&self, runs: usize) -> Result<f64> {
        self.runtime.block_on(async {
            let mut times = Times::new(runs);
            for _ in 0..runs + runs / WARM_UP {
                let started = Instant::now();
                let output = self.run().await?;
                times.run_is_over(started.elapsed(), &output)?;
            }
            times.median()
        })
    }

    async fn run(&self) -> Result<Bytes> {
        let stdout = MemoryOutputPipe::new(STDOUT);
        let wasi =
            WasiCtxBuilder::new().arg("echo").stdin(MemoryInputPipe::new(MESSAGE)).stdout(stdout.clone()).build_p1();
        let limits = StoreLimitsBuilder::new().memory_size(MEMORY).instances(1).memories(1).build();
        let mut store = Store::new(&self.engine, State { wasi, limits });
        store.limiter(|state| &mut state.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = self.program.instantiate_async(&mut store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await?;
        drop(store);
        Ok(stdout.contents())
    }
}
