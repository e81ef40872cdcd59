//! ConfigMaps that hold a guest: whole, packed, or in pieces.

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::meta::{Labels, Metadata};
use crate::sandbox::Source;

/// Kubernetes' limit for all that a ConfigMap holds, in bytes, less some room for its names.
const LARGEST: usize = 1_048_576 - 4_096;

/// zstd's level for what is packed once and read for years.
const LEVEL: i32 = 19;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMap {
    api_version: &'static str,
    kind: &'static str,
    pub metadata: Metadata,
    immutable: bool,
    /// In base64.
    binary_data: BTreeMap<String, String>,
}

/// A guest in its ConfigMaps.
#[derive(Debug)]
pub struct Guest {
    pub config_maps: Vec<ConfigMap>,
    /// The name that a worker has to be told. Of pieces, it is the name without their numbers.
    pub file: String,
}

/// Puts a guest into as few ConfigMaps as hold it. Their names are made from what they hold, so that a workload keeps the
/// guest that it was started with.
///
/// # Errors
/// When it can't be packed.
pub fn hold(name: &str, namespace: Option<&str>, labels: &Labels, guest: Source) -> std::io::Result<Guest> {
    let is_packed = matches!(guest.stored.as_slice(), [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]);
    let ending = match guest.stored.as_slice() {
        [0x1f, 0x8b, ..] => ".gz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ".zst",
        _ => "",
    };
    let mut file = format!("{}{}{ending}", key(&guest.name), if guest.text { ".wat" } else { ".wasm" });
    let mut bytes = guest.stored;
    if bytes.len() > LARGEST && !is_packed {
        bytes = zstd::encode_all(bytes.as_slice(), LEVEL)?;
        file.push_str(".zst");
    }
    let digest = HEXLOWER.encode(&Sha256::digest(&bytes)[..5]);
    let is_whole = bytes.len() <= LARGEST;
    let pieces = bytes.chunks(LARGEST).enumerate().map(|(number, piece)| {
        let (suffix, key) = match is_whole {
            true => (String::new(), file.clone()),
            false => (format!("-{number:03}"), format!("{file}.{number:03}")),
        };
        ConfigMap {
            api_version: "v1",
            kind: "ConfigMap",
            metadata: Metadata {
                name: format!("{name}-guest-{digest}{suffix}"),
                namespace: namespace.map(str::to_owned),
                labels: labels.clone(),
            },
            immutable: true,
            binary_data: BTreeMap::from([(key, BASE64.encode(piece))]),
        }
    });
    Ok(Guest { config_maps: pieces.collect(), file })
}

/// A key has letters, digits and a few signs.
fn key(name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    name.chars().map(plain).take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(name: &str, stored: Vec<u8>, text: bool) -> Guest {
        hold("job1", None, &Labels::new(), Source { name: name.into(), stored, text }).unwrap()
    }

    fn pieces(guest: &Guest) -> Vec<(&str, Vec<u8>)> {
        let entries = guest.config_maps.iter().flat_map(|map| &map.binary_data);
        entries.map(|(key, value)| (key.as_str(), BASE64.decode(value.as_bytes()).unwrap())).collect()
    }

    /// What no packer makes smaller.
    fn noise(length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.u8(..)).take(length).collect()
    }

    #[test]
    fn a_guest_that_fits_is_held_as_it_is() {
        let guest = held("task", b"\0asm rest".to_vec(), false);
        assert_eq!(pieces(&guest), [("task.wasm", b"\0asm rest".to_vec())]);
        assert_eq!(guest.file, "task.wasm");
        assert_eq!(held("a task", b"(module)".to_vec(), true).file, "a-task.wat");
        assert_eq!(held("t", vec![0x1f, 0x8b, 1], false).file, "t.wasm.gz");
    }

    #[test]
    fn a_guest_that_fits_packed_is_packed() {
        let large = vec![7; LARGEST + 1];
        let guest = held("task", large.clone(), false);
        let [(key, packed)] = &pieces(&guest)[..] else { panic!("one") };
        assert_eq!((*key, guest.file.as_str()), ("task.wasm.zst", "task.wasm.zst"));
        assert_eq!(zstd::decode_all(packed.as_slice()).unwrap(), large);
    }

    #[test]
    fn a_guest_that_fits_in_no_way_is_held_in_pieces_that_fit() {
        let large = noise(2 * LARGEST + 5);
        let guest = held("task", large.clone(), false);
        let pieces = pieces(&guest);
        assert_eq!(
            pieces.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            ["task.wasm.zst.000", "task.wasm.zst.001", "task.wasm.zst.002"]
        );
        assert!(pieces.iter().all(|(_, piece)| piece.len() <= LARGEST));
        let whole: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
        assert_eq!(zstd::decode_all(whole.as_slice()).unwrap(), large);
        let names: Vec<&str> = guest.config_maps.iter().map(|map| map.metadata.name.as_str()).collect();
        assert!(names.is_sorted() && names[0].ends_with("-000"), "{names:?}");
    }

    #[test]
    fn another_guest_has_another_name() {
        let name = |bytes: &[u8]| held("task", bytes.to_vec(), false).config_maps[0].metadata.name.clone();
        assert_eq!(name(b"one"), name(b"one"));
        assert_ne!(name(b"one"), name(b"two"));
    }

    proptest! {
        #[test]
        fn every_key_is_one_that_kubernetes_takes(name in ".{0,300}") {
            let file = held(&name, b"\0asm".to_vec(), false).file;
            prop_assert!(file.len() <= 253 && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
        }
    }
}
