//! Guests as components: those of `tests/guests`, and those that are written in Rust.

use std::io::Write as _;
use std::path::Path;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{guest, required, root};

/// The world of a command of WASI 0.3, as far as its exports go.
const COMMAND_0_3: &str = "
package wasi:cli@0.3.0;
interface run { run: async func() -> result; }
world command { export run; }
";

/// A guest of `tests/guests`, by the adapter that toolchains use: a command of WASI 0.2.
pub fn component(name: &str) -> String {
    let module = wat::parse_file(guest(name)).expect("the text is correct");
    adapted(name, &module, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
}

/// The same guest as a command of WASI 0.3, whose standard library still uses 0.2. Toolchains make such ones.
pub fn concurrent(name: &str) -> String {
    let text = std::fs::read_to_string(guest(name)).expect("it can be read");
    let (before, after) = text.split_once(r#"(export "_start")"#).expect("it is a command");
    let (_, function) = before.rsplit_once("(func").expect("which is a function");
    let (new, start) = if function.trim().is_empty() { ("$_start", "$_start") } else { ("", function.trim()) };
    let run = format!(r#"(func (export "wasi:cli/run@0.3.0#run") (result i32) (call {start}) (i32.const 0))"#);
    let (body, end) = after.rsplit_once(')').expect("a module ends with a parenthesis");
    let module = of_0_3(&format!("{before}{new}{body}{run}){end}"));
    adapted(&format!("{name}-0.3"), &module, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
}

/// A command of WASI 0.2, which is a trap, and of 0.3, which does nothing. Programs that are built for 0.3 with a standard
/// library for 0.2 are both.
pub fn commands_of_both() -> String {
    let module = of_0_3(
        r#"(module (memory (export "memory") 1) (func (export "_start") unreachable)
            (func (export "wasi:cli/run@0.3.0#run") (result i32) (i32.const 0)))"#,
    );
    adapted("both", &module, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
}

/// A module that says of itself that it becomes a command of WASI 0.3.
fn of_0_3(text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).expect("the text is correct");
    let mut resolve = Resolve::default();
    let package = resolve.push_str("command.wit", COMMAND_0_3).expect("the world is correct");
    let world = resolve.select_world(&[package], None).expect("there is one world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("it has room");
    module
}

/// The guest that tries sockets by WASI 0.2.
pub fn sockets_guest() -> Option<String> {
    Some(adapted("sockets", &built("sockets")?, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER))
}

/// The guest that does what only commands of WASI 0.3 can do.
pub fn concurrent_guest() -> Option<String> {
    Some(adapted("concurrent", &built("concurrent")?, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER))
}

/// The guest that crashes in lines that are known, as a module and as a component. Both have debug information.
pub fn crash_lines_guests() -> Option<[String; 2]> {
    let module = root().join("build/guests/crash-lines.wasm");
    let component = adapted("crash-lines", &built("crash-lines")?, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER);
    Some([module.display().to_string(), component])
}

/// The guests that send HTTP requests, by WASI 0.2 and by 0.3. They do the same.
pub fn fetch_guests() -> Option<[String; 2]> {
    Some([
        adapted("fetch", &built("fetch")?, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER),
        adapted("fetch-concurrent", &built("fetch-concurrent")?, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER),
    ])
}

/// A guest that `guest-examples/build.sh tests` compiles.
fn built(name: &str) -> Option<Vec<u8>> {
    let module = std::fs::read(root().join("build/guests").join(name).with_extension("wasm")).ok();
    required(module, &format!("`guest-examples/build.sh tests` has not built the guest `{name}`"))
}

/// Makes a component of a module.
fn adapted(name: &str, module: &[u8], adapter: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("components");
    std::fs::create_dir_all(&folder).expect("a folder under target/");
    let path = folder.join(format!("{name}.wasm"));
    let encode =
        || ComponentEncoder::default().module(module)?.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?.encode();
    let bytes = encode().unwrap_or_else(|error| panic!("{name} as a component: {error:#}"));
    // Whole or not at all: tests run side by side.
    let mut file = tempfile::NamedTempFile::new_in(&folder).expect("a file under target/");
    file.write_all(&bytes).expect("there is room for it");
    file.persist(&path).expect("it can be renamed");
    path.display().to_string()
}
