//! `redis://`, `rediss://`, `valkey://`, `valkeys://` and `redis+unix://`.
//!
//! The library's own parser is not used: it ignores parameters that it does not know, and a `#insecure` at the end makes it
//! believe any certificate.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates,
};

use crate::broker::percent::{check_credentials, decoded};
use crate::broker::scaler::{Login, Scaler, Trigger};

pub const SCHEMES: [&str; 5] = ["redis", "rediss", "valkey", "valkeys", "redis+unix"];

const PORT: u16 = 6379;

/// Long enough for a slow name server, short enough to try again within a pod's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's address with its credentials. Shows itself without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    place: Place,
    user: Option<String>,
    password: Option<String>,
    database: u32,
    /// A list that feeds the queue.
    pub(super) inbox: Option<String>,
    /// For one try to connect, TLS and the login included.
    pub(super) connect_timeout: Duration,
    ca_file: Option<PathBuf>,
    /// Certificate and key of the client.
    identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    Tcp { host: String, port: u16, tls: bool },
    Socket(PathBuf),
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_credentials(text)?;
        let url = url::Url::parse(text).map_err(|error| format!("this is not a URL: {error}"))?;
        let scheme = url.scheme();
        if !SCHEMES.contains(&scheme) {
            return Err("the scheme is not one of Redis's".into());
        }
        if url.fragment().is_some() {
            return Err("a `#` in the URL is written %23, and certificates are always verified".into());
        }
        let (user, password) = match (url.username(), url.password()) {
            ("", None) => (None, None),
            (_, None) => return Err("a user needs a password; without a user it is `:PASSWORD@`".into()),
            (user, Some(password)) => {
                let user = decoded(user, "user")?;
                (Some(user).filter(|user| !user.is_empty()), Some(decoded(password, "password")?))
            }
        };
        let (place, mut database) = match scheme {
            "redis+unix" => (Place::Socket(socket(&url)?), None),
            _ => {
                let tls = matches!(scheme, "rediss" | "valkeys");
                (tcp(&url, tls)?, database(url.path().strip_prefix('/').unwrap_or_default())?)
            }
        };
        let mut connect_timeout = CONNECT_TIMEOUT;
        let mut inbox = None;
        let (mut ca_file, mut cert_file, mut key_file) = (None, None, None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "inbox" if value.is_empty() => return Err("`inbox` needs the name of a list".into()),
                "inbox" => inbox = Some(value.into_owned()),
                "db" if matches!(place, Place::Socket(_)) => database = self::database(&value)?,
                "connection_timeout" => {
                    let millis =
                        value.parse().map_err(|_| "`connection_timeout` is not a number in its range".to_owned());
                    connect_timeout = Duration::from_millis(millis?);
                }
                "cacertfile" => ca_file = Some(PathBuf::from(&*value)),
                "certfile" => cert_file = Some(PathBuf::from(&*value)),
                "keyfile" => key_file = Some(PathBuf::from(&*value)),
                "verify" if value == "verify_peer" => {}
                "verify" => return Err("a server's certificate is always verified; `cacertfile` names its CA".into()),
                _ => return Err("it has a parameter that is not known".into()),
            }
        }
        let identity = match (cert_file, key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("`certfile` and `keyfile` go together".into()),
        };
        if !matches!(place, Place::Tcp { tls: true, .. }) && (ca_file.is_some() || identity.is_some()) {
            return Err("certificates are for rediss:// and valkeys://".into());
        }
        Ok(Url {
            scheme: scheme.to_owned(),
            place,
            user,
            password,
            database: database.unwrap_or(0),
            inbox,
            connect_timeout,
            ca_file,
            identity,
        })
    }
}

fn tcp(url: &url::Url, tls: bool) -> Result<Place, String> {
    let host = match url.host_str() {
        None | Some("") => "localhost".to_owned(),
        Some(host) => decoded(host.trim_start_matches('[').trim_end_matches(']'), "host")?,
    };
    if host.contains(',') {
        return Err("it names more than one server; neither a cluster nor Sentinel can be used".into());
    }
    Ok(Place::Tcp { host, port: url.port().unwrap_or(PORT), tls })
}

/// A URL with a user has to have a host as well.
fn socket(url: &url::Url) -> Result<PathBuf, String> {
    if !matches!(url.host_str(), None | Some("" | "localhost")) || url.port().is_some() {
        return Err("a socket is on this host: redis+unix:///PATH or redis+unix://USER:PASSWORD@localhost/PATH".into());
    }
    match decoded(url.path(), "path")? {
        path if path.is_empty() || path == "/" => Err("a socket needs a path: redis+unix:///PATH".into()),
        path => Ok(path.into()),
    }
}

fn database(text: &str) -> Result<Option<u32>, String> {
    match text {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| "a database is a number".into()),
    }
}

impl Url {
    /// Host and port or the path, for messages.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Tcp { host, port, .. } => format!("{host}:{port}"),
            Place::Socket(path) => path.display().to_string(),
        }
    }

    pub(super) fn is_socket(&self) -> bool {
        matches!(self.place, Place::Socket(_))
    }

    /// Host and port, and whether TLS is spoken there.
    pub(super) fn tcp(&self) -> Option<(&str, u16, bool)> {
        match &self.place {
            Place::Tcp { host, port, tls } => Some((host, *port, *tls)),
            Place::Socket(_) => None,
        }
    }

    /// How KEDA counts the messages of a queue: those of its stream, which has each until it is acknowledged, and those of the
    /// inbox. A socket is on one host.
    pub(super) fn scaler_of(&self, queue: &str) -> Option<Scaler> {
        let Place::Tcp { tls, .. } = &self.place else { return None };
        let trigger = |kind, place: (&'static str, &str), length| {
            let mut metadata = vec![(place.0, place.1.to_owned()), ("databaseIndex", self.database.to_string())];
            if *tls {
                metadata.push(("enableTLS", "true".to_owned()));
            }
            Trigger { kind, metadata, length }
        };
        let mut triggers = vec![trigger("redis-streams", ("stream", queue), "streamLength")];
        triggers.extend(self.inbox.iter().map(|inbox| trigger("redis", ("listName", inbox), "listLength")));
        // The host that the workers see need not be the one that is seen from here.
        let mut parts = vec![("address", "REDIS_ADDRESS")];
        parts.extend(self.user.iter().map(|_| ("username", "REDIS_USERNAME")));
        parts.extend(self.password.iter().map(|_| ("password", "REDIS_PASSWORD")));
        Some(Scaler { triggers, login: Login::Parts(parts), counts_running: true })
    }

    /// `None` for a socket, which nobody on the way can read.
    pub(super) fn is_encrypted(&self) -> Option<bool> {
        match &self.place {
            Place::Tcp { tls, .. } => Some(*tls),
            Place::Socket(_) => None,
        }
    }

    pub(super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }

    /// As the library wants it, with the certificates that the URL names.
    ///
    /// # Errors
    /// When one of them can't be read; names the file.
    pub(super) fn client(&self) -> Result<redis::Client, (PathBuf, Box<dyn std::error::Error + Send + Sync>)> {
        let named = |path: PathBuf, error: redis::RedisError| (path, error.into());
        let address = match &self.place {
            Place::Tcp { host, port, tls: false } => ConnectionAddr::Tcp(host.clone(), *port),
            Place::Tcp { host, port, tls: true } => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
            Place::Socket(path) => ConnectionAddr::Unix(path.clone()),
        };
        let mut login = RedisConnectionInfo::default().set_db(self.database.into()).set_skip_set_lib_name();
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let place = PathBuf::from(self.address());
        let info: ConnectionInfo = address.into_connection_info().map_err(|error| named(place.clone(), error))?;
        let info = info.set_redis_settings(login);
        if !matches!(self.place, Place::Tcp { tls: true, .. }) {
            return redis::Client::open(info).map_err(|error| named(place, error));
        }
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| (path.clone(), error.into()));
        let root_cert = self.ca_file.as_ref().map(read).transpose()?;
        let client_tls = match &self.identity {
            Some((cert, key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
            None => None,
        };
        // One of them is no certificate; the library does not say which.
        let path = self.identity.as_ref().map(|(cert, _)| cert).or(self.ca_file.as_ref()).cloned().unwrap_or(place);
        redis::Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
            .map_err(|error| named(path, error))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}", self.address())?;
        if self.database != 0 { write!(f, "/{}", self.database) } else { Ok(()) }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Url {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn defaults_are_those_of_a_fresh_redis() {
        assert_eq!(parsed("redis://").address(), "localhost:6379");
        assert_eq!(parsed("valkeys://h").address(), "h:6379");
        assert_eq!((parsed("redis://h").database, parsed("redis://h/").database), (0, 0));
        assert_eq!((parsed("redis://h/3").database, parsed("redis+unix:///s?db=2").database), (3, 2));
    }

    #[test]
    fn credentials_go_to_the_host_that_the_url_names() {
        let url = parsed("rediss://u:p%40@[fd00::2]:1/");
        assert_eq!((url.address().as_str(), url.password.as_deref()), ("[fd00::2]:1", Some("p@")));
        let url = parsed("redis://:secret@h");
        assert_eq!((url.user, url.password.as_deref()), (None, Some("secret")));
        assert_eq!(parsed("redis+unix:///run/redis%20a.sock").address(), "/run/redis a.sock");
        let url = parsed("redis+unix://u:p@localhost/s");
        assert_eq!((url.address().as_str(), url.password.as_deref()), ("/s", Some("p")));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for bad in [
            "rediss://h#insecure",
            "rediss://h/#insecure",
            "rediss://h?verify=verify_none",
            "redis://h?inbx=a",
            "redis://h?inbox=",
            "redis://h?db=1",
            "redis://h/one",
            "redis://h/1/2",
            "redis://h/-1",
            "redis://h?cacertfile=ca.pem",
            "redis+unix:///s?certfile=a&keyfile=b",
            "rediss://h?certfile=c.pem",
            "redis://user@h",
            "redis://:100%@h",
            "redis://a,b",
            "redis+unix://h/s",
            "redis+unix://",
            "amqp://h",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_never_shows() {
        let url = parsed("redis://user:s3cret@host:1234/2?inbox=jobs");
        assert_eq!(url.to_string(), "redis://user@host:1234/2");
        assert!(!format!("{url:?}").contains("s3cret"));
        for bad in ["redis://u:s3cret@h/a/b", "redis://u:s3cret@h:99999/", "redis://s3cret@h", "redis://u:p@h?s3cret=1"]
        {
            let error = bad.parse::<Url>().unwrap_err();
            assert!(!error.contains("s3cret"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_scaler_has_no_part_of_the_credentials() {
        let scaler = parsed("rediss://user:s3cret@host/3?inbox=jobs").scaler_of("q").unwrap();
        assert!(!format!("{scaler:?}").contains("s3cret") && !format!("{scaler:?}").contains("\"user\""), "{scaler:?}");
        let kinds: Vec<&str> = scaler.triggers.iter().map(|trigger| trigger.kind).collect();
        assert_eq!(kinds, ["redis-streams", "redis"]);
        assert!(scaler.triggers.iter().all(|trigger| trigger.metadata.contains(&("enableTLS", "true".into()))));
        assert_eq!(parsed("redis://h").scaler_of("q").unwrap().login, Login::Parts(vec![("address", "REDIS_ADDRESS")]));
        assert_eq!(parsed("redis+unix:///s").scaler_of("q"), None);
    }

    proptest! {
        #[test]
        fn no_text_can_make_the_parser_panic(text in "((redis|valkey)s?(\\+unix)?://)?.{0,60}") {
            let _ = text.parse::<Url>();
        }
    }
}
