//! Redis Streams, and Valkey's: a stream with a consumer group, and a sorted set for what waits.
//!
//! A message that is handed over stays in the stream, and the group remembers who has it. As long as its worker renews this, it
//! is leased; after that any worker may take it over.

mod adapter;
pub mod admin;
mod check;
mod connection;
mod convert;
mod error;
mod keys;
pub mod kind;
pub mod outbox;
mod queue;
mod scripts;
mod store;
mod terms;
mod url;
mod value;
mod walk;
