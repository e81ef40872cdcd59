//! The process that looks into a guest and compiles it, seen from inside: it may die of a stranger's bytes.
//!
//! It is this program again, one process for each job. It has pipes as its standard streams, no environment and no
//! connection. An order comes in, followed by the guest, and one answer goes out, followed by the result.

use std::any::Any;
use std::io::{self, Read, Write as _};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Mutex;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::inside::{Inside, Packed, inside, packed};
use super::lines::{Line, lines};
use super::refusal::{Reason, Refusal};
use super::{features, guest};
use crate::locks::lock;
use crate::sandbox::abi::engine::{Codegen, compiling_engine};
use crate::sandbox::known::{Kind, Nature};
use crate::sandbox::spawned::{belong_to, go_first};
use crate::sandbox::tiers::{Compilation, Tier};
use crate::sandbox::wire::{self, Frame};
use crate::task::Position;

/// The word that this program is started with to do one job.
pub const COMMAND: &str = "guest-compiler";

#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub job: Job,
    /// The most memory that it may take, in bytes.
    pub memory: u64,
    /// The process that waits for the answer.
    pub parent: u32,
    /// Of the guest, whose bytes follow.
    pub length: usize,
}

impl Frame for Order {
    const MAX_WORDS: usize = 64 << 10;
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Makes a binary of a packed file or a text. The path is for messages only.
    Unwrap {
        text: bool,
        path: String,
    },
    Compile {
        kind: Kind,
        codegen: Codegen,
        compilation: Compilation,
    },
    Inspect {
        kind: Kind,
    },
    /// Says how small it can be packed.
    Pack,
    /// Finds the lines of source code of these positions.
    Lines {
        positions: Vec<Position>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The bytes are what was asked for.
    Made,
    /// The bytes are the code of a guest of this nature, made by this tier.
    Compiled(Nature, Tier),
    Inspected(Box<Inside>),
    Packed(Packed),
    Lines(Vec<Vec<Line>>),
    Refused(Refusal),
    Panicked(String),
}

/// A guest's names are among its words.
impl Frame for Answer {
    const MAX_WORDS: usize = 16 << 20;
}

/// Does one job.
///
/// # Errors
/// When there is no order or no parent, when a limit can't be set, or when nobody takes the answer.
pub fn serve() -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let (order, _) = wire::read::<Order>(&mut stdin, |_| 0)?;
    belong_to(order.parent)?;
    go_first();
    confine(&order)?;
    let (answer, bytes) = match read_guest(&mut stdin, order.length) {
        Ok(bytes) => guarded(|| done(order.job, bytes)),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            (Answer::Refused(Reason::Memory.into()), Vec::new())
        }
        Err(error) => return Err(error),
    };
    let mut stdout = io::stdout().lock();
    wire::write(&mut stdout, &wire::words(&answer)?, &bytes)?;
    stdout.flush()
}

/// Limits this process to the needs of its job. A limit that can't be set is an error: the limit on memory is a promise.
fn confine(order: &Order) -> io::Result<()> {
    let at_most = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    // Not RLIMIT_AS: each thread's arena reserves 64 MiB of addresses without using them. This limit counts memory
    // that can be written, stacks included.
    setrlimit(Resource::Data, at_most(order.memory))?;
    // It writes to pipes only, which `RLIMIT_FSIZE` does not limit, and leaves no core file, which would hold the guest.
    setrlimit(Resource::Fsize, at_most(0))?;
    setrlimit(Resource::Core, at_most(0))?;
    Ok(())
}

fn read_guest(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length)?;
    stream.read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A job, done in this process.
pub fn done(job: Job, bytes: Vec<u8>) -> (Answer, Vec<u8>) {
    work(job, bytes).unwrap_or_else(|refusal| (Answer::Refused(refusal), Vec::new()))
}

fn work(job: Job, bytes: Vec<u8>) -> Result<(Answer, Vec<u8>), Refusal> {
    match job {
        Job::Unwrap { text, path } => guest::unwrap(bytes, text, Path::new(&path)).map(|wasm| (Answer::Made, wasm)),
        Job::Compile { kind, codegen, compilation } => {
            let (nature, tier, code) = compile(kind, codegen, compilation, &bytes)?;
            Ok((Answer::Compiled(nature, tier), code))
        }
        Job::Inspect { kind } => inside(kind, &bytes).map(|found| (Answer::Inspected(Box::new(found)), Vec::new())),
        Job::Pack => {
            let packed = packed(&bytes).map_err(|error| Refusal::because(Reason::Packed, error))?;
            Ok((Answer::Packed(packed), Vec::new()))
        }
        Job::Lines { positions } => Ok((Answer::Lines(lines(&bytes, &positions)), Vec::new())),
    }
}

fn compile(
    kind: Kind,
    codegen: Codegen,
    compilation: Compilation,
    wasm: &[u8],
) -> Result<(Nature, Tier, Vec<u8>), Refusal> {
    // Before it is compiled, which can take minutes over a guest that could never run.
    let nature = guest::look(kind, wasm)?.verdict?;
    let tiers = features::tiers(wasm, nature.proposals, compilation);
    let (tier, code) = first_that_can(tiers, |tier| {
        let engine = compiling_engine(codegen, nature, tier)?;
        match kind {
            Kind::Module => engine.precompile_module(wasm),
            Kind::Component => engine.precompile_component(wasm),
        }
    })?;
    Ok((nature, tier, code))
}

/// A tier may refuse at the end only, for something that it has no code for on this processor.
fn first_that_can<T>(tiers: &[Tier], compiled_by: impl Fn(Tier) -> wasmtime::Result<T>) -> Result<(Tier, T), Refusal> {
    let mut refusal = Refusal::from(Reason::Compile);
    for &tier in tiers {
        match compiled_by(tier) {
            Ok(code) => return Ok((tier, code)),
            Err(error) => refusal = Refusal::because(Reason::Compile, format_args!("{error:#}")),
        }
    }
    Err(refusal)
}

/// A panic's place and message, from whichever of the compiler's threads it came.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Does a job that may panic.
fn guarded(job: impl FnOnce() -> (Answer, Vec<u8>)) -> (Answer, Vec<u8>) {
    std::panic::set_hook(Box::new(|panic| {
        // The first one is the cause; others follow from it.
        lock(&PANIC).get_or_insert_with(|| panic.to_string());
    }));
    let done = std::panic::catch_unwind(AssertUnwindSafe(job));
    drop(std::panic::take_hook());
    match done {
        Ok(made) => made,
        Err(payload) => {
            let seen = lock(&PANIC).take();
            (Answer::Panicked(seen.unwrap_or_else(|| words(payload.as_ref()))), Vec::new())
        }
    }
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::proposals::Proposals;

    #[test]
    fn what_one_tier_refuses_the_next_one_compiles() {
        let both = Compilation::Fast.tiers(Proposals::NONE);
        let without_winch = |tier| match tier {
            Tier::Winch => Err(wasmtime::format_err!("no such instruction")),
            tier => Ok(tier.name()),
        };
        assert_eq!(first_that_can(both, without_winch), Ok((Tier::SinglePass, "cranelift-single-pass")));
        assert_eq!(first_that_can(both, |tier| Ok(tier.name())), Ok((Tier::Winch, "winch")));
        let refused = first_that_can::<()>(both, |tier| Err(wasmtime::format_err!("{} can not", tier.name())));
        assert_eq!(refused, Err(Refusal::because(Reason::Compile, "cranelift-single-pass can not")));
    }

    #[test]
    fn a_compiler_that_panics_says_so() {
        let (answer, bytes) = guarded(|| panic!("no such {}", "instruction"));
        assert!(matches!(&answer, Answer::Panicked(text) if text.contains("no such instruction")), "{answer:?}");
        assert!(bytes.is_empty());
    }
}
