//! Messages that are sent to a queue of SQS ten at a time.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::Call;
use super::convert::{Attributes, MAX_MESSAGE, Outgoing, too_large};
use super::error::Refusal;
use super::queue::{BATCH, DoneEntry, Order, Queue};
use crate::broker::admin::Confirmed;
use crate::broker::error::Error;

/// Requests that are made side by side. A FIFO queue keeps the order in which they arrive, and gets one after the other.
const SIDE_BY_SIDE: usize = 8;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    message_body: String,
    message_attributes: Attributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_deduplication_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    successful: Vec<DoneEntry>,
    #[serde(default)]
    failed: Vec<Failed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    code: String,
    message: Option<String>,
}

impl Queue {
    /// Sends messages, and returns when SQS has answered for all of them. They can be taken after `delay`.
    pub async fn send_all(&self, messages: Vec<(Outgoing, Order)>, delay: Duration) -> Confirmed {
        let count = messages.len();
        if self.is_fifo() && !delay.is_zero() {
            let source = "a FIFO queue delays all of its messages, or none";
            return Confirmed::none(count, Error::Settings { what: "--delay".into(), source: source.into() });
        }
        // A fraction would be cut off, and a message come too soon.
        let delay = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        let requests = chunks(messages).into_iter().map(|chunk| self.send_chunk(chunk, delay));
        let mut confirmed = Confirmed::default();
        let mut answers = stream::iter(requests).buffered(if self.is_fifo() { 1 } else { SIDE_BY_SIDE });
        while let Some(Confirmed { each, failed }) = answers.next().await {
            confirmed.each.extend(each);
            if let Some(error) = failed {
                confirmed.failed.get_or_insert(error);
                if self.is_fifo() {
                    // What comes next must not overtake what was refused.
                    break;
                }
            }
        }
        confirmed.each.resize(count, false);
        confirmed
    }

    async fn send_chunk(&self, chunk: Vec<(Outgoing, Order)>, delay: u64) -> Confirmed {
        let count = chunk.len();
        if let [(outgoing, _)] = &chunk[..]
            && outgoing.size() > MAX_MESSAGE
        {
            return Confirmed::none(count, too_large(outgoing.size()));
        }
        let entries = chunk.into_iter().enumerate().map(|(id, (Outgoing { body, attributes }, order))| Entry {
            id: id.to_string(),
            message_body: body,
            message_attributes: attributes,
            delay_seconds: (delay > 0).then_some(delay),
            message_group_id: self.is_fifo().then_some(order.group),
            message_deduplication_id: self.is_fifo().then_some(order.deduplication),
        });
        let input = json!({ "QueueUrl": self.url(), "Entries": entries.collect::<Vec<_>>() });
        let call = Call { repeats: self.is_fifo(), ..Call::new("SendMessageBatch", "publish to", &self.name) };
        let answer: Answer = match self.client.call(&call, &input).await {
            Ok(answer) => answer,
            Err(error) => return Confirmed::none(count, error),
        };
        // Only what SQS names as sent is sent: another server may leave a message out of its answer.
        let mut confirmed = Confirmed { each: vec![false; count], failed: None };
        for DoneEntry { id } in answer.successful {
            if let Some(place) = id.parse::<usize>().ok().and_then(|id| confirmed.each.get_mut(id)) {
                *place = true;
            }
        }
        for Failed { code, message } in answer.failed {
            let refusal = Refusal::of_entry(&code, message.as_deref());
            let doing = format!("publish to the queue `{}`", self.name);
            confirmed.failed.get_or_insert(refusal.into_error(self.client.endpoint(), &doing, &self.name));
        }
        if confirmed.each.contains(&false) {
            let reason = "the answer leaves messages out".to_owned();
            confirmed.failed.get_or_insert(Error::Unpublished { reason });
        }
        confirmed
    }
}

/// Requests of ten messages at most, which are together no larger than one may be. One that is too large has its own.
fn chunks(messages: Vec<(Outgoing, Order)>) -> Vec<Vec<(Outgoing, Order)>> {
    let mut chunks: Vec<Vec<(Outgoing, Order)>> = Vec::new();
    let mut room = 0;
    for message in messages {
        let size = message.0.size();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < BATCH && size <= room => {
                chunk.push(message);
                room -= size;
            }
            _ => {
                chunks.push(vec![message]);
                room = MAX_MESSAGE.saturating_sub(size);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Properties;

    #[test]
    fn requests_hold_ten_messages_and_no_more_bytes_than_one_may() {
        let message = |size: usize| {
            let outgoing = Outgoing::new(&Properties::default(), &serde_json::Map::new(), "x".repeat(size).as_bytes());
            (outgoing, Order::new("g", "d"))
        };
        let sizes = |chunks: Vec<Vec<(Outgoing, Order)>>| chunks.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(chunks((0..23).map(|_| message(1)).collect())), [10, 10, 3]);
        let half = MAX_MESSAGE / 2 + 1;
        assert_eq!(
            sizes(chunks(vec![message(half), message(half), message(1), message(MAX_MESSAGE + 1), message(1)])),
            [1, 2, 1, 1]
        );
        assert!(chunks(Vec::new()).is_empty());
    }
}
