//! A guest of any kind that is compiled and linked, so that a run only has to instantiate and call it.

use std::collections::BTreeSet;

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::call::{Ended, World};
use super::component::{self, ComponentProgram};
use super::module::{self, ModuleProgram};
use crate::sandbox::known::Kind;
use crate::sandbox::world::limits::Limits;

/// What the compiler makes of a guest.
pub enum Compiled {
    Module(Module),
    Component(Component),
}

pub enum Program {
    Module(ModuleProgram),
    Component(ComponentProgram),
}

impl Compiled {
    /// The initial size of a module's memory, in bytes. wasmtime takes it before it asks the limiter. A component's
    /// is asked for first.
    pub fn initial_memory(&self) -> u64 {
        const PAGE: u64 = 64 << 10;
        match self {
            Compiled::Module(module) => {
                module.resources_required().max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE)
            }
            Compiled::Component(_) => 0,
        }
    }

    pub fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Compiled::Module(module) => module.serialize(),
            Compiled::Component(component) => component.serialize(),
        }
    }
}

impl Program {
    pub fn link(engine: &Engine, compiled: &Compiled) -> wasmtime::Result<Program> {
        Ok(match compiled {
            Compiled::Module(module) => Program::Module(ModuleProgram::link(engine, module)?),
            Compiled::Component(component) => Program::Component(ComponentProgram::link(engine, component)?),
        })
    }

    /// Runs the guest once. To stop it, drop the future: it yields at every tick of the engine's epoch.
    pub async fn run(&self, engine: &Engine, world: World, limits: &Limits) -> Ended {
        match self {
            Program::Module(program) => program.run(engine, world, limits).await,
            Program::Component(program) => program.run(engine, world, limits).await,
        }
    }
}

/// The imports that nobody here has. To be asked before compiling, which can take minutes over a guest that could never
/// run.
pub fn foreign_imports(engine: &Engine, kind: Kind, imports: &BTreeSet<String>) -> wasmtime::Result<Vec<String>> {
    match kind {
        Kind::Module => module::foreign_imports(engine, imports),
        Kind::Component => Ok(component::foreign_imports(imports)),
    }
}
