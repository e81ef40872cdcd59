//! The part of `wq-run inspect` in this process: reads a guest, and describes it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::compiler::{Bounds, Compiler};
use super::error::Error;
use super::inside::{Inside, Memory};
use super::prepare::{Guest, open};
use super::refusal::printable;
use super::source;
use crate::sandbox::known::Kind;

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
