//! HTTP for components of every version of WASI: the one door through which their requests leave.

mod exchange;
mod paced;
mod tls;

use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::sandbox::world::denials::Door;
use crate::sandbox::world::grants::{Grants, Net};
use crate::sandbox::world::origins::{HTTP, HTTPS, Host, Origin};
use crate::task::limits::Limits;
use exchange::{Bounds, Exchange, Rest};
use tls::Tls;

/// Requests of one run that may be under way, the reading of their answers included.
const MAX_REQUESTS: usize = 16;

/// What all runs of a guest share: where requests may go, and how.
pub struct Client {
    origins: Vec<Origin>,
    tls: Option<Tls>,
    bounds: Bounds,
}

/// The HTTP of one run.
pub struct Http {
    client: Arc<Client>,
    net: Arc<Net>,
    /// There if anything was granted.
    places: Option<Arc<Semaphore>>,
    /// Ends the run's connections with it. wasmtime-wasi-http lets a connection of WASI 0.3 go on for as long as its body does.
    over: DropGuard,
}

/// Where a request goes.
struct Target {
    host: Host,
    port: u16,
    encrypted: bool,
}

impl Client {
    /// # Errors
    /// When the certificates can't be used.
    pub fn new(grants: &Grants, limits: &Limits) -> Result<Arc<Client>, String> {
        let tls = grants.http.iter().any(Origin::can_be_encrypted).then(|| Tls::new(&grants.roots)).transpose()?;
        let bounds = Bounds { request: limits.stdout, response: limits.message };
        Ok(Arc::new(Client { origins: grants.http.clone(), tls, bounds }))
    }
}

impl Http {
    pub fn new(client: Arc<Client>, net: Arc<Net>) -> Http {
        let places = (!client.origins.is_empty()).then(|| Arc::new(Semaphore::new(MAX_REQUESTS)));
        Http { client, net, places, over: CancellationToken::new().drop_guard() }
    }

    /// The place that a request goes to, if it may go there.
    fn target<B>(&self, request: &Request<B>) -> Result<Target, Error> {
        // CONNECT asks a server to connect to another one; what is not listed is for servers that nobody here knows.
        const METHODS: [Method; 7] =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];
        let uri = request.uri();
        let target = self.granted(uri).ok_or_else(|| {
            self.net.denied().note(Door::Http, &shown(uri));
            Error::HttpRequestDenied
        })?;
        if METHODS.contains(request.method()) { Ok(target) } else { Err(Error::HttpRequestMethodInvalid) }
    }

    fn granted(&self, uri: &Uri) -> Option<Target> {
        let encrypted = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // A colon and no port, or none that there is.
            None if authority.as_str() != authority.host() => return None,
            None if encrypted => HTTPS,
            None => HTTP,
        };
        let host = Host::parse(authority.host())?;
        let is_granted = self.client.origins.iter().any(|origin| origin.allows(&host, port, encrypted));
        is_granted.then_some(Target { host, port, encrypted })
    }
}

/// A URL without its path, which may hold a secret of the guest's, and without a password.
fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("https");
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or_else(|| authority.to_owned(), |(_, host)| format!("…@{host}"));
    format!("{scheme}://{host}")
}

/// Makes the request one for the server itself: the path alone, and the host as we understood it. What stood there before may
/// have named another server.
fn rewrite<B>(request: &mut Request<B>, target: &Target) -> Result<(), Error> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let uri = Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)?;
    let Target { host, port, encrypted } = target;
    let host = match (port, encrypted) {
        (&HTTPS, true) | (&HTTP, false) => host.to_string(),
        _ => format!("{host}:{port}"),
    };
    let host = HeaderValue::from_str(&host).map_err(|_| Error::HttpRequestUriInvalid)?;
    *request.uri_mut() = uri;
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

impl WasiHttpHooks for Http {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        // What the guest made of the answer. Nobody here wants to know.
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Rest), Error>> + Send> {
        let target = self.target(&request);
        let (client, net, places) = (self.client.clone(), self.net.clone(), self.places.clone());
        let over = self.over.token().clone();
        Box::new(async move {
            let target = target?;
            rewrite(&mut request, &target)?;
            let place = places.and_then(|places| places.try_acquire_owned().ok());
            let place = place.ok_or(Error::ConnectionLimitReached)?;
            let Target { host, port, encrypted } = target;
            let tls = if encrypted { Some(client.tls.as_ref().ok_or(Error::ConfigurationError)?) } else { None };
            let exchange =
                Exchange { host: &host, port, tls, bounds: client.bounds, options: options.unwrap_or_default() };
            exchange.run(net, request, place, over).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_url_is_shown_without_its_secrets() {
        let shown = |uri: &str| super::shown(&uri.parse().unwrap());
        assert_eq!(shown("https://api.example:8443/token/abc?key=def"), "https://api.example:8443");
        assert_eq!(shown("http://user:password@api.example/"), "http://…@api.example");
    }

    #[test]
    fn a_request_on_the_wire_names_its_server_and_no_other() {
        let rewritten = |uri: &str, host: &str, port, encrypted| {
            let mut request = Request::builder().uri(uri).header("host", "other.example").body(()).unwrap();
            rewrite(&mut request, &Target { host: Host::parse(host).unwrap(), port, encrypted }).unwrap();
            let hosts: Vec<_> = request.headers().get_all("host").iter().collect();
            assert_eq!(hosts.len(), 1);
            (request.uri().to_string(), hosts[0].to_str().unwrap().to_owned())
        };
        let is = |found: (String, String), uri: &str, host: &str| assert_eq!(found, (uri.into(), host.into()));
        is(rewritten("https://API.example./a?b=c", "API.example.", 443, true), "/a?b=c", "api.example");
        is(rewritten("http://api.example:8080", "api.example", 8080, false), "/", "api.example:8080");
        is(rewritten("http://[::1]:80?x", "[::1]", 80, false), "/?x", "[::1]");
        is(rewritten("http://api.example:443/", "api.example", 443, false), "/", "api.example:443");
    }
}
