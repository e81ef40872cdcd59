//! AMQP by hand, for messages that no well-behaved client can send.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::PATIENCE;

/// A connection with one channel, in confirm mode.
pub struct Wire(TcpStream);

/// Properties as they are on the wire, by the bit of their flag. To be set in the order of the specification.
#[derive(Clone, Default)]
pub struct Raw {
    flags: u16,
    bytes: Vec<u8>,
}

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

impl Wire {
    pub fn connect(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut wire = Wire(stream);
        wire.0.write_all(b"AMQP\0\0\x09\x01").expect("sent");
        wire.expect(10, 10);
        let login = b"\0guest\0guest";
        let start_ok = [&0u32.to_be_bytes()[..], &short(b"PLAIN"), &long(login), &short(b"en_US")].concat();
        wire.method(0, 10, 11, &start_ok);
        let tune = wire.expect(10, 30);
        // The same numbers, but for the heartbeat: there is none.
        wire.method(0, 10, 31, &[&tune[..6], &[0, 0]].concat());
        wire.method(0, 10, 40, &[short(b"/"), vec![0, 0]].concat());
        wire.expect(10, 41);
        wire.method(1, 20, 10, &[0]);
        wire.expect(20, 11);
        wire.method(1, 85, 10, &[0]);
        wire.expect(85, 11);
        wire
    }

    /// Publishes, and waits for the confirmation; or says why the broker does not take it.
    pub fn publish(&mut self, exchange: &[u8], key: &[u8], properties: &Raw, body: &[u8]) -> Result<(), String> {
        self.method(1, 60, 40, &[&[0, 0], &short(exchange)[..], &short(key), &[0]].concat());
        let size = (body.len() as u64).to_be_bytes();
        let fixed = [&[0, 60, 0, 0], &size[..], &properties.flags.to_be_bytes()].concat();
        self.frame(HEADER, 1, &[fixed, properties.bytes.clone()].concat());
        self.frame(BODY, 1, body);
        match self.read() {
            (60, 80, _) => Ok(()),
            (_, _, refusal) => Err(String::from_utf8_lossy(&refusal).into_owned()),
        }
    }

    /// Binds a queue to a topic exchange, with a key of any bytes.
    pub fn bind(&mut self, queue: &str, exchange: &str, key: &[u8]) {
        let names = [short(queue.as_bytes()), short(exchange.as_bytes()), short(key)].concat();
        self.method(1, 50, 20, &[&[0, 0], &names[..], &[0, 0, 0, 0, 0]].concat());
        self.expect(50, 21);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, fields: &[u8]) {
        self.frame(METHOD, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), fields].concat());
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = (payload.len() as u32).to_be_bytes();
        let frame = [&[kind], &channel.to_be_bytes()[..], &size, payload, &[0xce]].concat();
        self.0.write_all(&frame).expect("sent");
    }

    fn expect(&mut self, class: u16, method: u16) -> Vec<u8> {
        let (got_class, got_method, fields) = self.read();
        assert_eq!((got_class, got_method), (class, method), "{}", String::from_utf8_lossy(&fields));
        fields
    }

    fn read(&mut self) -> (u16, u16, Vec<u8>) {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).expect("an answer");
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.0.read_exact(&mut payload).expect("an answer");
            payload.pop();
            if head[0] == METHOD {
                let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
                return (number(0), number(2), payload[4..].to_vec());
            }
        }
    }
}

impl Raw {
    /// Persistent, with nothing else.
    pub fn persistent() -> Raw {
        Raw::default().with(12, &[2])
    }

    pub fn content_type(text: &[u8]) -> Raw {
        Raw::default().with(15, &short(text)).with(12, &[2])
    }

    /// The entries of the table as they are.
    pub fn headers(entries: &[u8]) -> Raw {
        Raw::default().with(13, &long(entries)).with(12, &[2])
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn message_id(self, id: &[u8]) -> Raw {
        self.with(7, &short(id))
    }

    fn with(mut self, bit: u16, bytes: &[u8]) -> Raw {
        self.flags |= 1 << bit;
        self.bytes.extend_from_slice(bytes);
        self
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}
