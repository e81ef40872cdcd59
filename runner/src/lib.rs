//! wq-run: a message in, a sandboxed run, an honest settlement.
//!
//! The modules in reading order; each uses only those above it. ARCHITECTURE.md has the whole picture.

pub mod blocking;
pub mod causes;
pub mod fault;
pub mod finding;
pub mod folders;
pub mod locks;
pub mod message_span;
pub mod streams;
pub mod task;
pub mod version;
pub mod visible;

pub mod envelope;
pub mod observe;
pub mod sandbox;
pub mod settle;
pub mod shutdown;

pub mod broker;
pub mod case;
pub mod sink;

pub mod worker;

pub mod cli;
pub mod config;
pub mod error;

pub mod commands;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
