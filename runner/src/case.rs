//! A case: one run of a guest in a file, with all that it takes to run it again and what came out.

mod delivered;
mod differences;
mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod output;
pub mod secrets;

pub use delivered::{Delivered, Delivery};
pub use differences::{Difference, Now};
pub use form::{Case, Context, End, Error, Flags, Grants, Guest, Isolation, VERSION};
pub use output::Output;
