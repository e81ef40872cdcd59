//! The engine: what WebAssembly may be here, and the clock that makes a spinning guest yield.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Engine, WasmBacktraceDetails};

use super::Options;

/// How often a spinning guest yields: the precision of `--timeout` and the delay of a stop. Finer than a person
/// notices, coarse enough to cost a computing guest nothing that can be measured.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// What the host's own frames may need on a guest's stack beside the guest's. wasmtime's default leaves as much.
const HOST_STACK: usize = 1536 * 1024;

/// Engines of the same options are compatible: what one compiled, the other can load.
pub fn engine(options: &Options) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.consume_fuel(options.limits.fuel.is_some());
    let stack = usize::try_from(options.limits.stack).unwrap_or(usize::MAX);
    config.max_wasm_stack(stack).async_stack_size(stack.saturating_add(HOST_STACK));
    config.cranelift_nan_canonicalization(options.deterministic);
    // The names of functions are enough; reading a stranger's DWARF is a parser more that could fail.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    // Proposals that no toolchain for wasm32-wasip1 uses by default are code that need not be reachable.
    config.wasm_memory64(false).wasm_multi_memory(false).wasm_relaxed_simd(false).wasm_custom_page_sizes(false);
    Engine::new(&config)
}

/// Lets the engine's clock run only while a guest runs: an idle worker should not wake up a hundred times a second.
#[derive(Default)]
pub struct Ticker {
    state: Mutex<TickerState>,
    changed: Condvar,
}

#[derive(Default)]
struct TickerState {
    running: usize,
    closed: bool,
}

/// The engine's clock runs while one of these exists.
pub struct Ticking<'a>(&'a Ticker);

// === impl Ticker ===

impl Ticker {
    pub fn start(engine: Engine) -> Arc<Ticker> {
        let ticker = Arc::new(Ticker::default());
        let thread_ticker = ticker.clone();
        let thread = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            while thread_ticker.wait_for_runs() {
                std::thread::sleep(EPOCH_TICK);
                engine.increment_epoch();
            }
        });
        if let Err(error) = thread {
            // Guests run all the same; one that spins is then stopped by the watchdog alone.
            tracing::error!(%error, "cannot start the thread that interrupts guests");
        }
        ticker
    }

    /// Returns when something runs; `false` when the sandbox is gone.
    fn wait_for_runs(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .changed
            .wait_while(state, |state| state.running == 0 && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
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
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.running -= 1);
    }
}
