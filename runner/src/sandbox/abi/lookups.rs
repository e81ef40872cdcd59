//! Name lookups for components: only granted names are looked up, by the resolver that the run was given.

use std::net::IpAddr;
use std::pin::Pin;

use wasmtime::component::{Accessor, HasData, Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    self, Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{self, DynPollable, IoError, Pollable, SocketError, SocketResult};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as concurrent, types};
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi::sockets::WasiSocketsView as _;

use super::component::State;

/// A name whose addresses the guest reads.
struct Lookup {
    name: String,
    state: LookupState,
}

enum LookupState {
    Waiting(AbortOnDropJoinHandle<Option<Vec<IpAddr>>>),
    Answered(Option<std::vec::IntoIter<IpAddr>>),
}

/// The interface of WASI 0.2, in place of wasmtime-wasi's.
pub fn add_0_2(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    ip_name_lookup::add_to_linker::<State, Lookups>(linker, |state| state)
}

/// The interface of WASI 0.3, in place of wasmtime-wasi's.
pub fn add_0_3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    concurrent::add_to_linker::<State, Lookups>(linker, |state| state)
}

struct Lookups;

impl HasData for Lookups {
    type Data<'a> = &'a mut State;
}

// === WASI 0.2 ===

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

// === WASI 0.3 ===

impl concurrent::Host for State {}

impl<T> concurrent::HostWithStore<T> for Lookups {
    async fn resolve_addresses(
        accessor: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<types::IpAddress>, concurrent::ErrorCode>> {
        let net = accessor.with(|mut access| access.get().net.clone());
        if !net.may_resolve(&name) {
            return Ok(Err(concurrent::ErrorCode::AccessDenied));
        }
        let Some(addresses) = net.clone().resolve(name.clone()).await else {
            return Ok(Err(concurrent::ErrorCode::NameUnresolvable));
        };
        for address in &addresses {
            net.resolved(&name, *address);
        }
        Ok(Ok(addresses.into_iter().map(Into::into).collect()))
    }
}
