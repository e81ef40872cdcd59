//! The last layer of the sandbox, where runs happen: on threads of the worker, or in processes behind a second wall.

pub mod child;
pub mod claims;
pub mod ground;
pub mod orders;
pub mod probe;
pub mod processes;
pub mod slots;
pub mod tickets;
pub mod wall;
