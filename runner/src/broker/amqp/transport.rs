//! Connects to a broker by TCP or TLS, with the [filter](super::filter) on the way.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::filter::{Filter, Server};

/// Connects and logs in. Returns what the broker says of itself as well.
///
/// # Errors
/// As lapin has them.
pub async fn connect(
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    frame_max: u32,
    properties: ConnectionProperties,
) -> lapin::Result<(Connection, Server)> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Filtering(tokio.clone())));
    let server = Arc::new(OnceLock::new());
    let heard = server.clone();
    let connect = async move |uri: AMQPUri, _: Runtime<_>| {
        let stream = uri.connect_with_config_async(tls.as_ref(), &Runtime::new(tokio.clone())).await?;
        // TLS, where there is any, lies below the filter, so that lapin has nothing to add.
        Ok(AsyncTcpStream::Plain(Filtered::new(stream, frame_max, heard.clone())))
    };
    let connection = Connection::connector(uri, runtime, connect, properties).await?;
    Ok((connection, server.get().cloned().unwrap_or_default()))
}

/// A stream whose reading side is filtered.
struct Filtered<S> {
    inner: S,
    filter: Filter,
    server: Arc<OnceLock<Server>>,
}

impl<S> Filtered<S> {
    fn new(inner: S, frame_max: u32, server: Arc<OnceLock<Server>>) -> Filtered<S> {
        Filtered { inner, filter: Filter::new(frame_max as usize), server }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Filtered { inner, filter, server } = self.get_mut();
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if let Some(said) = filter.server() {
                let _ = server.set(said);
            }
            while let Some(notice) = filter.notice() {
                tracing::warn!(message.id = notice.message_id, change = %notice, "a message was made readable");
            }
            let handed = filter.hand_on(buffer);
            if handed > 0 {
                return Poll::Ready(Ok(handed));
            }
            if let Some(refused) = filter.refused() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused)));
            }
            let mut inner = Pin::new(&mut *inner);
            let passed = match filter.missing() {
                Some(missing) => {
                    let count = ready!(inner.as_mut().poll_read(cx, missing))?;
                    if count == 0 {
                        return Poll::Ready(Ok(0));
                    }
                    filter.arrived(count);
                    0
                }
                None => {
                    let count = ready!(inner.as_mut().poll_read(cx, buffer))?;
                    if count == 0 {
                        return Poll::Ready(Ok(0));
                    }
                    filter.pass(&mut buffer[..count])
                }
            };
            if passed > 0 {
                return Poll::Ready(Ok(passed));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Tokio, but for the type of its streams: lapin takes no other stream than its runtime's.
#[derive(Clone, Debug)]
struct Filtering(Tokio);

impl Reactor for Filtering {
    type TcpStream = Filtered<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(addr);
        async move { Ok(Filtered::new(AsyncTcpStream::Plain(connecting.await?), super::url::FRAME_MAX, Arc::default())) }
    }
}
