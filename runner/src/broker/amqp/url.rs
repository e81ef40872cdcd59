//! Reads `amqp://` and `amqps://` addresses, as RabbitMQ's URI specification has them.
//!
//! lapin's own parser is not used: it sends the credentials of a URL with an IPv6 address to localhost, takes a
//! trailing slash for a virtual host without a name, and ignores query keys that it does not know, `verify` among them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};

use crate::broker::percent::{check_credentials, decoded};

/// An AMQP broker's address with its credentials. Shows itself without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) uri: AMQPUri,
    /// For one try to connect, the AMQP handshake included.
    pub(super) connect_timeout: Duration,
    ca_file: Option<PathBuf>,
    /// Certificate and key of the client.
    identity: Option<(PathBuf, PathBuf)>,
}

/// A dead peer is seen after two of these. RabbitMQ suggests 60 s and advises 5 to 20.
const HEARTBEAT_SECONDS: u16 = 15;

/// RabbitMQ's default. lapin sizes its buffers by this value, and a broker that says "no limit" would make it take 128 GiB.
pub(super) const FRAME_MAX: u32 = 131_072;

/// Long enough for a slow name server, short enough to try again within a pod's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_credentials(text)?;
        let url = url::Url::parse(text).map_err(|error| format!("this is not a URL: {error}"))?;
        let scheme = match url.scheme() {
            "amqp" => AMQPScheme::AMQP,
            "amqps" => AMQPScheme::AMQPS,
            _ => return Err("the scheme is neither amqp nor amqps".into()),
        };
        let host = match url.host_str() {
            None | Some("") => "localhost".to_owned(),
            Some(host) => decoded(host.trim_start_matches('[').trim_end_matches(']'), "host")?,
        };
        let (username, password) = match (url.username(), url.password()) {
            // The account of a fresh RabbitMQ, as the specification has it.
            ("", None) => ("guest".to_owned(), "guest".to_owned()),
            (user, password) => (decoded(user, "user")?, decoded(password.unwrap_or_default(), "password")?),
        };
        let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
            "" => "/".to_owned(),
            path if path.contains('/') => {
                return Err("a slash in the name of a virtual host is written %2f".into());
            }
            path => decoded(path, "virtual host")?,
        };
        let mut query = AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            heartbeat: Some(HEARTBEAT_SECONDS),
            ..AMQPQueryString::default()
        };
        let mut connect_timeout = CONNECT_TIMEOUT;
        let (mut ca_file, mut cert_file, mut key_file) = (None, None, None);
        for (key, value) in url.query_pairs() {
            let number = || format!("`{key}` is not a number in its range");
            match &*key {
                "heartbeat" => query.heartbeat = Some(value.parse().map_err(|_| number())?),
                "frame_max" => query.frame_max = Some(frame_max(&value).ok_or_else(number)?),
                "channel_max" => query.channel_max = Some(value.parse().map_err(|_| number())?),
                "connection_timeout" => {
                    connect_timeout = Duration::from_millis(value.parse().map_err(|_| number())?);
                }
                "auth_mechanism" => {
                    let mechanism: SASLMechanism =
                        value.parse().map_err(|_| "`auth_mechanism` is not known".to_owned())?;
                    query.auth_mechanism = Some(mechanism);
                }
                "cacertfile" => ca_file = Some(PathBuf::from(&*value)),
                "certfile" => cert_file = Some(PathBuf::from(&*value)),
                "keyfile" => key_file = Some(PathBuf::from(&*value)),
                "verify" if value == "verify_peer" => {}
                "verify" => return Err("a broker's certificate is always verified; `cacertfile` names its CA".into()),
                _ => return Err(format!("the parameter `{key}` is not known")),
            }
        }
        let identity = match (cert_file, key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("`certfile` and `keyfile` go together".into()),
        };
        if scheme == AMQPScheme::AMQP && (ca_file.is_some() || identity.is_some()) {
            return Err("certificates are for amqps://".into());
        }
        let port = url.port().unwrap_or_else(|| scheme.default_port());
        let userinfo = AMQPUserInfo { username, password };
        let uri = AMQPUri { scheme, authority: AMQPAuthority { userinfo, host, port }, vhost, query };
        Ok(Url { uri, connect_timeout, ca_file, identity })
    }
}

/// 0 means "no limit", which lapin takes at its word when it sizes buffers; brokers since 4.1 refuse less than 8192.
fn frame_max(value: &str) -> Option<u32> {
    value.parse().ok().filter(|size| (8192..=1 << 24).contains(size))
}

impl Url {
    /// Host and port, for messages.
    pub fn address(&self) -> String {
        let AMQPAuthority { host, port, .. } = &self.uri.authority;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    pub(super) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// The largest frame that we take.
    pub(super) fn frame_max(&self) -> u32 {
        self.uri.query.frame_max.unwrap_or(FRAME_MAX)
    }

    /// Reads the certificates that the URL names.
    pub(super) fn tls(&self) -> Result<OwnedTLSConfig, (PathBuf, std::io::Error)> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| (path.clone(), error));
        let cert_chain = match &self.ca_file {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| (path.clone(), error))?),
            None => None,
        };
        let identity = match &self.identity {
            Some((cert, key)) => Some(OwnedIdentity::PKCS8 { pem: read(cert)?, key: read(key)? }),
            None => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}@{}", self.uri.scheme, self.user(), self.address())?;
        if self.uri.vhost == "/" { Ok(()) } else { write!(f, "/{}", self.uri.vhost) }
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
    fn defaults_are_those_of_a_fresh_rabbitmq() {
        let AMQPUri { authority, vhost, query, .. } = parsed("amqp://").uri;
        assert_eq!((authority.host.as_str(), authority.port, vhost.as_str()), ("localhost", 5672, "/"));
        assert_eq!((authority.userinfo.username.as_str(), authority.userinfo.password.as_str()), ("guest", "guest"));
        assert_eq!((query.heartbeat, query.frame_max), (Some(15), Some(131_072)));
        assert_eq!(parsed("amqps://h").uri.authority.port, 5671);
    }

    #[test]
    fn credentials_go_to_the_host_that_the_url_names() {
        assert_eq!(parsed("amqp://u:p@[fd00::2]:1/").uri.authority.host, "fd00::2");
        assert_eq!(parsed("amqp://u:p@[fd00::2]").address(), "[fd00::2]:5672");
        assert_eq!(parsed("amqp://u:p@10.0.0.1").uri.authority.host, "10.0.0.1");
    }

    #[test]
    fn a_virtual_host_is_one_segment_and_a_trailing_slash_is_none() {
        assert_eq!(parsed("amqp://h/").uri.vhost, "/");
        assert_eq!(parsed("amqp://h/%2f").uri.vhost, "/");
        assert_eq!(parsed("amqp://h/team%2Fa").uri.vhost, "team/a");
        assert!("amqp://h/team/a".parse::<Url>().is_err());
    }

    #[test]
    fn percent_signs_in_a_password_are_decoded_or_refused() {
        assert_eq!(parsed("amqp://u:a%40b%25@h").uri.authority.userinfo.password, "a@b%");
        assert_eq!(parsed("amqp://u:%c3%A9@h").uri.authority.userinfo.password, "é");
        for bad in ["100%", "%4", "%4g", "%+1", "%%41", "%4%31", "%é"] {
            let refused = format!("amqp://u:{bad}@h").parse::<Url>();
            assert!(refused.is_err_and(|error| error == "a `%` in the password is written %25"), "{bad}");
        }
        assert!("amqp://u:%ff@h".parse::<Url>().is_err());
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for bad in [
            "amqps://h?verify=verify_none",
            "amqp://h?hearbeat=5",
            "amqp://h?heartbeat=99999",
            "amqp://h?frame_max=0",
            "amqps://h?certfile=c.pem",
            "amqp://h?cacertfile=ca.pem",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_can_make_the_parser_panic(text in "(amqps?://)?.{0,60}") {
            let _ = text.parse::<Url>();
        }
    }
}
