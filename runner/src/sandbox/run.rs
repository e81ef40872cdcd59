//! One run of a guest: makes its world, calls it, and names how it ended.

pub mod crash;
pub mod hints;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::component::ResourceTableError;
use wasmtime::{Engine, PoolConcurrencyLimitError, ThrownException, Trap};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

use super::{Input, Options};
use crate::fault::{self, Point};
use crate::sandbox::abi::call::{Doors, Ended, World};
use crate::sandbox::abi::engine::{Ticker, refused_by_the_system};
use crate::sandbox::abi::http::{Client, Http};
use crate::sandbox::abi::program::Program;
use crate::sandbox::abi::versions::version;
use crate::sandbox::known::{Kind, Nature};
use crate::sandbox::world::grants::{self, Dir, Net, Outside, SCRATCH};
use crate::sandbox::world::limiter::Limiter;
use crate::sandbox::world::room::Room;
use crate::sandbox::world::scratch::Scratch;
use crate::sandbox::world::stdio::{Capture, Lines, Stream};
use crate::task::limits::Limits;
use crate::task::{Limit, Outcome, Report, Usage};

/// What all runs of a guest share.
pub struct Core {
    pub name: String,
    pub nature: Nature,
    pub options: Options,
    pub engine: Engine,
    pub program: Box<dyn Program>,
    pub ticker: Arc<Ticker>,
    /// Where the scratch folders are made.
    pub room: Arc<Room>,
    outside: Outside,
    http: Arc<Client>,
}

/// What wasmtime-wasi says of an exit code that preview 1 does not have.
const NO_CODE: &str = "invalid exit status";

/// How a component says more than "failed", if its toolchain is older than `exit-with-code`: as its last line on stderr.
const EXIT_LINE: &str = "wq-run-exit: ";

impl Drop for Core {
    fn drop(&mut self) {
        self.ticker.close();
    }
}

impl Core {
    /// # Errors
    /// When its clock can't be started.
    pub fn new(
        name: String,
        nature: Nature,
        options: Options,
        engine: Engine,
        program: Box<dyn Program>,
        room: Room,
        outside: Outside,
    ) -> std::io::Result<Core> {
        let ticker = Ticker::start(engine.clone())?;
        let http = Client::new(&options.grants, &options.limits).map_err(std::io::Error::other)?;
        Ok(Core { name, nature, options, engine, program, ticker, room: Arc::new(room), outside, http })
    }

    /// Tries all grants once without a message: what can't be granted now would fail every run.
    pub fn try_grants(&self) -> Result<(), String> {
        let input = Input::of(Bytes::new());
        let scratch = self.scratch()?;
        if let Some(scratch) = &scratch {
            scratch.try_to_measure().map_err(|error| format!("cannot measure a folder (--scratch): {error}"))?;
        }
        self.world(&input, scratch.as_ref(), &Capture::new(0), &Lines::null()).map(drop)
    }

    pub async fn run(&self, input: &Input, stderr: &Lines) -> Report {
        let started = Instant::now();
        // From the start: what hangs before the guest begins is noticed by the same clock.
        let _ticking = self.ticker.run();
        fault::reach(Point::Running);
        let clock = self.ticker.clock();
        let began = clock.now();
        let Limits { timeout, stdout: stdout_limit, .. } = self.options.limits;
        let stdout = Capture::new(stdout_limit);
        let made = self.scratch().and_then(|scratch| {
            let world = self.world(input, scratch.as_ref(), &stdout, stderr)?;
            Ok((scratch, world))
        });
        let (scratch, world) = match made {
            Ok(made) => made,
            Err(fault) => return Report::bare(Outcome::HostFault(fault), started.elapsed()),
        };
        let peak = world.limiter.peak();
        let stopped = async {
            let overflows = async {
                match &scratch {
                    Some(scratch) => scratch.overflows().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = input.cancel.cancelled() => Outcome::Interrupted,
                () = clock.reaches(began + timeout) => Outcome::TimedOut(timeout),
                () = overflows => Outcome::LimitExceeded(Limit::Scratch(self.options.limits.scratch.unwrap_or(0))),
                () = stdout.exceeds() => Outcome::LimitExceeded(Limit::Stdout(stdout_limit)),
            }
        };
        // Stopped runs end by being dropped here, with their store and instance. The guest comes first: one that is done
        // before its first tick, as most are, needs no timer.
        let ended = tokio::select! {
            biased;
            ended = async {
                let ended = self.program.run(&self.engine, world, &self.options.limits).await;
                // A guest is done when what it wrote is where it should be, as with any other program.
                stderr.written().await;
                ended
            } => Ok(ended),
            stopped = stopped => Err(stopped),
        };
        let stderr_tail = stderr.finish();
        let fuel = ended.as_ref().ok().and_then(|ended| ended.fuel);
        let mut stack = Vec::new();
        let outcome = match ended {
            Err(stopped) => stopped,
            // Checked before the result: an output over its limit fails the run, whatever the guest made of it.
            Ok(_) if stdout.exceeded() => Outcome::LimitExceeded(Limit::Stdout(stdout_limit)),
            Ok(_) if scratch.as_ref().is_some_and(Scratch::is_over) => {
                Outcome::LimitExceeded(Limit::Scratch(self.options.limits.scratch.unwrap_or(0)))
            }
            Ok(ended) => match outcome(&ended, &self.options.limits) {
                Outcome::Trapped(text) => {
                    let abort = text.contains(NO_CODE).then(|| crash::abort(&stderr_tail)).flatten();
                    if abort.is_none() {
                        stack = crash::stack(&ended);
                    }
                    Outcome::Trapped(abort.unwrap_or(text))
                }
                Outcome::Exited(1) if !version(self.nature.wasi).has_codes => {
                    Outcome::Exited(said_exit(&stderr_tail).unwrap_or(1))
                }
                outcome => outcome,
            },
        };
        let stdout = stdout.take();
        let outcome = match outcome {
            Outcome::Succeeded if self.options.output_is_due && stdout.is_empty() => Outcome::Silent,
            outcome => outcome,
        };
        // The CPU time is added by `Ground::run`, which has the clocks of the run's threads.
        let usage = Usage { peak_memory: Some(peak.get()), fuel, cpu: None };
        Report { outcome, stdout, stderr_tail, duration: started.elapsed(), usage, stack }
    }

    fn scratch(&self) -> Result<Option<Scratch>, String> {
        let made = self.options.limits.scratch.map(|bytes| Scratch::new(&self.room, bytes)).transpose();
        made.map_err(|error| {
            format!("cannot make a folder in {} (--scratch, TMPDIR): {error}", std::env::temp_dir().display())
        })
    }

    /// The guest's whole world.
    fn world(
        &self,
        input: &Input,
        scratch: Option<&Scratch>,
        stdout: &Capture,
        stderr: &Lines,
    ) -> Result<World, String> {
        let Options { grants, limits, .. } = &self.options;
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg(self.options.argv0.as_ref().unwrap_or(&self.name)).args(&self.options.args);
        wasi.envs(&grants.env);
        for (name, value) in input.env.iter() {
            wasi.env(name, value);
        }
        wasi.stdin(MemoryInputPipe::new(input.stdin.clone()));
        wasi.stdout(Stream(stdout.clone())).stderr(Stream(stderr.clone()));
        wasi.max_random_size(limits.random);
        let mut open = |host: &std::path::Path, guest: &str, perms, flag| {
            wasi.preopened_dir(host, guest, perms)
                .map(drop)
                .map_err(|error| format!("cannot open the folder {} ({flag}): {error}", host.display()))
        };
        for Dir { host, guest, writable } in grants.dirs.iter().chain(&input.dirs) {
            let perms = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            open(host, guest, perms, "--dir")?;
        }
        if let Some(scratch) = scratch {
            open(scratch.path(), SCRATCH, FsPerms::ReadWrite, "--scratch")?;
        }
        let kind = self.nature.wasi.kind();
        // A module has no calls to open a socket or to send a request.
        let doors = (kind == Kind::Component).then(|| {
            let net = Net::new(&grants.net, self.outside.clone());
            net.grant(&mut wasi);
            Doors { http: Http::new(self.http.clone(), net.clone()), net }
        });
        if self.options.deterministic {
            grants::make_deterministic(&mut wasi, &input.stdin);
        }
        Ok(World { wasi, doors, limiter: Limiter::new(kind, limits) })
    }
}

/// The one mapping of exits and traps to outcomes.
fn outcome(ended: &Ended, limits: &Limits) -> Outcome {
    let Err(error) = &ended.result else { return Outcome::Succeeded };
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return match u8::try_from(*code) {
            Ok(0) => Outcome::Succeeded,
            Ok(code) => Outcome::Exited(code),
            Err(_) => Outcome::Trapped(format!("it exited with {code}, which is not an exit code")),
        };
    }
    if let Some(refused) = refused_by_the_system(error) {
        return Outcome::HostFault(format!("the system has no room for a run: {refused}"));
    }
    // A program that could not get memory mostly calls abort(), which is a trap. One that handles the refusal and exits
    // with a code of its own has said more than we know.
    if ended.memory_refused {
        return Outcome::LimitExceeded(Limit::Memory(limits.memory));
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Outcome::HostFault(format!("no place for an instance: {error}"));
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return Outcome::LimitExceeded(Limit::Resources(limits.resources));
    }
    if error.is::<ThrownException>() {
        return Outcome::Trapped("it threw an exception that it did not catch".to_owned());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Outcome::LimitExceeded(Limit::Stack(limits.stack)),
        Some(Trap::OutOfFuel) => Outcome::LimitExceeded(Limit::Fuel(limits.fuel.unwrap_or(0))),
        Some(trap) => Outcome::Trapped(trap.to_string()),
        None => by_text(&error.root_cause().to_string(), limits),
    }
}

/// Limits that wasmtime tells by words only. The guests in `tests/guests` hold these words to the version in use.
fn by_text(error: &str, limits: &Limits) -> Outcome {
    let limit = if error.contains("fuel allocated for hostcalls") {
        Limit::Hostcall(limits.hostcall)
    } else if error.starts_with("requested len ") {
        Limit::Random(limits.random)
    } else if error.starts_with("resource limit exceeded") {
        Limit::Instances(limits.instances)
    } else if error.contains("handle limit exceeded") {
        Limit::Resources(limits.resources)
    } else {
        return Outcome::Trapped(error.to_owned());
    };
    Outcome::LimitExceeded(limit)
}

fn said_exit(stderr: &str) -> Option<u8> {
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty())?;
    last.trim().strip_prefix(EXIT_LINE)?.parse().ok().filter(|code| *code != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_can_say_its_exit_code_as_its_last_line() {
        assert_eq!(said_exit("bad record\nwq-run-exit: 65\n"), Some(65));
        assert_eq!(said_exit("wq-run-exit: 6\n\n"), Some(6));
        for other in
            ["", "wq-run-exit: 65\nmore", "wq-run-exit: 0", "wq-run-exit: 300", "wq-run-exit:", "x wq-run-exit: 6"]
        {
            assert_eq!(said_exit(other), None, "{other:?}");
        }
    }
}
