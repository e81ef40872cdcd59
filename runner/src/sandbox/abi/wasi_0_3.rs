//! Links and calls components of the world `wasi:cli/command`, WASI 0.3, whose functions may wait side by side.

use std::future::poll_fn;

use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{I32Exit, p3};

use super::component::{Command, State, foreign_imports};
use super::program::{Compiled, Program, Version};
use super::wasi_0_2::linker;
use super::{lookups, sockets};

/// A compiled component with its imports resolved, and where its `run` is.
struct Linked {
    component: InstancePre<State>,
    run: ComponentExportIndex,
}

/// The export that is looked up in guests for each 0.3.x: wasmtime takes semver-compatible versions for the same.
const RUN: &str = "wasi:cli/run@0.3.0";

pub const V0_3: Version = Version {
    name: "0.3",
    is_entry: |export| export.starts_with("wasi:cli/run@0.3.") && !export.contains('-'),
    foreign_imports: |imports| Ok(foreign_imports(imports, &["0.2.", "0.3."])),
    link,
    has_codes: true,
    is_concurrent: true,
};

fn link(engine: &Engine, compiled: &Compiled) -> wasmtime::Result<Box<dyn Program>> {
    let component = compiled.component()?;
    let mut linker = linker(engine)?;
    p3::add_to_linker(&mut linker)?;
    lookups::add_0_3(&mut linker)?;
    sockets::add_0_3(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    let run = component
        .get_export_index(None, RUN)
        .and_then(|instance| component.get_export_index(Some(&instance), "run"))
        .ok_or_else(|| wasmtime::Error::msg(format!("the instance `{RUN}` has no function `run`")))?;
    Ok(Box::new(Linked { component: linker.instantiate_pre(component)?, run }))
}

impl Command for Linked {
    async fn call(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        let instance = self.component.instantiate_async(&mut *store).await?;
        let run = instance.get_typed_func::<(), (Result<(), ()>,)>(&mut *store, &self.run)?;
        // Not `run_concurrent`: with it, a guest that waits for something that can never happen would run into its timeout.
        // `call_async` traps instead.
        let (returned,) = run.call_async(&mut *store, ()).await?;
        if returned.is_err() {
            return Err(I32Exit(1).into());
        }
        // A guest that returned may have tasks left, which still write its result. wasmtime goes on with them only as long as
        // somebody asks.
        store.run_concurrent(async |guest| poll_fn(|context| guest.poll_no_interesting_tasks(context)).await).await
    }
}
