//! The queue, its rights, and where its retries, dead letters and results go.

use std::time::Duration;

use humantime::format_duration;
use lapin::Connection;
use lapin::types::FieldTable;

use super::rights::{self, Right, mismatch};
use crate::broker::amqp::arguments::Arguments;
use crate::broker::amqp::config::ACKNOWLEDGEMENT_TIMEOUT;
use crate::broker::amqp::connection::LOOK_AFTER;
use crate::broker::amqp::delays;
use crate::broker::amqp::filter::Server;
use crate::broker::amqp::looks::{Found, Looks};
use crate::broker::amqp::publisher::look_over;
use crate::broker::bounds::answered;
use crate::broker::check::{Findings, Settings, made_later, there};
use crate::broker::error::Error;
use crate::broker::outbox::Address;
use crate::causes::chain;
use crate::finding::Topic;

/// The limit of a quorum queue that has none of its own, since RabbitMQ 4.0.
const DEFAULT_DELIVERY_LIMIT: i64 = 20;

const NOT_KNOWN: &str = "not checked: this is no RabbitMQ, and its refusals are not known";

const NO_POLICIES: &str = "AMQP does not show policies";

pub struct Look<'a> {
    pub connection: &'a Connection,
    pub server: Server,
    pub settings: &'a Settings,
    pub findings: &'a mut Findings,
}

impl Look<'_> {
    pub async fn at_all(mut self) {
        let mut looks = Looks::default();
        self.at_queue(&mut looks).await;
        self.at_retries().await;
        self.at_dead_letters(&mut looks).await;
        self.at_results().await;
        // Last: a broker in need reads nothing more from a connection that has published.
        self.at_publishing().await;
    }

    async fn at_queue(&mut self, looks: &mut Looks) {
        let queue = &self.settings.options.queue;
        match self.found(looks, queue).await {
            Ok(Some(Found { messages, consumers })) => {
                self.findings
                    .good(Topic::Queue, format!("`{queue}` has {messages} messages ready, and {consumers} consumers"));
            }
            Ok(None) => {
                return self.findings.refusal(Topic::Queue, Error::MissingQueue { queue: queue.clone(), source: None });
            }
            Err(error) => return self.findings.refusal(Topic::Queue, error),
        }
        if !self.server.is_rabbitmq() {
            self.findings.note(Topic::Rights, NOT_KNOWN);
            self.findings.note(Topic::DeliveryLimit, NOT_KNOWN);
            return self.at_timeout(None);
        }
        match rights::to_consume(self.connection, queue).await {
            Ok(Right::Given(_)) => self.findings.good(Topic::Rights, format!("messages may be taken from `{queue}`")),
            Ok(Right::Refused(error)) | Err(error) => self.findings.refusal(Topic::Rights, error),
            Ok(Right::Unknown) => self.findings.note(Topic::Rights, NOT_KNOWN),
        }
        match Arguments::read(self.connection, queue).await {
            Ok(arguments) => {
                self.at_type(&arguments);
                self.at_timeout(Some(&arguments));
                self.at_losses(queue, &arguments);
                self.at_exchange_for_dead_letters(&arguments).await;
            }
            Err(Error::Forbidden { .. }) => {
                let note = "not checked: type and arguments of the queue are told only to a user who may configure it";
                self.findings.note(Topic::DeliveryLimit, note);
                self.at_timeout(None);
            }
            Err(error) => self.findings.refusal(Topic::Queue, error),
        }
    }

    fn at_type(&mut self, arguments: &Arguments) {
        let queue = &self.settings.options.queue;
        match arguments.queue_type.as_deref() {
            Some("quorum") => {
                self.findings.good(Topic::Queue, format!("`{queue}` is a quorum queue"));
                self.at_delivery_limit(arguments);
            }
            Some("stream") => self.findings.refusal(Topic::Queue, Error::Stream { queue: queue.clone() }),
            Some("classic") => self.findings.note(
                Topic::DeliveryLimit,
                format!(
                    "`{queue}` is a classic queue, which does not count deliveries: a message whose guest crashes its worker is delivered again and again; a quorum queue counts, and --isolation process keeps the worker alive"
                ),
            ),
            Some(other) => self.findings.note(Topic::Queue, format!("`{queue}` is of the type `{other}`")),
            None => self.findings.note(Topic::DeliveryLimit, "not checked: the broker did not name the type of the queue"),
        }
    }

    /// A message whose worker dies each time has to reach us once more than it may be run, to be put aside with the reason.
    fn at_delivery_limit(&mut self, arguments: &Arguments) {
        let attempts = i64::from(self.settings.options.max_attempts);
        let own = arguments.number("x-delivery-limit");
        let default = self.server.is_since(4, 0).then_some(DEFAULT_DELIVERY_LIMIT);
        let (limit, whose) = match (own, default) {
            (Some(limit), _) => (limit, "the queue's x-delivery-limit"),
            (None, Some(limit)) => (limit, "the broker's default"),
            (None, None) if arguments.is_complete => {
                let found = format!("the queue has no x-delivery-limit; a policy could set one, and {NO_POLICIES}");
                return self.findings.good(Topic::DeliveryLimit, found);
            }
            (None, None) => {
                let note = "not checked: the broker did not name all arguments of the queue";
                return self.findings.note(Topic::DeliveryLimit, note);
            }
        };
        // Negative is none.
        if limit < 0 || limit >= attempts {
            let found = format!("the limit is {limit} ({whose}), and --max-attempts is {attempts}; {NO_POLICIES}");
            return self.findings.good(Topic::DeliveryLimit, found);
        }
        let becomes = match arguments.text("x-dead-letter-exchange") {
            Some(exchange) => format!("hands it to the exchange `{exchange}` without the reason"),
            None => "DELETES it, unless a policy names a dead-letter exchange".to_owned(),
        };
        self.findings.caution(
            Topic::DeliveryLimit,
            format!("the limit is {limit} ({whose}), which is below --max-attempts {attempts}"),
            format!(
                "when a message has come back {} times because its worker died or stopped, the broker {becomes}",
                limit + 1
            ),
            format!("--max-attempts {limit} (WQ_MAX_ATTEMPTS) or less, or a queue with a larger limit"),
        );
    }

    fn at_timeout(&mut self, arguments: Option<&Arguments>) {
        let held = self.settings.options.longest_hold;
        let own = arguments.and_then(|arguments| arguments.number("x-consumer-timeout"));
        let own = own.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis);
        match arguments.and_then(|arguments| arguments.queue_type.as_deref()) {
            // Whatever the queue says itself.
            Some("quorum") if self.server.is_since(4, 3) => {
                let found = format!(
                    "for this broker, wq-run uses {} as the longest time that a message may be held",
                    format_duration(held)
                );
                return self.findings.good(Topic::Timeout, found);
            }
            Some("classic") if self.server.is_since(4, 3) => {
                return self.findings.good(Topic::Timeout, "this broker has no such timeout for classic queues");
            }
            _ => {}
        }
        let bound = own.unwrap_or(ACKNOWLEDGEMENT_TIMEOUT);
        let whose = match own {
            Some(own) => format!("the queue's x-consumer-timeout, {}", format_duration(own)),
            None => format!(
                "RabbitMQ's default consumer_timeout, {}; AMQP does not tell the one of this broker",
                format_duration(ACKNOWLEDGEMENT_TIMEOUT)
            ),
        };
        if held < bound {
            let found = format!("a message is held for {} at most, which is below {whose}", format_duration(held));
            return self.findings.good(Topic::Timeout, found);
        }
        self.findings.caution(
            Topic::Timeout,
            format!("a message may be held for {}, which is not below {whose}", format_duration(held)),
            "the broker takes back a message whose run takes longer, and another worker runs it again from the beginning",
            "use a shorter --timeout (WQ_TIMEOUT), a smaller --prefetch, or a larger consumer_timeout in rabbitmq.conf",
        );
    }

    /// What would make messages go away that nobody has done.
    fn at_losses(&mut self, queue: &str, arguments: &Arguments) {
        const CONSEQUENCE: &str = "the messages that it still holds are deleted too";
        const REMEDY: &str =
            "create the queue again without it: `wq-run queue declare` creates one that keeps its messages";
        let mut caution = |found: String, consequence: &str| {
            self.findings.caution(Topic::Durability, found, consequence, REMEDY);
        };
        if arguments.is_temporary {
            caution(format!("`{queue}` is not durable: a restart of the broker removes it"), CONSEQUENCE);
        }
        if arguments.is_deleted_unused {
            caution(format!("`{queue}` is removed when its last consumer leaves (auto-delete)"), CONSEQUENCE);
        }
        if let Some(millis) = arguments.number("x-expires") {
            let after = format_duration(Duration::from_millis(millis.unsigned_abs()));
            caution(format!("`{queue}` is removed when nobody has used it for {after} (x-expires)"), CONSEQUENCE);
        }
        let is_bounded = arguments.has("x-max-length") || arguments.has("x-max-length-bytes");
        if is_bounded && !arguments.text("x-overflow").is_some_and(|overflow| overflow.starts_with("reject-publish")) {
            caution(
                format!("`{queue}` has a bounded length, and drops its oldest messages when it is full"),
                "the broker deletes or dead-letters messages that nobody has run",
            );
        }
        if let Some(millis) = arguments.number("x-message-ttl") {
            let after = format_duration(Duration::from_millis(millis.unsigned_abs()));
            caution(
                format!("a message in `{queue}` expires after {after} (x-message-ttl)"),
                "the broker deletes or dead-letters messages that wait for longer",
            );
        }
    }

    /// Where the broker puts what a worker rejects.
    async fn at_exchange_for_dead_letters(&mut self, arguments: &Arguments) {
        if !self.settings.options.rejects {
            return;
        }
        const CONSEQUENCE: &str = "a message that fails for good is rejected, and the broker DELETES it";
        const REMEDY: &str =
            "give the queue a dead-letter exchange with a queue bound to it, or leave --dead-letter-by out";
        let Some(exchange) = arguments.text("x-dead-letter-exchange").map(str::to_owned) else {
            let found = format!("the queue names no x-dead-letter-exchange; a policy could, and {NO_POLICIES}");
            return self.findings.caution(Topic::DeadLetters, found, CONSEQUENCE, REMEDY);
        };
        // The default exchange is always there.
        let to = Address::Exchange { name: exchange.clone(), key: String::new() };
        match if exchange.is_empty() { Ok(()) } else { self.look_over(&to).await } {
            Ok(()) => self.findings.good(
                Topic::DeadLetters,
                format!("the queue's dead-letter exchange `{exchange}` is there; AMQP does not tell whether a queue is bound to it"),
            ),
            Err(error) => {
                let found = format!("the queue's dead-letter exchange `{exchange}` cannot be used: {}", chain(&error));
                self.findings.caution(Topic::DeadLetters, found, CONSEQUENCE, REMEDY);
            }
        }
    }

    /// Whether anything can be published to queues: retries, dead letters, results.
    async fn at_publishing(&mut self) {
        let Settings { options, results, replies, .. } = self.settings;
        let is_needed = options.max_attempts > 1 || !options.rejects || *replies || !results.is_empty();
        if !is_needed || !self.server.is_rabbitmq() {
            return;
        }
        let to = Address::Queue(options.dead_letter_queue.clone());
        match rights::to_publish(self.connection, &to).await {
            Ok(Right::Given(_)) => {
                self.findings.good(Topic::Rights, "messages may be published to queues (the default exchange)");
                if self.is_blocked().await {
                    return self.blocked();
                }
            }
            Ok(Right::Refused(Error::Forbidden { source, .. })) => self.findings.later(
                Topic::Rights,
                Error::Forbidden { doing: "publish to queues, by the default exchange".into(), source },
                "the first message that fails ends the worker with 77, is delivered again, and ends the next worker",
            ),
            Ok(Right::Refused(error)) => self.findings.refusal(Topic::Rights, error),
            Ok(Right::Unknown) => self.findings.note(Topic::Rights, NOT_KNOWN),
            Err(error) => return self.unpublished(error),
        }
        for to in results.iter().filter(|to| matches!(to, Address::Exchange { .. })) {
            match rights::to_publish(self.connection, to).await {
                Ok(Right::Given(_)) => self.findings.note(
                    Topic::Results,
                    format!("{to}: not checked: only a published message shows whether a queue receives it"),
                ),
                // As it was said already.
                Ok(Right::Refused(Error::MissingExchange { .. })) => {}
                Ok(Right::Refused(error)) => {
                    let consequence = "the first result ends the worker with 77, and its message is delivered again";
                    self.findings.undeliverable(to.to_string(), error, Some(consequence.into()));
                }
                Ok(Right::Unknown) => self.findings.note(Topic::Results, NOT_KNOWN),
                Err(error) => return self.unpublished(error),
            }
        }
    }

    /// Whether the broker has stopped reading. It still answers the first thing that is published.
    async fn is_blocked(&self) -> bool {
        let asking = self.connection.create_channel();
        tokio::pin!(asking);
        loop {
            tokio::select! {
                answer = &mut asking => return answer.is_err() && self.connection.status().blocked(),
                () = tokio::time::sleep(LOOK_AFTER) => {}
            }
            if self.connection.status().blocked() || !self.connection.status().connected() {
                return self.connection.status().blocked();
            }
        }
    }

    fn unpublished(&mut self, error: Error) {
        if !self.connection.status().blocked() && !matches!(error, Error::Unanswered { .. }) {
            return self.findings.refusal(Topic::Rights, error);
        }
        self.blocked();
    }

    fn blocked(&mut self) {
        self.findings.caution(
            Topic::DeadLetters,
            "the broker blocks publishers at the moment",
            "retries, dead letters and results wait for --publish-timeout, and their messages are given back",
            "the broker is short of memory or disk space: `rabbitmqctl status` names its alarms",
        );
    }

    /// The queues in which retries wait are made by the worker when they are needed.
    async fn at_retries(&mut self) {
        let options = &self.settings.options;
        if options.max_attempts <= 1 || options.longest_pause.is_zero() || !self.server.is_rabbitmq() {
            return;
        }
        let life = delays::lives(options.longest_pause).next().unwrap_or_default();
        let name = delays::name(&options.queue, life);
        match rights::to_declare(self.connection, &name, delays::arguments(&options.queue, life)).await {
            Ok(Right::Given(said)) => match mismatch(&said) {
                None => self
                    .findings
                    .good(Topic::Retries, format!("retries wait in queues like `{name}`, which the user may create")),
                Some(argument) => self.findings.caution(
                    Topic::Retries,
                    format!("`{name}` exists with a different {argument}"),
                    "retries wait in the next longer delay queue, so that they come later",
                    "delete that queue when it is empty: wq-run creates it again",
                ),
            },
            Ok(Right::Refused(error)) => self.findings.caution(
                Topic::Retries,
                format!("the delay queue `{name}` cannot be created: {}", chain(&error)),
                "a message that failed is delivered again at once, without the pause",
                format!("give the user the rights to configure, write and read `{}.delay.*`", options.queue),
            ),
            Ok(Right::Unknown) => self.findings.note(Topic::Retries, NOT_KNOWN),
            Err(error) => self.findings.refusal(Topic::Retries, error),
        }
    }

    async fn at_dead_letters(&mut self, looks: &mut Looks) {
        if self.settings.options.rejects {
            return;
        }
        let name = &self.settings.options.dead_letter_queue;
        match self.found(looks, name).await {
            Ok(Some(Found { messages, .. })) => {
                self.findings.good(Topic::DeadLetters, format!("`{name}` is there, with {messages} messages ready"));
                if self.server.is_rabbitmq()
                    && let Ok(arguments) = Arguments::read(self.connection, name).await
                {
                    self.at_losses(name, &arguments);
                }
            }
            Ok(None) if self.server.is_rabbitmq() => self.at_making(name).await,
            Ok(None) => self.findings.good(Topic::DeadLetters, made_later(name)),
            Err(error) => self.findings.refusal(Topic::DeadLetters, error),
        }
    }

    async fn at_making(&mut self, dead_letter_queue: &str) {
        match rights::to_declare(self.connection, dead_letter_queue, FieldTable::default()).await {
            Ok(Right::Given(_)) => self.findings.good(Topic::DeadLetters, made_later(dead_letter_queue)),
            Ok(Right::Refused(error)) => self.findings.later(
                Topic::DeadLetters,
                error,
                format!(
                    "`{dead_letter_queue}` is not there, so the first dead letter ends the worker with 77, is delivered again, and ends the next worker"
                ),
            ),
            Ok(Right::Unknown) => self.findings.note(Topic::DeadLetters, NOT_KNOWN),
            Err(error) => self.findings.refusal(Topic::DeadLetters, error),
        }
    }

    async fn at_results(&mut self) {
        for to in &self.settings.results {
            if let Err(error) = self.look_over(to).await {
                self.findings.undeliverable(to.to_string(), error, None);
                continue;
            }
            self.findings.good(Topic::Results, there(to));
        }
        if self.settings.replies {
            self.findings.note(
                Topic::Results,
                "`reply`: not checked: wq-run looks up the queue that each message names in `reply_to`",
            );
        }
    }

    async fn look_over(&self, to: &Address) -> Result<(), Error> {
        let is_usable = || self.connection.status().connected();
        answered("check an address", look_over(self.connection, to, is_usable)).await
    }

    async fn found(&self, looks: &mut Looks, queue: &str) -> Result<Option<Found>, Error> {
        answered("look at the queue", looks.at(self.connection, queue)).await
    }
}
