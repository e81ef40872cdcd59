//! What can be said of a guest without running it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use wasmtime::Engine;

use super::error::Error;
use super::guest::{self, Digest, Guest, Kind};
use super::program::foreign_imports;

/// What a guest is and needs. Sizes in bytes.
#[derive(Debug, Serialize)]
pub struct Inspection {
    pub name: String,
    pub kind: &'static str,
    pub wasi: String,
    pub digest: String,
    pub size: Sizes,
    pub memory: Memory,
    /// The functions that a module imports, by the module they come from; the interfaces that a component imports, by
    /// their package.
    pub imports: BTreeMap<String, Vec<String>>,
    /// Imports that no guest gets here: with one of them it is refused.
    pub foreign: Vec<String>,
    /// What it can ask the host for, and which flag grants it.
    pub asks_for: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct Sizes {
    /// The file or its pieces, as they are.
    pub stored: u64,
    pub wasm: u64,
    pub gzip: u64,
    pub zstd: u64,
}

#[derive(Debug, Serialize)]
pub struct Memory {
    pub initial: u64,
    /// The most that it says it will use; without it, only the limit holds it.
    pub maximum: Option<u64>,
}

/// zstd's best without a larger window, which a reader would have to be told of; and what is nearly as good, for guests
/// over which the best would take minutes.
const ZSTD_BEST: i32 = 19;
const ZSTD_QUICK: i32 = 9;
const QUICK_FROM: usize = 4 << 20;

/// Reads a guest and looks at it.
///
/// # Errors
/// When it is no guest at all. One with foreign imports is described.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let guest = guest::read(path)?;
    let failed =
        |source: wasmtime::Error| Error::Compile { path: path.to_owned(), source: source.into_boxed_dyn_error() };
    let shape = guest.look()?;
    let foreign = foreign_imports(&Engine::default(), guest.kind, &shape).map_err(failed)?;
    let size = sizes(&guest).map_err(|source| Error::Packed { path: path.to_owned(), source })?;
    let Guest { name, kind, digest, .. } = guest;
    let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for import in &shape.imports {
        let (from, what) = match kind {
            Kind::Module => import.split_once("::"),
            Kind::Component => import.split_once('/'),
        }
        .unwrap_or(("", import));
        imports.entry(from.to_owned()).or_default().push(what.to_owned());
    }
    Ok(Inspection {
        name,
        kind: match kind {
            Kind::Module => "module",
            Kind::Component => "component",
        },
        wasi: wasi(kind, &shape.exports),
        digest: Digest::to_string(&digest),
        size,
        memory: Memory { initial: shape.memory.0, maximum: shape.memory.1 },
        asks_for: asks_for(shape.imports.iter().map(String::as_str)),
        imports,
        foreign,
    })
}

fn sizes(guest: &Guest) -> std::io::Result<Sizes> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&guest.wasm)?;
    let level = if guest.wasm.len() < QUICK_FROM { ZSTD_BEST } else { ZSTD_QUICK };
    Ok(Sizes {
        stored: guest.stored,
        wasm: guest.wasm.len() as u64,
        gzip: gzip.finish()?.len() as u64,
        zstd: zstd::bulk::compress(&guest.wasm, level)?.len() as u64,
    })
}

fn wasi<'a>(kind: Kind, exports: impl IntoIterator<Item = &'a String>) -> String {
    match kind {
        Kind::Module => "preview 1".to_owned(),
        Kind::Component => {
            exports.into_iter().find_map(|export| export.strip_prefix("wasi:cli/run@")).unwrap_or("0.2").to_owned()
        }
    }
}

fn asks_for<'a>(imports: impl Iterator<Item = &'a str> + Clone) -> Vec<&'static str> {
    const FLAGS: [(&[&str], &str); 4] = [
        (&["::path_open", "wasi:filesystem/preopens"], "files: --dir HOST::GUEST[:rw], --scratch BYTES"),
        (&["::environ_get", "wasi:cli/environment"], "environment: --env K=V (WQ_* it gets by itself)"),
        (&["wasi:sockets/tcp@", "wasi:sockets/ip-name-lookup"], "network: --allow-net HOST:PORT"),
        (
            &["::random_get", "::clock_time_get", "wasi:random/", "wasi:clocks/"],
            "clocks and randomness: --deterministic fixes them",
        ),
    ];
    FLAGS
        .into_iter()
        .filter(|(names, _)| imports.clone().any(|import| names.iter().any(|name| import.contains(name))))
        .map(|(_, flag)| flag)
        .collect()
}
