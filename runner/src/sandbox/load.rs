//! From a file to something that runs: read, check, compile or take from the cache, link. All of it before a message is
//! taken.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::Engine;

use super::cache::{self, Cache};
use super::engine::engine;
use super::error::Error;
use super::guest::{self, Digest, Guest, Kind, Known};
use super::names::Names;
use super::program::{Compiled, Program, foreign_imports};
use super::room::{self, Room};
use super::run::Core;
use super::seen::Seen;
use super::source::{self, Place};
use super::wall::Wall;
use super::{Isolation, Options};

/// How a guest is found, checked and brought to run.
#[derive(Clone, Debug)]
pub struct Loading {
    pub guest: PathBuf,
    /// Any other guest is refused.
    pub digest: Option<Digest>,
    /// Where compiled code is kept.
    pub cache: Option<PathBuf>,
    pub compile_timeout: Duration,
    pub isolation: Isolation,
    /// Around the processes, if guests run in processes.
    pub wall: Wall,
    /// Runs that may happen at the same time. What is above that waits.
    pub concurrency: usize,
}

/// A guest that is ready to run.
pub struct Prepared {
    pub core: Core,
    pub digest: Digest,
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

/// A guest's code, ready to be linked.
struct Code {
    name: String,
    known: Known,
    engine: Engine,
    compiled: Compiled,
    /// The cache's entry, if it is from there.
    entry: Option<File>,
}

pub fn prepare(loading: &Loading, options: Options) -> Result<Prepared, Error> {
    let code = match kept(loading, &options) {
        Some(code) => code,
        None => read_and_compiled(loading, &options)?,
    };
    let Code { name, known: Known { kind, digest }, engine, compiled, entry } = code;
    let program = Program::link(&engine, &compiled).map_err(|source| compile_error(loading, source))?;
    let code = match (loading.isolation, entry) {
        (Isolation::Process, None) => in_memory(&compiled),
        (_, Some(entry)) => Ok(entry),
        (Isolation::Thread, None) => Err(io::ErrorKind::NotFound.into()),
    };
    room::sweep();
    if options.grants.scratch.is_some() {
        tracing::info!("scratch folders are measured while guests run: the kernel holds no quota for them (--scratch)");
    }
    if kind == Kind::Module && !options.grants.net.is_empty() {
        return Err(Error::Grant(
            "--allow-net: a preview 1 module has no way to open a connection; build the guest for wasm32-wasip2".into(),
        ));
    }
    let core = Core::new(name, kind, options, engine, program, Room::temporary(), Names::System);
    let core = core.map_err(Error::Thread)?;
    core.try_grants().map_err(Error::Grant)?;
    Ok(Prepared { core, digest, code })
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
    let Reading { guest, seen } = read(loading)?;
    let engine = engine_for(loading, options, &guest)?;
    let (compiled, entry) = compiled(loading, &engine, &guest)?;
    let known = Known { kind: guest.kind, digest: guest.digest };
    remember(seen, known);
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
    let Reading { guest, seen } = read(loading)?;
    let engine = engine_for(loading, options, &guest)?;
    let compiled = from_source(loading, &engine, &guest)?;
    let code = compiled.serialize().map_err(|source| compile_error(loading, source))?;
    let path = Cache::new(&folder, &engine, guest.digest)
        .keep(&code)
        .map_err(|source| Error::Cache { path: folder, source })?;
    remember(seen, Known { kind: guest.kind, digest: guest.digest });
    Ok(Entry { path, size: code.len() as u64, digest: guest.digest })
}

struct Reading {
    guest: Guest,
    /// What its files were like before.
    seen: Option<Seen>,
}

fn read(loading: &Loading) -> Result<Reading, Error> {
    let seen = match &loading.cache {
        Some(folder) => Seen::look(folder, &source::find(&loading.guest)?.files),
        None => None,
    };
    let guest = guest::read(&loading.guest)?;
    match loading.digest {
        Some(expected) if expected != guest.digest => Err(Error::Digest { path: guest.path, found: guest.digest }),
        _ => Ok(Reading { guest, seen }),
    }
}

fn engine_for(loading: &Loading, options: &Options, guest: &Guest) -> Result<Engine, Error> {
    engine(options, guest.kind, loading.concurrency).map_err(|source| compile_error(loading, source))
}

/// The guest's code: from the cache, where only guests are that were found good, or else from the compiler and into the
/// cache. With the entry, if there is one.
fn compiled(loading: &Loading, engine: &Engine, guest: &Guest) -> Result<(Compiled, Option<File>), Error> {
    let Some(folder) = &loading.cache else { return Ok((from_source(loading, engine, guest)?, None)) };
    let cache = Cache::new(folder, engine, guest.digest);
    if let Some(entry) = cache.find() {
        match cache::load(engine, guest.kind, &entry) {
            Ok(compiled) => return Ok((compiled, Some(entry))),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "a cache entry can't be used: it is made again"),
        }
    }
    let compiled = from_source(loading, engine, guest)?;
    let kept =
        compiled.serialize().map_err(wasmtime::Error::into_boxed_dyn_error).and_then(|code| Ok(cache.keep(&code)?));
    if let Err(error) = kept {
        tracing::info!(error, folder = %folder.display(), "the compiled guest is not kept (--cache-dir)");
    }
    Ok((compiled, None))
}

/// Looks at the guest, and compiles it within bounds: there are small modules that take hours.
fn from_source(loading: &Loading, engine: &Engine, guest: &Guest) -> Result<Compiled, Error> {
    let shape = guest.look()?;
    let foreign = foreign_imports(engine, guest.kind, &shape).map_err(|source| compile_error(loading, source))?;
    if !foreign.is_empty() {
        return Err(Error::Imports { path: guest.path.clone(), imports: foreign });
    }
    let (done_tx, done_rx) = channel();
    let (thread_engine, kind, wasm) = (engine.clone(), guest.kind, guest.wasm.clone());
    std::thread::Builder::new()
        .name("compiler".into())
        .spawn(move || {
            let _ = done_tx.send(Compiled::new(&thread_engine, kind, &wasm));
        })
        .map_err(|source| Error::Compile { path: loading.guest.clone(), source: source.into() })?;
    match done_rx.recv_timeout(loading.compile_timeout) {
        Ok(compiled) => compiled.map_err(|source| compile_error(loading, source)),
        // The thread can't be stopped. It ends with the process, which has nothing else to do now.
        Err(RecvTimeoutError::Timeout) => {
            Err(Error::CompileTimeout { path: loading.guest.clone(), after: loading.compile_timeout })
        }
        Err(RecvTimeoutError::Disconnected) => Err(Error::Panic("the compiler panicked".into())),
    }
}

/// Compiled code as a file that has no name and that nobody can change any more.
fn in_memory(compiled: &Compiled) -> io::Result<File> {
    let code = compiled.serialize().map_err(|error| io::Error::other(error.into_boxed_dyn_error()))?;
    let mut file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(&code)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

fn compile_error(loading: &Loading, source: wasmtime::Error) -> Error {
    Error::Compile { path: loading.guest.clone(), source: source.into_boxed_dyn_error() }
}
