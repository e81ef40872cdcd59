//! From a file to something that runs: read, check, compile or take from the cache, link.
//!
//! All of it happens before a message is taken.
//!
//! The worker only hashes a guest's bytes. A process of its own looks into them (`compiler.rs`), and its answer is believed
//! no further than needed: the worker takes the digest under which code is kept from bytes that it holds itself. So a guest
//! that takes over that process can't pose as another guest.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::Engine;

use super::cache::{self, Cache};
use super::compiler::{Bounds, Compiler};
use super::error::Error;
use super::guest::{self, Form};
use super::notes;
use super::refusal::{Cause, Reason};
use super::seen::Seen;
use super::source::{self, Place, Source};
use crate::sandbox::abi::engine::{Codegen, engine, refused_by_the_system};
use crate::sandbox::abi::program::{Compiled, Program};
use crate::sandbox::isolation::Isolation;
use crate::sandbox::isolation::Wall;
use crate::sandbox::known::{Digest, Kind, Known};
use crate::sandbox::world::options::Options;
use crate::sandbox::world::room;

/// How a guest is found, checked and brought to run.
#[derive(Clone, Debug)]
pub struct Loading {
    pub guest: PathBuf,
    /// Any other guest is refused.
    pub digest: Option<Digest>,
    /// Where compiled code is kept.
    pub cache: Option<PathBuf>,
    /// The bounds of compiling.
    pub bounds: Bounds,
    pub isolation: Isolation,
    /// Around the processes, if guests run in processes.
    pub wall: Wall,
    /// Runs that may happen at the same time. What is above that waits.
    pub concurrency: usize,
}

/// A guest that is ready to run.
pub struct Prepared {
    /// argv\[0\], and the name in the log.
    pub name: String,
    pub known: Known,
    pub engine: Engine,
    pub program: Program,
    /// Its compiled code, as a file for other processes to map.
    pub code: io::Result<File>,
}

/// What [`compile`] left in the cache.
#[derive(Debug)]
pub struct Entry {
    pub path: PathBuf,
    pub size: u64,
    pub digest: Digest,
}

/// A guest that was read and recognised, and not looked into.
#[derive(Debug)]
pub struct Guest {
    /// argv\[0\], and the name in the log.
    pub name: String,
    pub kind: Kind,
    pub digest: Digest,
    pub wasm: Vec<u8>,
}

/// A guest's code, ready to be linked.
struct Code {
    name: String,
    known: Known,
    engine: Engine,
    compiled: Compiled,
    /// The code as a file, where it is from the cache or was put there.
    entry: Option<File>,
}

pub fn prepare(loading: &Loading, options: &Options) -> Result<Prepared, Error> {
    let code = match kept(loading, options) {
        Some(code) => code,
        None => read_and_compiled(loading, options)?,
    };
    let Code { name, known, engine, compiled, entry } = code;
    let program = Program::link(&engine, &compiled).map_err(|source| unusable(loading, source))?;
    let code = match (loading.isolation, entry) {
        (Isolation::Process, None) => compiled.serialize().map_err(other).and_then(|code| in_memory(&code)),
        (_, Some(entry)) => Ok(entry),
        (Isolation::Thread, None) => Err(io::ErrorKind::NotFound.into()),
    };
    room::sweep();
    if options.grants.scratch.is_some() {
        tracing::info!("scratch folders are measured while guests run: the kernel holds no quota for them (--scratch)");
    }
    if known.kind == Kind::Module && !options.grants.net.is_empty() {
        return Err(Error::Grant(
            "--allow-net: a preview 1 module has no way to open a connection; build the guest for wasm32-wasip2".into(),
        ));
    }
    Ok(Prepared { name, known, engine, program, code })
}

/// The code of a guest that is as it was when it was last read, and that is in the cache.
fn kept(loading: &Loading, options: &Options) -> Option<Code> {
    // Who asks for a digest wants it to be that of the bytes, and not of what we believe them to be.
    let folder = loading.cache.as_ref().filter(|_| loading.digest.is_none())?;
    let Place { name, files, .. } = source::find(&loading.guest).ok()?;
    let known: Known = Seen::look(folder, &files)?.recall()?.parse().ok()?;
    let engine = engine(options, known.kind, loading.concurrency).ok()?;
    let entry = Cache::new(folder, &engine, known.digest).find()?;
    let compiled = cache::load(&engine, known.kind, &entry).ok()?;
    Some(Code { name, known, engine, compiled, entry: Some(entry) })
}

fn read_and_compiled(loading: &Loading, options: &Options) -> Result<Code, Error> {
    let Reading { source, seen } = read(loading)?;
    let compiler = Compiler::new(&loading.guest, loading.bounds);
    let stored = Stored::of(loading, &source)?;
    if let Some(known) = stored.recall() {
        check_digest(loading, known.digest)?;
        let engine = engine_for(loading, options, known.kind)?;
        if let Some((compiled, entry)) = cached(loading, &engine, known) {
            remember(seen, known);
            return Ok(Code { name: source.name, known, engine, compiled, entry: Some(entry) });
        }
    }
    let guest = open(source, &compiler)?;
    let known = Known { kind: guest.kind, digest: guest.digest };
    check_digest(loading, known.digest)?;
    let engine = engine_for(loading, options, known.kind)?;
    let (compiled, entry) = match cached(loading, &engine, known) {
        Some((compiled, entry)) => (compiled, Some(entry)),
        None => compiled(loading, options, &engine, &guest, &compiler)?,
    };
    remember(seen, known);
    stored.remember(known);
    Ok(Code { name: guest.name, known, engine, compiled, entry })
}

/// A folder that can't be written was told of when the code should have been kept there.
fn remember(seen: Option<Seen>, known: Known) {
    if let Some(Err(error)) = seen.map(|seen| seen.remember(&known.to_string())) {
        tracing::debug!(%error, "the guest's digest is not kept (--cache-dir)");
    }
}

/// Compiles a guest into the cache, for others to find.
///
/// # Errors
/// As for running it, and when the cache can't be written.
pub fn compile(loading: &Loading, options: &Options) -> Result<Entry, Error> {
    let folder = loading.cache.clone().ok_or_else(|| Error::Cache {
        path: PathBuf::new(),
        source: io::Error::new(io::ErrorKind::NotFound, "no folder is named"),
    })?;
    let Reading { source, seen } = read(loading)?;
    let compiler = Compiler::new(&loading.guest, loading.bounds);
    let stored = Stored::of(loading, &source)?;
    let guest = open(source, &compiler)?;
    check_digest(loading, guest.digest)?;
    let engine = engine_for(loading, options, guest.kind)?;
    let code = compiler.compile(guest.kind, Codegen::of(options), &guest.wasm)?;
    let path = Cache::new(&folder, &engine, guest.digest)
        .keep(&code)
        .map_err(|source| Error::Cache { path: folder, source })?;
    let known = Known { kind: guest.kind, digest: guest.digest };
    remember(seen, known);
    stored.remember(known);
    Ok(Entry { path, size: code.len() as u64, digest: guest.digest })
}

struct Reading {
    source: Source,
    /// What its files were like before.
    seen: Option<Seen>,
}

fn read(loading: &Loading) -> Result<Reading, Error> {
    let seen = match &loading.cache {
        Some(folder) => Seen::look(folder, &source::find(&loading.guest)?.files),
        None => None,
    };
    Ok(Reading { source: source::read(&loading.guest)?, seen })
}

/// Recognises a guest, and has it unwrapped if it is packed or text.
pub fn open(source: Source, compiler: &Compiler) -> Result<Guest, Error> {
    let Source { name, stored, text } = source;
    let refused = |refusal| Error::refused(compiler.guest(), refusal);
    let (kind, wasm) = match guest::form(&stored, text).map_err(refused)? {
        Form::Binary(kind) => (kind, stored),
        Form::Wrapped => {
            let wasm = compiler.unwrap(&stored, text)?;
            match guest::form(&wasm, false).map_err(refused)? {
                Form::Binary(kind) => (kind, wasm),
                Form::Wrapped => return Err(refused(Reason::NotWasm.into())),
            }
        }
    };
    Ok(Guest { name, kind, digest: Digest::of(&wasm), wasm })
}

fn check_digest(loading: &Loading, found: Digest) -> Result<(), Error> {
    match loading.digest {
        Some(expected) if expected != found => Err(Error::Digest { path: loading.guest.clone(), found }),
        _ => Ok(()),
    }
}

fn engine_for(loading: &Loading, options: &Options, kind: Kind) -> Result<Engine, Error> {
    engine(options, kind, loading.concurrency).map_err(|error| match refused_by_the_system(&error) {
        Some(refused) => Error::NoRoom(Cause(refused)),
        None => unusable(loading, error),
    })
}

/// The guest's code from the cache, where only guests are that were found good.
fn cached(loading: &Loading, engine: &Engine, known: Known) -> Option<(Compiled, File)> {
    let entry = Cache::new(loading.cache.as_ref()?, engine, known.digest).find()?;
    match cache::load(engine, known.kind, &entry) {
        Ok(compiled) => Some((compiled, entry)),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a cache entry can't be used: it is made again");
            None
        }
    }
}

/// The guest's code from the compiler, and into the cache.
fn compiled(
    loading: &Loading,
    options: &Options,
    engine: &Engine,
    guest: &Guest,
    compiler: &Compiler,
) -> Result<(Compiled, Option<File>), Error> {
    let code = compiler.compile(guest.kind, Codegen::of(options), &guest.wasm)?;
    if let Some(folder) = &loading.cache {
        let cache = Cache::new(folder, engine, guest.digest);
        match cache.keep(&code) {
            // Mapped from there, its pages are shared with other workers.
            Ok(_) => {
                if let Some(entry) = cache.find() {
                    let compiled = cache::load(engine, guest.kind, &entry);
                    return Ok((compiled.map_err(|source| unusable(loading, source))?, Some(entry)));
                }
            }
            Err(error) => {
                tracing::info!(%error, folder = %folder.display(), "the compiled guest is not kept (--cache-dir)");
            }
        }
    }
    let compiled = cache::load_bytes(engine, guest.kind, &code).map_err(|source| unusable(loading, source))?;
    Ok((compiled, None))
}

/// A guest by the bytes that are stored. A note in the cache says which guest a packed file or a text holds, so that a file
/// whose code is there is not unwrapped again. The note is trusted as the code is: both need the same right to write.
enum Stored {
    /// A bare binary says all by itself.
    Binary(Known),
    Wrapped {
        /// Where the note is, if there is a cache.
        note: Option<(PathBuf, String)>,
    },
}

impl Stored {
    fn of(loading: &Loading, source: &Source) -> Result<Stored, Error> {
        let Source { stored, text, .. } = source;
        let form = guest::form(stored, *text).map_err(|refusal| Error::refused(&loading.guest, refusal))?;
        Ok(match form {
            Form::Binary(kind) => Stored::Binary(Known { kind, digest: Digest::of(stored) }),
            Form::Wrapped => {
                // The same bytes can be a text by one name and nothing by another.
                let key = || format!("{}{}", blake3::hash(stored).to_hex(), if *text { "-text" } else { "" });
                Stored::Wrapped { note: loading.cache.as_ref().map(|folder| (folder.join("packed"), key())) }
            }
        })
    }

    fn recall(&self) -> Option<Known> {
        match self {
            Stored::Binary(known) => Some(*known),
            Stored::Wrapped { note } => {
                let (folder, key) = note.as_ref()?;
                notes::read(&folder.join(key))?.parse().ok()
            }
        }
    }

    fn remember(&self, known: Known) {
        if let Stored::Wrapped { note: Some((folder, key)) } = self
            && let Err(error) = notes::write(folder, key, known.to_string().as_bytes())
        {
            tracing::debug!(%error, "the note on a packed guest is not kept (--cache-dir)");
        }
    }
}

/// Compiled code as a file that has no name and that nobody can change any more.
fn in_memory(code: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(code)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

fn other(error: wasmtime::Error) -> io::Error {
    io::Error::other(error.into_boxed_dyn_error())
}

fn unusable(loading: &Loading, source: wasmtime::Error) -> Error {
    Error::Compile { path: loading.guest.clone(), source: source.into_boxed_dyn_error() }
}
