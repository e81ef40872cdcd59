//! What `wq-run check` finds out about queues of SQS, which it only asks for their attributes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;

use super::client::Client;
use super::queue::Queue;
use super::redrive;
use super::url::Url;
use crate::broker::check::{Findings, Settings, made_later, there};
use crate::broker::error::Error;
use crate::broker::outbox::Address;
use crate::finding::Topic;

/// AWS refuses signatures that are five minutes off. Half of that is close enough to say so.
const SKEW: Duration = Duration::from_secs(150);

const ATTRIBUTES: [&str; 6] = [
    "QueueArn",
    "RedrivePolicy",
    "MessageRetentionPeriod",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
];

pub async fn check(url: &Url, settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let client = match Client::watching_the_time(url) {
        Ok(client) => client,
        Err(error) => {
            findings.refusal(Topic::Reach, error);
            return findings;
        }
    };
    if let Err(error) = client.check_credentials().await {
        findings.refusal(topic(&error), error);
        return findings;
    }
    let queue = Queue::find(&client, url, &settings.options.queue).await;
    let looked = match &queue {
        Ok(queue) => queue.attributes(&ATTRIBUTES).await,
        Err(_) => Ok(Default::default()),
    };
    look_at_clock(&client, &mut findings);
    match (queue, looked) {
        (Err(error), _) | (Ok(_), Err(error)) => {
            let topic = topic(&error);
            findings.refusal(topic, error);
            // The rest of the queues is at the same place, with the same keys.
            if topic != Topic::Queue {
                return findings;
            }
        }
        (Ok(queue), Ok(attributes)) => {
            findings.good(Topic::Reach, client.endpoint().to_owned());
            findings.good(Topic::Credentials, "SQS took the signature");
            look_at_queue(&queue, &attributes, settings, &mut findings);
        }
    }
    if client.endpoint().starts_with("http:") {
        findings.note(Topic::Tls, "the connection is not encrypted: messages can be read on their way");
    }
    findings.note(
        Topic::Rights,
        "not checked: only a real message shows whether wq-run may send, receive, hide and delete messages; docs/sqs.md has the \
         policy that wq-run needs",
    );
    look_at_dead_letters(&client, url, settings, &mut findings).await;
    look_at_results(&client, url, settings, &mut findings).await;
    findings
}

fn topic(error: &Error) -> Topic {
    match error {
        Error::Credentials { .. } | Error::NoCredentials { .. } | Error::Forbidden { .. } => Topic::Credentials,
        Error::MissingQueue { .. } | Error::Settings { .. } | Error::Mismatch { .. } => Topic::Queue,
        _ => Topic::Reach,
    }
}

fn look_at_clock(client: &Client, findings: &mut Findings) {
    let Some((ours, theirs)) = client.times() else {
        return findings.note(Topic::Clock, "not checked: no answer said its time");
    };
    let skew = theirs.duration_since(ours).or_else(|_| ours.duration_since(theirs)).unwrap_or(Duration::ZERO);
    let shown = format_duration(Duration::from_secs(skew.as_secs()));
    if skew <= SKEW {
        return findings.good(Topic::Clock, format!("the clocks of SQS and of this host differ by {shown}"));
    }
    findings.caution(
        Topic::Clock,
        format!("the clocks of SQS and of this host differ by {shown}"),
        "AWS refuses signatures that are five minutes off: the worker ends with 77",
        "set the clock of this host, by NTP for example",
    );
}

fn look_at_queue(queue: &Queue, attributes: &BTreeMap<String, String>, settings: &Settings, findings: &mut Findings) {
    let name = &queue.name;
    let kind = if queue.is_fifo() { "FIFO" } else { "standard" };
    let [ready, hidden, delayed] = [3, 4, 5].map(|at| attributes.get(ATTRIBUTES[at]).map_or("?", String::as_str));
    findings.good(
        Topic::Queue,
        format!("`{name}` is a {kind} queue with about {ready} messages ready, {hidden} hidden and {delayed} delayed"),
    );
    match redrive::judged(attributes.get("RedrivePolicy"), &settings.options) {
        Err(error) => findings.refusal(Topic::DeadLetters, error),
        Ok(None) => findings.good(Topic::DeliveryLimit, "no redrive policy comes before --max-attempts"),
        Ok(Some(caution)) => findings.caution(
            Topic::DeliveryLimit,
            caution,
            "SQS moves the message without the reason of its failure",
            "raise the policy's maxReceiveCount, or lower --max-attempts (WQ_MAX_ATTEMPTS)",
        ),
    }
    look_at_retention(name, attributes.get("MessageRetentionPeriod"), settings, findings);
}

/// A message that waits for longer is deleted, whether it was tried or not.
fn look_at_retention(name: &str, seconds: Option<&String>, settings: &Settings, findings: &mut Findings) {
    let Some(kept) = seconds.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs) else { return };
    let shown = format_duration(kept);
    let options = &settings.options;
    // All of its runs and pauses, if each takes as long as it can.
    let needed = (settings.timeout.saturating_add(options.longest_pause)).saturating_mul(options.max_attempts);
    if kept > needed {
        return findings.note(
            Topic::Durability,
            format!("`{name}` keeps messages for {shown}, and then deletes those that nobody took"),
        );
    }
    findings.caution(
        Topic::Durability,
        format!("`{name}` keeps messages for {shown}, and the attempts of one may take {}", format_duration(needed)),
        "SQS deletes a message before its last attempt, and nobody hears of it",
        "raise the queue's MessageRetentionPeriod, up to 14 days; or a shorter --timeout (WQ_TIMEOUT) or --backoff-max",
    );
}

async fn look_at_dead_letters(client: &Arc<Client>, url: &Url, settings: &Settings, findings: &mut Findings) {
    if settings.options.rejects {
        return;
    }
    let name = &settings.options.dead_letter_queue;
    match attributes(client, url, name).await {
        Ok(attributes) => {
            let ready = attributes.get(ATTRIBUTES[3]).map_or("?", String::as_str);
            findings.good(Topic::DeadLetters, format!("`{name}` is there, with about {ready} messages ready"));
        }
        Err(Error::MissingQueue { .. }) => {
            findings.good(Topic::DeadLetters, format!("{}, which takes sqs:CreateQueue", made_later(name)));
        }
        Err(error) => findings.later(
            Topic::DeadLetters,
            error,
            "the first dead letter may end the worker, be delivered again, and end the next worker",
        ),
    }
}

async fn look_at_results(client: &Arc<Client>, url: &Url, settings: &Settings, findings: &mut Findings) {
    for to in &settings.results {
        let Address::Queue(name) = to else { continue };
        match attributes(client, url, name).await {
            Ok(_) => findings.good(Topic::Results, there(to)),
            Err(error) => findings.undeliverable(to.to_string(), error, None),
        }
    }
    if settings.replies {
        findings.note(
            Topic::Results,
            "`reply`: not checked: wq-run looks up the queue that each message names in `reply_to`",
        );
    }
}

async fn attributes(client: &Arc<Client>, url: &Url, name: &str) -> Result<BTreeMap<String, String>, Error> {
    Queue::find(client, url, name).await?.attributes(&ATTRIBUTES).await
}
