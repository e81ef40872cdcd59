//! The part of `wq-run inspect` that looks into the guest, in the process that may die of it.

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::features;
use super::guest::{self, Look};
use super::refusal::Refusal;
use crate::sandbox::known::{Kind, Nature};
use crate::sandbox::tiers::{Compilation, Tier};

/// The content of a guest. Sizes in bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inside {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub foreign: Vec<String>,
    pub memory: Memory,
    pub verdict: Result<Nature, Refusal>,
    /// What would compile it fast, if it can run.
    pub fast: Option<Tier>,
}

/// The sizes that a guest can be packed to, in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Packed {
    pub gzip: u64,
    pub zstd: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    pub initial: u64,
    /// The most that it says it will use; without it, only the limit holds it.
    pub maximum: Option<u64>,
}

/// The best zstd level whose window a reader accepts without an option; and a level that is nearly as good, for guests that the
/// best one would take minutes to pack.
const ZSTD_BEST: i32 = 19;
const ZSTD_QUICK: i32 = 9;
const QUICK_FROM: usize = 4 << 20;

/// Looks into a guest.
///
/// # Errors
/// When its bytes are damaged.
pub fn inside(kind: Kind, wasm: &[u8]) -> Result<Inside, Refusal> {
    let Look { shape, foreign, verdict } = guest::look(kind, wasm)?;
    let tiers = |nature: &Nature| features::tiers(wasm, nature.proposals, Compilation::Fast);
    let fast = verdict.as_ref().ok().and_then(|nature| tiers(nature).first().copied());
    Ok(Inside {
        fast,
        imports: shape.imports.into_iter().collect(),
        exports: shape.exports.into_iter().collect(),
        foreign,
        memory: Memory { initial: shape.memory.0, maximum: shape.memory.1 },
        verdict,
    })
}

/// Packs a guest in every way that can be unpacked, to see how small it gets.
pub fn packed(wasm: &[u8]) -> std::io::Result<Packed> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(wasm)?;
    let level = if wasm.len() < QUICK_FROM { ZSTD_BEST } else { ZSTD_QUICK };
    Ok(Packed { gzip: gzip.finish()?.len() as u64, zstd: zstd::bulk::compress(wasm, level)?.len() as u64 })
}
