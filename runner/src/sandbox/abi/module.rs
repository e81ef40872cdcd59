//! Links and calls core modules with WASI preview 1.

use std::collections::BTreeSet;

use wasmtime::{Engine, Extern, InstancePre, Linker, ModuleExport, Store};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{WasiCtxBuilder, WasiView as _};

use super::call::{Ended, World, store};
use super::program::{Program, Version};
use crate::sandbox::world::limiter::Limiter;
use crate::task::limits::Limits;

/// A compiled module with its imports resolved.
struct ModuleProgram {
    linked: InstancePre<State>,
    /// Where its `_start` is.
    start: ModuleExport,
}

struct State {
    wasi: WasiP1Ctx,
    limiter: Limiter,
}

pub const PREVIEW_1: Version = Version {
    name: "preview 1",
    is_entry: |export| export == START,
    foreign_imports,
    link: |engine, compiled| {
        let module = compiled.module()?;
        let start = module.get_export_index(START).ok_or_else(|| wasmtime::Error::msg("it has no _start"))?;
        Ok(Box::new(ModuleProgram { linked: linker(engine)?.instantiate_pre(module)?, start }))
    },
    has_codes: true,
    is_concurrent: false,
};

const START: &str = "_start";

#[wasmtime_wasi::async_trait]
impl Program for ModuleProgram {
    async fn run(&self, engine: &Engine, mut world: World, limits: &Limits) -> Ended {
        let mut wasi = world.wasi.build_p1();
        wasi.ctx().table.set_max_capacity(usize::try_from(limits.resources).unwrap_or(usize::MAX));
        let state = State { wasi, limiter: world.limiter };
        let mut store = match store(engine, state, limits, |state| &mut state.limiter) {
            Ok(store) => store,
            Err(error) => return Ended::without_a_store(error),
        };
        let result = self.call(&mut store).await;
        Ended::of(result, &store, limits, |state| &state.limiter)
    }
}

impl ModuleProgram {
    async fn call(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        let instance = self.linked.instantiate_async(&mut *store).await?;
        let start = instance.get_module_export(&mut *store, &self.start).and_then(Extern::into_func);
        let start = start.ok_or_else(|| wasmtime::Error::msg("its _start is not a function"))?;
        start.typed::<(), ()>(&*store)?.call_async(&mut *store, ()).await
    }
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |state: &mut State| &mut state.wasi)?;
    Ok(linker)
}

fn foreign_imports(imports: &BTreeSet<String>) -> wasmtime::Result<Vec<String>> {
    // The linker hands out its names through a store; this one never runs anything.
    let engine = Engine::default();
    let state = State { wasi: WasiCtxBuilder::new().build_p1(), limiter: Limiter::closed() };
    let mut store = Store::try_new(&engine, state)?;
    let linker = linker(&engine)?;
    let known: BTreeSet<String> =
        linker.iter(&mut store).map(|(module, name, _)| format!("{module}::{name}")).collect();
    Ok(imports.difference(&known).cloned().collect())
}
