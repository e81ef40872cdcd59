//! The first layer of the sandbox, what a run may use and see: limits, grants, folders, streams, names and time.

pub mod clock;
pub mod grants;
pub mod limiter;
pub mod names;
pub mod options;
pub mod room;
pub mod scratch;
pub mod stdio;
pub mod tree;
