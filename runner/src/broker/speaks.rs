//! Finds out which protocol a server speaks after a handshake with it failed: the port may belong to another server.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A protocol that is known by the first bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Amqp,
    /// RESP, which Valkey speaks too.
    Redis,
    Http,
    Tls,
}

/// For a connection and its answer. A host that does not answer holds up each try by so much.
const WITHIN: Duration = Duration::from_secs(1);

/// A line that every server with a protocol of lines answers, and that changes nothing anywhere. AMQP's answer to all that it
/// does not know is its own header.
const LINE: &[u8] = b"PING / HTTP/1.0\r\n\r\n";

/// Asks a server over connections of its own. `None` if it does not say, or says something else.
pub async fn ask(host: &str, port: u16) -> Option<Protocol> {
    let answer = answer(host, port, LINE).await?;
    if !answer.is_empty() {
        return recognised(&answer);
    }
    // Not every server with TLS answers what is not TLS.
    recognised(&self::answer(host, port, &hello()).await?)
}

/// The beginning of an answer; nothing if the server ends the connection instead.
async fn answer(host: &str, port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let asking = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(question).await.ok()?;
        let mut answer = vec![0; 64];
        let count = stream.read(&mut answer).await.unwrap_or(0);
        answer.truncate(count);
        Some(answer)
    };
    tokio::time::timeout(WITHIN, asking).await.ok().flatten()
}

/// The shortest beginning of TLS 1.2.
fn hello() -> Vec<u8> {
    // A record with a greeting, and the version; 32 bytes that are random elsewhere; no session, one suite of ciphers
    // (ECDHE-RSA-AES128-GCM-SHA256), no compression.
    [&[22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[0; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat()
}

fn recognised(answer: &[u8]) -> Option<Protocol> {
    match answer {
        // Its protocol header, or the frame with which a connection begins.
        [b'A', b'M', b'Q', b'P', ..] | [1, 0, 0, ..] => Some(Protocol::Amqp),
        [b'+' | b'-', b'A'..=b'Z', ..] => Some(Protocol::Redis),
        // A server of HTTP 0.9 answers with the page alone.
        [b'H', b'T', b'T', b'P', b'/', ..] | [b'<', b'!' | b'h' | b'H', ..] => Some(Protocol::Http),
        // An alert, or a part of a handshake.
        [21 | 22, 3, ..] => Some(Protocol::Tls),
        _ => None,
    }
}

/// Says it of a server that "speaks" it.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Amqp => "AMQP",
            Protocol::Redis => "the protocol of Redis",
            Protocol::Http => "HTTP",
            Protocol::Tls => "TLS",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_known_by_its_first_bytes() {
        for (answer, protocol) in [
            (&b"AMQP\0\0\x09\x01"[..], Some(Protocol::Amqp)),
            (b"-ERR wrong number of arguments for 'ping' command\r\n", Some(Protocol::Redis)),
            (b"-NOAUTH Authentication required.\r\n", Some(Protocol::Redis)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Protocol::Http)),
            (b"\x15\x03\x01\0\x02\x02\x46", Some(Protocol::Tls)),
            (b"220 mail.example ESMTP\r\n", None),
            (b"", None),
        ] {
            assert_eq!(recognised(answer), protocol, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_not_waited_for() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(ask("127.0.0.1", silent.local_addr().unwrap().port()).await, None);
    }
}
