//! What each version of WASI has to give: how its commands are told, linked and run.

use std::collections::BTreeSet;

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::call::{Ended, World};
use crate::task::limits::Limits;

/// What the compiler makes of a guest.
#[derive(Clone)]
pub enum Compiled {
    Module(Module),
    Component(Component),
}

/// A version of WASI.
pub struct Version {
    /// Its name for people, where its guests do not say it more exactly.
    pub name: &'static str,
    /// Whether an export makes a guest a command of this version.
    pub is_entry: fn(&str) -> bool,
    /// The imports that nobody here has.
    pub foreign_imports: fn(&BTreeSet<String>) -> wasmtime::Result<Vec<String>>,
    /// Resolves the imports of a guest.
    pub link: fn(&Engine, &Compiled) -> wasmtime::Result<Box<dyn Program>>,
    /// Whether each of its commands can end with a code of its own, and not only with success or failure.
    pub has_codes: bool,
    /// Whether its guests need the engine's runtime for asynchronous functions, streams and futures.
    pub is_concurrent: bool,
}

/// A guest that is compiled and linked, so that a run only has to instantiate and call it.
#[wasmtime_wasi::async_trait]
pub trait Program: Send + Sync {
    /// Runs the guest once. To stop it, drop the future: it yields at every tick of the engine's epoch.
    async fn run(&self, engine: &Engine, world: World, limits: &Limits) -> Ended;
}

impl Compiled {
    /// The initial size of a module's memories, in bytes: wasmtime allocates them before it asks the limiter. 0 for a
    /// component, for which it asks the limiter first.
    pub fn initial_memory(&self) -> u64 {
        const PAGE: u64 = 64 << 10;
        match self {
            Compiled::Module(module) => {
                let needed = module.resources_required();
                let largest = needed.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE);
                largest.saturating_mul(needed.num_memories.into())
            }
            Compiled::Component(_) => 0,
        }
    }

    /// Makes the images of the first contents of its memories, which the first run would make otherwise.
    ///
    /// # Errors
    /// When the system refuses memory for one. The first run then fails of it, too.
    pub fn make_images(&self) -> wasmtime::Result<()> {
        match self {
            Compiled::Module(module) => module.initialize_copy_on_write_image(),
            Compiled::Component(component) => component.initialize_copy_on_write_image(),
        }
    }

    pub fn module(&self) -> wasmtime::Result<&Module> {
        match self {
            Compiled::Module(module) => Ok(module),
            Compiled::Component(_) => Err(wasmtime::Error::msg("a component is no module")),
        }
    }

    pub fn component(&self) -> wasmtime::Result<&Component> {
        match self {
            Compiled::Component(component) => Ok(component),
            Compiled::Module(_) => Err(wasmtime::Error::msg("a module is no component")),
        }
    }

    pub fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Compiled::Module(module) => module.serialize(),
            Compiled::Component(component) => component.serialize(),
        }
    }
}
