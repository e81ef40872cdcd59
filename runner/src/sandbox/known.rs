//! What a guest is known by: its kind, its version of WASI, the proposals that it uses, and its digest.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::proposals::Proposals;

/// What the bytes of a guest are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Module,
    Component,
}

/// The version of WASI by which a guest is called. Its row in `abi/versions.rs` says all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wasi {
    Preview1,
    V0_2,
    V0_3,
}

/// All that the engine of a guest depends on, beside the options of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nature {
    pub wasi: Wasi,
    pub proposals: Proposals,
}

/// What there is to know of a guest whose code is in the cache. As text, it is noted for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub nature: Nature,
    pub digest: Digest,
}

/// SHA-256 of the binary that is compiled. For a packed file that is the unpacked binary, and for a `.wat` the binary that the
/// text stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

// === impl Known ===

impl FromStr for Known {
    type Err = ();

    fn from_str(text: &str) -> Result<Known, ()> {
        let (wasi, rest) = text.split_once(' ').ok_or(())?;
        let (proposals, digest) = rest.split_once(' ').ok_or(())?;
        let wasi = Wasi::all().find(|known| known.row().0 == wasi).ok_or(())?;
        let nature = Nature { wasi, proposals: proposals.parse()? };
        Ok(Known { nature, digest: digest.parse().map_err(drop)? })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { nature: Nature { wasi, proposals }, digest } = self;
        write!(f, "{} {proposals} {digest}", wasi.row().0)
    }
}

impl Wasi {
    /// Each version, its name in a note of the cache, and what its guests are. The newest comes first.
    const TABLE: [(Wasi, &str, Kind); 3] = [
        (Wasi::V0_3, "0.3", Kind::Component),
        (Wasi::V0_2, "0.2", Kind::Component),
        (Wasi::Preview1, "preview1", Kind::Module),
    ];

    pub fn all() -> impl Iterator<Item = Wasi> {
        Self::TABLE.into_iter().map(|(wasi, ..)| wasi)
    }

    fn row(self) -> (&'static str, Kind) {
        let row = Self::TABLE.into_iter().find(|(wasi, ..)| *wasi == self);
        row.map_or(("", Kind::Module), |(_, word, kind)| (word, kind))
    }

    pub fn kind(self) -> Kind {
        self.row().1
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Module => "module",
            Kind::Component => "component",
        }
    }
}

// === impl Digest ===

impl Digest {
    pub fn of(wasm: &[u8]) -> Digest {
        Digest(Sha256::digest(wasm).into())
    }
}

/// `sha256:` and 64 hexadecimal digits; the digits alone, as sha256sum prints them, are understood too.
impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
        let digest = bytes.and_then(|bytes| bytes.try_into().ok()).map(Digest);
        digest.ok_or_else(|| "a digest is written sha256: and 64 hexadecimal digits".into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_of_a_guest_is_read_as_it_was_and_nothing_else_is() {
        for wasi in Wasi::all() {
            for proposals in [Proposals::NONE, Proposals::EXCEPTIONS, Proposals::ALL] {
                let known = Known { nature: Nature { wasi, proposals }, digest: Digest::of(b"a guest") };
                assert_eq!(known.to_string().parse(), Ok(known));
            }
        }
        let digest = Digest::of(b"a guest");
        for text in
            ["", "0.2", "0.2 ", "0.2 -", "0.2 - sha256:12", &format!("script - {digest}"), &format!("0.2 {digest}")]
        {
            assert_eq!(text.parse::<Known>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_digest_is_read_as_it_is_shown() {
        let digest = Digest::of(b"a guest");
        let shown = digest.to_string();
        assert!(shown.starts_with("sha256:"));
        assert_eq!(shown.parse(), Ok(digest));
        assert_eq!(shown["sha256:".len()..].parse(), Ok(digest));
        assert_eq!(shown["sha256:".len()..].to_uppercase().parse(), Ok(digest));
        assert_eq!(Digest([0x0f; 32]).to_string(), format!("sha256:{}", "0f".repeat(32)));
        for wrong in [
            "",
            "sha256:",
            "sha256:00",
            &"0".repeat(63),
            &"0".repeat(66),
            &"+f".repeat(32),
            &format!("sha256:{}", "é".repeat(32)),
            &format!("{} ", "0".repeat(63)),
            &"g".repeat(64),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
