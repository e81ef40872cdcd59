//! What a broker says of itself when it greets us.

use std::fmt;

/// A broker's name and version, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    product: Option<String>,
    version: Option<String>,
}

impl Server {
    /// Reads the arguments of `connection.start`. Its first table is about the broker.
    pub fn read(greeting: &[u8]) -> Server {
        Server { product: text(greeting, "product"), version: text(greeting, "version") }
    }

    /// Whether the words of its refusals are known, and what it refuses.
    pub fn is_rabbitmq(&self) -> bool {
        self.product.as_deref() == Some("RabbitMQ")
    }

    pub fn is_since(&self, major: u32, minor: u32) -> bool {
        let mut numbers =
            self.version.iter().flat_map(|version| version.split('.')).map_while(|part| part.parse().ok());
        let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        self.is_rabbitmq() && version >= (major, minor)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.product.as_deref().unwrap_or("an unknown broker"))?;
        self.version.iter().try_for_each(|version| write!(f, " {version}"))
    }
}

/// The text of this name in a table: its length and the name, the type `S`, a length of four bytes, and the text.
fn text(table: &[u8], name: &str) -> Option<String> {
    let entry = [&[name.len() as u8], name.as_bytes(), b"S"].concat();
    let at = table.windows(entry.len()).position(|window| *window == entry)? + entry.len();
    let (length, rest) = table[at..].split_first_chunk::<4>()?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = b"\x00\x09\x00\x00\x00\x00".to_vec();
        for (name, value) in entries {
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
            bytes.push(b'S');
            bytes.extend((value.len() as u32).to_be_bytes());
            bytes.extend(value.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_broker_is_known_by_its_greeting() {
        let server = Server::read(&greeting(&[("cluster_name", "x"), ("product", "RabbitMQ"), ("version", "3.10.8")]));
        assert_eq!(server.to_string(), "RabbitMQ 3.10.8");
        assert!(server.is_rabbitmq() && server.is_since(3, 10) && server.is_since(2, 99));
        assert!(!server.is_since(3, 11) && !server.is_since(4, 0));
        let other = Server::read(&greeting(&[("product", "LavinMQ"), ("version", "4.0.0")]));
        assert!(!other.is_rabbitmq() && !other.is_since(4, 0));
    }

    #[test]
    fn a_greeting_that_is_cut_off_is_of_an_unknown_broker() {
        let whole = greeting(&[("product", "RabbitMQ")]);
        for length in 0..whole.len() {
            assert_eq!(Server::read(&whole[..length]), Server::default());
        }
        assert_eq!(Server::default().to_string(), "an unknown broker");
    }
}
