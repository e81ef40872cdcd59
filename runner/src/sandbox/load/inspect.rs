//! The part of `wq-run inspect` in this process: reads a guest, and describes it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::compiler::{Bounds, Compiler};
use super::error::Error;
use super::inside::{Inside, Memory, Packed};
use super::prepare::{Guest, open};
use super::refusal::printable;
use super::source;
use crate::causes;
use crate::sandbox::abi::versions::version;
use crate::sandbox::known::{Kind, Wasi};
use crate::sandbox::tiers::Tier;

/// What a guest is and needs. Sizes in bytes.
#[derive(Debug, Serialize)]
pub struct Inspection {
    pub name: String,
    pub kind: &'static str,
    /// The version of WASI, for a guest that can run.
    pub wasi: Option<String>,
    /// The proposals of WebAssembly that are switched on for it, beside those that every guest has.
    pub proposals: Vec<&'static str>,
    /// The compiler that `--compile fast` takes for it, for a guest that can run.
    pub fast_compiler: Option<&'static str>,
    /// Why it is refused, and what to do about it.
    pub refused: Option<Verdict>,
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
pub struct Verdict {
    pub reason: String,
    pub hint: String,
}

#[derive(Debug, Serialize)]
pub struct Sizes {
    /// The file or its pieces, as they are.
    pub stored: u64,
    pub wasm: u64,
    #[serde(flatten)]
    pub packed: Option<Packed>,
}

/// A guest that was inspected and can be packed, which takes seconds where the rest takes milliseconds.
pub struct Packing {
    compiler: Compiler,
    wasm: Vec<u8>,
}

/// Reads a guest and looks at it.
///
/// # Errors
/// When it is no guest at all, or damaged. One that is refused for another reason is described.
pub fn inspect(path: &Path, bounds: Bounds) -> Result<(Inspection, Packing), Error> {
    let compiler = Compiler::new(path, bounds);
    let source = source::read(path)?;
    let stored = source.stored.len() as u64;
    let Guest { name, kind, digest, wasm } = open(source, &compiler)?;
    let Inside { imports, exports, foreign, memory, verdict, fast } = compiler.inspect(kind, &wasm)?;
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
    let (nature, refused) = match verdict {
        Ok(nature) => (Some(nature), None),
        Err(refusal) => {
            let error = Error::refused(path, refusal.printable());
            (None, Some(Verdict { reason: causes::chain(&error), hint: error.hint() }))
        }
    };
    let inspection = Inspection {
        name,
        kind: kind.name(),
        wasi: nature.map(|nature| wasi(nature.wasi, &exports)),
        proposals: nature.map(|nature| nature.proposals.names()).unwrap_or_default(),
        fast_compiler: fast.map(Tier::name),
        refused,
        digest: digest.to_string(),
        size: Sizes { stored, wasm: wasm.len() as u64, packed: None },
        memory,
        asks_for: asks_for(imports.iter().map(String::as_str)),
        imports: by_origin,
        foreign: printable_all(foreign),
    };
    Ok((inspection, Packing { compiler, wasm }))
}

/// The version that the guest itself names, if it does.
fn wasi(wasi: Wasi, exports: &[String]) -> String {
    let version = version(wasi);
    let entry = exports.iter().find(|export| (version.is_entry)(export));
    entry.and_then(|entry| entry.split_once('@')).map_or(version.name, |(_, exact)| exact).to_owned()
}

impl Packing {
    /// # Errors
    /// As for every job of the compiler's.
    pub fn pack(&self) -> Result<Packed, Error> {
        self.compiler.pack(&self.wasm)
    }
}

fn asks_for<'a>(imports: impl Iterator<Item = &'a str> + Clone) -> Vec<&'static str> {
    const FLAGS: [(&[&str], &str); 5] = [
        (&["::path_open", "wasi:filesystem/preopens"], "files: --dir HOST::GUEST[:rw], --scratch BYTES"),
        (&["::environ_get", "wasi:cli/environment"], "environment: --env K=V (wq-run sets WQ_* by itself)"),
        (
            &["wasi:sockets/tcp@", "wasi:sockets/types@", "wasi:sockets/ip-name-lookup"],
            "network: --allow-net HOST:PORT",
        ),
        (&["wasi:http/outgoing-handler@", "wasi:http/client@"], "HTTP requests: --allow-http HOST[:PORT]"),
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
