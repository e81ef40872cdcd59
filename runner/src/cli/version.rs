//! What `--version` prints.

use std::sync::LazyLock;

use crate::{broker, sandbox, version};

/// The version, the commit, the versions of what runs guests, and the brokers that this build knows.
pub static LONG: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (commit {})\nwasmtime {}, WASI {}\nbrokers: {}",
        env!("CARGO_PKG_VERSION"),
        version::commit(),
        sandbox::WASMTIME,
        sandbox::wasi_versions().join(", "),
        broker::kinds::names().join(", "),
    )
});
