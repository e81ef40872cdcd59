//! The fields of a frame that a publisher sets, made readable in place.
//!
//! The walk is iterative and bounded: what it reads comes from strangers.

use std::ops::Range;

/// Tables and arrays within each other. lapin's parser, our conversion to JSON and most JSON parsers recurse: 128 levels are
/// the default limit of serde_json, and lapin's thread overflows its stack at about 3,000.
pub const MAX_DEPTH: usize = 64;

/// The changes in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Bytes that are not UTF-8 became question marks.
    pub text: bool,
    /// A table or an array below [`MAX_DEPTH`] became a byte array.
    pub depth: bool,
    /// Bytes that are not valid AMQP became a byte array.
    pub malformed: bool,
}

impl Changes {
    pub fn any(self) -> bool {
        self != Changes::default()
    }
}

/// The payload of a content header: what a message says of itself.
///
/// Returns what was changed, together with what was changed of this message before, and its id if anything was.
pub fn content_header(payload: &mut [u8], before: Changes) -> (Changes, Option<String>) {
    /// Class, weight and the size of the body come first.
    const FLAGS: usize = 12;
    if payload.len() < FLAGS + 2 {
        // No broker sends this, and there is no room for a header that could be read.
        return (before, None);
    }
    let mut fields = Fields { bytes: payload, at: FLAGS, changes: before };
    let message_id = fields.properties().unwrap_or_else(|Malformed| {
        fields.changes.malformed = true;
        fields.replace_properties(FLAGS);
        MessageId::None
    });
    let changes = fields.changes;
    let message_id = match message_id {
        MessageId::At(range) if changes.any() => payload.get(range).map(lossy),
        MessageId::Hidden(id) => Some(id),
        MessageId::At(_) | MessageId::None => None,
    };
    (changes, message_id)
}

enum MessageId {
    None,
    At(Range<usize>),
    /// It was not UTF-8, and is no property any more.
    Hidden(String),
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The payload of a method. Says whether it announces a message, and what was changed.
pub fn method(payload: &mut [u8]) -> (bool, Changes) {
    use Field::{Bytes, Long, Short, Table};
    let [class_high, class_low, method_high, method_low, ..] = *payload else { return (false, Changes::default()) };
    let class = u16::from_be_bytes([class_high, class_low]);
    let method = u16::from_be_bytes([method_high, method_low]);
    // All that a broker sends and that holds text. Of the rest there is nothing to make readable.
    let layout: &[Field] = match (class, method) {
        // connection: start, open-ok, close, blocked
        (10, 10) => &[Bytes(2), Table, Long, Long],
        (10, 41 | 60) => &[Short],
        (10, 50) => &[Bytes(2), Short],
        // channel: close
        (20, 40) => &[Bytes(2), Short],
        // queue: declare-ok
        (50, 11) => &[Short],
        // basic: consume-ok, cancel, cancel-ok, get-empty
        (60, 21 | 30 | 31 | 72) => &[Short],
        // basic: return, deliver, get-ok
        (60, 50) => &[Bytes(2), Short, Short, Short],
        (60, 60) => &[Short, Bytes(9), Short, Short],
        (60, 71) => &[Bytes(9), Short, Short],
        _ => &[],
    };
    let announces = matches!((class, method), (60, 50 | 60 | 71));
    let end = payload.len();
    let mut fields = Fields { bytes: payload, at: 4, changes: Changes::default() };
    for field in layout {
        if fields.skip(*field, end).is_err() {
            // The broker's own mistake, and no publisher's: lapin says so.
            break;
        }
    }
    (announces, fields.changes)
}

/// A field runs past the end of what contains it, or is of an unknown type, or is followed by bytes that belong to no field.
struct Malformed;

#[derive(Clone, Copy)]
enum Field {
    Bytes(usize),
    Short,
    Long,
    Table,
}

/// A cursor in a payload. Each step is given the end of the enclosing table, array or payload, and never moves past it.
struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
    changes: Changes,
}

/// A table or an array that is being walked through.
#[derive(Clone, Copy)]
struct Level {
    end: usize,
    /// A table has a name before each value, an array has not.
    named: bool,
    /// Where the byte is that says what it is; the outermost table has none.
    kind_at: usize,
}

impl Fields<'_> {
    fn take(&mut self, count: usize, end: usize) -> Result<Range<usize>, Malformed> {
        let to = self.at.checked_add(count).filter(|to| *to <= end).ok_or(Malformed)?;
        let taken = self.at..to;
        self.at = to;
        Ok(taken)
    }

    fn byte(&mut self, end: usize) -> Result<u8, Malformed> {
        let at = self.take(1, end)?.start;
        Ok(self.bytes[at])
    }

    fn length(&mut self, end: usize) -> Result<usize, Malformed> {
        let mut length = 0;
        for _ in 0..4 {
            length = length << 8 | usize::from(self.byte(end)?);
        }
        Ok(length)
    }

    fn short(&mut self, end: usize) -> Result<Range<usize>, Malformed> {
        let length = self.byte(end)?;
        self.take(length.into(), end)
    }

    fn text(&mut self, end: usize) -> Result<(), Malformed> {
        let text = self.short(end)?;
        self.make_text(text);
        Ok(())
    }

    fn make_text(&mut self, range: Range<usize>) {
        let mut text = &mut self.bytes[range];
        while let Err(error) = std::str::from_utf8(text) {
            self.changes.text = true;
            let bad = error.valid_up_to()..error.error_len().map_or(text.len(), |bad| error.valid_up_to() + bad);
            text[bad.clone()].fill(b'?');
            text = &mut text[bad.end..];
        }
    }

    fn skip(&mut self, field: Field, end: usize) -> Result<(), Malformed> {
        match field {
            Field::Bytes(count) => self.take(count, end).map(drop),
            Field::Short => self.text(end),
            Field::Long => {
                let length = self.length(end)?;
                self.take(length, end).map(drop)
            }
            Field::Table => self.table(end),
        }
    }

    /// The properties of a message, from their flags on.
    fn properties(&mut self) -> Result<MessageId, Malformed> {
        use Field::{Bytes, Short, Table};
        /// In the order of their flags, the highest first.
        const PROPERTIES: [Field; 14] =
            [Short, Short, Table, Bytes(1), Bytes(1), Short, Short, Short, Short, Bytes(8), Short, Short, Short, Short];
        const EXPIRATION: usize = 7;
        const MESSAGE_ID: usize = 8;
        let end = self.bytes.len();
        let flags_at = self.at;
        let flags = u16::from_be_bytes([self.byte(end)?, self.byte(end)?]);
        let mut message_id = MessageId::None;
        let mut expiration_at = None;
        for (number, field) in PROPERTIES.into_iter().enumerate() {
            let at = self.at;
            match number {
                _ if flags & 0x8000 >> number == 0 => {}
                MESSAGE_ID => {
                    let id = self.short(end)?;
                    message_id = match std::str::from_utf8(&self.bytes[id.clone()]) {
                        Ok(_) => MessageId::At(id),
                        Err(_) => self.hide_message_id(flags_at, expiration_at.unwrap_or(at), id),
                    };
                }
                _ => {
                    if number == EXPIRATION {
                        expiration_at = Some(at);
                    }
                    self.skip(field, end)?;
                }
            }
        }
        if self.at == end { Ok(message_id) } else { Err(Malformed) }
    }

    /// Turns a message id that is not UTF-8 into a part of the expiration, which comes before it and is no longer needed.
    ///
    /// With question marks, two ids could become the same, and the result of one message would replace the other's. An id that
    /// does not fit into the expiration gets question marks all the same.
    fn hide_message_id(&mut self, flags_at: usize, expiration_at: usize, id: Range<usize>) -> MessageId {
        const EXPIRATION: u16 = 1 << 8;
        const MESSAGE_ID: u16 = 1 << 7;
        let hidden = lossy(&self.bytes[id.clone()]);
        let text = expiration_at + 1..id.end;
        let Ok(length) = u8::try_from(text.len()) else {
            self.make_text(id.clone());
            return MessageId::At(id);
        };
        self.bytes[expiration_at] = length;
        self.make_text(text);
        let flags = u16::from_be_bytes([self.bytes[flags_at], self.bytes[flags_at + 1]]);
        let flags = flags & !MESSAGE_ID | EXPIRATION;
        self.bytes[flags_at..flags_at + 2].copy_from_slice(&flags.to_be_bytes());
        MessageId::Hidden(hidden)
    }

    fn table(&mut self, end: usize) -> Result<(), Malformed> {
        let length = self.length(end)?;
        let outermost = self.take(length, end)?;
        self.at = outermost.start;
        let mut levels = [Level { end: outermost.end, named: true, kind_at: 0 }; MAX_DEPTH];
        let mut depth = 1;
        while depth > 0 {
            let level = levels[depth - 1];
            if self.at == level.end {
                depth -= 1;
                continue;
            }
            let entry = self.at;
            match self.entry(level) {
                Ok(None) => {}
                Ok(Some(inner)) if depth < MAX_DEPTH => {
                    levels[depth] = inner;
                    depth += 1;
                }
                Ok(Some(inner)) => {
                    self.changes.depth = true;
                    self.make_bytes(inner);
                }
                Err(Malformed) => {
                    self.changes.malformed = true;
                    depth -= 1;
                    if depth == 0 {
                        self.replace_entries(entry, level.end)?;
                    } else {
                        self.make_bytes(level);
                    }
                }
            }
        }
        Ok(())
    }

    /// Steps over one entry, or into it if it holds others.
    fn entry(&mut self, level: Level) -> Result<Option<Level>, Malformed> {
        if level.named {
            self.text(level.end)?;
        }
        let kind_at = self.at;
        let kind = self.byte(level.end)?;
        let length = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' | b'F' | b'A' => self.length(level.end)?,
            _ => return Err(Malformed),
        };
        let value = self.take(length, level.end)?;
        if !matches!(kind, b'F' | b'A') {
            return Ok(None);
        }
        self.at = value.start;
        Ok(Some(Level { end: value.end, named: kind == b'F', kind_at }))
    }

    /// A table, an array and a byte array differ in nothing but this byte.
    fn make_bytes(&mut self, level: Level) {
        self.bytes[level.kind_at] = b'x';
        self.at = level.end;
    }

    /// Makes one entry of the rest of the outermost table.
    fn replace_entries(&mut self, from: usize, end: usize) -> Result<(), Malformed> {
        let rest = &mut self.bytes[from..end];
        match rest.len() {
            // Too short for any entry.
            ..2 => return Err(Malformed),
            // A name, and nothing.
            count @ 2..7 => {
                rest.fill(b'?');
                rest[0] = count as u8 - 2;
                rest[count - 1] = b'V';
            }
            // A name of one byte, and bytes.
            count => {
                rest[..3].copy_from_slice(&[1, b'?', b'x']);
                rest[3..7].copy_from_slice(&(count as u32 - 7).to_be_bytes());
            }
        }
        self.at = end;
        Ok(())
    }

    /// Makes one property of all of them.
    fn replace_properties(&mut self, flags_at: usize) {
        const HEADERS: u16 = 1 << 13;
        /// Nobody reads it.
        const CLUSTER_ID: u16 = 1 << 2;
        let from = flags_at + 2;
        let end = self.bytes.len();
        let flags = match end - from {
            0 => 0,
            count @ 1..=256 => {
                self.bytes[from] = (count - 1) as u8;
                self.make_text(from + 1..end);
                CLUSTER_ID
            }
            count => {
                self.bytes[from..from + 4].copy_from_slice(&(count as u32 - 4).to_be_bytes());
                // There are more than 250 bytes, so that it fits.
                let _ = self.replace_entries(from + 4, end);
                HEADERS
            }
        };
        self.bytes[flags_at..from].copy_from_slice(&flags.to_be_bytes());
        self.at = end;
    }
}
