//! What there is to say of a crash: where it happened, and how the guest's language calls it.

use wasmtime::WasmBacktrace;

/// The innermost calls are shown.
const FRAMES: usize = 10;

/// The longest name of a function, in bytes. Those of generic functions can have thousands.
const MAX_NAME: usize = 120;

/// The last words of AssemblyScript's `abort`, which then exits with a code that there is not.
const ABORT: &str = "abort: ";

/// A crash in one line, with the functions that were being called.
pub fn described(what: String, error: &wasmtime::Error) -> String {
    match error.downcast_ref::<WasmBacktrace>().map(|trace| stack(&trace.to_string())) {
        Some(stack) if !stack.is_empty() => format!("{what}; stack: {}", stack.join(" <- ")),
        _ => what,
    }
}

/// The names in a stack trace of wasmtime's, whose lines are like `  0: 0x1a2b - module!function`.
fn stack(trace: &str) -> Vec<String> {
    let names = trace.lines().filter_map(|line| line.split_once(" - ")?.1.split_once('!'));
    let cut = |name: &str| {
        let visible: String = name.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let visible = without_hash(&visible);
        let end = visible.floor_char_boundary(MAX_NAME);
        format!("{}{}", &visible[..end], if end < visible.len() { "…" } else { "" })
    };
    names.map(|(_, name)| cut(name)).take(FRAMES).collect()
}

/// A name of Rust's without what tells it from its namesakes in other crates.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    }
}

/// What the guest said when it aborted, if it is written in a language that exits with an impossible code then.
pub fn abort(stderr: &str) -> Option<String> {
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty())?;
    let said = last.trim().strip_prefix(ABORT)?;
    Some(format!("it aborted, as AssemblyScript does where it would throw: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_a_few_short_names_in_one_line() {
        let trace = "error while executing at wasm backtrace:\n    0:   0x5e - g.wasm!abort\n    1: 0x1a2b - <unknown>!<wasm function 7>";
        assert_eq!(stack(trace), ["abort", "<wasm function 7>"]);
        assert_eq!(stack("0: 0x1 - g!task::parse::h0123456789abcdef\n1: 0x1 - g!a::hash"), ["task::parse", "a::hash"]);
        let line = |number: usize| format!("  {number}: 0x1 - g!{}\n", "ä\u{1b}".repeat(500));
        let many = stack(&(0..50).map(line).collect::<String>());
        assert_eq!(many.len(), FRAMES);
        assert!(many.iter().all(|name| name.len() <= MAX_NAME + "…".len() && !name.contains(char::is_control)));
        assert!(stack("").is_empty() && stack("no frames").is_empty());
    }

    #[test]
    fn an_abort_is_told_by_its_last_line() {
        let said = abort("hello\nabort: Index out of range in ~lib/array.ts(114,42)\n").unwrap();
        assert!(said.ends_with("Index out of range in ~lib/array.ts(114,42)"), "{said}");
        assert_eq!(abort("abort: early\nlater"), None);
        assert_eq!(abort(""), None);
    }
}
