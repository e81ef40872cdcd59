//! What a guest may see of the host: nothing that was not granted by name.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use super::denials::{Denials, Denied, Door};
use super::names::Names;
use super::origins::Origin;
use super::roots::Roots;
use crate::locks::lock;

/// What a guest may see of the host. Nothing, by default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Grants {
    pub env: Vec<(String, String)>,
    pub dirs: Vec<Dir>,
    pub net: Vec<Endpoint>,
    pub http: Vec<Origin>,
    /// What the certificates of encrypted requests are checked against.
    pub roots: Roots,
    /// Each message may bring a folder of its own, to be read: see `Input::dirs`.
    pub metadata: bool,
}

/// A folder of the host that the guest sees at `guest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dir {
    pub host: PathBuf,
    pub guest: String,
    pub writable: bool,
}

/// `HOST:PORT`, where the host is a name or an address; `[::1]:80` for IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// Where the guest sees its scratch folder: where programs look for one by themselves.
pub const SCRATCH: &str = "/tmp";

/// The addresses that one run may connect to: those that were granted as such, and those that a granted name turned
/// out to have when the guest asked for it. A name is never looked up for the check itself: the answer could be another.
pub struct Net {
    endpoints: Vec<Endpoint>,
    outside: Outside,
    denied: Denied,
    resolved: Mutex<HashSet<SocketAddr>>,
}

/// What is done for a run outside of its sandbox: in this process, or by the parent of a process behind the wall.
#[derive(Clone)]
pub struct Outside {
    /// The resolver of names.
    pub names: Names,
    /// Whoever is told of what a guest was refused.
    pub denials: Denials,
}

/// A clock that [`make_deterministic`] fixes: it starts at a fixed time, the wall clock at the year 2000, and moves only when
/// it is read. The random numbers are a function of the message.
struct Fixed(AtomicU64);

/// How much the monotonic clock moves at each look: a guest that waits for time to pass has to see it pass.
const STEP_NANOS: u64 = 1_000;
const YEAR_2000: Duration = Duration::from_secs(946_684_800);
/// Length of the random bytes before they repeat.
const RANDOM_BLOCKS: u32 = 128;

impl Net {
    pub fn new(endpoints: &[Endpoint], outside: Outside) -> Arc<Net> {
        let denied = Denied::new(outside.denials.clone());
        Arc::new(Net { endpoints: endpoints.to_vec(), outside, denied, resolved: Mutex::default() })
    }

    /// Whether the guest may ask for the addresses of `name`.
    pub fn may_resolve(&self, name: &str) -> bool {
        let may = names(&self.endpoints, name);
        if !may {
            self.denied.note(Door::Net, &format!("to {name}"));
        }
        may
    }

    /// The addresses of a name that it may ask for; `None` if it has none.
    pub async fn resolve(self: Arc<Net>, name: String) -> Option<Vec<IpAddr>> {
        self.outside.names.clone().resolve(name).await
    }

    /// The guest wants a socket, which it does not get without any grant.
    pub fn wants_socket(&self) {
        if self.endpoints.is_empty() {
            self.denied.note(Door::Net, "it wants a socket");
        }
    }

    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Notes an address that a granted name has.
    pub fn resolved(&self, name: &str, address: IpAddr) {
        let mut resolved = lock(&self.resolved);
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.host.eq_ignore_ascii_case(name)) {
            resolved.insert(SocketAddr::new(address, endpoint.port));
        }
    }

    fn allows(&self, address: SocketAddr, used: SocketAddrUse) -> bool {
        match used {
            // The system picks the near end of a connection. A port of the guest's choice would be a server's.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            SocketAddrUse::TcpConnect => {
                let granted = |endpoint: &Endpoint| {
                    endpoint.port == address.port() && endpoint.host.parse() == Ok(address.ip().to_canonical())
                };
                let allowed = self.endpoints.iter().any(granted) || lock(&self.resolved).contains(&address);
                if !allowed {
                    self.denied.note(Door::Net, &format!("to {address}"));
                }
                allowed
            }
            _ => false,
        }
    }

    pub fn grant(self: &Arc<Net>, wasi: &mut WasiCtxBuilder) {
        if self.endpoints.is_empty() {
            return;
        }
        let net = self.clone();
        // Names are looked up by us, and not by wasmtime-wasi.
        wasi.allow_tcp(true).socket_addr_check(move |address, used| {
            let allowed = net.allows(address, used);
            Box::pin(std::future::ready(allowed))
        });
    }
}

/// Whether `name` is one of these, as a name or as an address.
fn names(endpoints: &[Endpoint], name: &str) -> bool {
    endpoints.iter().any(|endpoint| endpoint.host.eq_ignore_ascii_case(name))
}

impl Grants {
    /// Whether a guest can have a reason to ask for the addresses of `name`.
    pub fn may_resolve(&self, name: &str) -> bool {
        names(&self.net, name) || self.http.iter().any(|origin| origin.host().name() == Some(name))
    }

    /// The ports that it may connect to.
    pub fn ports(&self) -> Vec<u16> {
        let net = self.net.iter().map(|endpoint| endpoint.port);
        net.chain(self.http.iter().map(Origin::port)).collect()
    }
}

impl Outside {
    /// What this process does itself.
    pub fn here() -> Outside {
        Outside { names: Names::System, denials: Denials::Log }
    }
}

/// Makes two runs of one message the same run.
pub fn make_deterministic(wasi: &mut WasiCtxBuilder, message: &[u8]) {
    let seed = Sha256::digest(message);
    let random = |of: u8| {
        let blocks = (0..RANDOM_BLOCKS).flat_map(|block| {
            Sha256::new().chain_update(seed).chain_update([of]).chain_update(block.to_le_bytes()).finalize()
        });
        Deterministic::new(blocks.collect())
    };
    wasi.secure_random(random(0)).insecure_random(random(1));
    wasi.insecure_random_seed(u128::from_le_bytes(std::array::from_fn(|at| seed[at])));
    wasi.wall_clock(Fixed(AtomicU64::new(0))).monotonic_clock(Fixed(AtomicU64::new(0)));
}

impl Fixed {
    fn step(&self) -> u64 {
        self.0.fetch_add(STEP_NANOS, Ordering::Relaxed)
    }
}

impl HostWallClock for Fixed {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(STEP_NANOS)
    }

    fn now(&self) -> Duration {
        YEAR_2000 + Duration::from_nanos(self.step())
    }
}

impl HostMonotonicClock for Fixed {
    fn resolution(&self) -> u64 {
        STEP_NANOS
    }

    fn now(&self) -> u64 {
        self.step()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let wrong = || format!("`{text}` is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        // More than one colon without brackets: is the last number a port or a part of the address?
        let ambiguous = host.contains(':') && !text.starts_with('[');
        if host.is_empty() || ambiguous || host.contains(['*', '/', '@', ' ']) {
            return Err(wrong());
        }
        Ok(Endpoint { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(endpoints: &[&str]) -> Arc<Net> {
        Net::new(&endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect::<Vec<_>>(), Outside::here())
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let endpoint: Endpoint = "[::1]:80".parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", 80));
        assert_eq!("db.example:5432".parse::<Endpoint>().unwrap().to_string(), "db.example:5432");
        for wrong in ["db", "db:", ":80", "db:0", "db:99999", "::1:80", "*:80", "http://db:80", "10.0.0.0/8:80"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_was_granted_can_be_reached() {
        let net = net(&["127.0.0.1:80", "db.example:5432"]);
        let connect = |address: &str| net.allows(address.parse().unwrap(), SocketAddrUse::TcpConnect);
        assert!(connect("127.0.0.1:80") && connect("[::ffff:127.0.0.1]:80"));
        assert!(!connect("127.0.0.1:81") && !connect("127.0.0.2:80") && !connect("10.1.2.3:5432"));
        assert!(net.may_resolve("DB.example") && !net.may_resolve("example") && !net.may_resolve("evil.example"));
        net.resolved("db.example", "10.1.2.3".parse().unwrap());
        assert!(connect("10.1.2.3:5432") && !connect("10.1.2.3:80"));
        assert!(!net.allows("0.0.0.0:8080".parse().unwrap(), SocketAddrUse::TcpBind));
        assert!(!net.allows("127.0.0.1:80".parse().unwrap(), SocketAddrUse::TcpListen));
        assert!(!net.allows("127.0.0.1:80".parse().unwrap(), SocketAddrUse::UdpSend));
    }
}
