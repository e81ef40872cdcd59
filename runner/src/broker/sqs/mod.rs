//! Amazon SQS: queues of AWS, over its HTTP interface.
//!
//! A message that is handed over is hidden from all others for a while, which is its lease. SQS counts how often it was handed
//! over and changes nothing else of it, so a retry is the same message, hidden for longer.

mod adapter;
pub mod admin;
mod batches;
mod check;
mod client;
mod convert;
mod credentials;
mod error;
mod kept;
pub mod kind;
mod leases;
pub mod outbox;
mod queue;
mod redrive;
mod sending;
mod terms;
mod url;
mod walk;
