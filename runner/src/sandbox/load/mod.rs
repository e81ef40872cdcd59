//! The third layer of the sandbox, from a path to something that runs: read, check, compile or find in the cache, link.

pub mod cache;
pub mod cgroup;
pub mod compiler;
pub mod error;
pub mod features;
pub mod guest;
pub mod inside;
pub mod inspect;
pub mod jobs;
pub mod lines;
pub mod locator;
pub mod notes;
pub mod prepare;
pub mod refusal;
pub mod seen;
pub mod source;
