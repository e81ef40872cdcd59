//! What can be said of a guest without running it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use super::compiler::{Bounds, Compiler};
use super::error::Error;
use super::guest::{self, Kind};
use super::load::{Guest, open};
use super::program::foreign_imports;
use super::refusal::{Reason, Refusal, printable};
use super::source;

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

#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    pub initial: u64,
    /// The most that it says it will use; without it, only the limit holds it.
    pub maximum: Option<u64>,
}

/// A guest's inspection by the process that looks into it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inside {
    imports: Vec<String>,
    exports: Vec<String>,
    foreign: Vec<String>,
    memory: Memory,
    gzip: u64,
    zstd: u64,
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
pub fn inspect(path: &Path, bounds: Bounds) -> Result<Inspection, Error> {
    let compiler = Compiler::new(path, bounds);
    let source = source::read(path)?;
    let stored = source.stored.len() as u64;
    let Guest { name, kind, digest, wasm } = open(source, &compiler)?;
    let Inside { imports, exports, foreign, memory, gzip, zstd } = compiler.inspect(kind, &wasm)?;
    let printable_all = |names: Vec<String>| names.iter().map(|name| printable(name)).collect::<Vec<_>>();
    let (imports, exports) = (printable_all(imports), printable_all(exports));
    let mut by_origin: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for import in &imports {
        let (from, what) = match kind {
            Kind::Module => import.split_once("::"),
            Kind::Component => import.split_once('/'),
        }
        .unwrap_or(("", import));
        by_origin.entry(from.to_owned()).or_default().push(what.to_owned());
    }
    Ok(Inspection {
        name,
        kind: kind.name(),
        wasi: wasi(kind, &exports),
        digest: digest.to_string(),
        size: Sizes { stored, wasm: wasm.len() as u64, gzip, zstd },
        memory,
        asks_for: asks_for(imports.iter().map(String::as_str)),
        imports: by_origin,
        foreign: printable_all(foreign),
    })
}

/// The part of [`inspect`] that looks into the guest, in the process that may die of it.
pub fn inside(engine: &Engine, kind: Kind, wasm: &[u8]) -> Result<Inside, Refusal> {
    let shape = guest::look(kind, wasm)?;
    let foreign = foreign_imports(engine, kind, &shape).map_err(|error| Refusal::because(Reason::Compile, error))?;
    let (gzip, zstd) = packed_sizes(wasm).map_err(|error| Refusal::because(Reason::Packed, error))?;
    Ok(Inside {
        imports: shape.imports.into_iter().collect(),
        exports: shape.exports.into_iter().collect(),
        foreign,
        memory: Memory { initial: shape.memory.0, maximum: shape.memory.1 },
        gzip,
        zstd,
    })
}

fn packed_sizes(wasm: &[u8]) -> std::io::Result<(u64, u64)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(wasm)?;
    let level = if wasm.len() < QUICK_FROM { ZSTD_BEST } else { ZSTD_QUICK };
    Ok((gzip.finish()?.len() as u64, zstd::bulk::compress(wasm, level)?.len() as u64))
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
