//! One queue of SQS, and the calls that are made on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::client::{Call, Client};
use super::convert::{Attributes, MAX_MESSAGE, Outgoing, too_large};
use super::error::{Refusal, Sort};
use super::terms::FIFO;
use super::url::Url;
use crate::broker::error::Error;
use crate::broker::leased::Held;

/// The most that one request takes, deletes or changes.
pub const BATCH: usize = 10;

/// The longest name.
const MAX_NAME: usize = 80;

/// How long SQS keeps a message that nobody takes, in seconds: as long as it can. Its own default is four days.
const RETENTION: &str = "1209600";

#[derive(Clone)]
pub struct Queue {
    pub client: Arc<Client>,
    pub name: String,
    /// How requests name it.
    url: String,
}

/// A message as SQS hands it over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Received {
    pub message_id: String,
    pub receipt_handle: String,
    #[serde(default)]
    pub body: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    #[serde(default, rename = "MessageAttributes")]
    pub message_attributes: Attributes,
}

/// What becomes of one message of a batch.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    #[serde(rename = "Id")]
    id: String,
    receipt_handle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u32>,
}

/// What is in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub ready: u64,
    /// Handed over, or waiting for the end of a backoff: SQS does not tell which.
    pub hidden: u64,
    /// Sent with a delay.
    pub delayed: u64,
}

/// Where a message goes in a FIFO queue.
#[derive(Clone, Debug)]
pub struct Order {
    pub group: String,
    /// A second message with the same within five minutes is the first one.
    pub deduplication: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batched {
    #[serde(default)]
    successful: Vec<DoneEntry>,
    #[serde(default)]
    failed: Vec<FailedEntry>,
}

/// What was done, of all requests for several messages.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DoneEntry {
    pub id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FailedEntry {
    id: String,
    code: String,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Nothing {}

impl Received {
    /// How often it was handed over, this time included.
    pub fn count(&self) -> u32 {
        self.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1).max(1)
    }

    /// When it was sent, in seconds since 1970.
    pub fn sent(&self) -> Option<u64> {
        self.attributes.get("SentTimestamp")?.parse::<u64>().ok().map(|millis| millis / 1000)
    }

    pub fn group(&self) -> Option<&String> {
        self.attributes.get("MessageGroupId")
    }

    /// The queue whose redrive policy moved it here.
    pub fn redriven_from(&self) -> Option<&str> {
        self.attributes.get("DeadLetterQueueSourceArn")?.rsplit(':').next()
    }
}

impl Entry {
    pub fn delete(handle: &str) -> Entry {
        Entry { id: String::new(), receipt_handle: handle.to_owned(), visibility_timeout: None }
    }

    pub fn handle(&self) -> &str {
        &self.receipt_handle
    }

    /// Keeps a message away from others for so long from now.
    pub fn hide(handle: &str, time: Duration) -> Entry {
        // A fraction would be cut off, and a retry come too soon.
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        Entry { visibility_timeout: Some(seconds), ..Entry::delete(handle) }
    }
}

impl Order {
    /// SQS takes only printable ASCII, and not much of it. What does not fit is named by its digest.
    pub fn new(group: &str, deduplication: &str) -> Order {
        let fits = |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let digest = |text: &str| {
            let digest = Sha256::digest(text.as_bytes());
            data_encoding::HEXLOWER.encode(&digest)
        };
        let name = |text: &str| if fits(text) { text.to_owned() } else { digest(text) };
        Order { group: name(group), deduplication: name(deduplication) }
    }
}

impl Queue {
    /// # Errors
    /// When the name can be none, or there is no such queue. A queue whose account is known is not looked for.
    pub async fn find(client: &Arc<Client>, at: &Url, name: &str) -> Result<Queue, Error> {
        check_name(name)?;
        let queue = |url: String| Queue { client: client.clone(), name: name.to_owned(), url };
        if let Some(account) = &at.account {
            return Ok(queue(format!("{}/{account}/{name}", client.endpoint())));
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Found {
            queue_url: String,
        }
        let call = Call::new("GetQueueUrl", "look for", name);
        let found: Found = client.call(&call, &json!({ "QueueName": name })).await?;
        Ok(queue(found.queue_url))
    }

    /// A queue that a message names: by its name, or by its whole URL.
    pub async fn find_any(client: &Arc<Client>, at: &Url, name: &str) -> Result<Queue, Error> {
        let path = name.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
        match path.and_then(|path| path.split_once('/')) {
            // Requests go to our endpoint all the same: a message must not say where we send our signatures.
            Some((_, queue)) => {
                check_name(queue)?;
                Ok(Queue { client: client.clone(), name: queue.to_owned(), url: name.to_owned() })
            }
            None => Queue::find(client, at, name).await,
        }
    }

    /// Makes a queue that keeps what nobody takes for so long, or for as long as SQS can. One that is there already stays as it
    /// is.
    pub async fn declare(
        client: &Arc<Client>,
        at: &Url,
        name: &str,
        retention: Option<Duration>,
    ) -> Result<Queue, Error> {
        check_name(name)?;
        let queue = match Queue::find(client, at, name).await {
            Ok(queue) => queue.attributes(&["QueueArn"]).await.map(|_| queue),
            Err(error) => Err(error),
        };
        match queue {
            Err(Error::MissingQueue { .. }) => {}
            decided => return decided,
        }
        let retention = retention.map_or(RETENTION.into(), |time| time.as_secs().to_string());
        let mut attributes = json!({ "MessageRetentionPeriod": retention });
        if is_fifo(name) {
            attributes["FifoQueue"] = "true".into();
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Made {
            queue_url: String,
        }
        let call = Call::new("CreateQueue", "make", name);
        let made: Made = client.call(&call, &json!({ "QueueName": name, "Attributes": attributes })).await?;
        Ok(Queue { client: client.clone(), name: name.to_owned(), url: made.queue_url })
    }

    pub fn is_fifo(&self) -> bool {
        is_fifo(&self.name)
    }

    /// How requests name it.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn call(&self, action: &'static str, doing: &'static str) -> Call<'_> {
        Call::new(action, doing, &self.name)
    }

    /// # Errors
    /// When there is no such queue, for example.
    pub async fn attributes(&self, names: &[&str]) -> Result<BTreeMap<String, String>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            attributes: BTreeMap<String, String>,
        }
        let input = json!({ "QueueUrl": self.url, "AttributeNames": names });
        let answer: Answer = self.client.call(&self.call("GetQueueAttributes", "look at"), &input).await?;
        Ok(answer.attributes)
    }

    /// How many messages there are, as of a moment ago: SQS is late by up to a minute.
    ///
    /// # Errors
    /// When there is no such queue, for example.
    pub async fn counts(&self) -> Result<Counts, Error> {
        const NAMES: [&str; 3] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ];
        let attributes = self.attributes(&NAMES).await?;
        let [ready, hidden, delayed] =
            NAMES.map(|name| attributes.get(name).and_then(|count| count.parse().ok()).unwrap_or(0));
        Ok(Counts { ready, hidden, delayed })
    }

    /// Takes up to so many messages, and waits for one.
    ///
    /// A request that is dropped half way takes messages along, for as long as `hidden`.
    pub async fn receive(&self, most: usize, wait: Duration, hidden: Duration) -> Result<Vec<Received>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            messages: Option<Vec<Received>>,
        }
        let mut input = json!({
            "QueueUrl": self.url,
            "MaxNumberOfMessages": most.clamp(1, BATCH),
            "WaitTimeSeconds": wait.as_secs(),
            "VisibilityTimeout": hidden.as_secs(),
            "MessageSystemAttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        });
        if self.is_fifo() {
            // A repeated request gets the messages of an answer that never came.
            input["ReceiveRequestAttemptId"] = uuid::Uuid::now_v7().to_string().into();
        }
        let call = Call { wait, ..self.call("ReceiveMessage", "take from") };
        let answer: Answer = self.client.call(&call, &input).await?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Deletes messages, or changes for how long they are hidden. Each has an answer of its own.
    ///
    /// # Errors
    /// When all of it failed.
    pub async fn batch(&self, entries: &[Entry]) -> Result<Vec<Result<Held, Error>>, Error> {
        let numbered = entries.iter().enumerate();
        let entries: Vec<Entry> = numbered.map(|(id, entry)| Entry { id: id.to_string(), ..entry.clone() }).collect();
        let deletes = entries.iter().all(|entry| entry.visibility_timeout.is_none());
        let call = match deletes {
            true => self.call("DeleteMessageBatch", "acknowledge messages of"),
            false => self.call("ChangeMessageVisibilityBatch", "hold or give back messages of"),
        };
        let input = json!({ "QueueUrl": self.url, "Entries": entries });
        let Batched { successful, failed } = self.client.call(&call, &input).await?;
        // Only what SQS names as done is done: another server may leave a message out of its answer.
        let unanswered = || Err(Error::Unanswered { doing: call.doing.into() });
        let mut answers: Vec<Result<Held, Error>> = entries.iter().map(|_| unanswered()).collect();
        for DoneEntry { id } in successful {
            if let Some(place) = id.parse::<usize>().ok().and_then(|id| answers.get_mut(id)) {
                *place = Ok(Held::Yes);
            }
        }
        for FailedEntry { id, code, message } in failed {
            let refusal = Refusal::of_entry(&code, message.as_deref());
            let answer = match refusal.sort() {
                Sort::NotHeld => Ok(Held::Lost),
                _ => Err(refusal.into_error(self.client.endpoint(), call.doing, &self.name)),
            };
            if let Some(place) = id.parse::<usize>().ok().and_then(|id| answers.get_mut(id)) {
                *place = answer;
            }
        }
        Ok(answers)
    }

    /// One message of [`Self::batch`].
    pub async fn settle(&self, entry: Entry) -> Result<Held, Error> {
        self.batch(&[entry]).await?.pop().unwrap_or_else(|| Err(Error::Unanswered { doing: "settle a message".into() }))
    }

    /// Sends a message, and returns when SQS has it.
    ///
    /// # Errors
    /// When it is not known that SQS has it.
    pub async fn send(&self, outgoing: &Outgoing, order: Order) -> Result<(), Error> {
        let size = outgoing.size();
        if size > MAX_MESSAGE {
            return Err(too_large(size));
        }
        let mut input = json!({
            "QueueUrl": self.url,
            "MessageBody": outgoing.body,
            "MessageAttributes": outgoing.attributes,
        });
        if self.is_fifo() {
            input["MessageGroupId"] = order.group.into();
            input["MessageDeduplicationId"] = order.deduplication.into();
        }
        let call = Call { repeats: self.is_fifo(), ..self.call("SendMessage", "publish to") };
        let Nothing {} = self.client.call(&call, &input).await?;
        Ok(())
    }
}

pub fn is_fifo(name: &str) -> bool {
    name.ends_with(FIFO)
}

fn check_name(name: &str) -> Result<(), Error> {
    let stem = name.strip_suffix(FIFO).unwrap_or(name);
    let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !stem.is_empty() && name.len() <= MAX_NAME && stem.bytes().all(is_taken) {
        return Ok(());
    }
    let source =
        "a name has letters, digits, hyphens and underscores, 80 at most; that of a FIFO queue ends in `.fifo`";
    Err(Error::Settings { what: format!("the queue's name `{name}`"), source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_sqs_would_refuse_is_refused_before() {
        for good in ["q", "Q-1_b", "q.fifo", &"x".repeat(80)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".fifo", "q.dead", "ü", "q fifo", &"x".repeat(81), &format!("{}.fifo", "x".repeat(76))] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pause_is_never_cut_short() {
        let seconds = |millis| Entry::hide("h", Duration::from_millis(millis)).visibility_timeout;
        assert_eq!([0, 1, 1000, 1001].map(seconds), [0, 1, 1, 2].map(Some));
    }

    #[test]
    fn an_identity_that_sqs_does_not_take_is_still_one() {
        let named = |text: &str| Order::new(text, text).deduplication;
        assert_eq!(named("0198-a"), "0198-a");
        assert_eq!(named("ü").len(), 64);
        assert_ne!(named(&"x".repeat(129)), named(&"x".repeat(130)));
    }
}
