//! Finds the source lines that a guest's code was made from, by its debug information (DWARF).
//!
//! This happens in the process that may die of it.

use std::collections::HashMap;
use std::ops::Range;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, Error, LittleEndian, SectionId};
use serde::{Deserialize, Serialize};
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload, TypeRef};

use crate::task::Position;

/// A line of source code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The function that it belongs to.
    pub function: Option<String>,
    pub file: String,
    pub number: u32,
}

/// The most calls that are looked at where the guest's compiler has inlined one into the other.
const MAX_INLINED: usize = 16;

/// The longest text that is taken from debug information, in bytes.
const MAX_TEXT: usize = 1024;

/// A core module: the guest, or one of those in a component.
#[derive(Default)]
struct Module<'a> {
    imported: u32,
    /// Of the code section, in the guest's binary.
    code: Range<usize>,
    /// Of the functions' bodies.
    bodies: Vec<Range<usize>>,
    debug: HashMap<&'static str, &'a [u8]>,
}

/// The lines of each position, innermost first: more than one where calls were inlined, none where they are not known.
pub fn lines(wasm: &[u8], positions: &[Position]) -> Vec<Vec<Line>> {
    let modules = modules(wasm).unwrap_or_default();
    let mut found = vec![Vec::new(); positions.len()];
    for module in modules.iter().filter(|module| !module.debug.is_empty()) {
        let section = |id: SectionId| module.debug.get(id.name()).copied().unwrap_or_default();
        let dwarf = Dwarf::load(|id| Ok::<_, Error>(EndianSlice::new(section(id), LittleEndian)));
        let Ok(context) = dwarf.and_then(Context::from_dwarf) else { continue };
        for (position, found) in positions.iter().zip(&mut found) {
            if module.has(position) {
                // What is damaged is not known.
                let _ = read(&context, (position.offset - module.code.start) as u64, found);
            }
        }
    }
    found
}

fn read(context: &Context<EndianSlice<'_, LittleEndian>>, address: u64, found: &mut Vec<Line>) -> Result<(), Error> {
    let mut frames = context.find_frames(address).skip_all_loads()?;
    while let Some(frame) = frames.next()?
        && found.len() < MAX_INLINED
    {
        let Some((file, number)) = frame.location.and_then(|location| location.file.zip(location.line)) else {
            continue;
        };
        let function = frame.function.and_then(|function| Some(function.demangle().ok()?.into_owned()));
        found.push(Line { function, file: file.to_owned(), number });
    }
    Ok(())
}

/// What the process that has looked for lines may say, within bounds.
pub fn believable(lines: Vec<Vec<Line>>) -> Vec<Vec<Line>> {
    let first = |text: String| text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
    let last = |text: String| text[text.ceil_char_boundary(text.len().saturating_sub(MAX_TEXT))..].to_owned();
    let line = |line: Line| Line { function: line.function.map(first), file: last(line.file), ..line };
    lines.into_iter().map(|lines| lines.into_iter().take(MAX_INLINED).map(line).collect()).collect()
}

impl Module<'_> {
    /// Whether a position is in this module. Code that wasmtime has added to a component is in none, whatever its offset.
    fn has(&self, position: &Position) -> bool {
        let index = position.function.checked_sub(self.imported).and_then(|index| usize::try_from(index).ok());
        let body = index.and_then(|index| self.bodies.get(index));
        body.is_some_and(|body| body.contains(&position.offset))
    }
}

fn modules(wasm: &[u8]) -> Result<Vec<Module<'_>>, BinaryReaderError> {
    let mut done = Vec::new();
    let mut open: Vec<Option<Module>> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding, .. } => open.push((*encoding == Encoding::Module).then(Module::default)),
            Payload::End(_) => done.extend(open.pop().flatten()),
            _ => {}
        }
        let Some(Some(module)) = open.last_mut() else { continue };
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    module.imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                }
            }
            Payload::CodeSectionStart { range, .. } => module.code = range,
            Payload::CodeSectionEntry(body) => module.bodies.push(body.range()),
            Payload::CustomSection(section) => {
                if let Some(id) = section_id(section.name()) {
                    module.debug.insert(id.name(), section.data());
                }
            }
            _ => {}
        }
    }
    Ok(done)
}

/// The sections of DWARF 4 and 5 that lead to lines.
fn section_id(name: &str) -> Option<SectionId> {
    use SectionId::*;
    const READ: [SectionId; 11] = [
        DebugAbbrev,
        DebugAddr,
        DebugAranges,
        DebugInfo,
        DebugLine,
        DebugLineStr,
        DebugRanges,
        DebugRngLists,
        DebugStr,
        DebugStrOffsets,
        DebugTypes,
    ];
    READ.into_iter().find(|id| id.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number and the body of each function that the modules in `outer` define.
    fn functions(outer: &[u8]) -> Vec<(u32, Range<usize>)> {
        let modules = modules(outer).unwrap();
        let of = |module: &Module| {
            let number = |index: usize| module.imported + u32::try_from(index).unwrap();
            module.bodies.iter().enumerate().map(|(index, body)| (number(index), body.clone())).collect::<Vec<_>>()
        };
        modules.iter().flat_map(of).collect()
    }

    #[test]
    fn a_position_is_in_the_module_that_has_its_function_there() {
        let module = r#"(core module (import "a" "b" (func)) (import "a" "m" (memory 1)) (func nop nop) (func nop))"#;
        let wasm = wat::parse_str(format!("(component {module} (component {module}))")).unwrap();
        let functions = functions(&wasm);
        assert_eq!(functions.iter().map(|(function, _)| *function).collect::<Vec<_>>(), [1, 2, 1, 2]);
        let modules = modules(&wasm).unwrap();
        for (at, (function, body)) in functions.iter().enumerate() {
            let has = |function: u32, offset: usize| {
                modules.iter().map(|module| module.has(&Position { function, offset })).collect::<Vec<_>>()
            };
            assert_eq!(has(*function, body.start), [at < 2, at >= 2]);
            assert_eq!(has(*function, body.end), [false, false]);
            assert_eq!(has(*function - 1, body.start), [false, false]);
            assert_eq!(has(u32::MAX, body.start), [false, false]);
        }
    }

    #[test]
    fn a_process_can_claim_no_more_lines_and_no_longer_texts_than_are_shown() {
        let text = "ä".repeat(9999);
        let claimed = vec![vec![Line { function: Some(text.clone()), file: format!("{text}.c"), number: 1 }; 9999]];
        let believed = believable(claimed);
        assert_eq!(believed[0].len(), MAX_INLINED);
        let Line { function, file, .. } = &believed[0][0];
        assert!(function.as_ref().unwrap().len() <= MAX_TEXT && file.len() <= MAX_TEXT && file.ends_with("ä.c"));
    }

    #[test]
    fn no_debug_information_can_make_the_reader_panic_and_none_is_no_lines() {
        use std::fmt::Write as _;
        let none = [Vec::<Line>::new()];
        let position = |wasm: &[u8]| {
            let (function, body) = functions(wasm).pop().unwrap();
            Position { function, offset: body.start }
        };
        for length in [0_usize, 1, 11, 64, 300] {
            for seed in 0_usize..64 {
                let mut text = "(module (func nop)".to_owned();
                for name in [".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_ranges"] {
                    let bytes =
                        (0..length).map(|at| format!("\\{:02x}", (at * seed * 31 + seed) % 7 * (seed % 40) % 256));
                    let _ = write!(text, "(@custom \"{name}\" \"{}\")", bytes.collect::<String>());
                }
                let wasm = wat::parse_str(text + ")").unwrap();
                assert_eq!(lines(&wasm, &[position(&wasm)]), none);
            }
        }
        assert_eq!(lines(b"", &[Position { function: 0, offset: 0 }]), none);
    }
}
