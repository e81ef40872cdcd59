//! Computes how much of a frame a message's header takes, since a broker refuses one that does not fit.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::broker::failure::Next;

/// A header of text or a number, beside its name and its value: the length of the name, the type, and the length of a text.
pub const HEADER: usize = 1 + 1 + 4;

/// The size of a frame with a content header, all included.
pub fn content_header(properties: &BasicProperties) -> usize {
    /// The frame's head and end; class, weight, size of the body and flags.
    const FIXED: usize = 7 + 1 + 2 + 2 + 8 + 2;
    let short = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let short: usize = short.into_iter().flatten().map(|text| 1 + text.as_str().len()).sum();
    let bytes = [properties.delivery_mode(), properties.priority()].into_iter().flatten().count();
    let timestamp = properties.timestamp().map_or(0, |_| 8);
    FIXED + short + bytes + timestamp + properties.headers().as_ref().map_or(0, table)
}

/// The size of the headers that a broker adds later: `x-delivery-count`, and for a retry, which expires in a delay queue, an
/// entry of `x-death` and the headers that repeat parts of it, with the names of two queues.
pub fn added_by_the_broker(queue: &str, next: Next) -> usize {
    const DELIVERY_COUNT: usize = 64;
    /// The names of fields and their fixed values, which are about 400 bytes, and an expiration.
    const DEATH: usize = 512;
    /// The part of a delay queue's name that follows the name of its queue.
    const LONGEST_SUFFIX: usize = 16;
    match next {
        Next::Retry => DELIVERY_COUNT + DEATH + 6 * (queue.len() + LONGEST_SUFFIX),
        Next::DeadLetter => DELIVERY_COUNT,
    }
}

fn table(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(name, content)| 1 + name.as_str().len() + 1 + value(content)).sum::<usize>()
}

/// Without its type. As deep as the filter lets tables be.
fn value(content: &AMQPValue) -> usize {
    match content {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(values) => 4 + values.as_slice().iter().map(|content| 1 + value(content)).sum::<usize>(),
        AMQPValue::FieldTable(entries) => table(entries),
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame};
    use lapin::types::DecimalValue;

    use super::*;

    #[test]
    fn a_size_is_that_of_the_frame_that_is_written() {
        let values = [
            AMQPValue::Boolean(true),
            AMQPValue::ShortShortInt(1),
            AMQPValue::ShortUInt(1),
            AMQPValue::LongInt(1),
            AMQPValue::LongUInt(1),
            AMQPValue::LongLongInt(1),
            AMQPValue::Float(1.0),
            AMQPValue::Double(1.0),
            AMQPValue::DecimalValue(DecimalValue { scale: 1, value: 1 }),
            AMQPValue::LongString("text".into()),
            AMQPValue::ByteArray(b"bytes"[..].into()),
            AMQPValue::Timestamp(1),
            AMQPValue::Void,
        ];
        let mut inner = FieldTable::default();
        inner.insert("array".into(), AMQPValue::FieldArray(values.to_vec().into()));
        let mut headers = FieldTable::default();
        headers.insert("table".into(), AMQPValue::FieldTable(inner));
        let empty = BasicProperties::default();
        let full = BasicProperties::default()
            .with_content_type("a".into())
            .with_content_encoding("bc".into())
            .with_correlation_id("d".into())
            .with_reply_to("e".into())
            .with_expiration("1".into())
            .with_message_id("f".into())
            .with_type("g".into())
            .with_user_id("h".into())
            .with_app_id("i".into())
            .with_cluster_id("j".into())
            .with_delivery_mode(2)
            .with_priority(1)
            .with_timestamp(1)
            .with_headers(headers);
        for properties in [empty, full] {
            let size = content_header(&properties);
            let header = AMQPContentHeader { class_id: 60, body_size: 0, properties };
            let mut bytes = vec![0; 4096];
            let context = WriteContext::from(bytes.as_mut_slice());
            let (_, written) = gen_frame(&AMQPFrame::Header(1, header))(context).unwrap().into_inner();
            assert_eq!(size as u64, written);
        }
    }
}
