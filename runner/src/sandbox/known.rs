//! What a guest is known by: its kind and its digest.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A core module that imports WASI preview 1.
    Module,
    /// A component of the world `wasi:cli/command`, WASI 0.2.
    Component,
}

/// What there is to know of a guest whose code is in the cache. As text, it is noted for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub kind: Kind,
    pub digest: Digest,
}

/// SHA-256 of the binary that is compiled; for a `.wat`, of what the text stands for, and unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

// === impl Known ===

impl FromStr for Known {
    type Err = ();

    fn from_str(text: &str) -> Result<Known, ()> {
        let (kind, digest) = text.split_once(' ').ok_or(())?;
        let kind = [Kind::Module, Kind::Component].into_iter().find(|known| known.name() == kind).ok_or(())?;
        Ok(Known { kind, digest: digest.parse().map_err(drop)? })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.digest)
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
        for kind in [Kind::Module, Kind::Component] {
            let known = Known { kind, digest: Digest::of(b"a guest") };
            assert_eq!(known.to_string().parse(), Ok(known));
        }
        for text in ["", "component", "component ", "component sha256:12", "script sha256:00"] {
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
