//! Refuses what a kind of broker cannot do, before a message is taken.

use std::time::Duration;

use crate::broker::admin::Arguments;
use crate::broker::{Address, BrokerKind, QueueArgument};
use crate::cli;
use crate::error::Error;
use crate::settle::Policy;
use crate::sink::{self, Needs};

/// Refuses a setting that this kind of broker cannot honour. `longest_hold` is how long a message may be with the worker.
pub fn check(kind: &BrokerKind, policy: &Policy, results: &[sink::Spec], longest_hold: Duration) -> Result<(), Error> {
    let name = kind.name;
    let can = &kind.capabilities;
    if policy.rejects && !can.broker_dead_letters {
        return Err(Error::configuration(
            format!("{name} does not move dead letters by itself"),
            "leave --dead-letter-by out: wq-run puts them into --dead-letter-queue (WQ_DEAD_LETTER_QUEUE)",
        ));
    }
    for spec in results {
        match &spec.needs {
            Needs::Address(Address::Exchange { .. }) if !can.exchanges => {
                return Err(Error::configuration(
                    format!("{name} has no exchanges"),
                    "name one of its queues: --result queue:NAME (WQ_RESULT)",
                ));
            }
            Needs::Requester if !can.reply => {
                return Err(Error::configuration(
                    format!("{name} has no replies"),
                    "name one of its queues: --result queue:NAME (WQ_RESULT)",
                ));
            }
            _ => {}
        }
    }
    if let Some(longest) = can.longest_hold.filter(|longest| longest_hold > *longest) {
        return Err(Error::configuration(
            format!(
                "{name} leaves a message with a worker for {} at most, and this worker may need {}",
                humantime::format_duration(longest),
                humantime::format_duration(longest_hold)
            ),
            "use a shorter --timeout (WQ_TIMEOUT) or leave --prefetch out: a message that waits behind another is held for both timeouts",
        ));
    }
    if let Some(longest) = can.longest_pause.filter(|longest| policy.longest_pause() > *longest) {
        return Err(Error::configuration(
            format!("{name} holds a retry back for {} at most", humantime::format_duration(longest)),
            "use a shorter --backoff-max",
        ));
    }
    Ok(())
}

/// The type of a queue that is to be made; `None` where all queues are of one type.
///
/// # Errors
/// When this kind of broker has no such type.
pub fn queue_type_on(kind: &BrokerKind, typed: Option<&str>) -> Result<Option<&'static str>, Error> {
    let Some(typed) = typed else { return Ok(kind.queue_types.first().copied()) };
    let known = kind.queue_types.iter().copied().find(|known| *known == typed);
    known.map(Some).ok_or_else(|| {
        let hint = match kind.queue_types {
            [] => "leave --type out: all of its queues are of one type".into(),
            types => format!("see --type: it has {}", types.join(" and ")),
        };
        Error::configuration(format!("{} has no queues of the type `{typed}`", kind.name), hint)
    })
}

/// What a queue of this type is to be made with.
///
/// # Errors
/// When this kind of broker does not know one of the arguments.
pub fn queue_arguments_on(
    kind: &BrokerKind,
    queue_type: Option<&str>,
    typed: cli::Arguments,
) -> Result<Arguments, Error> {
    let cli::Arguments { dead_letter_exchange, delivery_limit, max_priority, max_length, message_ttl } = typed;
    let arguments = Arguments { dead_letter_exchange, delivery_limit, max_priority, max_length, message_ttl };
    for flag in arguments.given() {
        let known = kind.queue_arguments.iter().find(|known| known.flag == flag);
        let (message, hint) = match known {
            None => (format!("a queue of {} has no such argument", kind.name), format!("leave --{flag} out")),
            Some(QueueArgument { only_for: Some(only), .. }) if queue_type != Some(only) => {
                let queue_type = queue_type.unwrap_or_default();
                (
                    format!("a {queue_type} queue has no such argument"),
                    format!("--{flag} needs --type {only}, or leave it out"),
                )
            }
            Some(_) => continue,
        };
        return Err(Error::configuration(format!("--{flag}: {message}"), hint));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Capabilities, KINDS};
    use crate::settle::{Backoff, ExitMap};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A broker that can do only what each has to.
    fn poor() -> BrokerKind {
        let capabilities = Capabilities {
            release_uncounted: false,
            retry_headers: false,
            broker_dead_letters: false,
            exchanges: false,
            reply: false,
            text_only: true,
            max_message: Some(1),
            lease: None,
            longest_hold: Some(12 * HOUR),
            longest_pause: Some(HOUR),
            longest_delay: Some(HOUR),
            expiration: false,
            most_seen: Some(1),
        };
        let queue_arguments = &[
            QueueArgument { flag: "message-ttl", only_for: None },
            QueueArgument { flag: "max-length", only_for: Some("fifo") },
        ];
        let queue_types = &["standard", "fifo"];
        BrokerKind { name: "the poor one", capabilities, queue_types, queue_arguments, ..*KINDS[0] }
    }

    fn policy() -> Policy {
        let backoff = Backoff { initial: HOUR, max: HOUR, factor: 2.0 };
        Policy { max_attempts: 3, exits: ExitMap::default(), backoff, rejects: false }
    }

    fn refused(policy: &Policy, results: &[&str], longest_hold: Duration) -> Option<String> {
        let results: Vec<sink::Spec> = results.iter().map(|spec| spec.parse().unwrap()).collect();
        let error = check(&poor(), policy, &results, longest_hold).err()?;
        assert!(error.to_string().contains("the poor one"), "{error}");
        error.hint()
    }

    #[test]
    fn what_a_broker_cannot_do_is_refused_with_a_hint_that_names_the_flag() {
        let says = |refused: Option<String>, flag| assert!(refused.is_some_and(|hint| hint.contains(flag)), "{flag}");
        says(refused(&Policy { rejects: true, ..policy() }, &[], HOUR), "--dead-letter-by");
        says(refused(&policy(), &["exchange:e/k"], HOUR), "--result");
        says(refused(&policy(), &["stdout", "reply"], HOUR), "--result");
        says(refused(&policy(), &[], 13 * HOUR), "--timeout");
        let longer = Backoff { max: 2 * HOUR, ..policy().backoff };
        says(refused(&Policy { backoff: longer, ..policy() }, &[], HOUR), "--backoff-max");
    }

    #[test]
    fn what_a_broker_can_do_is_not_refused() {
        assert_eq!(refused(&policy(), &["queue:q", "stdout"], 12 * HOUR), None);
        // The only attempt is followed by no pause.
        let longer = Backoff { initial: 2 * HOUR, max: 2 * HOUR, factor: 1.0 };
        assert_eq!(refused(&Policy { backoff: longer, max_attempts: 1, ..policy() }, &[], HOUR), None);
    }

    #[test]
    fn the_type_of_a_queue_is_one_that_its_broker_has() {
        assert_eq!(queue_type_on(&poor(), None).unwrap(), Some("standard"));
        assert_eq!(queue_type_on(&poor(), Some("fifo")).unwrap(), Some("fifo"));
        assert!(queue_type_on(&poor(), Some("quorum")).unwrap_err().hint().unwrap().contains("--type"));
        let plain = BrokerKind { queue_types: &[], ..poor() };
        assert_eq!(queue_type_on(&plain, None).unwrap(), None);
        assert!(queue_type_on(&plain, Some("fifo")).unwrap_err().hint().unwrap().contains("--type"));
    }

    #[test]
    fn an_argument_of_a_queue_is_one_that_its_broker_knows_for_its_type() {
        let none = || cli::Arguments {
            dead_letter_exchange: None,
            delivery_limit: None,
            max_priority: None,
            max_length: None,
            message_ttl: None,
        };
        let with = |typed, queue_type| queue_arguments_on(&poor(), Some(queue_type), typed);
        let hint = |typed, queue_type| with(typed, queue_type).unwrap_err().hint().unwrap();
        let ttl = cli::Arguments { message_ttl: Some(HOUR), ..none() };
        assert_eq!(with(ttl, "standard").unwrap().message_ttl, Some(HOUR));
        let length = || cli::Arguments { max_length: Some(1), ..none() };
        assert!(with(length(), "fifo").is_ok());
        assert!(hint(length(), "standard").contains("--type fifo"));
        let limit = cli::Arguments { delivery_limit: Some(1), ..none() };
        assert!(hint(limit, "fifo").contains("--delivery-limit"));
    }
}
