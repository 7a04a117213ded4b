//! The creation of sockets, which systemd refuses to the process of a guest that is granted no address
//! (`RestrictAddressFamilies=`): the guest gets an error that does not say why, and no address is ever checked.

use crate::network::Network;
use shim_interface::{Denial, Protocol};
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::{tcp, tcp_create_socket, udp, udp_create_socket};
use wasmtime_wasi::p2::{SocketError, SocketResult};
use wasmtime_wasi::p3::bindings::sockets::types::{self as p3, HostTcpSocket as _};
use wasmtime_wasi::sockets::WasiSocketsCtxView;

/// Creates sockets, and reports those that are refused.
pub struct Sockets<'a> {
    view: WasiSocketsCtxView<'a>,
    network: Network,
}

/// Selects [`Sockets`] of a host.
pub struct CreatesSockets;

impl HasData for CreatesSockets {
    type Data<'a> = Sockets<'a>;
}

impl<'a> Sockets<'a> {
    /// Creates sockets for the guest with this `network`.
    pub fn new(view: WasiSocketsCtxView<'a>, network: Network) -> Self {
        Self { view, network }
    }

    /// Reports a socket that was refused because nothing is granted.
    fn reported<T, E>(&self, protocol: Protocol, created: Result<T, E>) -> Result<T, E> {
        if created.is_err() && self.network.is_closed() {
            let grant = format!("--connect {protocol}:ADDRESS:PORT (in a job `wasm.connect`)");
            self.network.deny(Denial::Socket { protocol }, &grant);
        }
        created
    }
}

impl network::HostNetwork for Sockets<'_> {
    fn drop(&mut self, network: Resource<network::Network>) -> Result<()> {
        network::HostNetwork::drop(&mut self.view, network)
    }
}

impl network::Host for Sockets<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        self.view.convert_error_code(error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> Result<Option<ErrorCode>> {
        self.view.network_error_code(error)
    }
}

impl tcp_create_socket::Host for Sockets<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<tcp::TcpSocket>> {
        let created = self.view.create_tcp_socket(family);
        self.reported(Protocol::Tcp, created)
    }
}

impl udp_create_socket::Host for Sockets<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<udp::UdpSocket>> {
        let created = self.view.create_udp_socket(family).await;
        self.reported(Protocol::Udp, created)
    }
}

/// Replaces the creation of TCP sockets in `wasi:sockets/types@0.3.0`, which is linked already.
///
/// # Errors
/// When wasmtime has it under another name.
pub fn link_p3<T: 'static>(linker: &mut Linker<T>, sockets_of: fn(&mut T) -> Sockets<'_>) -> Result<()> {
    linker.allow_shadowing(true);
    let create = move |mut store: StoreContextMut<'_, T>, (family,): (p3::IpAddressFamily,)| {
        let mut sockets = sockets_of(store.data_mut());
        let created = sockets.view.create(family);
        let created = sockets.reported(Protocol::Tcp, created);
        match created {
            Ok(socket) => Ok((Ok::<_, p3::ErrorCode>(socket),)),
            Err(error) => Ok((Err(error.downcast()?),)),
        }
    };
    linker.instance("wasi:sockets/types@0.3.0")?.func_wrap("[static]tcp-socket.create", create)?;
    linker.allow_shadowing(false);
    Ok(())
}
