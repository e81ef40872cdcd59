//! Core modules with WASI preview 1: compiled once, instantiated afresh for every run.

use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};

use super::guest::{Error, Guest};
use super::limits::Limiter;

/// A compiled module with its imports resolved: all that is left to do for a run is to instantiate it.
pub struct Program(InstancePre<State>);

pub struct State {
    wasi: WasiP1Ctx,
    limiter: Limiter,
}

/// How the guest's code came back, with what its limiter saw.
pub struct Ended {
    pub result: wasmtime::Result<()>,
    pub memory_refused: bool,
}

impl Program {
    pub fn compile(engine: &Engine, guest: &Guest, path: &std::path::Path) -> Result<Program, Error> {
        let compile_error =
            |source: wasmtime::Error| Error::Compile { path: path.to_owned(), source: source.into_boxed_dyn_error() };
        let mut linker: Linker<State> = Linker::new(engine);
        p1::add_to_linker_async(&mut linker, |state| &mut state.wasi).map_err(compile_error)?;
        // Before the compiler, which can take minutes over a module that could never run.
        check_imports(engine, &linker, guest, path)?;
        let module = Module::from_binary(engine, &guest.wasm).map_err(compile_error)?;
        linker.instantiate_pre(&module).map(Program).map_err(compile_error)
    }

    /// Runs the module once. To stop it, drop the future: it yields at every tick of the engine's epoch.
    pub async fn run(&self, engine: &Engine, mut wasi: WasiCtxBuilder, memory: u64) -> Ended {
        let state = State { wasi: wasi.build_p1(), limiter: Limiter::new(memory) };
        let mut store = match Store::try_new(engine, state) {
            Ok(store) => store,
            Err(error) => return Ended { result: Err(error), memory_refused: false },
        };
        store.limiter(|state| &mut state.limiter);
        // The first deadline has to be near too: with a far one nothing would yield before it.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let result = async {
            let instance = self.0.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await
        }
        .await;
        Ended { result, memory_refused: store.data().limiter.refused() }
    }
}

fn check_imports(engine: &Engine, linker: &Linker<State>, guest: &Guest, path: &std::path::Path) -> Result<(), Error> {
    // The linker hands out its names through a store; this one never runs anything.
    let mut store = Store::new(engine, State { wasi: WasiCtxBuilder::new().build_p1(), limiter: Limiter::new(0) });
    let known: std::collections::BTreeSet<String> =
        linker.iter(&mut store).map(|(module, name, _)| format!("{module}::{name}")).collect();
    let foreign: Vec<String> = guest.imports.difference(&known).cloned().collect();
    if foreign.is_empty() { Ok(()) } else { Err(Error::Imports { path: path.to_owned(), imports: foreign }) }
}
