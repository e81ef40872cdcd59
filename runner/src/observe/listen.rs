//! The small HTTP server for `/metrics`, `/healthz` and `/readyz`.
//!
//! It has a thread and a runtime of its own: nothing that a client does reaches the worker, and it answers while the worker
//! hangs. Each connection is for one request and ends after a few seconds, whatever the client does, and there are only so
//! many of them.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::health::Health;
use super::metrics::{self, Metrics};

/// More than the probes of a pod and a handful of Prometheus servers open at the same time. Further ones wait.
const MAX_CONNECTIONS: usize = 32;

/// For a whole connection, from the first byte of the request to the last one of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// For the head of the request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How large the head of a request may be. In bytes.
const MAX_HEAD: usize = 16 << 10;

/// How soon to accept again after the system refused to, being short of descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An address that is bound.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// # Errors
    /// When the address is taken, not one of this host, or not ours to take.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Listener(listener))
    }

    /// With the port that the system chose, if none was named.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn serve(self, health: Arc<Health>, metrics: Arc<Metrics>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(self.0)?
        };
        let answers = async move { accept(listener, health, metrics).await };
        std::thread::Builder::new().name("listen".into()).spawn(move || runtime.block_on(answers)).map(drop)
    }
}

async fn accept(listener: tokio::net::TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let (health, metrics) = (health.clone(), metrics.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve(stream, &health, &metrics)).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection (--listen)");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, health: &Health, metrics: &Metrics) {
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(|request| answer(request, health, metrics)));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client of --listen was not served");
    }
}

async fn answer(
    request: Request<Incoming>,
    health: &Health,
    metrics: &Metrics,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        "/metrics" | "/healthz" | "/readyz" if !is_read => {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
        "/metrics" => {
            let mut found = text(StatusCode::OK, metrics.text().await);
            found.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
            found
        }
        "/healthz" => probe(health.is_alive()),
        "/readyz" => probe(health.is_ready()),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".into()),
    })
}

fn probe(is: Result<(), String>) -> Response<Full<Bytes>> {
    match is {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        // One line, whatever the reason holds.
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", why.replace(['\n', '\r'], " "))),
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
