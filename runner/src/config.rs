//! From what was typed to what is used: the command line and the environment, checked once. Below this, nothing
//! validates.

mod ability;
mod guest;

pub use ability::queue_type_on;
pub use guest::bounds;

use std::time::Duration;

use crate::broker::{self, Address, MAX_NAME, Url, kinds, outbox};
use crate::cli;
use crate::error::Error;
use crate::sandbox::{self, Loading, Stderr};
use crate::settle::{Backoff, Policy};
use crate::sink;
use crate::worker::{self, Mode, metadata};

/// All that `work` needs.
#[derive(Debug)]
pub struct Work {
    pub loading: Loading,
    pub sandbox: sandbox::Options,
    pub broker: Url,
    pub subscription: broker::Options,
    pub worker: worker::Options,
    pub policy: Policy,
    pub results: Vec<sink::Spec>,
    /// There if one of the results goes to the broker.
    pub outbox: Option<outbox::Options>,
    pub shutdown_timeout: Duration,
    pub fail_on_empty: bool,
}

/// All that `exec` needs.
#[derive(Debug)]
pub struct Exec {
    pub loading: Loading,
    pub sandbox: sandbox::Options,
    pub max_message: u64,
}

/// All that `compile` needs.
#[derive(Debug)]
pub struct Compile {
    pub loading: Loading,
    pub sandbox: sandbox::Options,
}

/// Which queue on which broker.
#[derive(Debug)]
pub struct Target {
    pub broker: Url,
    pub queue: String,
}

impl Work {
    pub fn resolve(work: cli::Work) -> Result<Work, Error> {
        let mode = mode(&work)?;
        let Target { broker, queue } = Target::resolve(&work.broker)?;
        let max_message = work.guest.limits.max_message.as_u64();
        let timeout = work.guest.limits.timeout;
        if let Some(caution) = broker.broker().caution_for_timeout(timeout) {
            tracing::warn!("{caution}");
        }
        // One-shot mode waits like amqp-consume; a drain is about what is there now.
        let wait = work.wait.or(if mode == Mode::Drain { Some(Duration::ZERO) } else { None });
        if mode == Mode::Forever && work.wait.is_some() {
            return Err(Error::configuration(
                "--wait (WQ_WAIT) does not go with WQ_MODE=forever",
                "leave one of them out; a worker with --forever ignores WQ_WAIT",
            ));
        }
        let prefetch = match work.prefetch {
            Some(prefetch) if prefetch < work.concurrency => {
                return Err(Error::configuration(
                    "--prefetch is smaller than --concurrency, so that some guests would never run",
                    "leave --prefetch out: it follows --concurrency (WQ_CONCURRENCY)",
                ));
            }
            prefetch => prefetch.unwrap_or(work.concurrency),
        };
        let count = if let Mode::Count(count) = mode { Some(count) } else { None };
        // The last of those at hand waits for all others, each of which may take as long as it can.
        let rounds = prefetch.div_ceil(work.concurrency.max(1));
        let longest_hold = timeout.saturating_mul(rounds.into());
        let policy = Policy {
            max_attempts: work.max_attempts,
            exits: work.exit_map.unwrap_or_default(),
            backoff: Backoff { initial: work.backoff_initial, max: work.backoff_max, factor: work.backoff_factor },
            rejects: matches!(work.dead_letter_by, cli::DeadLetterBy::Broker),
        };
        ability::check(broker.kind(), &policy, &work.result, longest_hold)?;
        if policy.rejects
            && let Some(caution) = broker.broker().caution_for_rejects()
        {
            tracing::warn!(queue, "{caution}");
        }
        let dead_letter_queue = work.dead_letter_queue.unwrap_or_else(|| (broker.kind().dead_letter_queue)(&queue));
        if dead_letter_queue == queue {
            return Err(Error::configuration(
                "dead letters would come back as messages: --dead-letter-queue is the queue itself",
                "name another queue (--dead-letter-queue, WQ_DEAD_LETTER_QUEUE)",
            ));
        }
        if !policy.rejects {
            check_dead_letter_queue(&dead_letter_queue)?;
        }
        check_delay_queues(&broker, &queue, &policy)?;
        check_results(&work.result, &queue)?;
        if work.result_content_type.as_ref().is_some_and(|text| text.len() > 255) {
            return Err(Error::configuration(
                "the content type of results is longer than 255 bytes",
                "see --result-content-type (WQ_RESULT_CONTENT_TYPE)",
            ));
        }
        let mut sandbox = guest::options(&work.guest, Stderr::Log)?;
        sandbox.grants.metadata = work.metadata;
        if work.metadata {
            if sandbox.deterministic {
                return Err(Error::configuration(
                    "--metadata does not go with --deterministic: it says which attempt this is",
                    "leave one of them out",
                ));
            }
            check_metadata(&sandbox.grants)?;
        }
        let outbox = work.result.iter().any(sink::Spec::needs_broker).then(|| outbox::Options {
            queue: queue.clone(),
            connect_timeout: work.connect_timeout,
            publish_timeout: work.publish_timeout,
        });
        Ok(Work {
            outbox,
            sandbox,
            loading: guest::loading(&work.guest, work.concurrency.into())?,
            subscription: broker::Options {
                queue,
                prefetch,
                count,
                longest_hold,
                dead_letter_queue,
                connect_timeout: work.connect_timeout,
                reconnect_timeout: work.reconnect_timeout,
                publish_timeout: work.publish_timeout,
                longest_pause: policy.longest_pause(),
            },
            broker,
            worker: worker::Options {
                mode,
                wait,
                concurrency: work.concurrency.into(),
                prefetch: prefetch.into(),
                max_message,
                result_content_type: work.result_content_type,
                metadata: work.metadata,
                decode: work.decode,
            },
            policy,
            results: work.result,
            shutdown_timeout: work.shutdown_timeout,
            fail_on_empty: matches!(work.on_empty, cli::OnEmpty::Fail),
        })
    }
}

fn check_dead_letter_queue(name: &str) -> Result<(), Error> {
    const HINT: &str = "name a queue with --dead-letter-queue (WQ_DEAD_LETTER_QUEUE); it is QUEUE.dead otherwise";
    match name.len() {
        0 => Err(Error::configuration("the queue for dead letters has no name", HINT)),
        1..=MAX_NAME => Ok(()),
        length => Err(Error::configuration(
            format!("the name of the queue for dead letters has {length} bytes, and the longest has {MAX_NAME}"),
            HINT,
        )),
    }
}

/// Retries wait in queues whose names are made of the queue's: one that could not be made would fail each retry.
fn check_delay_queues(broker: &Url, queue: &str, policy: &Policy) -> Result<(), Error> {
    let pauses = policy.max_attempts > 1 && !policy.backoff.initial.min(policy.backoff.max).is_zero();
    let delay_queue = broker.broker().longest_delay_queue(queue, policy.backoff.max);
    match delay_queue {
        Some(delay_queue) if pauses && delay_queue.len() > MAX_NAME => Err(Error::configuration(
            format!(
                "the name of the queue is too long for its delay queues: `{delay_queue}` has {} bytes, and the longest \
                 name has {MAX_NAME}",
                delay_queue.len()
            ),
            "a shorter name (--queue, QUEUE), no retries (--max-attempts 1, WQ_MAX_ATTEMPTS), or retries without a pause \
             (--backoff-initial 0s) need none",
        )),
        _ => Ok(()),
    }
}

/// What would fail every run.
fn check_metadata(grants: &sandbox::Grants) -> Result<(), Error> {
    if grants.dirs.iter().any(|dir| dir.guest.trim_end_matches('/') == metadata::FOLDER) {
        return Err(Error::configuration(
            format!("--dir and --metadata both give the guest a folder {}", metadata::FOLDER),
            "give the folder of --dir another name: --dir HOST::GUEST",
        ));
    }
    let tried = tempfile::tempdir().and_then(tempfile::TempDir::close);
    tried.map_err(|error| {
        Error::configuration(
            format!("cannot make a folder for --metadata in {}: {error}", std::env::temp_dir().display()),
            "TMPDIR names a folder that can be written to",
        )
    })
}

/// Sinks that would undo each other.
fn check_results(specs: &[sink::Spec], queue: &str) -> Result<(), Error> {
    const HINT: &str = "see --result (WQ_RESULT)";
    for (at, spec) in specs.iter().enumerate() {
        // A sink that is named twice would get each result twice.
        if specs[..at].contains(spec) {
            return Err(Error::configuration(format!("the result `{spec}` is named twice"), HINT));
        }
        match spec {
            sink::Spec::None if specs.len() > 1 => {
                return Err(Error::configuration("the result `none` goes with no other one", HINT));
            }
            sink::Spec::Publish(Address::Queue(name)) if name == queue => {
                return Err(Error::configuration(
                    "results would come back as messages: the result's queue is the queue itself",
                    "name another queue (--result queue:NAME, WQ_RESULT)",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Exec {
    pub fn resolve(exec: cli::Exec) -> Result<Exec, Error> {
        Ok(Exec {
            sandbox: guest::options(&exec.guest, Stderr::Inherit)?,
            loading: guest::loading(&exec.guest, 1)?,
            max_message: exec.guest.limits.max_message.as_u64(),
        })
    }
}

impl Compile {
    pub fn resolve(compile: cli::Compile) -> Result<Compile, Error> {
        let loading = guest::loading(&compile.guest, 1)?;
        if loading.cache.is_none() {
            return Err(Error::configuration(
                "there is no cache to compile into",
                "name a folder with --cache-dir (WQ_CACHE_DIR)",
            ));
        }
        Ok(Compile { sandbox: guest::options(&compile.guest, Stderr::Inherit)?, loading })
    }
}

impl Target {
    pub fn resolve(typed: &cli::Broker) -> Result<Target, Error> {
        let broker = broker_url(typed)?;
        let queue = match typed.queue.as_deref() {
            None | Some("") => {
                return Err(Error::configuration("no queue is named", "name it with --queue (QUEUE)"));
            }
            Some(queue) if queue.len() > MAX_NAME => {
                return Err(Error::configuration("the queue's name is longer than 255 bytes", "see --queue (QUEUE)"));
            }
            Some(queue) => queue.to_owned(),
        };
        Ok(Target { broker, queue })
    }
}

/// The flag and its variable first, then the variable's other name, then a file.
fn broker_url(typed: &cli::Broker) -> Result<Url, Error> {
    let hint = || format!("set --broker (BROKER_URL, or BROKER_URL_FILE): {}", kinds::addresses());
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let text = if let Some(url) = typed.broker.clone().filter(|url| !url.is_empty()) {
        url
    } else if let Some(url) = variable("AMQP_URL") {
        url
    } else if let Some(path) = variable("BROKER_URL_FILE") {
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Configuration {
            message: format!("cannot read the file {path} that BROKER_URL_FILE names: {source}"),
            hint: Some("it holds the broker's URL and nothing else".into()),
        })?;
        text.trim().to_owned()
    } else {
        return Err(Error::configuration("no broker is named", hint()));
    };
    // The text itself is never shown: it holds a password.
    text.parse().map_err(|error| Error::configuration(format!("the broker's URL can't be used: {error}"), hint()))
}

fn mode(work: &cli::Work) -> Result<Mode, Error> {
    if let Some(count) = work.count {
        return Ok(Mode::Count(count));
    }
    if work.drain {
        return Ok(Mode::Drain);
    }
    if work.forever {
        return Ok(Mode::Forever);
    }
    let text = std::env::var("WQ_MODE").unwrap_or_default();
    match text.as_str() {
        "" | "once" => Ok(Mode::Count(1)),
        "drain" => Ok(Mode::Drain),
        "forever" => Ok(Mode::Forever),
        text => text
            .strip_prefix("count=")
            .and_then(|count| count.parse().ok())
            .filter(|count| *count > 0)
            .map(Mode::Count)
            .ok_or_else(|| {
                Error::configuration(
                    format!("WQ_MODE is `{text}`"),
                    "it is one of once, count=N, drain, forever; --count, --drain and --forever come before it",
                )
            }),
    }
}
