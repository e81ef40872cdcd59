//! The integration tests: the real binary, real brokers, real guests. One binary, since each one links wasmtime again.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends by panicking")]
#![expect(clippy::print_stdout, reason = "the ledger is printed")]

mod harness;

mod amqps;
mod arguments;
mod attempts;
mod blocking;
mod book;
mod breaker;
mod cache;
mod check;
mod clock;
mod cluster;
mod command_line;
mod compiling;
mod crashes;
mod delays;
mod deploy;
mod dlq;
mod double;
mod evicted;
mod exec;
mod faults;
mod foreign;
mod http;
mod image;
mod large;
mod log;
mod manifest;
mod memory;
mod metadata;
mod metrics;
mod network;
mod outcomes;
mod page;
mod peers;
mod prefetch;
mod probes;
mod processes;
mod proposals;
mod publish;
mod queue_file;
mod receipts;
mod redis;
mod refusals;
mod remains;
mod results;
mod sandbox;
mod scratch;
mod settling;
mod shutdown;
mod sinks;
mod soak;
mod sqs;
mod streams;
mod summary;
mod suspend;
mod testsuite;
mod tidy;
mod traces;
mod upgrade;
mod usage;
mod wall;
mod wasi_0_3;
