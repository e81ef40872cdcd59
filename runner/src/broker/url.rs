//! A broker's address, as it is typed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::amqp;

/// `--broker`: the scheme says which kind of broker it is. Never shows a password.
///
/// The nodes of a cluster can be listed with commas; they are tried in this order.
#[derive(Clone, PartialEq, Eq)]
pub enum Url {
    Amqp(Vec<amqp::Url>),
    Sqlite(PathBuf),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("a broker is `amqp://…`, `amqps://…` or `sqlite:PATH`")]
    Scheme,
    #[error("`sqlite:` needs a path: sqlite:PATH")]
    NoPath,
    /// The reason never holds a part of the URL, which has a password in it.
    #[error("{0}")]
    Amqp(String),
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(UrlError::NoPath) } else { Ok(Url::Sqlite(path.into())) };
        }
        if text.starts_with("amqp://") || text.starts_with("amqps://") {
            let nodes = text.split(',').map(str::parse).collect::<Result<_, _>>();
            return nodes.map(Url::Amqp).map_err(UrlError::Amqp);
        }
        Err(UrlError::Scheme)
    }
}

impl Url {
    /// The name of the delay queue in which a retry waits for so long, where the broker has such queues.
    pub fn longest_delay_queue(&self, queue: &str, pause: Duration) -> Option<String> {
        match self {
            Url::Amqp(_) => Some(amqp::delay_queue_for(queue, pause)),
            Url::Sqlite(_) => None,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Url::Amqp(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                write!(f, "{}", nodes.join(","))
            }
            Url::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_which_broker_it_is() {
        assert_eq!("sqlite:q.db".parse(), Ok(Url::Sqlite("q.db".into())));
        assert_eq!("sqlite:///var/q.db".parse(), Ok(Url::Sqlite("/var/q.db".into())));
        assert!(matches!("amqp://h".parse(), Ok(Url::Amqp(_))));
        assert_eq!("sqlite:".parse::<Url>(), Err(UrlError::NoPath));
        assert_eq!("redis://h".parse::<Url>(), Err(UrlError::Scheme));
        assert_eq!("".parse::<Url>(), Err(UrlError::Scheme));
    }

    #[test]
    fn the_nodes_of_a_cluster_are_listed_with_commas() {
        let Ok(Url::Amqp(nodes)) = "amqp://a,amqps://u:p@b/v".parse() else { panic!("two nodes") };
        assert_eq!(nodes.iter().map(amqp::Url::address).collect::<Vec<_>>(), ["a:5672", "b:5671"]);
        assert!("amqp://a,b".parse::<Url>().is_err());
        assert!("amqp://a,".parse::<Url>().is_err());
    }

    #[test]
    fn a_password_never_shows() {
        let url: Url = "amqp://user:s3cret@host:1234/v".parse().unwrap();
        assert_eq!(url.to_string(), "amqp://user@host:1234/v");
        assert!(!format!("{url:?}").contains("s3cret"));
        for bad in ["amqp://u:s3cret@h/a/b", "amqp://u:s3cret@h:99999/", "amqp://u:s3cret@h/?heartbeat=x"] {
            let error = bad.parse::<Url>().unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{bad}: {error}");
        }
    }
}
