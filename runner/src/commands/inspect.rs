//! `wq-run inspect`: says what a guest is and needs, without running it.

use std::fmt::Write as _;

use bytesize::ByteSize;

use super::process::say;
use crate::cli;
use crate::config::bounds;
use crate::error::{Error, ExitStatus};
use crate::sandbox::{self, Inspection, Packed};
use crate::visible::lines;

/// Kubernetes' limit for a ConfigMap, less some room for its names.
const CONFIG_MAP: u64 = 1_048_576 - 4_096;

/// `kubectl apply` keeps a copy of the object, bytes as base64, in an annotation of at most 262,144 bytes.
const CLIENT_SIDE_APPLY: u64 = 190_000;

pub async fn run(args: cli::Inspect) -> Result<u8, Error> {
    let bounds = bounds(&args.compiling)?;
    let (mut inspection, packing) = sandbox::inspect(args.path.clone(), bounds).await?;
    if !args.json {
        say(&for_people(&inspection))?;
    }
    // Packing a large guest takes seconds, so all else is said before. Nobody packs a guest that can't run.
    if inspection.refused.is_none() {
        let packed = sandbox::pack(args.path, packing, bounds).await?;
        inspection.size.packed = Some(packed);
        if !args.json {
            say(&packed_for_people(inspection.size.wasm, packed))?;
        }
    }
    if args.json {
        let text = serde_json::to_string_pretty(&inspection)
            .map_err(|error| Error::Io { doing: "write JSON".into(), source: error.into() })?;
        say(&text)?;
    }
    Ok(if inspection.refused.is_none() { ExitStatus::Done } else { ExitStatus::NoGuest }.code())
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:<11}{}", lines(value));
}

fn bytes(size: u64) -> String {
    ByteSize::b(size).to_string()
}

fn for_people(inspection: &Inspection) -> String {
    let Inspection {
        name,
        kind,
        wasi,
        proposals,
        fast_compiler,
        refused,
        digest,
        size,
        memory,
        imports,
        asks_for,
        foreign: _,
    } = inspection;
    let mut text = String::new();
    let mut line = |label: &str, value: &str| line(&mut text, label, value);
    line("guest", name);
    match refused {
        None => line("verdict", "can run"),
        Some(verdict) => {
            line("REFUSED", &verdict.reason);
            line("hint", &verdict.hint);
        }
    }
    line("kind", &wasi.as_ref().map_or((*kind).to_owned(), |wasi| format!("{kind}, WASI {wasi}")));
    if !proposals.is_empty() {
        line("uses", &proposals.join(", "));
    }
    if let Some(compiler) = fast_compiler {
        line("fast by", &format!("{compiler} (--compile fast)"));
    }
    line("digest", digest);
    let most = memory.maximum.map_or("no maximum of its own".to_owned(), |most| format!("{} at most", bytes(most)));
    line("memory", &format!("{} at the start, {most}", bytes(memory.initial)));
    let mut label = "imports";
    for (from, names) in imports {
        line(label, &format!("{from}: {}", names.join(", ")));
        label = "";
    }
    let mut label = "asks for";
    for grant in asks_for {
        line(label, grant);
        label = "";
    }
    line("size", &bytes(size.wasm));
    text.trim_end().to_owned()
}

fn packed_for_people(wasm: u64, packed: Packed) -> String {
    let mut text = String::new();
    line(&mut text, "packed", &format!("{} by gzip, {} by zstd", bytes(packed.gzip), bytes(packed.zstd)));
    line(&mut text, "ConfigMap", &config_map(wasm, packed));
    text.trim_end().to_owned()
}

/// How the guest gets into the cluster.
fn config_map(wasm: u64, packed: Packed) -> String {
    let server_side = |size: u64| if size > CLIENT_SIDE_APPLY { ", with kubectl apply --server-side" } else { "" };
    if wasm <= CONFIG_MAP {
        format!("fits{}", server_side(wasm))
    } else if packed.gzip <= CONFIG_MAP {
        format!("fits packed: gzip -9{}", server_side(packed.gzip))
    } else if packed.zstd <= CONFIG_MAP {
        format!("fits packed: zstd -19{}", server_side(packed.zstd))
    } else {
        let pieces = packed.zstd.div_ceil(CONFIG_MAP);
        format!("no: {pieces} pieces by zstd and split -b 1000000 -d -a 3, or a volume")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_guest_gets_into_a_config_map_follows_its_size() {
        let said = |wasm, gzip, zstd| config_map(wasm, Packed { gzip, zstd });
        assert_eq!(said(50_000, 0, 0), "fits");
        assert_eq!(said(500_000, 0, 0), "fits, with kubectl apply --server-side");
        assert_eq!(said(2_000_000, 150_000, 0), "fits packed: gzip -9");
        assert_eq!(said(3_000_000, 1_100_000, 900_000), "fits packed: zstd -19, with kubectl apply --server-side");
        assert!(said(18_000_000, 6_000_000, 5_000_000).starts_with("no: 5 pieces"));
    }
}
