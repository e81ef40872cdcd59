//! A guest before it is compiled: recognised, unwrapped, validated, and refused with a reason.
//!
//! Only [`form`] and digests are worked out by the worker. All else here looks into a stranger's bytes, and runs in the
//! process that compiles.

use std::collections::BTreeSet;
use std::path::Path;

use wasmparser::{ExternalKind, Parser, Payload};

use super::refusal::{MAX_GUEST_SIZE, Reason, Refusal};
use super::{features, source};
use crate::sandbox::abi::versions::{self, version};
use crate::sandbox::known::{Kind, Nature};
use crate::sandbox::proposals::Proposals;

/// What there is to say of a guest whose bytes are in order, whether it can run or not.
#[derive(Debug)]
pub struct Look {
    pub shape: Shape,
    /// The imports that nobody here has.
    pub foreign: Vec<String>,
    pub verdict: Result<Nature, Refusal>,
}

/// What a binary says of itself.
#[derive(Debug, Default)]
pub struct Shape {
    /// `module::name` of a module's imports, `package:interface@version` of a component's.
    pub imports: BTreeSet<String>,
    pub exports: BTreeSet<String>,
    /// Bytes of all its memories at the start, and at most, if it says so.
    pub memory: (u64, Option<u64>),
}

const PAGE: u64 = 64 * 1024;

/// The form of a file, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Binary(Kind),
    /// Packed, or text.
    Wrapped,
}

/// Tells by the first bytes what a file is.
///
/// # Errors
/// When it can't be a guest.
pub fn form(bytes: &[u8], text: bool) -> Result<Form, Refusal> {
    match bytes {
        [] => Err(Reason::Empty.into()),
        // The bytes after the magic number tell the two kinds apart. A file of neither kind is found invalid later on.
        [0, b'a', b's', b'm', rest @ ..] => {
            let is_component = rest.starts_with(&[0x0d, 0, 1, 0]);
            Ok(Form::Binary(if is_component { Kind::Component } else { Kind::Module }))
        }
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Form::Wrapped),
        // Any file could be tried as text, but then a shell script would be told about its missing parenthesis.
        bytes if text || bytes.trim_ascii_start().starts_with(b"(") => Ok(Form::Wrapped),
        _ => Err(Reason::NotWasm.into()),
    }
}

/// The binary that a packed file or a text stands for. `path` is for messages only.
///
/// # Errors
/// When it stands for none.
pub fn unwrap(stored: Vec<u8>, text: bool, path: &Path) -> Result<Vec<u8>, Refusal> {
    let bytes = source::unpack(stored)?;
    match bytes.as_slice() {
        [] => Err(Reason::Empty.into()),
        [0, b'a', b's', b'm', ..] => Ok(bytes),
        source if text || source.trim_ascii_start().starts_with(b"(") => {
            let text_error = |mut error: wat::Error| {
                error.set_path(path);
                Refusal::because(Reason::Text, error)
            };
            let binary = wat::parse_bytes(source).map_err(text_error)?.into_owned();
            if binary.len() as u64 > MAX_GUEST_SIZE { Err(Reason::TooLarge.into()) } else { Ok(binary) }
        }
        _ => Err(Reason::NotWasm.into()),
    }
}

/// Validates a guest and looks at it from outside. Nothing is compiled: that takes minutes where this takes milliseconds.
///
/// # Errors
/// When its bytes are damaged: then nothing that it seems to say of itself counts.
pub fn look(kind: Kind, wasm: &[u8]) -> Result<Look, Refusal> {
    let used = features::used(wasm);
    if let Err(damaged @ Refusal { reason: Reason::Invalid, .. }) = used {
        return Err(damaged);
    }
    let mut shape = Shape { memory: (0, Some(0)), ..Shape::default() };
    // What the parser does not know ends the look early. What stands before it is known.
    let _ = read_shape(wasm, &mut shape);
    let wasi = versions::of(kind, &shape.exports);
    let judged_as = wasi.or_else(|| versions::newest(kind));
    let foreign = judged_as.map_or(Ok(Vec::new()), |wasi| (version(wasi).foreign_imports)(&shape.imports));
    let foreign = foreign.map_err(|error| Refusal::because(Reason::Compile, format_args!("{error:#}")))?;
    // Imports come first: they tell what a file was made for, which is the reason for all else that it lacks.
    let verdict = if foreign.is_empty() {
        used.and_then(|proposals| match wasi {
            Some(wasi) if proposals.intersects(Proposals::ASYNC) && !version(wasi).is_concurrent => {
                Err(Reason::NotConcurrent.into())
            }
            Some(wasi) => Ok(Nature { wasi, proposals }),
            None => Err(no_command(kind, &shape).into()),
        })
    } else {
        Err(Reason::Imports { imports: foreign.clone() }.into())
    };
    Ok(Look { shape, foreign, verdict })
}

fn no_command(kind: Kind, shape: &Shape) -> Reason {
    match kind {
        Kind::Component => Reason::NoRun { exports: shape.exports.iter().cloned().collect() },
        Kind::Module if shape.exports.contains("_initialize") => Reason::Reactor,
        Kind::Module => Reason::NoStart,
    }
}

/// Takes a binary apart, as far as its outermost names and its memories go.
fn read_shape(wasm: &[u8], shape: &mut Shape) -> Result<(), wasmparser::BinaryReaderError> {
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            // Modules inside of a component import from each other; that is their own affair.
            Payload::ImportSection(section) if depth == 1 => {
                for import in section.into_imports() {
                    let import = import?;
                    shape.imports.insert(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export?;
                    if export.kind == ExternalKind::Func {
                        shape.exports.insert(export.name.to_owned());
                    }
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    shape.imports.insert(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    shape.exports.insert(export?.name.name.to_owned());
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory?;
                    shape.memory.0 = shape.memory.0.saturating_add(memory.initial.saturating_mul(PAGE));
                    shape.memory.1 = shape
                        .memory
                        .1
                        .zip(memory.maximum)
                        .map(|(sum, maximum)| sum.saturating_add(maximum.saturating_mul(PAGE)));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that happens to a file with these bytes before it is compiled.
    fn read(bytes: &[u8], text: bool) -> Result<Nature, Refusal> {
        let (kind, wasm) = match form(bytes, text)? {
            Form::Binary(kind) => (kind, bytes.to_vec()),
            Form::Wrapped => {
                let wasm = unwrap(bytes.to_vec(), text, Path::new("g"))?;
                let Form::Binary(kind) = form(&wasm, false)? else { panic!("wrapped twice") };
                (kind, wasm)
            }
        };
        look(kind, &wasm)?.verdict
    }

    fn shape(text: &str) -> Shape {
        let mut shape = Shape { memory: (0, Some(0)), ..Shape::default() };
        read_shape(&wat::parse_str(text).unwrap(), &mut shape).unwrap();
        shape
    }

    #[test]
    fn a_text_stands_for_its_binary() {
        let text = r#"(module (func (export "_start")))"#;
        let binary = wat::parse_str(text).unwrap();
        assert_eq!(form(text.as_bytes(), false), Ok(Form::Wrapped));
        assert_eq!(unwrap(text.as_bytes().to_vec(), false, Path::new("g.wat")), Ok(binary.clone()));
        assert_eq!(form(&binary, false), Ok(Form::Binary(Kind::Module)));
        assert_eq!(form(b"#!/bin/sh", false), Err(Reason::NotWasm.into()));
    }

    #[test]
    fn what_a_binary_asks_for_is_read_from_its_outside() {
        let module = r#"(module (import "env" "f" (func)) (memory 2 4) (memory $m 1 1) (func (export "_start")))"#;
        let found = shape(module);
        assert_eq!(found.memory, (3 * PAGE, Some(5 * PAGE)));
        assert!(found.imports.contains("env::f") && found.exports.contains("_start"));
        let component = r#"(component (import "wasi:cli/stderr@0.2.0" (instance))
            (core module (import "inner" "f" (func)) (memory 3) (func (export "_start"))))"#;
        let shape = shape(component);
        assert_eq!(shape.memory, (3 * PAGE, None));
        assert_eq!(shape.imports.into_iter().collect::<Vec<_>>(), ["wasi:cli/stderr@0.2.0"]);
        assert!(shape.exports.is_empty());
    }

    #[test]
    fn a_module_cut_at_any_byte_is_refused() {
        // The code section comes last. A module that is cut between two sections can be a valid one, but not if it lacks its
        // code. Cuts that leave a valid module are found only by the digest (`--guest-digest`).
        let wasm = wat::parse_str(r#"(module (memory 1) (func (export "_start")))"#).unwrap();
        for length in 0..wasm.len() {
            let refusal = read(&wasm[..length], false).unwrap_err();
            assert!(
                matches!(refusal.reason, Reason::Empty | Reason::NotWasm | Reason::Invalid | Reason::NoStart),
                "cut at {length}: {refusal:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
            match kind {
                0 => {}
                1 => drop(bytes.splice(0..0, *b"\0asm\x01\0\0\0")),
                _ => drop(bytes.splice(0..0, *b"\0asm\x0d\0\x01\0")),
            }
            let _ = read(&bytes, false);
        }

        #[test]
        fn no_flipped_bit_can_make_the_reader_panic(at in 0usize..1000, bit in 0u8..8, component: bool) {
            let text = if component {
                r#"(component (import "wasi:cli/stderr@0.2.0" (instance)) (core module (memory 3) (func (export "_start"))))"#
            } else {
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory (export "memory") 1)
                    (func (export "_start") (call 0 (i32.const 3))) (data (i32.const 0) "abc"))"#
            };
            let mut wasm = wat::parse_str(text).unwrap();
            let length = wasm.len();
            wasm[at % length] ^= 1 << bit;
            let _ = read(&wasm, false);
        }
    }
}
