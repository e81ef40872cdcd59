//! Reads a broker's address, and finds its kind in the table.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::adapter::{Broker, BrokerKind};
use super::admin::Admin;
use super::check::{Findings, Settings};
use super::error::Error;
use super::kinds::{self, KINDS};
use super::outbox::{self, Outbox};
use super::walk::Walk;

/// `--broker`: its beginning says which kind of broker it is. Never shows a password.
#[derive(Clone)]
pub struct Url {
    kind: &'static BrokerKind,
    broker: Arc<dyn Broker>,
    /// As it has to be typed again, with another word in place of the password. `None` if a variable holds it.
    typed: Option<Arc<str>>,
}

/// What stands for a password in a command that somebody is to type.
const PASSWORD: &str = "PASSWORD";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// Whoever shows it lists the schemes.
    #[error("it does not begin with the scheme of a broker")]
    Scheme,
    #[error("this wq-run was built without the feature `{0}`, and knows no such broker")]
    LeftOut(&'static str),
    /// The reason never holds a part of the URL, which has a password in it.
    #[error("{0}")]
    Address(String),
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_of = |kind: &BrokerKind| kind.forms.iter().any(|form| text.starts_with(form.prefix));
        let unknown = || kinds::left_out(text).map_or(UrlError::Scheme, |kind| UrlError::LeftOut(kind.feature));
        let kind = KINDS.iter().copied().find(|kind| is_of(kind)).ok_or_else(unknown)?;
        let broker = (kind.parse)(text).map_err(UrlError::Address)?;
        Ok(Url { kind, broker, typed: None })
    }
}

impl Url {
    pub fn kind(&self) -> &'static BrokerKind {
        self.kind
    }

    /// The same, from the command line: `text` is what was typed.
    #[must_use]
    pub fn typed(self, text: &str) -> Url {
        Url { typed: Some(without_passwords(text).into()), ..self }
    }

    /// The address as it has to be typed again, if it was typed. Never holds a password.
    pub fn to_type(&self) -> Option<&str> {
        self.typed.as_deref()
    }

    /// Whether a word in it stands for a password.
    pub fn needs_password(&self) -> bool {
        self.typed.as_ref().is_some_and(|typed| typed.contains(&format!(":{PASSWORD}@")))
    }

    /// The queue that the address names, where it does.
    pub fn queue(&self) -> Option<&str> {
        self.broker.queue()
    }

    pub(crate) fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    /// What commands do with the broker's queues. It connects when it has something to do.
    pub fn admin(&self) -> Box<dyn Admin> {
        self.broker.admin()
    }

    /// Looks whether a worker with these settings can do its work here. Makes, takes and changes nothing.
    pub async fn check(&self, settings: &Settings) -> Findings {
        self.broker.check(settings).await
    }

    /// A walk through one of the broker's queues. It connects when it begins.
    pub fn walk(&self, queue: &str) -> Box<dyn Walk> {
        self.broker.walk(queue)
    }

    /// Opens the way to the broker for results, for as long as `connect_timeout` lets it try.
    ///
    /// # Errors
    /// When there is none.
    pub async fn outbox(&self, options: outbox::Options) -> Result<Arc<dyn Outbox>, Error> {
        self.broker.outbox(options).await
    }
}

/// Addresses of one broker, with another word in place of each password. It takes more for a password than it has to, and never
/// less: all from the first colon behind the scheme to the last `@`.
fn without_passwords(text: &str) -> String {
    let without = |address: &str| {
        let (scheme, rest) = address.split_once("://")?;
        let (user, host) = rest.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:{PASSWORD}@{host}"))
    };
    text.split(',').map(|address| without(address).unwrap_or_else(|| address.to_owned())).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.broker)
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

    fn parsed(text: &str) -> Result<(&'static str, String), UrlError> {
        text.parse::<Url>().map(|url| (url.kind().system.name, url.to_string()))
    }

    #[test]
    fn the_scheme_says_which_broker_it_is() {
        // The first one of the table.
        let [first, ..] = KINDS else { panic!("there are several") };
        assert_eq!(parsed("sqlite:q.db"), Ok(("sqlite", "sqlite:q.db".into())));
        assert_eq!(parsed("sqlite:///var/q.db"), Ok(("sqlite", "sqlite:/var/q.db".into())));
        assert_eq!(parsed("amqp://h"), Ok((first.system.name, "amqp://guest@h:5672".into())));
        assert_eq!(parsed("sqlite:"), Err(UrlError::Address("`sqlite:` needs a path: sqlite:PATH".into())));
        for other in ["kafka://h", "redis:h", "amqp:h", ""] {
            assert_eq!(parsed(other), Err(UrlError::Scheme), "{other}");
        }
    }

    #[test]
    fn an_address_belongs_to_one_kind_only() {
        let prefixes: Vec<&str> = KINDS.iter().flat_map(|kind| kind.forms).map(|form| form.prefix).collect();
        for (at, prefix) in prefixes.iter().enumerate() {
            assert!(prefixes.iter().enumerate().all(|(other, text)| other == at || !text.starts_with(prefix)));
        }
    }

    #[test]
    fn the_nodes_of_a_cluster_are_listed_with_commas() {
        assert_eq!(parsed("amqp://a,amqps://u:p@b/v").unwrap().1, "amqp://guest@a:5672,amqps://u@b:5671/v");
        assert!("amqp://a,b".parse::<Url>().is_err());
        assert!("amqp://a,".parse::<Url>().is_err());
    }

    #[test]
    fn an_address_that_is_to_be_typed_again_has_no_password() {
        for (typed, again) in [
            ("amqp://h:1/v", "amqp://h:1/v"),
            ("amqp://user@h", "amqp://user@h"),
            ("amqp://user:s3cret@h:1/v?heartbeat=5", "amqp://user:PASSWORD@h:1/v?heartbeat=5"),
            ("redis://:s3cret@h", "redis://:PASSWORD@h"),
            ("redis://u:a:s3cret@s3cret@h", "redis://u:PASSWORD@h"),
            ("amqp://u:s3cret@a,amqp://u:s3cret@b", "amqp://u:PASSWORD@a,amqp://u:PASSWORD@b"),
            ("sqlite:a b.db", "sqlite:a b.db"),
        ] {
            assert_eq!(without_passwords(typed), again);
        }
    }

    #[test]
    fn a_password_never_shows() {
        let url: Url = "amqp://user:s3cret@host:1234/v".parse().unwrap();
        assert_eq!(url.to_string(), "amqp://user@host:1234/v");
        assert!(!format!("{url:?}").contains("s3cret"));
        let urls = KINDS.iter().flat_map(|kind| kind.forms).filter(|form| form.prefix.ends_with("//"));
        for prefix in urls.map(|form| form.prefix) {
            for rest in ["h", "h/a/b", "h:99999/", "h/?heartbeat=x", "[h"] {
                let shown = match format!("{prefix}u:s3cret@{rest}").parse::<Url>() {
                    Ok(url) => format!("{url} {url:?}"),
                    Err(error) => format!("{error} {error:?}"),
                };
                assert!(!shown.contains("s3cret"), "{prefix}…{rest}: {shown}");
            }
        }
    }
}
