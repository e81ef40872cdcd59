//! What there is to say of a crash: where it happened, and how the guest's language calls it.

use wasmtime::WasmBacktrace;

use crate::sandbox::abi::call::Ended;
use crate::sandbox::load::lines::Line;
use crate::task::{Call, Position};

/// The innermost calls are shown.
const SHOWN: usize = 10;

/// The function in which each panic of Rust's arrives. What it calls is the same for all, and takes ten calls.
const PANIC: &str = "rust_begin_unwind";

/// The longest name of a function, in bytes. Those of generic functions can have thousands.
const MAX_NAME: usize = 120;

/// The longest name of a file, in bytes.
const MAX_FILE: usize = 80;

/// With the calls that the guest's compiler has inlined, the most that are shown.
const MAX_CALLS: usize = 2 * SHOWN;

/// The beginning of what AssemblyScript's `abort` prints last. The guest then exits with a code that is out of range.
const ABORT: &str = "abort: ";

/// The calls in which a guest crashed, innermost first.
pub fn stack(ended: &Ended) -> Vec<Call> {
    let Some(trace) = ended.result.as_ref().err().and_then(|error| error.downcast_ref::<WasmBacktrace>()) else {
        return Vec::new();
    };
    let names = names(&trace.to_string());
    let positions: Vec<Option<Position>> = trace
        .frames()
        .iter()
        .map(|frame| Some(Position { function: frame.func_index(), offset: frame.module_offset()? }))
        .collect();
    // A name with an end of line in it is taken for two.
    let is_aligned = names.len() == positions.len();
    let position = |index: usize| if is_aligned { positions[index] } else { None };
    let calls = names.into_iter().enumerate().map(|(index, name)| Call { name, position: position(index) });
    let mut calls: Vec<Call> = calls.collect();
    if let Some(panic) = calls.iter().position(|call| call.name.ends_with(PANIC)) {
        calls.drain(..=panic);
    }
    calls.truncate(SHOWN);
    calls
}

/// What a process may say of the stack of its run.
pub fn believable(stack: Vec<Call>) -> Vec<Call> {
    stack.into_iter().take(SHOWN).map(|call| Call { name: short(&call.name), ..call }).collect()
}

/// A crash in one line, with the functions that were being called. `lines` has the lines of source code of each call,
/// innermost first: more than one where the guest's compiler has inlined calls, and none where it is not known.
pub fn described(what: &str, stack: &[Call], lines: &[Vec<Line>]) -> String {
    let mut calls = Vec::new();
    for (index, Call { name, .. }) in stack.iter().enumerate() {
        match lines.get(index).map(Vec::as_slice) {
            Some([inlined @ .., own]) => {
                calls.extend(inlined.iter().map(|line| at(line.function.as_deref().unwrap_or("?"), line)));
                // The guest's own name for the function is the one that is shown without its lines.
                calls.push(at(name, own));
            }
            Some([]) | None => calls.push(name.clone()),
        }
    }
    calls.truncate(MAX_CALLS);
    if calls.is_empty() { what.to_owned() } else { format!("{what}; stack: {}", calls.join(" <- ")) }
}

fn at(function: &str, line: &Line) -> String {
    let file = visible(&line.file);
    // Rust's own library, behind the number of a commit.
    let file = file.strip_prefix("/rustc/").and_then(|path| path.split_once('/')).map_or(&*file, |(_, path)| path);
    // The end of a path says more than its beginning.
    let from = file.ceil_char_boundary(file.len().saturating_sub(MAX_FILE));
    format!("{} ({}{}:{})", short(function), if from > 0 { "…" } else { "" }, &file[from..], line.number)
}

/// The names in a stack trace of wasmtime's, whose lines are like `  0: 0x1a2b - module!function`.
fn names(trace: &str) -> Vec<String> {
    let names = trace.lines().filter_map(|line| line.split_once(" - ")?.1.split_once('!'));
    names.map(|(_, name)| short(name)).collect()
}

/// A function's name, of a bounded length.
fn short(name: &str) -> String {
    let visible = without_hashes(&visible(name.trim()));
    let end = visible.floor_char_boundary(MAX_NAME);
    format!("{}{}", &visible[..end], if end < visible.len() { "…" } else { "" })
}

fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name of Rust's without the hash that tells it from the same name in another crate: `task::parse::h0123456789abcdef` in the
/// older mangling, `task[0123456789abcdef]::parse` in the newer one.
fn without_hashes(name: &str) -> String {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = name.rsplit_once("::h").filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name);
    let mut short = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        short.push_str(before);
        match after.split_once(']') {
            // Without zeroes at its beginning.
            Some((hash, after)) if is_hash(&format!("{hash:0>16}")) && hash.len() > 8 => rest = after,
            _ => {
                short.push('[');
                rest = after;
            }
        }
    }
    short + rest
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

    fn call(name: &str) -> Call {
        Call { name: name.to_owned(), position: None }
    }

    fn line(function: Option<&str>, file: &str, number: u32) -> Line {
        Line { function: function.map(str::to_owned), file: file.to_owned(), number }
    }

    #[test]
    fn a_stack_is_a_few_short_names_in_one_line() {
        let trace = "error while executing at wasm backtrace:\n    0:   0x5e - g.wasm!abort\n    1: 0x1a2b - <unknown>!<wasm function 7>";
        assert_eq!(names(trace), ["abort", "<wasm function 7>"]);
        assert_eq!(names("0: 0x1 - g!task::parse::h0123456789abcdef\n1: 0x1 - g!a::hash"), ["task::parse", "a::hash"]);
        let hashes = "0: 0x1 - g!<std[a88812da5ee6ad9e]::a as b[88812da5ee6ad9e]::c>\n1: 0x1 - g!<[u8] as a::b[4]>::c[";
        assert_eq!(names(hashes), ["<std::a as b::c>", "<[u8] as a::b[4]>::c["]);
        let long = names(&format!("  0: 0x1 - g!{}\n", "ä\u{1b}".repeat(500)));
        assert!(long[0].len() <= MAX_NAME + "…".len() && !long[0].contains(char::is_control));
        assert!(names("").is_empty() && names("no frames").is_empty());
        assert_eq!(described("unreachable", &[call("a"), call("b")], &[]), "unreachable; stack: a <- b");
        assert_eq!(described("unreachable", &[], &[]), "unreachable");
    }

    #[test]
    fn a_process_can_claim_no_more_calls_and_no_longer_names_than_there_are() {
        let claimed = vec![call(&"x\n".repeat(9999)); 9999];
        let believed = believable(claimed);
        assert_eq!(believed.len(), SHOWN);
        assert!(believed.iter().all(|call| call.name.len() <= MAX_NAME + "…".len() && !call.name.contains('\n')));
        assert_eq!(believable(believed.clone()), believed);
    }

    #[test]
    fn lines_of_source_code_stand_behind_their_functions_with_the_calls_that_were_inlined() {
        let stack = [call("a"), call("b"), call("c")];
        let lines = [vec![line(None, "x.c", 7)], vec![line(Some("i"), "y.c", 1), line(Some("b2"), "z.c", 2)], vec![]];
        assert_eq!(described("trap", &stack, &lines), "trap; stack: a (x.c:7) <- i (y.c:1) <- b (z.c:2) <- c");
        let deep =
            described("trap", &stack[..1], &[vec![line(None, &format!("/{}/src\n/main.rs", "ä".repeat(200)), 1)]]);
        assert!(deep.ends_with("ä/src /main.rs:1)") && deep.len() < 150, "{deep}");
        let of_rust = described("trap", &stack[..1], &[vec![line(None, "/rustc/5980/library/core/src/cmp.rs", 3)]]);
        assert_eq!(of_rust, "trap; stack: a (library/core/src/cmp.rs:3)");
        let many = described("trap", &stack[..1], &[vec![line(Some("i"), "f", 1); 999]]);
        assert_eq!(many.matches(" <- ").count(), MAX_CALLS - 1);
    }

    #[test]
    fn an_abort_is_told_by_its_last_line() {
        let said = abort("hello\nabort: Index out of range in ~lib/array.ts(114,42)\n").unwrap();
        assert!(said.ends_with("Index out of range in ~lib/array.ts(114,42)"), "{said}");
        assert_eq!(abort("abort: early\nlater"), None);
        assert_eq!(abort(""), None);
    }
}
