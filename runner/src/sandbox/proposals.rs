//! The proposals of WebAssembly that are switched on for the guest that uses them, and those that stay off.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wasmparser::WasmFeatures;

/// A part of WebAssembly that an engine can do without.
#[derive(Debug)]
pub struct Proposal {
    /// The proposal's own name.
    pub name: &'static str,
    features: WasmFeatures,
}

/// The proposals that a guest uses, out of [`Proposals::OPTIONAL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposals(u16);

/// What every engine has: what toolchains emit unless they are told otherwise.
const ALWAYS: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL)
    // References to the host's objects need the collector. They are `externref` below.
    .difference(WasmFeatures::GC_TYPES);

impl Proposals {
    /// Finished, and of wasmtime's first tier. The larger comes before the smaller that it contains.
    pub const OPTIONAL: [Proposal; 8] = [
        Proposal {
            name: "gc",
            features: WasmFeatures::GC.union(WasmFeatures::FUNCTION_REFERENCES).union(WasmFeatures::GC_TYPES),
        },
        Proposal { name: "function-references", features: WasmFeatures::FUNCTION_REFERENCES },
        // An exception is an object of the collector's heap.
        Proposal { name: "exceptions", features: WasmFeatures::EXCEPTIONS.union(WasmFeatures::GC_TYPES) },
        Proposal { name: "externref", features: WasmFeatures::GC_TYPES },
        Proposal { name: "memory64", features: WasmFeatures::MEMORY64 },
        Proposal { name: "multi-memory", features: WasmFeatures::MULTI_MEMORY },
        Proposal { name: "relaxed-simd", features: WasmFeatures::RELAXED_SIMD },
        // Asynchronous functions, streams and futures. WASI 0.3 is written in them.
        Proposal { name: "component-model-async", features: WasmFeatures::CM_ASYNC },
    ];

    /// Never switched on; known so that a refusal can name them. docs/security.md says why.
    pub const OFF: [Proposal; 14] = [
        Proposal { name: "threads", features: WasmFeatures::THREADS },
        Proposal { name: "shared-everything-threads", features: WasmFeatures::SHARED_EVERYTHING_THREADS },
        Proposal { name: "legacy-exceptions", features: WasmFeatures::LEGACY_EXCEPTIONS },
        Proposal { name: "custom-page-sizes", features: WasmFeatures::CUSTOM_PAGE_SIZES },
        Proposal { name: "wide-arithmetic", features: WasmFeatures::WIDE_ARITHMETIC },
        Proposal { name: "stack-switching", features: WasmFeatures::STACK_SWITCHING },
        Proposal { name: "memory-control", features: WasmFeatures::MEMORY_CONTROL },
        Proposal { name: "custom-descriptors", features: WasmFeatures::CUSTOM_DESCRIPTORS },
        Proposal { name: "compact-imports", features: WasmFeatures::COMPACT_IMPORTS },
        Proposal { name: "component-model-threads", features: WasmFeatures::CM_THREADING },
        Proposal { name: "component-model-async-stackful", features: WasmFeatures::CM_ASYNC_STACKFUL },
        Proposal { name: "component-model-more-async-builtins", features: WasmFeatures::CM_MORE_ASYNC_BUILTINS },
        Proposal { name: "component-model-error-context", features: WasmFeatures::CM_ERROR_CONTEXT },
        Proposal {
            name: "component-model-drafts",
            features: WasmFeatures::CM_VALUES
                .union(WasmFeatures::CM_NESTED_NAMES)
                .union(WasmFeatures::CM_FIXED_LENGTH_LISTS)
                .union(WasmFeatures::CM_GC)
                .union(WasmFeatures::CM_MAP)
                .union(WasmFeatures::CM64)
                .union(WasmFeatures::CM_IMPLEMENTS),
        },
    ];

    pub const NONE: Proposals = Proposals(0);
    pub const ALL: Proposals = Proposals((1 << Self::OPTIONAL.len()) - 1);

    /// One proposal alone.
    const fn only(index: usize) -> Proposals {
        Proposals(1 << index)
    }

    pub const EXCEPTIONS: Proposals = Proposals::only(2);
    pub const MEMORY64: Proposals = Proposals::only(4);
    pub const MULTI_MEMORY: Proposals = Proposals::only(5);
    pub const ASYNC: Proposals = Proposals::only(7);
    /// Those that Winch compiles nothing of.
    pub const NOT_WINCH: Proposals = Proposals::COLLECTED.and(Proposals::only(1)).and(Proposals::only(6));
    /// Those whose objects live in a heap of the collector's.
    pub const COLLECTED: Proposals = Proposals::only(0).and(Proposals::EXCEPTIONS).and(Proposals::only(3));

    pub fn intersects(self, other: Proposals) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn and(self, other: Proposals) -> Proposals {
        Proposals(self.0 | other.0)
    }

    pub fn without(self, other: Proposals) -> Proposals {
        Proposals(self.0 & !other.0)
    }

    /// Each of them, alone.
    pub fn each(self) -> impl Iterator<Item = Proposals> {
        (0..Self::OPTIONAL.len()).map(Self::only).filter(move |one| self.intersects(*one))
    }

    pub fn names(self) -> Vec<&'static str> {
        let used = Self::OPTIONAL.iter().enumerate().filter(|(index, _)| self.intersects(Self::only(*index)));
        used.map(|(_, proposal)| proposal.name).collect()
    }

    /// What an engine or a validator has to have switched on, and nothing else.
    pub fn features(self) -> WasmFeatures {
        let used = Self::OPTIONAL.iter().enumerate().filter(|(index, _)| self.intersects(Self::only(*index)));
        used.fold(ALWAYS, |features, (_, proposal)| features | proposal.features)
    }
}

/// What of [`ALWAYS`] Winch compiles nothing of.
pub const NOT_WINCH: WasmFeatures = WasmFeatures::TAIL_CALL;

impl Proposal {
    /// What a validator has to have switched on for it, beside all that can be.
    pub fn beside_all(&self) -> WasmFeatures {
        Proposals::ALL.features() | self.features
    }
}

/// The names, with commas between them; `-` if there are none.
impl fmt::Display for Proposals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Proposals::NONE { write!(f, "-") } else { write!(f, "{}", self.names().join(",")) }
    }
}

impl FromStr for Proposals {
    type Err = ();

    fn from_str(text: &str) -> Result<Proposals, ()> {
        if text == "-" {
            return Ok(Proposals::NONE);
        }
        let index = |name: &str| Self::OPTIONAL.iter().position(|proposal| proposal.name == name).ok_or(());
        text.split(',').try_fold(Proposals::NONE, |found, name| Ok(found.and(Self::only(index(name)?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_proposals_are_read_as_they_are_shown() {
        for bits in 0..=Proposals::ALL.0 {
            assert_eq!(Proposals(bits).to_string().parse(), Ok(Proposals(bits)));
        }
        for wrong in ["", ",", "gc,", "threads", "-,gc"] {
            assert_eq!(wrong.parse::<Proposals>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn constants_are_the_proposals_that_they_name() {
        assert_eq!(Proposals::EXCEPTIONS.names(), ["exceptions"]);
        assert_eq!(Proposals::MEMORY64.names(), ["memory64"]);
        assert_eq!(Proposals::MULTI_MEMORY.names(), ["multi-memory"]);
        assert_eq!(Proposals::ASYNC.names(), ["component-model-async"]);
        assert_eq!(Proposals::COLLECTED.names(), ["gc", "exceptions", "externref"]);
        assert_eq!(
            Proposals::NOT_WINCH.names(),
            ["gc", "function-references", "exceptions", "externref", "relaxed-simd"]
        );
        assert_eq!(Proposals::ALL.names().len(), Proposals::OPTIONAL.len());
    }
}
