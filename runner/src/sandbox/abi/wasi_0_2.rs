//! Links and calls components of the world `wasi:cli/command`, WASI 0.2.

use wasmtime::component::Linker;
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, p2};

use super::component::{Command, State, foreign_imports};
use super::program::{Compiled, Program, Version};
use super::{lookups, sockets};

/// A compiled component with its imports resolved.
struct Linked(CommandPre<State>);

pub const V0_2: Version = Version {
    name: "0.2",
    is_entry: |export| export.starts_with("wasi:cli/run@0.2.") && !export.contains('-'),
    foreign_imports: |imports| Ok(foreign_imports(imports, &["0.2."])),
    link,
    has_codes: false,
    is_concurrent: false,
};

fn link(engine: &Engine, compiled: &Compiled) -> wasmtime::Result<Box<dyn Program>> {
    let linked = linker(engine)?.instantiate_pre(compiled.component()?)?;
    Ok(Box::new(Linked(CommandPre::new(linked)?)))
}

/// A linker with all of WASI 0.2, which guests of later versions import as well: their standard libraries are older.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    // The whole world, sockets included, or else many components could not be instantiated. What is not granted is
    // denied by the context.
    p2::add_to_linker_async(&mut linker)?;
    // wasmtime-wasi can switch name lookups on or off, and not by name.
    linker.allow_shadowing(true);
    lookups::add_0_2(&mut linker)?;
    sockets::add_0_2(&mut linker)?;
    // Some toolchains import it whether a program sends requests or not.
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(linker)
}

impl Command for Linked {
    async fn call(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        let command = self.0.instantiate_async(&mut *store).await?;
        match command.wasi_cli_run().call_run(&mut *store).await? {
            Ok(()) => Ok(()),
            // All that the world's first versions can say of a failure.
            Err(()) => Err(I32Exit(1).into()),
        }
    }
}
