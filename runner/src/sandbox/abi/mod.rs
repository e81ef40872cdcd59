//! The second layer of the sandbox, how a guest is called: the engine, and a file for each version of WASI.

pub mod call;
pub mod component;
pub mod engine;
pub mod http;
pub mod lookups;
pub mod module;
pub mod program;
pub mod sockets;
pub mod versions;
pub mod wasi_0_2;
pub mod wasi_0_3;
