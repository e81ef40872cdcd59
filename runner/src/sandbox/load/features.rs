//! Finds out which proposals of WebAssembly a guest uses, and what is wrong with one that uses others.

use wasmparser::{BinaryReaderError, Parser, ValidPayload, Validator, WasmFeatures};

use super::refusal::{Reason, Refusal};
use crate::sandbox::proposals::{NOT_WINCH, Proposals};
use crate::sandbox::tiers::{Compilation, Tier};

type Valid = Result<(), BinaryReaderError>;

/// The proposals that a guest can't do without.
///
/// # Errors
/// When it needs one that is off or unknown, or when its bytes are damaged.
pub fn used(wasm: &[u8]) -> Result<Proposals, Refusal> {
    if validate(wasm, Proposals::NONE.features()).is_ok() {
        return Ok(Proposals::NONE);
    }
    validate(wasm, Proposals::ALL.features()).map_err(|error| refusal(wasm, error))?;
    // To read the types and not the code takes a hundredth of the time, and says nearly all.
    let by_types = needed(|proposals| validate_types(wasm, proposals.features()));
    if validate(wasm, by_types.features()).is_ok() {
        return Ok(by_types);
    }
    Ok(needed(|proposals| validate(wasm, proposals.features())))
}

/// The tiers that can compile a valid guest with these proposals, the preferred one first. Winch itself would refuse a guest
/// only after it has tried all of its functions.
pub fn tiers(wasm: &[u8], proposals: Proposals, compilation: Compilation) -> &'static [Tier] {
    match compilation.tiers(proposals) {
        [Tier::Winch, others @ ..] if validate(wasm, proposals.features().difference(NOT_WINCH)).is_err() => others,
        tiers => tiers,
    }
}

/// A minimal set of proposals with which the guest stays valid, found by leaving out one proposal after the other.
fn needed(valid: impl Fn(Proposals) -> Valid) -> Proposals {
    Proposals::ALL.each().fold(Proposals::ALL, |kept, one| {
        let fewer = kept.without(one);
        if valid(fewer).is_ok() { fewer } else { kept }
    })
}

fn validate(wasm: &[u8], features: WasmFeatures) -> Valid {
    Validator::new_with_features(features).validate_all(wasm).map(drop)
}

fn validate_types(wasm: &[u8], features: WasmFeatures) -> Valid {
    let mut validator = Validator::new_with_features(features);
    for payload in Parser::new(0).parse_all(wasm) {
        if let ValidPayload::End(_) = validator.payload(&payload?)? {
            break;
        }
    }
    Ok(())
}

/// Why a guest is refused that is not valid with all that can be switched on.
fn refusal(wasm: &[u8], error: BinaryReaderError) -> Refusal {
    // With the right proposal the validator comes further, if not to the end.
    let helps = |features| validate(wasm, features).err().is_none_or(|other| other.offset() > error.offset());
    let off = Proposals::OFF.iter().find(|proposal| helps(proposal.beside_all()));
    let reason = match off {
        Some(proposal) => Reason::Off { proposal: proposal.name.to_owned() },
        None if is_unknown(&error) => Reason::Unknown,
        None => Reason::Invalid,
    };
    Refusal::because(reason, error)
}

/// Whether the parser met a code that it does not know, where a later version of WebAssembly may have one. The guests in
/// `tests/guests` hold these words to the version in use.
fn is_unknown(error: &BinaryReaderError) -> bool {
    /// Sections are numbered one by one, and there are fourteen of them. Bytes that are no section have any number.
    const LATER_SECTIONS: std::ops::Range<u8> = 14..32;
    let message = error.message();
    let section = message.strip_prefix("malformed section id: ").and_then(|id| id.parse().ok());
    section.is_some_and(|id| LATER_SECTIONS.contains(&id)) || message.starts_with("illegal opcode")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_by(text: &str) -> Result<String, Reason> {
        used(&wat::parse_str(text).unwrap()).map(|found| found.to_string()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn what_a_guest_uses_is_found_out_exactly() {
        for (text, names) in [
            ("(module (memory 1) (func (export \"_start\")))", "-"),
            ("(module (func (param externref)))", "externref"),
            ("(module (table 1 externref))", "externref"),
            ("(module (tag) (func (throw 0)))", "exceptions"),
            ("(module (func (local exnref)))", "exceptions"),
            ("(module (func (block (try_table (catch_all 0)))))", "exceptions"),
            ("(module (type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1)))))", "gc"),
            ("(module (func (drop (ref.i31 (i32.const 1)))))", "gc"),
            ("(module (type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0))))", "function-references"),
            ("(module (memory i64 1))", "memory64"),
            ("(module (memory 1) (memory 1))", "multi-memory"),
            ("(module (func (drop (i32x4.relaxed_trunc_f32x4_s (v128.const i32x4 0 0 0 0)))))", "relaxed-simd"),
            ("(module (tag) (memory i64 1) (memory 1) (func (throw 0)))", "exceptions,memory64,multi-memory"),
            ("(component (core module (tag)) (core module (memory 1) (memory 1)))", "exceptions,multi-memory"),
            (
                "(module (tag) (func (drop (i32x4.relaxed_trunc_f32x4_s (v128.const i32x4 0 0 0 0)))))",
                "exceptions,relaxed-simd",
            ),
        ] {
            assert_eq!(used_by(text), Ok(names.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_guest_is_for_winch_unless_it_uses_what_winch_does_not_compile() {
        let first = |text: &str| {
            let wasm = wat::parse_str(text).unwrap();
            tiers(&wasm, used(&wasm).unwrap(), Compilation::Fast)[0]
        };
        assert_eq!(first("(module (memory 1) (memory i64 1) (func (export \"_start\")))"), Tier::Winch);
        assert_eq!(first("(module (func (drop (f64x2.splat (f64.const 1)))))"), Tier::Winch);
        assert_eq!(first("(module (tag) (func (throw 0)))"), Tier::SinglePass);
        assert_eq!(first("(module (func (return_call 0)))"), Tier::SinglePass);
        assert_eq!(first("(component (core module (func (return_call 0))))"), Tier::SinglePass);
        assert_eq!(first("(component (core module (func)))"), Tier::Winch);
    }

    #[test]
    fn a_proposal_that_is_off_is_named() {
        let off = |name: &str| Err(Reason::Off { proposal: name.into() });
        for (text, name) in [
            ("(module (memory 1 2 shared))", "threads"),
            ("(module (import \"env\" \"memory\" (memory 1 2 shared)))", "threads"),
            ("(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))", "threads"),
            ("(module (memory 1) (tag) (func atomic.fence))", "threads"),
            ("(module (memory 1 (pagesize 1)))", "custom-page-sizes"),
            ("(module (func (drop (drop (i64.mul_wide_s (i64.const 1) (i64.const 1))))))", "wide-arithmetic"),
            ("(module (type $f (func)) (type $c (cont $f)))", "stack-switching"),
            ("(module (func try catch_all end))", "legacy-exceptions"),
        ] {
            let found = wat::parse_str(text).map(|wasm| used(&wasm).map_err(|refusal| refusal.reason));
            assert_eq!(found.unwrap().map(|found| found.to_string()), off(name), "{text}");
        }
    }

    #[test]
    fn a_code_that_nobody_knows_is_no_damage() {
        let mut wasm = wat::parse_str("(module (memory 1))").unwrap();
        let whole = wasm.len();
        wasm.extend([15, 1, 0]);
        assert_eq!(used(&wasm).unwrap_err().reason, Reason::Unknown);
        wasm[whole] = 116;
        assert_eq!(used(&wasm).unwrap_err().reason, Reason::Invalid);
        let mut wasm = wat::parse_str("(module (func nop))").unwrap();
        let nop = wasm.len() - 2;
        wasm[nop] = 0xef;
        assert_eq!(used(&wasm).unwrap_err().reason, Reason::Unknown);
        wasm.pop();
        assert_eq!(used(&wasm).unwrap_err().reason, Reason::Invalid);
    }
}
