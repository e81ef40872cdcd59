//! What components of every version have in common: what a run of them has, and the names of their imports.

use std::collections::BTreeSet;
use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::call::{self, Doors, Ended, World};
use super::http::Http;
use super::program::Program;
use crate::sandbox::world::grants::Net;
use crate::sandbox::world::limiter::Limiter;
use crate::task::limits::Limits;

/// What the host keeps for one run.
pub struct State {
    wasi: WasiCtx,
    pub table: ResourceTable,
    pub limiter: Limiter,
    pub net: Arc<Net>,
    http: Http,
    http_context: WasiHttpCtx,
}

/// A linked component of one version of WASI.
pub trait Command: Send + Sync {
    /// Calls its `run`.
    fn call(&self, store: &mut Store<State>) -> impl Future<Output = wasmtime::Result<()>> + Send;
}

/// Packages and interfaces that the linker has, at some version of those that a guest may import. Of HTTP these are the requests
/// that a guest sends, and not those that it would answer.
const KNOWN: [&str; 9] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/client@",
    "wasi:http/outgoing-handler@",
    "wasi:http/types@",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// The most bytes of one set of header fields (a `fields` resource). A guest can have such a set for each of its handles, and
/// no limit on memory counts them.
const MAX_FIELD_BYTES: usize = 32 << 10;

/// A store for one run, with all limits set.
fn store(engine: &Engine, mut world: World, limits: &Limits) -> wasmtime::Result<Store<State>> {
    let resources = usize::try_from(limits.resources).unwrap_or(usize::MAX);
    let mut table = ResourceTable::new();
    table.set_max_capacity(resources);
    let World { doors, limiter, .. } = world;
    let Some(Doors { net, http }) = doors else { return Err(wasmtime::Error::msg("a component without doors")) };
    let mut http_context = WasiHttpCtx::new();
    http_context.set_field_size_limit(MAX_FIELD_BYTES);
    let state = State { wasi: world.wasi.build(), table, limiter, net, http, http_context };
    let mut store = call::store(engine, state, limits, |state| &mut state.limiter)?;
    store.set_max_component_handles(resources);
    // Tasks, streams, futures and calls that are under way. There is no such table without the runtime for them.
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(resources);
    }
    Ok(store)
}

#[wasmtime_wasi::async_trait]
impl<C: Command> Program for C {
    async fn run(&self, engine: &Engine, world: World, limits: &Limits) -> Ended {
        let mut store = match store(engine, world, limits) {
            Ok(store) => store,
            Err(error) => return Ended::without_a_store(error),
        };
        let result = self.call(&mut store).await;
        Ended::of(result, &store, limits, |state| &state.limiter)
    }
}

/// The imports that the linker does not define, judged by their names alone: the linker itself checks the types. `versions` has
/// prefixes of versions, such as `0.2.`.
pub fn foreign_imports(imports: &BTreeSet<String>, versions: &[&str]) -> Vec<String> {
    let known = |import: &&String| {
        let version = import.split_once('@').map_or("", |(_, version)| version);
        KNOWN.iter().any(|known| import.starts_with(known))
            && versions.iter().any(|known| version.starts_with(known))
            && !version.contains('-')
    };
    imports.iter().filter(|import| !known(import)).cloned().collect()
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.http, table: &mut self.table, ctx: &mut self.http_context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_versions_of_known_packages_can_be_imported() {
        let imports = |names: &[&str], versions: &[&str]| {
            foreign_imports(&names.iter().map(|name| (*name).to_owned()).collect(), versions)
        };
        let of_0_2 = ["wasi:cli/stdin@0.2.0", "wasi:io/poll@0.2.12", "wasi:http/outgoing-handler@0.2.3"];
        assert!(imports(&of_0_2, &["0.2."]).is_empty());
        assert!(imports(&of_0_2, &["0.2.", "0.3."]).is_empty());
        let of_0_3 = ["wasi:cli/stdin@0.3.0", "wasi:clocks/types@0.3.2"];
        assert_eq!(imports(&of_0_3, &["0.2."]).len(), 2);
        assert!(imports(&of_0_3, &["0.2.", "0.3."]).is_empty());
        let foreign = ["wasi:http/incoming-handler@0.2.0", "wasi:http/handler@0.3.0"];
        assert_eq!(imports(&foreign, &["0.2.", "0.3."]).len(), 2);
        let foreign = [
            "wasi:keyvalue/store@0.2.0",
            "wasi:cli/stdin@0.3.0-rc-2026",
            "wasi:cli/stdin@0.2.0-rc-2023",
            "wasi:io/poll",
            "a:b/c",
        ];
        assert_eq!(imports(&foreign, &["0.2.", "0.3."]).len(), foreign.len());
    }
}
