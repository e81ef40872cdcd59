//! Reads one message of a queue file.
//!
//! Other programs can write to a queue file, and disks fail, so a row may hold anything. A row that cannot be read is a
//! fault of that message alone: what can be read of it is kept, together with what is wrong.

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, MAIN_DB};
use serde_json::{Map, Value};

use crate::task::{Message, Properties};

/// Where the original text is kept when it cannot be read, in the headers of the message.
const UNREADABLE_PROPERTIES: &str = "x-wq-unreadable-properties";
const UNREADABLE_HEADERS: &str = "x-wq-unreadable-headers";

/// A message as it lies in the file.
pub struct Row {
    pub message: Message,
    /// Runs that were begun.
    pub attempts: u32,
    pub handovers: u32,
    /// The reason, if the row cannot be read. The other fields then hold its readable parts.
    pub unreadable: Option<String>,
}

impl Row {
    /// # Errors
    /// When the file fails, as opposed to this row.
    pub fn read(db: &Connection, id: i64) -> rusqlite::Result<Row> {
        let mut statement = db.prepare_cached(
            "SELECT properties, headers, attempts, handovers, available_at,
                 body.message IS NOT NULL, typeof(bytes), CASE WHEN octet_length(bytes) <= ?2 THEN bytes END
             FROM message LEFT JOIN body ON body.message = message.id WHERE message.id = ?1",
        )?;
        let mut rows = statement.query([id, COPIED])?;
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let mut faults = Vec::new();
        let (properties, unreadable_properties) = properties(row.get_ref(0)?);
        let (mut headers, unreadable_headers) = headers(row.get_ref(1)?);
        let originals = [(UNREADABLE_PROPERTIES, unreadable_properties), (UNREADABLE_HEADERS, unreadable_headers)];
        for (name, fault) in originals {
            if let Some((fault, original)) = fault {
                faults.push(fault);
                headers.insert(name.into(), original.into());
            }
        }
        let mut counts = [0; 2];
        for (at, what) in ["attempts", "hand-overs"].into_iter().enumerate() {
            match count(row.get_ref(2 + at)?) {
                Ok(count) => counts[at] = count,
                Err(value) => faults.push(format!("its count of {what} is {value}")),
            }
        }
        let ready_from = row.get_ref(4)?;
        if !matches!(ready_from, ValueRef::Integer(..=FARTHEST_TIME)) {
            faults.push(format!("the time from which it is ready is {}", shown(ready_from)));
        }
        let body = match (row.get::<_, bool>(5)?, row.get_ref(6)?.as_str()?, row.get_ref(7)?) {
            (false, _, _) => Err("it has no body".into()),
            (true, "blob" | "text", ValueRef::Blob(bytes) | ValueRef::Text(bytes)) => Ok(Bytes::copy_from_slice(bytes)),
            (true, "blob" | "text", _) => Ok(large_body(db, id)?),
            (true, other, _) => Err(format!("its body is of the type {other}")),
        };
        let body = body.unwrap_or_else(|fault| {
            faults.push(fault);
            Bytes::new()
        });
        let [attempts, handovers] = counts;
        let unreadable = (!faults.is_empty()).then(|| faults.join("; "));
        Ok(Row { message: Message { body, properties, headers }, attempts, handovers, unreadable })
    }
}

/// Up to so many bytes, copying a body costs less than opening it in place, for which SQLite compiles a program each time.
const COPIED: i64 = 32 << 10;

/// Two centuries in milliseconds. The clock and the pauses stay below half of it.
pub const FARTHEST_TIME: i64 = 200 * 365 * 24 * 3600 * 1000;

/// The reason, and the text that cannot be read.
type Fault = Option<(String, String)>;

fn properties(value: ValueRef) -> (Properties, Fault) {
    let bytes = match text(value) {
        Ok(bytes) => bytes,
        Err(kind) => return (Properties::default(), Some((format!("its properties are {kind}"), shown(value)))),
    };
    // From an array serde would take the properties in their order.
    let object = bytes.trim_ascii_start().starts_with(b"{");
    let parsed = if object { serde_json::from_slice(bytes) } else { Err(serde::de::Error::custom("not an object")) };
    match parsed {
        Ok(properties) => (properties, None),
        Err(error) => {
            // Those that are well are kept.
            let mut well: Map<String, Value> = serde_json::from_slice(bytes).unwrap_or_default();
            well.retain(|name, value| {
                let alone = Map::from_iter([(name.clone(), value.clone())]);
                serde_json::from_value::<Properties>(alone.into()).is_ok()
            });
            let properties = serde_json::from_value(well.into()).unwrap_or_default();
            (properties, Some((format!("its properties cannot be read: {error}"), lossy(bytes))))
        }
    }
}

/// The headers of a message without some of them; `None` if they cannot be read.
pub fn headers_without(db: &Connection, id: i64, without: &[&str]) -> rusqlite::Result<Option<Map<String, Value>>> {
    db.prepare_cached("SELECT headers FROM message WHERE id = ?1")?.query_row([id], |row| {
        let (mut headers, fault) = headers(row.get_ref(0)?);
        headers.retain(|name, _| !without.contains(&name.as_str()));
        Ok(fault.is_none().then_some(headers))
    })
}

fn headers(value: ValueRef) -> (Map<String, Value>, Fault) {
    let bytes = match text(value) {
        Ok(bytes) => bytes,
        Err(kind) => return (Map::new(), Some((format!("its headers are {kind}"), shown(value)))),
    };
    match serde_json::from_slice(bytes) {
        Ok(headers) => (headers, None),
        Err(error) => (Map::new(), Some((format!("its headers cannot be read: {error}"), lossy(bytes)))),
    }
}

/// It is read straight into the buffer that the message keeps: a value in a row of a result would be copied first.
fn large_body(db: &Connection, message: i64) -> rusqlite::Result<Bytes> {
    let blob = db.blob_open(MAIN_DB, "body", "bytes", message, true)?;
    let mut body = vec![0; blob.len()];
    blob.read_at_exact(&mut body, 0)?;
    Ok(body.into())
}

fn text(value: ValueRef<'_>) -> Result<&[u8], &'static str> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
        ValueRef::Null => Err("missing"),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err("a number"),
    }
}

/// Reads a count, which another program may have written. The error shows the value that is not a valid count.
fn count(value: ValueRef) -> Result<u32, String> {
    match value {
        // `u32::MAX` is refused, so that the next run still has a number.
        ValueRef::Integer(number) => {
            u32::try_from(number).ok().filter(|count| *count < u32::MAX).ok_or_else(|| number.to_string())
        }
        other => Err(shown(other)),
    }
}

/// A value for an error's text, and no more of it than that needs.
fn shown(value: ValueRef) -> String {
    const ENOUGH: usize = 100;
    match value {
        ValueRef::Null => "missing".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => lossy(&bytes[..bytes.len().min(ENOUGH)]),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
