//! The broker's name and version, as it gives them in the `connection.start` method that opens a connection.

use std::fmt;

use lapin::protocol::{AMQPClass, connection, parse_class};
use lapin::types::AMQPValue;

/// A broker's name and version. Both are empty if it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    product: String,
    version: String,
}

impl Server {
    /// Reads the method with which a connection begins; `None` for any other one.
    pub fn read(method: &[u8]) -> Option<Server> {
        let Ok((_, AMQPClass::Connection(method))) = parse_class(method) else { return None };
        let connection::AMQPMethod::Start(start) = method else { return None };
        let text = |name: &str| match start.server_properties.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        };
        Some(Server { product: text("product"), version: text("version") })
    }

    /// Whether the words of its refusals are known, and what it refuses.
    pub fn is_rabbitmq(&self) -> bool {
        self.product == "RabbitMQ"
    }

    pub fn is_since(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.split('.').map_while(|number| number.parse().ok());
        let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        self.is_rabbitmq() && version >= (major, minor)
    }

    /// Whether a message that is given back by a nack may be counted as handed over. RabbitMQ does that up to 4.2, in quorum
    /// queues; of other brokers we do not know.
    pub fn may_count_returns(&self) -> bool {
        !self.is_since(4, 3)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.product.as_str(), self.version.as_str()) {
            ("", _) => f.write_str("an unknown broker"),
            (product, "") => f.write_str(product),
            (product, version) => write!(f, "{product} {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_takes_messages_back_for_free_is_told_by_its_version() {
        let counts = |product: &str, version: &str| {
            Server { product: product.into(), version: version.into() }.may_count_returns()
        };
        for version in ["4.3.0", "4.3.6", "4.10.1", "5.0.0-beta.1"] {
            assert!(!counts("RabbitMQ", version), "{version}");
        }
        for version in ["3.10.8", "3.13.7", "4.0.5", "4.2.99", "", "four"] {
            assert!(counts("RabbitMQ", version), "{version}");
        }
        assert!(counts("LavinMQ", "4.3.0") && Server::default().may_count_returns());
    }

    #[test]
    fn a_broker_is_shown_by_name_and_version() {
        let server = Server { product: "RabbitMQ".into(), version: "3.10.8".into() };
        assert_eq!(server.to_string(), "RabbitMQ 3.10.8");
        assert!(server.is_since(3, 10) && server.is_since(2, 99) && !server.is_since(3, 11));
        assert_eq!(Server::default().to_string(), "an unknown broker");
    }
}
