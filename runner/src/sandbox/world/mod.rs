//! The first layer of the sandbox, what a run may use and see: limits, grants, folders, streams, names and time.

pub mod clock;
pub mod denials;
pub mod env;
pub mod grants;
pub mod limiter;
pub mod names;
pub mod options;
pub mod origins;
pub mod room;
pub mod roots;
pub mod scratch;
pub mod stdio;
pub mod tree;
