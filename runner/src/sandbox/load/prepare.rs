//! From a file to something that runs: read, check, compile or take from the cache, link.
//!
//! All of it happens before a message is taken.
//!
//! The worker only hashes a guest's bytes. A process of its own looks into them (`compiler.rs`), and its answer is believed
//! no further than needed: the worker takes the digest under which code is kept from bytes that it holds itself. So a guest
//! that takes over that process can't pose as another guest.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::Engine;

use super::cache::{self, Cache};
use super::compiler::{Bounds, Compiler};
use super::error::Error;
use super::guest::{self, Form};
use super::notes;
use super::refusal::{Cause, Reason, Refusal};
use super::seen::Seen;
use super::source::{self, Place, Source};
use crate::sandbox::abi::engine::{Codegen, engine, refused_by_the_system};
use crate::sandbox::abi::program::{Compiled, Program};
use crate::sandbox::abi::versions::version;
use crate::sandbox::isolation::Isolation;
use crate::sandbox::isolation::Wall;
use crate::sandbox::known::{Digest, Kind, Known, Nature};
use crate::sandbox::tiers::{Compilation, Tier};
use crate::sandbox::world::grants::Grants;
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
    pub keep: Keep,
    /// The bounds of compiling.
    pub bounds: Bounds,
    pub compilation: Compilation,
    pub isolation: Isolation,
    /// Around the processes, if guests run in processes.
    pub wall: Wall,
    /// Whether a crash is told with the lines of source code where it happened.
    pub debug_info: bool,
    /// Runs that may happen at the same time. What is above that waits.
    pub concurrency: usize,
}

/// What is kept in the cache for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: what is there is read and left as it is.
    Nothing,
    /// What can be kept.
    IfPossible,
    /// It is an error if something can't be kept.
    Always,
}

/// A guest that is ready to run.
pub struct Prepared {
    /// argv\[0\], and the name in the log.
    pub name: String,
    pub known: Known,
    pub tier: Tier,
    pub engine: Engine,
    pub program: Box<dyn Program>,
    pub compiled: Compiled,
    /// How long the compiler took; `None` if the code is from the cache.
    pub compiled_in: Option<Duration>,
    /// Its compiled code, as a file for other processes to map.
    pub code: io::Result<File>,
}

/// What [`compile`] left in the cache.
#[derive(Debug)]
pub struct Entry {
    pub path: PathBuf,
    pub size: u64,
    pub digest: Digest,
    pub tier: Tier,
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
    tier: Tier,
    engine: Engine,
    compiled: Compiled,
    /// How long the compiler took; `None` if the code is from the cache.
    compiled_in: Option<Duration>,
    /// The code as a file and its path, where it is from the cache or was put there.
    entry: Option<(PathBuf, File)>,
}

pub fn prepare(loading: &Loading, options: &Options) -> Result<Prepared, Error> {
    let code = match kept(loading, options) {
        Some(code) => code,
        None => read_and_compiled(loading, options)?,
    };
    let Code { name, known, tier, engine, compiled, compiled_in, entry } = code;
    let link = version(known.nature.wasi).link;
    let program = link(&engine, &compiled).map_err(|source| unusable(loading, source))?;
    let code = match (loading.isolation, entry) {
        (Isolation::Process, None) => compiled.serialize().map_err(other).and_then(|code| in_memory(&code)),
        (_, Some((_, file))) => Ok(file),
        (Isolation::Thread, None) => Err(io::ErrorKind::NotFound.into()),
    };
    if loading.keep != Keep::Nothing {
        room::sweep();
    }
    if options.limits.scratch.is_some() {
        tracing::info!("scratch folders are measured while guests run: the kernel holds no quota for them (--scratch)");
    }
    let Grants { net, http, .. } = &options.grants;
    let flag = if net.is_empty() { "--allow-http" } else { "--allow-net" };
    if known.nature.wasi.kind() == Kind::Module && !(net.is_empty() && http.is_empty()) {
        return Err(Error::NoSockets { path: loading.guest.clone(), flag });
    }
    if tier != Tier::Optimised {
        tracing::info!(
            compiler = tier.name(),
            "the guest was compiled in less time, so its code is slower (--compile fast)"
        );
    }
    Ok(Prepared { name, known, tier, engine, program, compiled, compiled_in, code })
}

/// The code of a guest that is as it was when it was last read, and that is in the cache.
fn kept(loading: &Loading, options: &Options) -> Option<Code> {
    // A digest that was asked for has to be that of the bytes themselves, and not one from a note about them.
    let folder = loading.cache.as_ref().filter(|_| loading.digest.is_none())?;
    let Place { name, files, .. } = source::find(&loading.guest).ok()?;
    let known: Known = Seen::look(folder, &files)?.recall()?.parse().ok()?;
    loading.compilation.tiers(known.nature.proposals).iter().find_map(|&tier| {
        let engine = engine(options, known.nature, tier, loading.concurrency).ok()?;
        let (path, entry) = existing(loading, folder, &engine, known.digest)?;
        let compiled = cache::load(&engine, known.nature.wasi.kind(), &entry).ok()?;
        let (name, entry) = (name.clone(), Some((path, entry)));
        Some(Code { name, known, tier, engine, compiled, compiled_in: None, entry })
    })
}

/// The entry of a guest in the cache.
fn existing(loading: &Loading, folder: &Path, engine: &Engine, digest: Digest) -> Option<(PathBuf, File)> {
    Cache::new(folder, engine, digest).read_only(loading.keep == Keep::Nothing).find()
}

fn read_and_compiled(loading: &Loading, options: &Options) -> Result<Code, Error> {
    let Reading { source, seen } = read(loading)?;
    let compiler = Compiler::new(&loading.guest, loading.bounds);
    let refused = |refusal| Error::refused(&loading.guest, refusal);
    let stored = Note::of_stored(loading, &source).map_err(refused)?;
    if let Some(known) = stored.recall() {
        check_digest(loading, known.digest)?;
        if let Some(code) = cached(loading, options, &source.name, known)? {
            remember(loading, seen, known);
            return Ok(code);
        }
    }
    let guest = open(source, &compiler)?;
    check_digest(loading, guest.digest)?;
    // The same guest may have been compiled from another file.
    let unwrapped = Note::of(loading, &guest.digest.to_string());
    let known = unwrapped.recall().filter(|known| known.digest == guest.digest);
    let code = match known.map(|known| cached(loading, options, &guest.name, known)).transpose()?.flatten() {
        Some(code) => code,
        None => compiled(loading, options, guest, &compiler)?,
    };
    if loading.keep != Keep::Nothing {
        remember(loading, seen, code.known);
        stored.remember(code.known);
        unwrapped.remember(code.known);
    }
    Ok(code)
}

/// Notes what the guest's files hold. An error is only a debug event: if the folder can't be written, keeping the code there
/// has failed before, and that was reported.
fn remember(loading: &Loading, seen: Option<Seen>, known: Known) {
    let seen = seen.filter(|_| loading.keep != Keep::Nothing);
    if let Some(Err(error)) = seen.map(|seen| seen.remember(&known.to_string())) {
        tracing::debug!(%error, "the guest's digest is not kept (--cache-dir)");
    }
}

/// Compiles a guest into the cache, for others to find.
///
/// # Errors
/// As for running it, and when the cache can't be written.
pub fn compile(loading: &Loading, options: &Options) -> Result<Entry, Error> {
    let unkept = || Error::Cache {
        path: loading.cache.clone().unwrap_or_default(),
        source: io::Error::new(io::ErrorKind::NotFound, "the code is not kept"),
    };
    let code = match kept(loading, options) {
        Some(code) => code,
        None => read_and_compiled(loading, options)?,
    };
    let (path, file) = code.entry.ok_or_else(unkept)?;
    let size = file.metadata().map_err(|source| Error::Cache { path: path.clone(), source })?.len();
    Ok(Entry { path, size, digest: code.known.digest, tier: code.tier })
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

fn engine_for(loading: &Loading, options: &Options, nature: Nature, tier: Tier) -> Result<Engine, Error> {
    engine(options, nature, tier, loading.concurrency).map_err(|error| match refused_by_the_system(&error) {
        Some(refused) => Error::NoRoom(Cause(refused)),
        None => unusable(loading, error),
    })
}

/// The guest's code from the cache, where only guests are that were found good.
fn cached(loading: &Loading, options: &Options, name: &str, known: Known) -> Result<Option<Code>, Error> {
    for &tier in loading.compilation.tiers(known.nature.proposals) {
        let engine = match engine_for(loading, options, known.nature, tier) {
            Ok(engine) => engine,
            Err(error @ Error::NoRoom(_)) => return Err(error),
            // A tier that this processor does not have.
            Err(_) => continue,
        };
        let found = loading.cache.as_ref().and_then(|folder| existing(loading, folder, &engine, known.digest));
        let Some((path, file)) = found else { continue };
        match cache::load(&engine, known.nature.wasi.kind(), &file) {
            Ok(compiled) => {
                let (name, entry) = (name.to_owned(), Some((path, file)));
                return Ok(Some(Code { name, known, tier, engine, compiled, compiled_in: None, entry }));
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a cache entry can't be used: compiling the guest again");
            }
        }
    }
    Ok(None)
}

/// The guest's code from the compiler, and into the cache.
fn compiled(loading: &Loading, options: &Options, guest: Guest, compiler: &Compiler) -> Result<Code, Error> {
    let Guest { name, kind, digest, wasm } = guest;
    let began = Instant::now();
    let (nature, tier, code) = compiler.compile(kind, Codegen::of(options), loading.compilation, &wasm)?;
    let compiled_in = Some(began.elapsed());
    let engine = engine_for(loading, options, nature, tier)?;
    let unusable = |source| unusable(loading, source);
    let known = Known { nature, digest };
    if let Some(folder) = loading.cache.as_ref().filter(|_| loading.keep != Keep::Nothing) {
        let cache = Cache::new(folder, &engine, digest);
        match cache.keep(&code) {
            // Mapped from there, its pages are shared with other workers.
            Ok(_) => {
                if let Some((path, file)) = cache.find() {
                    let compiled = cache::load(&engine, kind, &file).map_err(unusable)?;
                    let entry = Some((path, file));
                    return Ok(Code { name, known, tier, engine, compiled, compiled_in, entry });
                }
            }
            Err(source) if loading.keep == Keep::Always => return Err(Error::Cache { path: folder.clone(), source }),
            Err(error) => {
                tracing::info!(%error, folder = %folder.display(), "the compiled guest is not kept (--cache-dir)");
            }
        }
    }
    let compiled = cache::load_bytes(&engine, kind, &code).map_err(unusable)?;
    Ok(Code { name, known, tier, engine, compiled, compiled_in, entry: None })
}

/// A note in the cache on a guest that was found good, by its digest or by the bytes that are stored: a packed file or a text
/// whose code is there is not unwrapped again. The note is trusted as the code is: both need the same right to write.
struct Note(Option<(PathBuf, String)>);

impl Note {
    fn of(loading: &Loading, key: &str) -> Note {
        Note(loading.cache.as_ref().map(|folder| (folder.join("known"), key.replace(':', "-"))))
    }

    fn of_stored(loading: &Loading, source: &Source) -> Result<Note, Refusal> {
        let Source { stored, text, .. } = source;
        let form = guest::form(stored, *text)?;
        if loading.cache.is_none() {
            return Ok(Note(None));
        }
        Ok(Note::of(
            loading,
            &match form {
                Form::Binary(_) => Digest::of(stored).to_string(),
                // Whether these bytes are a text depends on the file's name, so the key tells that too.
                Form::Wrapped => format!("{}{}", blake3::hash(stored).to_hex(), if *text { "-text" } else { "" }),
            },
        ))
    }

    fn recall(&self) -> Option<Known> {
        let (folder, key) = self.0.as_ref()?;
        notes::read(&folder.join(key))?.parse().ok()
    }

    fn remember(&self, known: Known) {
        if let Some((folder, key)) = &self.0
            && let Err(error) = notes::write(folder, key, known.to_string().as_bytes())
        {
            tracing::debug!(%error, "the note on a guest is not kept (--cache-dir)");
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
