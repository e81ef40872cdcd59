//! The compilers that can make a guest's code, and what differs between them.

use serde::{Deserialize, Serialize};

use super::proposals::Proposals;

/// What is asked of the compiler (`--compile`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compilation {
    #[default]
    Optimised,
    Fast,
}

/// How code was made. Each has entries of its own in the cache: wasmtime tells their engines apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    /// Cranelift with all that makes code fast.
    Optimised,
    /// wasmtime's baseline compiler, which goes over each function once.
    Winch,
    /// Cranelift without optimisation, and with its allocator of registers that goes over each function once.
    SinglePass,
}

impl Compilation {
    /// The tiers that can have made the code of a guest with these proposals, the preferred one first.
    pub fn tiers(self, proposals: Proposals) -> &'static [Tier] {
        match self {
            Compilation::Optimised => &[Tier::Optimised],
            Compilation::Fast if proposals.intersects(Proposals::NOT_WINCH) => &[Tier::SinglePass],
            Compilation::Fast => &[Tier::Winch, Tier::SinglePass],
        }
    }
}

impl Tier {
    pub fn name(self) -> &'static str {
        match self {
            Tier::Optimised => "cranelift",
            Tier::Winch => "winch",
            Tier::SinglePass => "cranelift-single-pass",
        }
    }

    /// The stack, in bytes, on which code of this tier recurses about as deep as optimised code does on `stack`.
    ///
    /// The frames of recursive functions were measured, in bytes, for optimised code, Winch and the single pass: 32, 64 and 112
    /// for a very small function; 64, 80 and 144 for one with four live values; 129, 112 and 208 for one with twelve.
    pub fn stack(self, stack: u64) -> u64 {
        match self {
            Tier::Optimised => stack,
            Tier::Winch => stack.saturating_mul(2),
            Tier::SinglePass => stack.saturating_mul(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_winch_refuses_is_compiled_by_cranelift_in_a_single_pass() {
        let fast = |proposals| Compilation::Fast.tiers(proposals);
        assert_eq!(fast(Proposals::NONE), [Tier::Winch, Tier::SinglePass]);
        assert_eq!(fast(Proposals::MEMORY64), [Tier::Winch, Tier::SinglePass]);
        assert_eq!(fast(Proposals::EXCEPTIONS), [Tier::SinglePass]);
        assert_eq!(fast(Proposals::ALL), [Tier::SinglePass]);
        assert_eq!(Compilation::Optimised.tiers(Proposals::ALL), [Tier::Optimised]);
    }
}
