//! Resolves what is published, and refuses what the broker cannot do with it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::target::Target;
use crate::broker::BrokerKind;
use crate::cli;
use crate::error::Error;
use crate::task::{Message, Properties};

/// All that `publish` needs.
#[derive(Debug)]
pub struct Publish {
    pub target: Target,
    pub from: From,
    pub delay: Duration,
    pub stamp: Stamp,
}

/// Where messages come from.
#[derive(Debug)]
pub enum From {
    Arguments(Vec<String>),
    File(PathBuf),
    Lines { path: PathBuf, json: bool },
}

/// What every message gets.
#[derive(Debug)]
pub struct Stamp {
    properties: Properties,
    headers: Map<String, Value>,
}

impl Publish {
    pub fn resolve(typed: cli::Publish) -> Result<Publish, Error> {
        let target = Target::resolve(&typed.broker)?;
        let kind = target.broker.kind();
        check(kind, typed.delay, typed.expiration)?;
        if typed.message_id.is_some() && typed.messages.len() > 1 {
            let hint = "leave --message-id out: each message gets an id of its own";
            return Err(Error::configuration("several messages can't have the same id", hint));
        }
        let stdin = || PathBuf::from("-");
        let from = match (typed.lines, typed.json) {
            (None, false) if !typed.messages.is_empty() => From::Arguments(typed.messages),
            (None, false) => From::File(typed.file.unwrap_or_else(stdin)),
            (path, json) => From::Lines { path: path.unwrap_or_else(stdin), json },
        };
        let properties = Properties {
            message_id: typed.message_id,
            correlation_id: typed.correlation_id,
            reply_to: typed.reply_to,
            content_type: typed.content_type,
            kind: typed.kind,
            priority: typed.priority,
            expiration: typed.expiration.map(|time| time.as_millis().to_string()),
            ..Properties::default()
        };
        let headers = typed.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        Ok(Publish { target, from, delay: typed.delay.unwrap_or_default(), stamp: Stamp { properties, headers } })
    }
}

/// Refuses what this kind of broker can't do.
fn check(kind: &BrokerKind, delay: Option<Duration>, expiration: Option<Duration>) -> Result<(), Error> {
    let name = kind.name;
    if let (Some(longest), Some(delay)) = (kind.capabilities.longest_delay, delay)
        && delay > longest
    {
        let longest = humantime::format_duration(longest);
        return Err(Error::configuration(
            format!("{name} delays a message for {longest} at most"),
            "use a shorter --delay",
        ));
    }
    if expiration.is_some() && !kind.capabilities.expiration {
        return Err(Error::configuration(format!("{name} lets no single message expire"), "leave --expiration out"));
    }
    Ok(())
}

impl Stamp {
    pub fn message(&self, body: Bytes) -> Message {
        self.on(Message { body, ..Message::default() })
    }

    /// Adds what was typed to a message. It wins over what the message has.
    pub fn on(&self, mut message: Message) -> Message {
        let typed = self.properties.clone();
        let had = message.properties;
        message.properties = Properties {
            // Every message has an identity, so that its results can be told apart from those of a copy.
            message_id: typed.message_id.or(had.message_id).or_else(|| Some(uuid::Uuid::now_v7().to_string())),
            correlation_id: typed.correlation_id.or(had.correlation_id),
            reply_to: typed.reply_to.or(had.reply_to),
            content_type: typed.content_type.or(had.content_type),
            kind: typed.kind.or(had.kind),
            priority: typed.priority.or(had.priority),
            expiration: typed.expiration.or(had.expiration),
            ..had
        };
        for (name, value) in &self.headers {
            message.headers.insert(name.clone(), value.clone());
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::KINDS;

    #[test]
    fn what_a_broker_cannot_do_with_a_message_is_refused_with_a_hint_that_names_the_flag() {
        const HOUR: Duration = Duration::from_secs(3600);
        let mut capabilities = KINDS[0].capabilities;
        capabilities.longest_delay = Some(HOUR);
        capabilities.expiration = false;
        let kind = BrokerKind { name: "the poor one", capabilities, ..*KINDS[0] };
        let refused = |delay, expiration| check(&kind, delay, expiration).err().and_then(|error| error.hint());
        assert_eq!(refused(Some(HOUR), None), None);
        assert!(refused(Some(2 * HOUR), None).unwrap().contains("--delay"));
        assert!(refused(None, Some(HOUR)).unwrap().contains("--expiration"));
    }

    #[test]
    fn what_was_typed_wins_over_what_a_message_has() {
        let stamp = Stamp {
            properties: Properties { kind: Some("typed".into()), ..Properties::default() },
            headers: Map::from_iter([("h".to_owned(), "typed".into())]),
        };
        let had = Properties { kind: Some("had".into()), message_id: Some("m".into()), ..Properties::default() };
        let headers = Map::from_iter([("h".to_owned(), "had".into()), ("other".to_owned(), 1.into())]);
        let message = stamp.on(Message { body: "b".into(), properties: had, headers });
        assert_eq!(
            (message.properties.kind.as_deref(), message.properties.message_id.as_deref()),
            (Some("typed"), Some("m"))
        );
        assert_eq!((&message.headers["h"], &message.headers["other"]), (&"typed".into(), &1.into()));
        assert!(stamp.message("b".into()).properties.message_id.is_some());
    }
}
