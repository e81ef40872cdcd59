//! `--decode`: unpacks a body that its publisher packed.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// It is larger than the limit, how much larger nobody wants to know.
    TooLarge,
    /// What is wrong with it.
    Corrupt(String),
}

/// Whether a body with this `content_encoding` is one that we unpack. Others, like the `utf-8` that some clients write
/// there, are the guest's.
pub fn knows(encoding: &str) -> bool {
    Encoding::of(encoding).is_some()
}

/// Unpacks a body, up to `limit` bytes.
///
/// # Errors
/// When the body is not in this encoding, whole and with nothing behind it, or larger than the limit.
pub fn decode(encoding: &str, body: &Bytes, limit: u64) -> Result<Bytes, Error> {
    match Encoding::of(encoding) {
        None => Ok(body.clone()),
        Some(Encoding::Gzip) => unpack(MultiGzDecoder::new(&body[..]), limit),
        Some(Encoding::Zstd) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&body[..]).map_err(corrupt)?;
            unpack(decoder, limit)
        }
    }
}

enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    fn of(name: &str) -> Option<Encoding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Encoding::Gzip),
            "zstd" => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

fn unpack(packed: impl Read, limit: u64) -> Result<Bytes, Error> {
    let mut body = Vec::new();
    // One byte more than the limit tells that it is over.
    packed.take(limit.saturating_add(1)).read_to_end(&mut body).map_err(corrupt)?;
    if body.len() as u64 > limit { Err(Error::TooLarge) } else { Ok(body.into()) }
}

fn corrupt(error: io::Error) -> Error {
    Error::Corrupt(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(body: &[u8]) -> Bytes {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(body).unwrap();
        packed.finish().unwrap().into()
    }

    fn zstd(body: &[u8]) -> Bytes {
        zstd::encode_all(body, 0).unwrap().into()
    }

    #[test]
    fn what_was_packed_is_unpacked_up_to_the_limit_and_not_a_byte_more() {
        let body = vec![b'x'; 100_000];
        for (name, packed) in [("gzip", gzip(&body)), ("X-GZIP", gzip(&body)), ("zstd", zstd(&body))] {
            assert!(packed.len() < 2000);
            assert_eq!(decode(name, &packed, 100_000).unwrap(), body);
            assert_eq!(decode(name, &packed, 99_999), Err(Error::TooLarge));
            for bad in [
                packed.slice(..packed.len() - 1),
                Bytes::from([&packed[..], b"behind"].concat()),
                Bytes::from(body.clone()),
            ] {
                assert!(matches!(decode(name, &bad, 1 << 20), Err(Error::Corrupt(_))), "{name}, {} bytes", bad.len());
            }
        }
        assert!(!knows("utf-8") && !knows("") && !knows("br"));
    }

    #[test]
    fn several_members_are_one_body() {
        let (a, b) = (gzip(b"a"), gzip(b"b"));
        assert_eq!(decode("gzip", &[&a[..], &b[..]].concat().into(), 10).unwrap(), "ab");
        let (a, b) = (zstd(b"a"), zstd(b"b"));
        assert_eq!(decode("zstd", &[&a[..], &b[..]].concat().into(), 10).unwrap(), "ab");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_over_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for name in ["gzip", "zstd"] {
                if let Ok(body) = decode(name, &Bytes::from(bytes.clone()), 64) {
                    prop_assert!(body.len() <= 64);
                }
            }
        }
    }
}
