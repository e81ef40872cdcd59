//! The table of the versions of WASI: a line each.

use std::collections::BTreeSet;

use super::program::Version;
use super::{module, wasi_0_2, wasi_0_3};
use crate::sandbox::known::{Kind, Wasi};

/// What there is to know of a version.
pub fn version(wasi: Wasi) -> &'static Version {
    match wasi {
        Wasi::Preview1 => &module::PREVIEW_1,
        Wasi::V0_2 => &wasi_0_2::V0_2,
        Wasi::V0_3 => &wasi_0_3::V0_3,
    }
}

/// The version whose command a guest is, by what it exports. A guest that is a command of several is one of the newest.
pub fn of(kind: Kind, exports: &BTreeSet<String>) -> Option<Wasi> {
    let is_command = |wasi: &Wasi| exports.iter().any(|export| (version(*wasi).is_entry)(export));
    candidates(kind).find(is_command)
}

/// The newest version. A guest that is no command of any version is judged by the imports of this one.
pub fn newest(kind: Kind) -> Option<Wasi> {
    candidates(kind).next()
}

fn candidates(kind: Kind) -> impl Iterator<Item = Wasi> {
    Wasi::all().filter(move |wasi| wasi.kind() == kind)
}
