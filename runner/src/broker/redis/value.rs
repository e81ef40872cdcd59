//! What a server answers, taken apart.
//!
//! Our own scripts make most answers, so a server whose answer has another shape is not a Redis.

use bytes::Bytes;
use redis::Value;

use crate::broker::error::Error;

/// A name and its value, both of them any bytes.
pub type Field = (Vec<u8>, Bytes);

fn strange() -> Error {
    Error::Broken { reason: "the server's answer does not fit the question: is it a Redis?".into() }
}

pub fn list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(strange()),
    }
}

/// A list of so many values.
pub fn parts<const N: usize>(value: Value) -> Result<[Value; N], Error> {
    list(value)?.try_into().map_err(|_| strange())
}

pub fn bytes(value: Value) -> Result<Vec<u8>, Error> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        _ => Err(strange()),
    }
}

pub fn text(value: Value) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&bytes(value)?).into_owned())
}

pub fn texts(value: Value) -> Result<Vec<String>, Error> {
    list(value)?.into_iter().map(text).collect()
}

pub fn number(value: Value) -> Result<i64, Error> {
    match value {
        Value::Int(number) => Ok(number),
        other => text(other)?.parse().map_err(|_| strange()),
    }
}

/// As [`number`], for what is never negative.
pub fn count(value: Value) -> Result<u64, Error> {
    Ok(number(value)?.try_into().unwrap_or(0))
}

/// Names and values in turns.
pub fn fields(value: Value) -> Result<Vec<Field>, Error> {
    let values = list(value)?;
    let mut fields = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter();
    while let Some(name) = values.next() {
        fields.push((bytes(name)?, bytes(values.next().ok_or_else(strange)?)?.into()));
    }
    Ok(fields)
}
