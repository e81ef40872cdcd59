//! A guest's file: read once, recognised, validated, and refused with a reason before anything is compiled or taken.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, ExternalKind, Parser, Payload, Validator, WasmFeatures};

/// A guest that has been read and looked at. `wasm` is a valid core module with a `_start`.
#[derive(Debug)]
pub struct Guest {
    /// The file's name without its ending: argv\[0\], and the name in the log.
    pub name: String,
    pub digest: Digest,
    pub wasm: Vec<u8>,
    /// `module::name` of every import.
    pub imports: BTreeSet<String>,
}

/// SHA-256 of the binary that is compiled; for a `.wat`, of what the text stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// Why a file is no guest for us.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the guest {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the guest {} is a folder", .0.display())]
    Folder(PathBuf),
    #[error("the guest {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the guest {} is larger than {MAX_GUEST_SIZE} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("the guest {} is compressed", .0.display())]
    Compressed(PathBuf),
    #[error("the guest {} is neither WebAssembly nor its text form", .0.display())]
    NotWasm(PathBuf),
    #[error("the text of the guest {} has an error", path.display())]
    Text { path: PathBuf, source: wat::Error },
    #[error("the guest {} is not valid WebAssembly, or was cut short", path.display())]
    Invalid { path: PathBuf, source: wasmparser::BinaryReaderError },
    #[error("the guest {} is a component", .0.display())]
    Component(PathBuf),
    #[error("the guest {} is a reactor: it has `_initialize` and no `_start`", .0.display())]
    Reactor(PathBuf),
    #[error("the guest {} has no function `_start`", .0.display())]
    NoStart(PathBuf),
    #[error("the guest {} imports what no guest gets here: {}", path.display(), listed(imports))]
    Imports { path: PathBuf, imports: Vec<String> },
    /// Not the guest's fault; what it was promised can't be had.
    #[error("{0}")]
    Grant(String),
    #[error("cannot compile the guest {}", path.display())]
    Compile { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// More than any guest that people ship (an interpreter with its library is 30 MB), and small enough to hold in memory.
const MAX_GUEST_SIZE: u64 = 256 << 20;

/// What toolchains for wasm32-wasip1 emit, and the engine has switched on.
const FEATURES: WasmFeatures = WasmFeatures::WASM2.union(WasmFeatures::TAIL_CALL).union(WasmFeatures::EXTENDED_CONST);

/// Reads and checks a guest. Nothing is compiled here: validating takes milliseconds where compiling takes minutes.
///
/// # Errors
/// When the file is no preview 1 command: [`Error`] has a variant for each way to be something else.
pub fn read(path: &Path) -> Result<Guest, Error> {
    let path_buf = || path.to_owned();
    let bytes = read_capped(path)?;
    let wasm = match bytes.as_slice() {
        [] => return Err(Error::Empty(path_buf())),
        [0, b'a', b's', b'm', ..] => bytes,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(Error::Compressed(path_buf())),
        // Any file could be tried as text, but then a shell script would be told about its missing parenthesis.
        text if path.extension().is_some_and(|ending| ending == "wat") || text.trim_ascii_start().starts_with(b"(") => {
            let mut text_error = |mut source: wat::Error| {
                source.set_path(path);
                Error::Text { path: path_buf(), source }
            };
            wat::parse_bytes(text).map_err(&mut text_error)?.into_owned()
        }
        _ => return Err(Error::NotWasm(path_buf())),
    };
    let (imports, exports) = look(&wasm, path)?;
    if !exports.contains("_start") {
        return Err(if exports.contains("_initialize") {
            Error::Reactor(path_buf())
        } else {
            Error::NoStart(path_buf())
        });
    }
    let name = path.file_stem().map_or_else(|| "guest".to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(Guest { name, digest: Digest(Sha256::digest(&wasm).into()), wasm, imports })
}

fn read_capped(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(Error::Folder(path.to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte over the limit is read to tell "exactly at it" from "over it", whatever the metadata says.
    file.take(MAX_GUEST_SIZE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_GUEST_SIZE {
        return Err(Error::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

/// Validates a binary; returns its imports as `module::name`, and the names of the functions that it exports.
fn look(wasm: &[u8], path: &Path) -> Result<(BTreeSet<String>, BTreeSet<String>), Error> {
    let invalid = |source| Error::Invalid { path: path.to_owned(), source };
    // A component is told apart first: the validator below speaks of core modules only.
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(Error::Component(path.to_owned()));
            }
            Payload::Version { .. } => break,
            _ => {}
        }
    }
    Validator::new_with_features(FEATURES).validate_all(wasm).map_err(invalid)?;
    let mut imports = BTreeSet::new();
    let mut exports = BTreeSet::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    imports.insert(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind == ExternalKind::Func {
                        exports.insert(export.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

// === impl Error ===

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "GUEST (or WQ_GUEST) is the path of a .wasm or .wat file; in a pod, look at the volume's mountPath"
                    .into()
            }
            Error::Unreadable { .. } => "look at the file's permissions: the image runs as user 65532".into(),
            Error::Folder(_) => "name the .wasm file in it".into(),
            Error::Empty(_) => "an empty file is often a download or a build that failed".into(),
            Error::TooLarge(_) => "strip the guest (`-s`, or `strip = true`), or use a smaller runtime for it".into(),
            Error::Compressed(_) => "unpack it first (`gunzip`, `unzstd`)".into(),
            Error::NotWasm(_) => "a guest is compiled to wasm32-wasip1; guest-examples/ shows how".into(),
            Error::Text { .. } => "`.wat` is the text form of WebAssembly".into(),
            Error::Invalid { .. } => {
                "copy or build it again; a guest may not use threads, exceptions, garbage collection or 64-bit memory"
                    .into()
            }
            Error::Component(_) => "this version runs preview 1 core modules: build for wasm32-wasip1".into(),
            Error::Reactor(_) => {
                "a guest is a program, not a library: build a binary with a `main` (not `-mexec-model=reactor`)".into()
            }
            Error::NoStart(_) => {
                "a guest is a program with a `main`, built for wasm32-wasip1 (not wasm32-unknown-unknown)".into()
            }
            Error::Imports { imports, .. } => imports_hint(imports),
            Error::Grant(_) => {
                "every folder of --dir is opened for each run; `ulimit -n` is the limit of open files".into()
            }
            Error::Compile { .. } => "the guest is valid, so this may be a bug of ours: please report it".into(),
        }
    }
}

/// Says where a module with foreign imports most likely comes from.
fn imports_hint(imports: &[String]) -> String {
    let any = |prefix: &str| imports.iter().any(|import| import.starts_with(prefix));
    let from = if any("wbg::") || any("__wbindgen") || any("./") {
        "it was made for a browser by wasm-bindgen"
    } else if any("gojs::") || any("go::") {
        "it was built with GOOS=js; build it with GOOS=wasip1"
    } else if any("wasi_unstable::") {
        "it was built for the WASI of 2019, before preview 1; build it again with a newer toolchain"
    } else if any("env::napi_") {
        "it is an add-on for Node.js"
    } else if any("env::emscripten") || any("env::invoke_") || any("env::__") {
        "it looks like a build for a browser by Emscripten; build it with -sSTANDALONE_WASM, or with wasi-libc"
    } else if any("wasi:") {
        "it wants WASI 0.2; build it for wasm32-wasip1"
    } else {
        "it was made for some other host"
    };
    format!("a guest may import wasi_snapshot_preview1 only; {from}")
}

/// The first few names of a list that can be long.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

// === impl Digest ===

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn a_text_and_its_binary_have_one_digest() {
        let text = r#"(module (func (export "_start")))"#;
        let (_text_folder, text_path) = file("g.wat", text.as_bytes());
        let (_wasm_folder, wasm_path) = file("g.wasm", &wat::parse_str(text).unwrap());
        let (from_text, from_wasm) = (read(&text_path).unwrap(), read(&wasm_path).unwrap());
        assert_eq!(from_text.digest, from_wasm.digest);
        assert_eq!(from_text.name, "g");
        assert!(from_text.digest.to_string().starts_with("sha256:"));
    }

    #[test]
    fn a_module_cut_at_any_byte_is_refused() {
        // Its last section is the code. Cut between two sections, a module can be whole in itself; without its code it
        // can't. For the rest there is the digest.
        let wasm = wat::parse_str(r#"(module (memory 1) (func (export "_start")))"#).unwrap();
        for length in 0..wasm.len() {
            let (_folder, path) = file("g.wasm", &wasm[..length]);
            let error = read(&path).unwrap_err();
            assert!(
                matches!(error, Error::Empty(_) | Error::NotWasm(_) | Error::Invalid { .. } | Error::NoStart(_)),
                "cut at {length}: {error:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), wasm: bool) {
            if wasm {
                bytes.splice(0..0, *b"\0asm\x01\0\0\0");
            }
            let (_folder, path) = file("g.wasm", &bytes);
            let _ = read(&path);
        }

        #[test]
        fn no_flipped_bit_can_make_the_reader_panic(at in 0usize..1000, bit in 0u8..8) {
            let mut wasm = wat::parse_str(
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory (export "memory") 1)
                    (func (export "_start") (call 0 (i32.const 3))) (data (i32.const 0) "abc"))"#).unwrap();
            let length = wasm.len();
            wasm[at % length] ^= 1 << bit;
            let (_folder, path) = file("g.wasm", &wasm);
            let _ = read(&path);
        }
    }
}
