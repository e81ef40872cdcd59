//! The sandbox: a guest is loaded once, and run once for each message in an instance of its own.
//!
//! Runs happen on threads of their own, a *slot* each, never on a thread that drives a broker's connection: a guest that
//! computes for an hour must not keep heartbeats from being answered. A slot's thread has a small runtime of its own,
//! since a guest that sleeps in a host call can be stopped only by dropping the future it sleeps in.
//!
//! ```text
//! run() ── request ──▶ slot thread: instantiate, call _start      ticker thread: increments the engine's epoch
//!       ◀── report ──  select! { done | timeout | cancelled }      while anything runs; a spinning guest yields
//! ```

mod guest;
mod limits;
mod module;
mod stdio;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wasmtime::{Config, Engine, Trap, WasmBacktraceDetails};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

pub use guest::{Digest, Error};
pub use limits::Limits;
pub use stdio::Stderr;

use crate::fault::{self, Point};
use crate::task::{Limit, Outcome, Report};
use guest::Guest;
use module::{Ended, Program};
use stdio::{Capture, Lines, Stream};

/// How often a spinning guest yields: the precision of `--timeout` and the delay of a stop. Finer than a person
/// notices, coarse enough to cost a computing guest nothing that can be measured.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// How long past its deadline a guest may go on before it counts as one that can't be stopped. Epochs are checked
/// between instructions, and one `memory.fill` of 512 MiB is a single instruction: about half a second. Together with
/// the default of `--shutdown-timeout` this stays below the 30 s that a pod gets.
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// What a guest may see of the host. Nothing, by default.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    pub env: Vec<(String, String)>,
    pub dirs: Vec<Dir>,
}

/// A folder of the host that the guest sees at `guest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir {
    pub host: PathBuf,
    pub guest: String,
    pub writable: bool,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub limits: Limits,
    pub grants: Grants,
    /// The guest's argv after argv\[0\].
    pub args: Vec<String>,
    pub stderr: Stderr,
}

/// What differs from run to run.
#[derive(Debug)]
pub struct Input {
    pub stdin: Bytes,
    /// In addition to what `Grants` holds.
    pub env: Vec<(String, String)>,
    /// The same for folders.
    pub dirs: Vec<Dir>,
    /// Stops the run, which then ends as [`Outcome::Interrupted`].
    pub cancel: CancellationToken,
}

pub struct Sandbox {
    core: Arc<Core>,
    /// Threads that wait for a run. One is taken out for each run and put back after it, so there are never more than
    /// there were runs at the same time.
    idle: Mutex<Vec<Slot>>,
}

struct Core {
    name: String,
    digest: Digest,
    options: Options,
    engine: Engine,
    program: Program,
    ticker: Arc<Ticker>,
}

type Slot = std::sync::mpsc::Sender<Request>;

struct Request {
    input: Input,
    span: tracing::Span,
    reply: oneshot::Sender<Report>,
}

/// Lets the engine's clock run only while a guest runs: an idle worker should not wake up a hundred times a second.
#[derive(Default)]
struct Ticker {
    state: Mutex<TickerState>,
    changed: Condvar,
}

#[derive(Default)]
struct TickerState {
    running: usize,
    closed: bool,
}

// === impl Sandbox ===

impl Sandbox {
    /// Reads, checks and compiles a guest.
    ///
    /// # Errors
    /// When it is no guest that could run here.
    pub fn load(path: &Path, options: Options) -> Result<Sandbox, Error> {
        let guest = guest::read(path)?;
        let engine = engine()
            .map_err(|source| Error::Compile { path: path.to_owned(), source: source.into_boxed_dyn_error() })?;
        let program = Program::compile(&engine, &guest, path)?;
        let Guest { name, digest, .. } = guest;
        let ticker = Ticker::start(engine.clone());
        let core = Core { name, digest, options, engine, program, ticker };
        // Once without a message: what can't be granted now would fail every run.
        let input = Input { stdin: Bytes::new(), env: Vec::new(), dirs: Vec::new(), cancel: CancellationToken::new() };
        core.wasi(&input, &Capture::new(0), &Lines::new(Stderr::Log, 0)).map_err(Error::Grant)?;
        Ok(Sandbox { core: Arc::new(core), idle: Mutex::default() })
    }

    pub fn name(&self) -> &str {
        &self.core.name
    }

    pub fn digest(&self) -> Digest {
        self.core.digest
    }

    /// Runs the guest once, whatever happens: how it ended is in the report.
    pub async fn run(&self, input: Input) -> Report {
        let started = Instant::now();
        let timeout = self.core.options.limits.timeout;
        let cancel = input.cancel.clone();
        let (reply, report_rx) = oneshot::channel();
        let slot = match self.slot() {
            Ok(slot) => slot,
            Err(error) => {
                return Report::bare(Outcome::HostFault(format!("cannot start a thread: {error}")), started.elapsed());
            }
        };
        let request = Request { input, span: tracing::Span::current(), reply };
        // A slot whose thread is gone drops the request, and with it `reply`.
        let _ = slot.send(request);
        // The run keeps its own time. This one only watches for a guest that nothing stops.
        let overdue = async {
            tokio::select! {
                () = tokio::time::sleep(timeout) => {}
                () = cancel.cancelled() => {}
            }
            tokio::time::sleep(STUCK_AFTER).await;
        };
        tokio::select! {
            report = report_rx => match report {
                Ok(report) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
                    report
                }
                Err(_) => Report::bare(Outcome::HostFault("the sandbox's thread panicked".into()), started.elapsed()),
            },
            () = overdue => Report::bare(Outcome::Stuck(timeout), started.elapsed()),
        }
    }

    fn slot(&self) -> std::io::Result<Slot> {
        if let Some(slot) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(slot);
        }
        let (requests_tx, requests_rx) = std::sync::mpsc::channel::<Request>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let core = self.core.clone();
        std::thread::Builder::new().name("guest".into()).spawn(move || {
            // Ends when the sandbox, and with it the other end, is gone.
            while let Ok(Request { input, span, reply }) = requests_rx.recv() {
                let _entered = span.entered();
                let report = runtime.block_on(core.run(input));
                let _ = reply.send(report);
            }
        })?;
        Ok(requests_tx)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.ticker.close();
    }
}

// === impl Core ===

impl Core {
    async fn run(&self, input: Input) -> Report {
        let started = Instant::now();
        let Limits { timeout, memory, stdout, stderr } = self.options.limits;
        let (stdout_limit, stdout) = (stdout, Capture::new(stdout));
        let stderr = Lines::new(self.options.stderr, stderr);
        let wasi = match self.wasi(&input, &stdout, &stderr) {
            Ok(wasi) => wasi,
            Err(fault) => return Report::bare(Outcome::HostFault(fault), started.elapsed()),
        };
        fault::reach(Point::Running);
        let _ticking = self.ticker.run();
        // Stopped runs end by being dropped here, with their store and instance.
        let ended = tokio::select! {
            biased;
            () = input.cancel.cancelled() => Err(Outcome::Interrupted),
            () = tokio::time::sleep(timeout) => Err(Outcome::TimedOut(timeout)),
            ended = self.program.run(&self.engine, wasi, memory) => Ok(ended),
        };
        let outcome = match ended {
            Err(stopped) => stopped,
            // Checked before the result: an output over its limit fails the run, whatever the guest made of it.
            Ok(_) if stdout.exceeded() => Outcome::LimitExceeded(Limit::Stdout(stdout_limit)),
            Ok(ended) => outcome(ended, memory),
        };
        Report { outcome, stdout: stdout.take(), stderr_tail: stderr.finish(), duration: started.elapsed() }
    }

    /// The guest's whole world.
    fn wasi(&self, input: &Input, stdout: &Capture, stderr: &Lines) -> Result<WasiCtxBuilder, String> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg(&self.name).args(&self.options.args);
        wasi.envs(&self.options.grants.env).envs(&input.env);
        wasi.stdin(MemoryInputPipe::new(input.stdin.clone()));
        wasi.stdout(Stream(stdout.clone())).stderr(Stream(stderr.clone()));
        for Dir { host, guest, writable } in self.options.grants.dirs.iter().chain(&input.dirs) {
            let perms = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(host, guest, perms)
                .map_err(|error| format!("cannot open the folder {} (--dir): {error}", host.display()))?;
        }
        Ok(wasi)
    }
}

/// The one mapping of exits and traps to outcomes.
fn outcome(ended: Ended, memory_limit: u64) -> Outcome {
    let Err(error) = ended.result else { return Outcome::Succeeded };
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return match u8::try_from(*code) {
            Ok(0) => Outcome::Succeeded,
            Ok(code) => Outcome::Exited(code),
            Err(_) => Outcome::Trapped(format!("it exited with {code}, which is no exit code")),
        };
    }
    // A program that could not get memory mostly calls abort(), which is a trap. One that handles the refusal and exits
    // with a code of its own has said more than we know.
    if ended.memory_refused {
        return Outcome::LimitExceeded(Limit::Memory(memory_limit));
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Outcome::Trapped(trap.to_string());
    }
    Outcome::Trapped(error.root_cause().to_string())
}

fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // The names of functions are enough; reading a stranger's DWARF is a parser more that could fail.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    // Proposals that no toolchain for wasm32-wasip1 uses by default are code that need not be reachable.
    config.wasm_memory64(false).wasm_multi_memory(false).wasm_relaxed_simd(false).wasm_custom_page_sizes(false);
    Engine::new(&config)
}

// === impl Ticker ===

impl Ticker {
    fn start(engine: Engine) -> Arc<Ticker> {
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

    fn run(&self) -> Ticking<'_> {
        self.change(|state| state.running += 1);
        Ticking(self)
    }

    fn close(&self) {
        self.change(|state| state.closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut TickerState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

/// The engine's clock runs while one of these exists.
struct Ticking<'a>(&'a Ticker);

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.running -= 1);
    }
}
