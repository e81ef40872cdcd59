//! Messages that people publish, as AMQP has them: with any JSON in their headers.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Value};

use super::convert;
use super::death;
use crate::task::Properties;

/// The properties of a message for the wire. A header that is the broker's to write is left out: it was copied from another
/// message, and a broker that reads it back may not get the types that it wrote.
///
/// # Errors
/// When a value is longer than AMQP takes; says which.
pub fn native(properties: &Properties, headers: &Map<String, Value>) -> Result<BasicProperties, String> {
    let mut stamped = properties.clone();
    stamped.stamp();
    let theirs = headers.iter().filter(|(name, _)| !is_the_brokers(name));
    let native = convert::native(&stamped, table(theirs)?)?;
    Ok(match &properties.expiration {
        None => native,
        Some(millis) if millis.parse::<u32>().is_ok() => native.with_expiration(short(millis)?),
        Some(other) => return Err(format!("its expiration is `{other}` and no number of milliseconds")),
    })
}

fn is_the_brokers(name: &str) -> bool {
    convert::NOT_REPUBLISHED.contains(&name) || death::HEADERS.contains(&name)
}

fn table<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(short(name)?, field(value)?);
    }
    Ok(table)
}

fn field(value: &Value) -> Result<AMQPValue, String> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => AMQPValue::LongLongInt(number),
            (None, Some(number)) => AMQPValue::Double(number),
            (None, None) => AMQPValue::LongString(number.to_string().into()),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => AMQPValue::FieldArray(values.iter().map(field).collect::<Result<Vec<_>, _>>()?.into()),
        Value::Object(entries) => AMQPValue::FieldTable(table(entries.iter())?),
    })
}

fn short(text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|_| "the name of a header is longer than 255 bytes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_kinds_and_those_of_the_broker_stay_behind() {
        let headers: Map<String, Value> = serde_json::from_str(
            r#"{"n": -3, "f": 0.5, "t": "ä", "b": true, "l": [1, {"deep": null}], "x-death": [], "x-delivery-count": 7, "CC": ["q"]}"#,
        )
        .unwrap();
        let native = native(&Properties::default(), &headers).unwrap();
        let back = convert::headers(&native);
        let kept: Map<String, Value> =
            serde_json::from_str(r#"{"n": -3, "f": 0.5, "t": "ä", "b": true, "l": [1, {"deep": null}]}"#).unwrap();
        assert_eq!(back, kept);
    }

    #[test]
    fn what_amqp_does_not_take_is_an_error_and_no_panic() {
        let long = Map::from_iter([("x".repeat(256), Value::Null)]);
        assert!(native(&Properties::default(), &long).unwrap_err().contains("255"));
        let nested = Map::from_iter([("a".to_owned(), Value::Object(long))]);
        assert!(native(&Properties::default(), &nested).is_err());
        let expiring = |text: &str| Properties { expiration: Some(text.into()), ..Properties::default() };
        assert!(native(&expiring("soon"), &Map::new()).unwrap_err().contains("soon"));
        assert!(native(&expiring("1000"), &Map::new()).unwrap().expiration().is_some());
    }
}
