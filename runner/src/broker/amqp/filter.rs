//! Makes readable what strangers put into a message, in the bytes from the broker and before lapin sees them.
//!
//! A publisher may send names and properties that are not UTF-8, and tables within tables as deep as a frame holds. RabbitMQ
//! hands them on as they are. lapin takes the first for the end of the connection, and overflows its stack by the second:
//! one such message would stop every worker, each time anew. So all that comes from a broker goes through here. Nothing
//! changes its length, so that a frame stays where it is.
//!
//! Bodies, which are nearly all of the bytes, are not looked at. A frame that arrives whole is looked at where it lies; one
//! that arrives in pieces is held back until it is complete.

mod fields;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::fields::{Changes, MAX_DEPTH};
pub use self::server::Server;

/// Type, channel and size come before a payload.
const HEAD: usize = 7;
/// One byte comes after it.
const TAIL: usize = 1;

/// The bytes of one connection, from the broker to us.
#[derive(Debug)]
pub struct Filter {
    /// A frame that is larger is refused.
    largest: usize,
    /// So many of the next bytes pass as they are.
    passing: usize,
    held: Held,
    /// The changes in a method, until the header of its message comes on the same channel.
    announced: Option<(u16, Changes)>,
    noticed: Vec<Notice>,
    refused: Option<Refused>,
    /// Who is at the other end, until somebody asks.
    server: Option<Server>,
}

/// A frame that arrived in part.
#[derive(Debug, Default)]
struct Held {
    /// As long as what is waited for: first the head, then all of the frame. Empty if nothing is held.
    bytes: Vec<u8>,
    arrived: usize,
    /// May be handed on.
    ready: bool,
    handed: usize,
}

/// A message that was changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Notice {
    pub changes: Changes,
    /// As far as it can be read.
    pub message_id: Option<String>,
}

/// A frame that is not held. It has this many bytes, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The headers of a message. The broker would send them again on the next connection.
    #[error("frame too large: {0} bytes")]
    TooLarge(usize),
    /// No broker sends such a frame: its length was damaged. The next connection may do.
    #[error("a damaged frame: it claims {0} bytes")]
    Damaged(usize),
}

impl Refused {
    /// RabbitMQ takes no message that is larger, whatever its configuration says. In bytes.
    const LARGEST_MESSAGE: usize = 512 << 20;

    fn new(kind: u8, length: usize) -> Refused {
        const HEADER: u8 = 2;
        if kind == HEADER && length <= Refused::LARGEST_MESSAGE {
            Refused::TooLarge(length)
        } else {
            Refused::Damaged(length)
        }
    }
}

/// A part of the stream.
enum Unit {
    /// More bytes are needed to tell.
    Unknown,
    /// Nothing to look at in all of these bytes.
    Opaque(usize),
    /// To be looked at as a whole.
    Frame(usize),
}

impl Filter {
    /// `frame_max` is what was agreed upon. RabbitMQ splits bodies by it, but sends larger headers all the same; lapin then
    /// tells what is wrong, if its buffer has room for them.
    pub fn new(frame_max: usize) -> Filter {
        const FRAMES: usize = 16;
        Filter {
            largest: frame_max.saturating_mul(FRAMES),
            passing: 0,
            held: Held::default(),
            announced: None,
            noticed: Vec::new(),
            refused: None,
            server: None,
        }
    }

    /// Looks at bytes that came in, and returns how many of them, from the first on, may be handed on. The rest is held.
    ///
    /// Nothing may be held before.
    pub fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            if self.passing > 0 {
                let count = self.passing.min(rest.len());
                self.passing -= count;
                at += count;
                continue;
            }
            match unit(rest) {
                Unit::Opaque(length) => self.passing = length,
                Unit::Frame(length) if length > self.largest => {
                    self.refused = Some(Refused::new(rest[0], length));
                    break;
                }
                Unit::Frame(length) if length <= rest.len() => {
                    self.look_at(&mut rest[..length]);
                    at += length;
                }
                Unit::Frame(length) => {
                    self.held.hold(rest, length);
                    break;
                }
                Unit::Unknown => {
                    self.held.hold(rest, HEAD);
                    break;
                }
            }
        }
        at
    }

    /// Where the next bytes go while a frame is held: so many, and no more.
    pub fn missing(&mut self) -> Option<&mut [u8]> {
        let Held { bytes, arrived, ready, .. } = &mut self.held;
        if *ready || bytes.is_empty() { None } else { Some(&mut bytes[*arrived..]) }
    }

    /// So many bytes came into [`missing`](Filter::missing).
    pub fn arrived(&mut self, count: usize) {
        let held = &mut self.held;
        held.arrived = held.bytes.len().min(held.arrived + count);
        if held.arrived < held.bytes.len() {
            return;
        }
        if held.bytes.len() == HEAD {
            match unit(&held.bytes) {
                Unit::Frame(length) if length > self.largest => {
                    self.refused = Some(Refused::new(held.bytes[0], length));
                    held.clear();
                }
                Unit::Frame(length) => held.bytes.resize(length, 0),
                Unit::Opaque(length) => {
                    self.passing = length.saturating_sub(HEAD);
                    held.ready = true;
                }
                // Cannot happen: a whole head is enough to tell.
                Unit::Unknown => held.ready = true,
            }
            return;
        }
        let mut frame = std::mem::take(&mut held.bytes);
        self.look_at(&mut frame);
        self.held.bytes = frame;
        self.held.ready = true;
    }

    /// Hands on what was held; 0 if there is nothing.
    pub fn hand_on(&mut self, to: &mut [u8]) -> usize {
        let held = &mut self.held;
        if !held.ready {
            return 0;
        }
        let rest = &held.bytes[held.handed..];
        let count = rest.len().min(to.len());
        to[..count].copy_from_slice(&rest[..count]);
        held.handed += count;
        if held.handed == held.bytes.len() {
            held.clear();
        }
        count
    }

    /// The frame that ended the stream. All bytes before it were handed on.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Who is at the other end, once it has said so.
    pub fn server(&mut self) -> Option<Server> {
        self.server.take()
    }

    /// The next message that was changed.
    pub fn notice(&mut self) -> Option<Notice> {
        self.noticed.pop()
    }

    fn look_at(&mut self, frame: &mut [u8]) {
        const METHOD: u8 = 1;
        /// Connection, start.
        const START: [u8; 4] = [0, 10, 0, 10];
        let [kind, channel_high, channel_low, ..] = *frame else { return };
        let channel = u16::from_be_bytes([channel_high, channel_low]);
        let end = frame.len().saturating_sub(TAIL).max(HEAD);
        let Some(payload) = frame.get_mut(HEAD..end) else { return };
        if kind == METHOD {
            let (announces, changes) = fields::method(payload);
            if announces && changes.any() {
                self.announced = Some((channel, changes));
            }
            if payload.starts_with(&START) {
                self.server = Server::read(payload);
            }
            return;
        }
        let before = self.announced.take_if(|(announced, _)| *announced == channel);
        let before = before.map_or(Changes::default(), |(_, changes)| changes);
        let (changes, message_id) = fields::content_header(payload, before);
        if changes.any() {
            self.noticed.push(Notice { changes, message_id });
        }
    }
}

impl Held {
    fn hold(&mut self, bytes: &[u8], awaited: usize) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.arrived = self.bytes.len();
        self.bytes.resize(awaited, 0);
    }

    /// Keeps its room for the next frame.
    fn clear(&mut self) {
        self.bytes.clear();
        self.arrived = 0;
        self.handed = 0;
        self.ready = false;
    }
}

fn unit(bytes: &[u8]) -> Unit {
    match *bytes {
        [] => Unit::Unknown,
        // The protocol header of a broker that speaks another version.
        [b'A', ..] => Unit::Opaque(8),
        // A method, a header, a body, a heartbeat.
        [1 | 2 | 3 | 8, ref rest @ ..] => match *rest {
            [_, _, a, b, c, d, ..] => {
                let size = u32::from_be_bytes([a, b, c, d]) as usize;
                let length = size.saturating_add(HEAD + TAIL);
                if matches!(bytes[0], 1 | 2) { Unit::Frame(length) } else { Unit::Opaque(length) }
            }
            _ => Unit::Unknown,
        },
        // No frame of AMQP: lapin ends the connection here.
        _ => Unit::Opaque(usize::MAX),
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Changes { text, depth, malformed } = self.changes;
        let reasons = [
            (text, "text that is not UTF-8: its bytes became question marks".to_owned()),
            (depth, format!("tables nested more than {MAX_DEPTH} deep: they became byte arrays")),
            (malformed, "fields that are not valid AMQP: they became byte arrays".to_owned()),
        ];
        let reasons: Vec<String> = reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect();
        write!(f, "the properties of a message hold {}", reasons.join("; "))
    }
}

/// All that comes through a filter, if the stream arrives in pieces of this size. For tests and fuzzing.
#[doc(hidden)]
pub fn filtered(stream: &[u8], piece: usize, frame_max: usize) -> (Vec<u8>, Vec<Notice>) {
    let mut filter = Filter::new(frame_max);
    let mut passed = Vec::new();
    let mut notices = Vec::new();
    let mut left = stream;
    let mut buffer = vec![0; piece.max(1)];
    while filter.refused().is_none() {
        notices.extend(std::iter::from_fn(|| filter.notice()));
        let handed = filter.hand_on(&mut buffer);
        if handed > 0 {
            passed.extend_from_slice(&buffer[..handed]);
            continue;
        }
        if left.is_empty() {
            break;
        }
        if let Some(missing) = filter.missing() {
            let count = missing.len().min(left.len()).min(piece.max(1));
            missing[..count].copy_from_slice(&left[..count]);
            filter.arrived(count);
            left = &left[count..];
            continue;
        }
        let count = buffer.len().min(left.len());
        buffer[..count].copy_from_slice(&left[..count]);
        left = &left[count..];
        let count = filter.pass(&mut buffer[..count]);
        passed.extend_from_slice(&buffer[..count]);
    }
    (passed, notices)
}
