//! The sandbox: a guest is loaded once, and run once for each message in an instance of its own.
//!
//! Runs happen on threads of their own, or in processes of their own, never on a thread that drives a broker's
//! connection: a guest that computes for an hour must not keep heartbeats from being answered. Where a run happens there
//! is a small runtime for it alone, since a guest that sleeps in a host call can be stopped only by dropping the future
//! it sleeps in.
//!
//! ```text
//! run() ── request ──▶ slot or child: instantiate, call        ticker thread: increments the engine's epoch
//!       ◀── report ──  select! { done | timeout | cancelled }  while anything runs; a spinning guest yields
//! ```

mod abi;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod isolation;
mod known;
mod load;
mod place;
mod proposals;
mod run;
mod spawned;
mod tiers;
mod wire;
mod world;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use crate::task::limits::Limits;
pub use isolation::{Isolation, Wall};
pub use known::Digest;
pub use load::cgroup::memory_limit;
pub use load::compiler::Bounds;
pub use load::error::Error;
pub use load::inside::Packed;
pub use load::inspect::{Inspection, Packing, Sizes};
pub use load::jobs::{COMMAND as COMPILER_COMMAND, serve as serve_job};
pub use load::prepare::{Entry, Keep, Loading};
pub use load::source::{Source, read};
pub use place::child::serve;
pub use place::processes::COMMAND as CHILD_COMMAND;
pub use tiers::{Compilation, Tier};
pub use world::clock::STUCK_AFTER;
pub use world::env::Env;
pub use world::grants::{Dir, Endpoint, Grants};
pub use world::options::{Cancel, Input, Options};
pub use world::origins::Origin;
pub use world::room::{Folder, Room};
pub use world::stdio::Stderr;

use crate::task::{Outcome, Report};
use abi::program::Compiled;
use abi::versions::version;
use known::Known;
use load::locator::Locator;
use load::prepare::{self, Prepared, prepare};
use place::processes::Processes;
use place::slots::Slots;
use place::wall::Standing;
use run::hints::Hints;
use run::{Core, crash};
use world::grants::Outside;
use world::roots::Roots;

/// The version of wasmtime that guests run in.
pub const WASMTIME: &str = "48.0.8";

pub struct Sandbox {
    name: String,
    digest: String,
    deterministic: bool,
    compiled_in: Option<Duration>,
    /// The parts of the second wall that do not stand, where there is to be one.
    missing_walls: Vec<String>,
    room: Arc<Room>,
    runs: Runs,
    /// Whether each guest of this one's kind can say its own exit code.
    has_codes: bool,
    hints: Hints,
    /// With `--debug-info`.
    locator: Option<Locator>,
}

/// Where runs happen.
enum Runs {
    Slots(Slots),
    Processes(Processes),
}

/// The versions of WASI that guests may be built for.
pub fn wasi_versions() -> Vec<&'static str> {
    known::Wasi::all().map(|wasi| abi::versions::version(wasi).name).collect()
}

/// Compiles a guest into the cache, for others to find.
///
/// # Errors
/// As for running it, and when the cache can't be written.
pub async fn compile(loading: Loading, options: Options) -> Result<Entry, Error> {
    let (guest, bounds) = (loading.guest.clone(), loading.bounds);
    bounded(&guest, bounds, move || prepare::compile(&loading, &options)).await
}

/// Reads a guest and looks at it.
///
/// # Errors
/// When it is no guest at all, or damaged. One that is refused for another reason is described.
pub async fn inspect(guest: PathBuf, bounds: Bounds) -> Result<(Inspection, Packing), Error> {
    bounded(&guest.clone(), bounds, move || load::inspect::inspect(&guest, bounds)).await
}

/// Packs a guest that was inspected, to see how small it gets.
///
/// # Errors
/// When that takes too long, or too much memory.
pub async fn pack(guest: PathBuf, packing: Packing, bounds: Bounds) -> Result<Packed, Error> {
    bounded(&guest, bounds, move || packing.pack()).await
}

/// A guest that was loaded, with all that its runs share.
struct Ready {
    core: Core,
    compiled: Compiled,
    tier: Tier,
    digest: Digest,
    compiled_in: Option<Duration>,
    /// Its compiled code, as a file for other processes to map.
    code: std::io::Result<File>,
}

fn ready(loading: &Loading, mut options: Options) -> Result<Ready, Error> {
    let grants = &mut options.grants;
    if grants.http.iter().any(Origin::can_be_encrypted) {
        match Roots::of_the_system() {
            Ok(roots) => grants.roots = roots,
            Err(why) if grants.http.iter().any(Origin::is_encrypted) => return Err(Error::Certificates(why)),
            // It may be granted for requests that are not encrypted.
            Err(why) => {
                tracing::warn!(why, "no certificates of authorities (SSL_CERT_FILE): encrypted requests will fail")
            }
        }
    }
    let prepared = prepare(loading, &options)?;
    let Prepared { name, known: Known { nature, digest }, tier, engine, program, compiled, compiled_in, code } =
        prepared;
    let core = Core::new(name, nature, options, engine, program, Room::temporary(), Outside::here());
    let core = core.map_err(Error::Thread)?;
    core.try_grants().map_err(Error::Grant)?;
    Ok(Ready { core, compiled, tier, digest, compiled_in, code })
}

/// Does all that comes before a run within the time that compiling has: files can hang as well as compilers.
async fn bounded<T: Send + 'static>(
    guest: &Path,
    bounds: Bounds,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    /// What is added to the compiler's own timeout, which should come first, since its error is more exact.
    const GRACE: Duration = Duration::from_secs(1);
    let working = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(bounds.timeout.saturating_add(GRACE), working).await {
        Ok(done) => done.map_err(|panic| Error::Panic(panic.to_string()))?,
        // The thread can't be stopped. It ends with the process, which has nothing else to do now.
        Err(_) => Err(Error::CompileTimeout { path: guest.to_owned(), after: bounds.timeout }),
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Reads, checks and compiles a guest, and starts what runs it.
    ///
    /// # Errors
    /// When it is no guest that could run here.
    pub async fn load(loading: Loading, options: Options) -> Result<Sandbox, Error> {
        let (isolation, places, wall) = (loading.isolation, loading.concurrency, loading.wall);
        let (guest, bounds, debug_info) = (loading.guest.clone(), loading.bounds, loading.debug_info);
        let Ready { core, compiled, tier, digest, compiled_in, code } =
            bounded(&guest, bounds, move || ready(&loading, options)).await?;
        let (name, deterministic) = (core.name.clone(), core.options.deterministic);
        let room = core.room.clone();
        let has_codes = version(core.nature.wasi).has_codes;
        let mut missing_walls = Vec::new();
        let runs = match (isolation, code) {
            (Isolation::Thread, _) => Runs::Slots(Slots::start(core, compiled, places).map_err(Error::Thread)?),
            (Isolation::Process, code) => {
                let code = code.map_err(Error::Isolation)?;
                let processes = Processes::new(code, &core, tier, places, wall);
                // The first one now: what can't be started should not be found out with a message in hand.
                let (child, standing) = processes.start().await.map_err(Error::Isolation)?;
                inspect_wall(wall, &standing)?;
                if !matches!(wall, Wall::Off) {
                    missing_walls = standing.missing;
                }
                processes.keep(child);
                Runs::Processes(processes)
            }
        };
        Ok(Sandbox {
            name,
            digest: digest.to_string(),
            deterministic,
            compiled_in,
            missing_walls,
            room,
            runs,
            has_codes,
            hints: Hints::default(),
            locator: debug_info.then(|| Locator::new(guest, digest, bounds)),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `sha256:…`, as everybody is told it with each message.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How long the compiler took for the guest; `None` if its code is from the cache.
    pub fn compiled_in(&self) -> Option<Duration> {
        self.compiled_in
    }

    /// The parts of the second wall that the system does not have.
    pub fn missing_walls(&self) -> &[String] {
        &self.missing_walls
    }

    /// Whether two runs of one message have to be the same. Then no environment variable may differ between them, either.
    pub fn is_deterministic(&self) -> bool {
        self.deterministic
    }

    /// Where folders for single runs can be made.
    pub fn room(&self) -> Arc<Room> {
        self.room.clone()
    }

    /// Runs the guest once, whatever happens: how it ended is in the report.
    pub async fn run(&self, input: Input) -> Report {
        let mut report = match &self.runs {
            Runs::Slots(slots) => slots.run(input).await,
            // Boxed: the worker holds room for the larger of the two, for each message.
            Runs::Processes(processes) => Box::pin(processes.run(input)).await,
        };
        if let Outcome::Trapped(what) = &mut report.outcome {
            let lines = match &self.locator {
                Some(locator) => Box::pin(locator.lines(&report.stack)).await,
                None => Vec::new(),
            };
            *what = crash::described(what, &report.stack, &lines);
        }
        self.hints.give(self.has_codes, &report);
        report
    }
}

impl Drop for Sandbox {
    /// Slots' threads that wait for a run hold the room too, and nobody joins them. So dropping the room here is not enough.
    fn drop(&mut self) {
        self.room.close();
    }
}

/// Says how far the wall stands, before a guest runs behind it.
fn inspect_wall(wall: Wall, standing: &Standing) -> Result<(), Error> {
    let (walls, missing) = (standing.walls.join(", "), standing.missing.join("; "));
    match wall {
        Wall::Off => tracing::info!("guests' processes have no second wall (--wall off)"),
        _ if missing.is_empty() => tracing::info!(walls, "guests' processes are behind a second wall"),
        Wall::Required => return Err(Error::Wall(missing)),
        Wall::Auto => {
            tracing::warn!(walls, missing, "guests' processes are behind a part of the second wall only (--wall)")
        }
    }
    Ok(())
}
