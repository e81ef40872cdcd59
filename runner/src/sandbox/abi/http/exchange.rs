//! One request and its answer, over a connection of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::paced::{MAX_BEFORE, Paced};
use super::tls::Tls;
use crate::sandbox::world::denials::Door;
use crate::sandbox::world::grants::Net;
use crate::sandbox::world::origins::{Host, may_be_named};

/// How long looking a name up, connecting and agreeing on encryption may take together, unless the guest says otherwise. All
/// else has the time of the run.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most header fields of an answer, and of its trailers.
const MAX_FIELDS: usize = 100;

/// The most bytes of an answer's head, and what is read ahead of its body.
const MAX_HEAD: usize = 64 << 10;

/// The sizes of bodies, in bytes.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub request: u64,
    pub response: u64,
}

/// A request that was granted.
pub struct Exchange<'a> {
    pub host: &'a Host,
    pub port: u16,
    pub tls: Option<&'a Tls>,
    pub bounds: Bounds,
    pub options: RequestOptions,
}

/// What drives a connection, once its answer has begun.
pub type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Exchange<'_> {
    pub async fn run(
        &self,
        net: Arc<Net>,
        request: Request<WasiBody>,
        place: OwnedSemaphorePermit,
        over: CancellationToken,
    ) -> Result<(Response<WasiBody>, Rest), Error> {
        let connect = self.options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let connected = timeout(connect, self.connect(net)).await;
        let (stream, until_it_begins) = Paced::new(connected.map_err(|_| Error::ConnectionTimeout)??);
        let mut builder = http1::Builder::new();
        builder.max_headers(MAX_FIELDS).max_buf_size(MAX_HEAD);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
        let request = request.map(|body| Bounded::new(body, self.bounds.request, Error::HttpRequestBodySize));
        let mut connection = Box::pin(connection);
        let mut has_ended = false;
        let response = {
            let mut answer = pin!(sender.send_request(request));
            let answered = async {
                tokio::select! {
                    answered = &mut answer => answered,
                    _ = &mut connection => {
                        has_ended = true;
                        answer.await
                    }
                }
            };
            match self.options.first_byte_timeout {
                Some(longest) => timeout(longest, answered).await.map_err(|_| Error::ConnectionReadTimeout)?,
                None => answered.await,
            }
        };
        let response = response.map_err(|error| said(&error))?;
        until_it_begins.lift();
        let limit = self.bounds.response;
        if response.body().size_hint().lower() > limit {
            return Err(Error::HttpResponseBodySize(Some(limit)));
        }
        let place = Arc::new(place);
        let answers_place = place.clone();
        let between = self.options.between_bytes_timeout;
        let response = response.map(|body| {
            let timer = between.map(|between| (between, Box::pin(sleep(between))));
            Bounded::new(Answer { body, timer, _place: answers_place }, limit, Error::HttpResponseBodySize)
                .boxed_unsync()
        });
        let rest = async move {
            let _place = place;
            if has_ended {
                return Ok(());
            }
            tokio::select! {
                // Looked at first: a body that was cut off by the end of its run must not end as if it were whole.
                biased;
                () = over.cancelled() => Ok(()),
                ended = connection => ended.map_err(|error| said(&error)),
            }
        };
        Ok((response, Box::new(rest)))
    }

    async fn connect(&self, net: Arc<Net>) -> Result<Box<dyn Stream>, Error> {
        let stream = self.connect_tcp(net).await?;
        // What a guest sends in small pieces should not wait for an answer to the piece before.
        let _ = stream.set_nodelay(true);
        match self.tls {
            Some(tls) => Ok(Box::new(tls.connect(self.host, stream).await?)),
            None => Ok(Box::new(stream)),
        }
    }

    async fn connect_tcp(&self, net: Arc<Net>) -> Result<TcpStream, Error> {
        let addresses = self.addresses(net).await?;
        let mut last = Error::DestinationNotFound;
        for address in addresses {
            match TcpStream::connect(SocketAddr::new(address, self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = unreachable(&error),
            }
        }
        Err(last)
    }

    /// Asked for once: a second answer could be another one than the one that was checked.
    async fn addresses(&self, net: Arc<Net>) -> Result<Vec<IpAddr>, Error> {
        let name = match self.host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let no_such_name = || Error::DnsError { rcode: None, info_code: None };
        let found =
            net.clone().resolve(name.clone()).await.filter(|found| !found.is_empty()).ok_or_else(no_such_name)?;
        let allowed: Vec<IpAddr> = found.iter().copied().filter(|address| may_be_named(name, *address)).collect();
        if allowed.is_empty() {
            let found = found.first().map(ToString::to_string).unwrap_or_default();
            net.denied().note(Door::Http, &format!("{name} has the address {found}, which no name may lead to"));
            return Err(Error::DestinationIpProhibited);
        }
        Ok(allowed)
    }
}

fn unreachable(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        // Landlock refuses the port.
        io::ErrorKind::PermissionDenied => Error::HttpRequestDenied,
        _ => Error::DestinationUnavailable,
    }
}

fn said(error: &hyper::Error) -> Error {
    let source = std::error::Error::source(error);
    let kind = source.and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    match source.and_then(|source| source.downcast_ref()) {
        Some(Error::HttpRequestBodySize(size)) => Error::HttpRequestBodySize(*size),
        _ if kind == Some(io::ErrorKind::UnexpectedEof) => Error::HttpResponseIncomplete,
        _ if kind == Some(io::ErrorKind::QuotaExceeded) => {
            Error::HttpResponseHeaderSectionSize(u32::try_from(MAX_BEFORE).ok())
        }
        _ if error.is_parse_too_large() => Error::HttpResponseHeaderSectionSize(u32::try_from(MAX_HEAD).ok()),
        _ if error.is_incomplete_message() => Error::HttpResponseIncomplete,
        _ if error.is_parse() => Error::HttpProtocolError,
        _ if error.is_user() => Error::HttpProtocolError,
        _ => Error::ConnectionTerminated,
    }
}

/// A body that ends with an error when it is longer than its limit.
struct Bounded<B> {
    body: B,
    limit: u64,
    left: u64,
    over: fn(Option<u64>) -> Error,
}

impl<B> Bounded<B> {
    fn new(body: B, limit: u64, over: fn(Option<u64>) -> Error) -> Bounded<B> {
        Bounded { body, limit, left: limit, over }
    }
}

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.remaining() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err((self.over)(Some(self.limit))))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. As long as it or its connection is not done, its request is under way.
struct Answer {
    body: Incoming,
    /// The longest pause between two pieces, if the guest has set one.
    timer: Option<(Duration, Pin<Box<Sleep>>)>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(frame) => {
                if let Some((between, timer)) = &mut this.timer {
                    timer.as_mut().reset(Instant::now() + *between);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(|error| said(&error))))
            }
            Poll::Pending => match &mut this.timer {
                Some((_, timer)) => {
                    ready!(timer.as_mut().poll(context));
                    Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
                }
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::sandbox::world::denials::Denials;
    use crate::sandbox::world::grants::Outside;
    use crate::sandbox::world::names::Names;

    #[tokio::test]
    async fn a_name_is_looked_up_once_a_request_and_a_second_answer_counts_for_the_next_one_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        });
        let (asked_tx, mut asked) = unbounded_channel();
        let names = Names::of_parent(move |id, name| drop(asked_tx.send((id, name))));
        let resolver = names.clone();
        tokio::spawn(async move {
            // Like a name server in a DNS rebinding attack: one answer is allowed, and the next one is not.
            let answers = ["127.0.0.1", "169.254.169.254", "127.0.0.1"];
            for answer in answers {
                let Some((id, name)) = asked.recv().await else { return };
                assert_eq!(name, "localhost");
                resolver.answer(id, Some(vec![answer.parse().unwrap()]));
            }
        });
        let outside = Outside { names: Names::Parent(names), denials: Denials::Parent(Arc::new(|_, _| {})) };
        let net = Net::new(&[], outside);
        let places = Arc::new(Semaphore::new(1));
        let send = async || {
            let host = Host::Name("localhost".into());
            let bounds = Bounds { request: 10, response: 10 };
            let exchange = Exchange { host: &host, port, tls: None, bounds, options: RequestOptions::default() };
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::builder().uri("/").header("host", "localhost").body(body).unwrap();
            let place = places.clone().try_acquire_owned().unwrap();
            exchange
                .run(net.clone(), request, place, CancellationToken::new())
                .await
                .map(|(response, _)| response.status())
        };
        assert_eq!(send().await.unwrap(), 200);
        assert!(matches!(send().await, Err(Error::DestinationIpProhibited)));
        assert_eq!(connections.load(Ordering::Relaxed), 1);
        assert_eq!(send().await.unwrap(), 200);
    }
}
