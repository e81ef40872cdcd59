//! Links and calls components of the world `wasi:cli/command`, WASI 0.2, and looks names up for them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    self, Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::bindings::{Command, CommandPre};
use wasmtime_wasi::p2::{self, DynPollable, IoError, Pollable, SocketError, SocketResult};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi::sockets::WasiSocketsView as _;
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

use super::call::{Ended, World, store};
use super::program::{Compiled, Program, Version};
use crate::sandbox::known::Kind;
use crate::sandbox::world::grants::Net;
use crate::sandbox::world::limiter::Limiter;
use crate::task::limits::Limits;

/// A compiled component with its imports resolved.
struct ComponentProgram(CommandPre<State>);

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    limiter: Limiter,
    net: Arc<Net>,
}

/// A name whose addresses the guest reads.
struct Lookup {
    name: String,
    state: LookupState,
}

enum LookupState {
    Waiting(AbortOnDropJoinHandle<Option<Vec<IpAddr>>>),
    Answered(Option<std::vec::IntoIter<IpAddr>>),
}

/// Packages that the linker has, all at some 0.2.
const PACKAGES: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

pub const V0_2: Version = Version {
    name: "0.2",
    is_entry: |export| export.starts_with("wasi:cli/run@0.2.") && !export.contains('-'),
    foreign_imports: |imports| Ok(foreign_imports(imports)),
    link,
    has_codes: false,
};

fn link(engine: &Engine, compiled: &Compiled) -> wasmtime::Result<Box<dyn Program>> {
    let mut linker = Linker::new(engine);
    // The whole world, sockets included, or else many components could not be instantiated. What is not granted is
    // denied by the context.
    p2::add_to_linker_async(&mut linker)?;
    // wasmtime-wasi can switch name lookups on or off, and not by name.
    linker.allow_shadowing(true);
    ip_name_lookup::add_to_linker::<State, Lookups>(&mut linker, |state| state)?;
    let linked = CommandPre::new(linker.instantiate_pre(compiled.component()?)?)?;
    Ok(Box::new(ComponentProgram(linked)))
}

#[wasmtime_wasi::async_trait]
impl Program for ComponentProgram {
    async fn run(&self, engine: &Engine, mut world: World, limits: &Limits) -> Ended {
        let resources = usize::try_from(limits.resources).unwrap_or(usize::MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(resources);
        let limiter = Limiter::new(Kind::Component, limits);
        let state = State { wasi: world.wasi.build(), table, limiter, net: world.net };
        let mut store = match store(engine, state, limits, |state| &mut state.limiter) {
            Ok(store) => store,
            Err(error) => return Ended { result: Err(error), memory_refused: false },
        };
        store.set_max_component_handles(resources);
        let result = self.call(&mut store).await;
        Ended { result, memory_refused: store.data().limiter.refused() }
    }
}

impl ComponentProgram {
    async fn call(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        let command: Command = self.0.instantiate_async(&mut *store).await?;
        match command.wasi_cli_run().call_run(&mut *store).await? {
            Ok(()) => Ok(()),
            // All that the world's first versions can say of a failure.
            Err(()) => Err(I32Exit(1).into()),
        }
    }
}

/// What a component may import is told by names here; whether the types fit is the linker's to say.
fn foreign_imports(imports: &BTreeSet<String>) -> Vec<String> {
    let known = |import: &&String| {
        let version = import.split_once('@').map_or("", |(_, version)| version);
        PACKAGES.iter().any(|package| import.starts_with(package))
            && version.starts_with("0.2.")
            && !version.contains('-')
    };
    imports.iter().filter(|import| !known(import)).cloned().collect()
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

// === name lookups, by name ===

struct Lookups;

impl HasData for Lookups {
    type Data<'a> = &'a mut State;
}

impl network::HostNetwork for State {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.sockets(), network)
    }
}

impl network::Host for State {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        self.sockets().convert_error_code(error)
    }

    fn network_error_code(&mut self, error: Resource<IoError>) -> wasmtime::Result<Option<ErrorCode>> {
        self.sockets().network_error_code(error)
    }
}

impl Host for State {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        // The handle itself is the right to ask.
        self.table.get(&network)?;
        if !self.net.may_resolve(&name) {
            return Err(ErrorCode::AccessDenied.into());
        }
        let asked = wasmtime_wasi::runtime::spawn(self.net.clone().resolve(name.clone()));
        let stream = self.table.push(Lookup { name, state: LookupState::Waiting(asked) })?;
        Ok(Resource::new_own(stream.rep()))
    }
}

impl HostResolveAddressStream for State {
    fn resolve_next_address(&mut self, stream: Resource<ResolveAddressStream>) -> SocketResult<Option<IpAddress>> {
        let lookup = self.table.get_mut(&ours(&stream))?;
        if let LookupState::Waiting(asked) = &mut lookup.state {
            match wasmtime_wasi::runtime::poll_noop(Pin::new(asked)) {
                Some(answer) => lookup.answer(answer),
                None => return Err(ErrorCode::WouldBlock.into()),
            }
        }
        let LookupState::Answered(Some(addresses)) = &mut lookup.state else {
            return Err(ErrorCode::NameUnresolvable.into());
        };
        let Some(address) = addresses.next() else { return Ok(None) };
        self.net.resolved(&lookup.name, address);
        Ok(Some(match address {
            IpAddr::V4(address) => IpAddress::Ipv4(address.octets().into()),
            IpAddr::V6(address) => IpAddress::Ipv6(address.segments().into()),
        }))
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<Resource<DynPollable>> {
        p2::subscribe(&mut self.table, ours(&stream))
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete::<Lookup>(Resource::new_own(stream.rep()))?;
        Ok(())
    }
}

/// The bindings have wasmtime-wasi's type for such a handle, which nobody else can make. It stands for ours.
fn ours(stream: &Resource<ResolveAddressStream>) -> Resource<Lookup> {
    Resource::new_borrow(stream.rep())
}

impl Lookup {
    fn answer(&mut self, addresses: Option<Vec<IpAddr>>) {
        self.state = LookupState::Answered(addresses.map(Vec::into_iter));
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let LookupState::Waiting(asked) = &mut self.state {
            let addresses = asked.await;
            self.answer(addresses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wasi_0_2_is_known() {
        let imports = |names: &[&str]| foreign_imports(&names.iter().map(|name| (*name).to_owned()).collect());
        assert!(imports(&["wasi:cli/stdin@0.2.0", "wasi:io/poll@0.2.12", "wasi:sockets/tcp@0.2.3"]).is_empty());
        let foreign =
            ["wasi:http/types@0.2.0", "wasi:cli/stdin@0.3.0", "wasi:cli/stdin@0.2.0-rc-2023", "wasi:io/poll", "a:b/c"];
        assert_eq!(imports(&foreign).len(), foreign.len());
    }
}
