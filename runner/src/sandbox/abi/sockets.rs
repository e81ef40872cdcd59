//! The making of sockets for components: wasmtime-wasi refuses it without a grant, and says so to nobody but the guest.

use wasmtime::StoreContextMut;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::network::IpAddressFamily;
use wasmtime_wasi::p2::bindings::sockets::tcp;
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::{self, Host};
use wasmtime_wasi::p3::bindings::sockets::types::{self, HostTcpSocket as _};
use wasmtime_wasi::sockets::{TcpSocket, WasiSocketsView as _};

use super::component::State;

struct Sockets;

impl HasData for Sockets {
    type Data<'a> = &'a mut State;
}

/// The interface of WASI 0.2, in place of wasmtime-wasi's.
pub fn add_0_2(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    tcp_create_socket::add_to_linker::<State, Sockets>(linker, |state| state)
}

impl Host for State {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<tcp::TcpSocket>> {
        self.net.wants_socket();
        self.sockets().create_tcp_socket(family)
    }
}

/// The one function of WASI 0.3 that makes a socket, in place of wasmtime-wasi's.
pub fn add_0_3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Created = Result<Resource<TcpSocket>, types::ErrorCode>;
    let create = |mut store: StoreContextMut<'_, State>, (family,): (types::IpAddressFamily,)| {
        let state = store.data_mut();
        state.net.wants_socket();
        let created: Created = match state.sockets().create(family) {
            Ok(socket) => Ok(socket),
            Err(error) => Err(error.downcast()?),
        };
        Ok((created,))
    };
    linker.instance("wasi:sockets/types@0.3.0")?.func_wrap("[static]tcp-socket.create", create)
}
