//! The WebAssembly engine: its options, and the clock that makes a spinning guest yield.

use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, Memory, MemoryType, OptLevel,
    PoolingAllocationConfig, RegallocAlgorithm, Store, Strategy, WasmBacktraceDetails,
};

use super::versions::version;
use crate::locks::{anyway, lock};
use crate::sandbox::known::{Kind, Nature};
use crate::sandbox::proposals::{self, Proposals};
use crate::sandbox::tiers::Tier;
use crate::sandbox::world::clock::Clock;
use crate::sandbox::world::limiter::MODULE_TABLES;
use crate::sandbox::world::options::Options;

/// The options that a guest's code depends on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Codegen {
    fuel: bool,
    stack: u64,
    deterministic: bool,
}

/// How often a spinning guest yields: the precision of `--timeout` and the delay of a stop. Finer than a person
/// notices, coarse enough to cost a computing guest nothing that can be measured.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// How many frames of a crash are captured, innermost first. The panic handling of some languages takes half of them.
const CAPTURED: Option<NonZeroUsize> = NonZeroUsize::new(20);

/// What the host's own frames may need on a guest's stack beside the guest's. wasmtime's default leaves as much.
const HOST_STACK: usize = 1536 * 1024;

/// An engine for guests of this nature whose code is of this tier, `places` of which run at the same time.
///
/// Engines of the same options and tier are compatible, whatever the places: what one compiled, the other can load.
///
/// # Errors
/// When the system has no address space for the memories of so many runs. Each run would fail because of that, so it must be
/// known before a message is taken.
pub fn engine(options: &Options, nature: Nature, tier: Tier, places: usize) -> wasmtime::Result<Engine> {
    /// A place of the pool has one memory, of at most what a 32-bit memory can be.
    const NOT_POOLED: Proposals = Proposals::MEMORY64.and(Proposals::MULTI_MEMORY);
    let mut config = config(Codegen::of(options), nature, tier);
    if nature.wasi.kind() == Kind::Module && !nature.proposals.intersects(NOT_POOLED) {
        config.allocation_strategy(pool(places, nature.proposals.intersects(Proposals::COLLECTED)));
        match Engine::new(&config) {
            Ok(engine) => return Ok(engine),
            // Address space can be limited (`ulimit -v`). Without a pool each run reserves its own.
            Err(error) => tracing::debug!(error = format!("{error:#}"), "no room for a pool of instances"),
        }
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    }
    let engine = Engine::new(&config)?;
    try_room(&engine, places)?;
    Ok(engine)
}

/// Takes a memory for each of the runs that may happen together, and gives all of them back. It is address space only.
fn try_room(engine: &Engine, places: usize) -> wasmtime::Result<()> {
    let mut store = Store::try_new(engine, ())?;
    for _ in 0..places {
        Memory::new(&mut store, MemoryType::new(1, None))?;
    }
    Ok(())
}

/// The text of an error that goes back to the system: address space, memory or a descriptor was refused. A guest has no part in
/// it.
pub fn refused_by_the_system(error: &wasmtime::Error) -> Option<String> {
    let of_the_system = error.chain().any(|cause| {
        cause.is::<rustix::io::Errno>() || cause.is::<std::io::Error>() || cause.is::<wasmtime::error::OutOfMemory>()
    });
    of_the_system.then(|| format!("{error:#}"))
}

/// An engine that compiles for engines of the same options and tier, and runs nothing.
pub fn compiling_engine(codegen: Codegen, nature: Nature, tier: Tier) -> wasmtime::Result<Engine> {
    Engine::new(&config(codegen, nature, tier))
}

/// Memories, tables and stacks that are kept from run to run, cleaned in between. To map and unmap them each time takes
/// longer than a short run. Where objects are collected, a run has a second memory for them.
fn pool(places: usize, collects: bool) -> PoolingAllocationConfig {
    /// All that a 32-bit memory can be. It is address space only; the limiter counts what is used.
    const MEMORY: usize = 4 << 30;
    /// More than any table of functions has. A table that grows beyond it is refused.
    const TABLE_ELEMENTS: usize = 1 << 20;
    /// For what wasmtime keeps of each function, memory and global of an instance.
    const INSTANCE: usize = 64 << 20;
    /// What is wiped in place instead of being given back to the system: as much as a short run touches.
    const KEEP_RESIDENT: usize = 4 << 20;
    // One more than there are places: a run that was just stopped may not be gone when the next one begins.
    let count = u32::try_from(places).unwrap_or(u32::MAX).saturating_add(1);
    let tables = u32::try_from(MODULE_TABLES).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::default();
    let heaps = if collects { count } else { 0 };
    pool.total_core_instances(count).total_memories(count.saturating_add(heaps)).total_stacks(count);
    pool.total_gc_heaps(heaps);
    pool.total_tables(count.saturating_mul(tables)).max_tables_per_module(tables);
    pool.total_component_instances(0);
    pool.max_memory_size(MEMORY).table_elements(TABLE_ELEMENTS).max_core_instance_size(INSTANCE);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        // Linux 6.7 tells which pages a run wrote to. Without that all would have to be wiped, written or not, which takes
        // longer than to give them back.
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(KEEP_RESIDENT);
    }
    pool.table_keep_resident(KEEP_RESIDENT);
    pool.async_stack_keep_resident(KEEP_RESIDENT);
    pool
}

/// The defaults of `--fuel`, `--max-wasm-stack` and `--deterministic`.
impl Default for Codegen {
    fn default() -> Codegen {
        Codegen { fuel: false, stack: 512 << 10, deterministic: false }
    }
}

impl Codegen {
    pub fn of(options: &Options) -> Codegen {
        let Options { limits, deterministic, .. } = options;
        Codegen { fuel: limits.fuel.is_some(), stack: limits.stack, deterministic: *deterministic }
    }
}

fn config(codegen: Codegen, Nature { wasi, proposals }: Nature, tier: Tier) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.consume_fuel(codegen.fuel);
    let stack = usize::try_from(tier.stack(codegen.stack)).unwrap_or(usize::MAX);
    config.max_wasm_stack(stack).async_stack_size(stack.saturating_add(HOST_STACK));
    config.cranelift_nan_canonicalization(codegen.deterministic);
    config.wasm_backtrace_max_frames(CAPTURED);
    // The names of functions are enough. A stranger's DWARF is read in a process that may die of it (`--debug-info`).
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    // Code that no guest needs should not be reachable, so an engine has what its guest uses and nothing else.
    config.wasm_features(Proposals::ALL.features(), false).wasm_features(proposals.features(), true);
    if tier != Tier::Optimised {
        // With Winch, Cranelift still compiles the calls into and out of a guest, which are a hundred functions for the
        // smallest one.
        config.cranelift_opt_level(OptLevel::None).cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    }
    if tier == Tier::Winch {
        config.strategy(Strategy::Winch).wasm_features(proposals::NOT_WINCH, false);
    }
    // Only debuggers and profilers need unwind information: wasmtime itself follows frame pointers, and no panic of the host
    // unwinds through a guest.
    config.native_unwind_info(false);
    config.collector(Collector::Copying);
    config.relaxed_simd_deterministic(codegen.deterministic);
    // A component that is composed of others hands data from one memory to another by code that wasmtime makes, which
    // needs both at once.
    if wasi.kind() == Kind::Component {
        config.wasm_multi_memory(true);
    }
    // Most faults of late that a guest could reach were in this runtime. Without it, wasmtime refuses asynchronous types.
    config.concurrency_support(version(wasi).is_concurrent);
    config
}

/// Lets the engine's clock run only while a guest runs: an idle worker should not wake up a hundred times a second.
#[derive(Default)]
pub struct Ticker {
    clock: Clock,
    state: Mutex<TickerState>,
    changed: Condvar,
    /// Is told of each step of the clock.
    watch: OnceLock<Box<dyn Fn(Duration) + Send + Sync>>,
}

#[derive(Default)]
struct TickerState {
    running: usize,
    closed: bool,
    /// The thread waits for something to run.
    sleeps: bool,
}

/// The engine's clock runs while one of these exists.
pub struct Ticking<'a>(&'a Ticker);

// === impl Ticker ===

impl Ticker {
    /// # Errors
    /// When the thread can't be started: no guest could be stopped without it.
    pub fn start(engine: Engine) -> std::io::Result<Arc<Ticker>> {
        let ticker = Arc::new(Ticker::default());
        let thread_ticker = ticker.clone();
        std::thread::Builder::new().name("epoch".into()).spawn(move || {
            while thread_ticker.wait_for_runs() {
                let since = Instant::now();
                std::thread::sleep(EPOCH_TICK);
                thread_ticker.clock.step(since);
                engine.increment_epoch();
                if let Some(watch) = thread_ticker.watch.get() {
                    watch(thread_ticker.clock.now());
                }
            }
        })?;
        Ok(ticker)
    }

    /// The time that runs are measured by. It goes on while anything runs.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Calls this with the time after each step of the clock. Only the first such call has an effect.
    pub fn at_each_step(&self, watch: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.watch.set(Box::new(watch));
    }

    /// Returns when something runs; `false` when the sandbox is gone.
    fn wait_for_runs(&self) -> bool {
        let state = lock(&self.state);
        let idle = |state: &mut TickerState| {
            state.sleeps = state.running == 0 && !state.closed;
            state.sleeps
        };
        let state = anyway(self.changed.wait_while(state, idle));
        !state.closed
    }

    pub fn run(&self) -> Ticking<'_> {
        self.change(|state| state.running += 1);
        Ticking(self)
    }

    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut TickerState)) {
        let mut state = lock(&self.state);
        change(&mut state);
        // Between ticks, the thread looks at the state by itself. Waking it even when it does not sleep would cost two system
        // calls for each run.
        let sleeps = state.sleeps;
        drop(state);
        if sleeps {
            self.changed.notify_one();
        }
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.running -= 1);
    }
}
