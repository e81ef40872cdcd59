//! The part of `wq-run inspect` that looks into the guest, in the process that may die of it.

use std::io::Write as _;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use super::guest;
use super::refusal::{Reason, Refusal};
use crate::sandbox::abi::program::foreign_imports;
use crate::sandbox::known::Kind;

/// The content of a guest. Sizes in bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inside {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub foreign: Vec<String>,
    pub memory: Memory,
    pub gzip: u64,
    pub zstd: u64,
}

#[derive(Debug, Serialize, Deserialize)]
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

/// Looks into a guest.
pub fn inside(engine: &Engine, kind: Kind, wasm: &[u8]) -> Result<Inside, Refusal> {
    let shape = guest::look(kind, wasm)?;
    let foreign =
        foreign_imports(engine, kind, &shape.imports).map_err(|error| Refusal::because(Reason::Compile, error))?;
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
