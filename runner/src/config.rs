//! From what was typed to what is used: the command line and the environment, checked once. Below this, nothing
//! validates.

use std::path::PathBuf;
use std::time::Duration;

use crate::broker::{self, Address, DeadLetterBy, Url, outbox};
use crate::cli;
use crate::error::Error;
use crate::sandbox::{self, Dir, Grants, Limits, Stderr};
use crate::settle::{Backoff, Policy};
use crate::sink;
use crate::worker::{self, Mode, metadata};

/// All that `work` needs.
#[derive(Debug)]
pub struct Work {
    pub guest: PathBuf,
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
    pub guest: PathBuf,
    pub sandbox: sandbox::Options,
    pub max_message: u64,
}

/// Which queue on which broker.
#[derive(Debug)]
pub struct Target {
    pub broker: Url,
    pub queue: String,
}

/// RabbitMQ's `consumer_timeout`. The broker looks once a minute whether an acknowledgement is due.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Work {
    pub fn resolve(work: cli::Work) -> Result<Work, Error> {
        let mode = mode(&work)?;
        let Target { broker, queue } = Target::resolve(&work.broker)?;
        let max_message = work.guest.max_message.as_u64();
        let timeout = work.guest.timeout;
        if matches!(broker, Url::Amqp(_)) && timeout >= ACKNOWLEDGEMENT_TIMEOUT {
            tracing::warn!(
                "--timeout (WQ_TIMEOUT) is {}, and a broker takes a message back after 30m unless its consumer_timeout \
                 says otherwise",
                humantime::format_duration(timeout)
            );
        }
        // One-shot mode waits like amqp-consume; a drain is about what is there now.
        let wait = work.wait.or(if mode == Mode::Drain { Some(Duration::ZERO) } else { None });
        if mode == Mode::Forever && work.wait.is_some() {
            return Err(Error::configuration(
                "--wait does not go with --forever",
                "leave one of them out (WQ_WAIT, WQ_MODE)",
            ));
        }
        let prefetch = match (work.prefetch, mode) {
            (Some(prefetch), _) if prefetch < work.concurrency => {
                return Err(Error::configuration(
                    "--prefetch is smaller than --concurrency, so that some guests would never run",
                    "leave --prefetch out: it follows --concurrency (WQ_CONCURRENCY)",
                ));
            }
            // More than are wanted would only have to be given back.
            (prefetch, Mode::Count(count)) => {
                let prefetch = prefetch.unwrap_or(work.concurrency);
                u16::try_from(count).map_or(prefetch, |count| prefetch.min(count))
            }
            (prefetch, _) => prefetch.unwrap_or(work.concurrency),
        };
        let dead_letter_by = match work.dead_letter_by {
            cli::DeadLetterBy::WqRun => DeadLetterBy::WqRun,
            cli::DeadLetterBy::Broker if matches!(broker, Url::Sqlite(_)) => {
                return Err(Error::configuration(
                    "the embedded queue has no dead-letter exchange",
                    "leave --dead-letter-by out: its dead letters are in --dead-letter-queue",
                ));
            }
            cli::DeadLetterBy::Broker => DeadLetterBy::Broker,
        };
        let dead_letter_queue = work.dead_letter_queue.unwrap_or_else(|| format!("{queue}.dead"));
        if dead_letter_queue == queue {
            return Err(Error::configuration(
                "dead letters would come back as messages: --dead-letter-queue is the queue itself",
                "name another queue (--dead-letter-queue, WQ_DEAD_LETTER_QUEUE)",
            ));
        }
        check_results(&work.result, &broker, &queue)?;
        if work.result_content_type.as_ref().is_some_and(|text| text.len() > 255) {
            return Err(Error::configuration(
                "the content type of results is longer than 255 bytes",
                "see --result-content-type (WQ_RESULT_CONTENT_TYPE)",
            ));
        }
        let sandbox = sandbox_options(&work.guest, Stderr::Log)?;
        if work.metadata {
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
            guest: work.guest.path,
            subscription: broker::Options {
                queue,
                prefetch,
                dead_letter_queue,
                dead_letter_by,
                connect_timeout: work.connect_timeout,
                reconnect_timeout: work.reconnect_timeout,
                publish_timeout: work.publish_timeout,
            },
            broker,
            worker: worker::Options {
                mode,
                wait,
                concurrency: work.concurrency.into(),
                max_message,
                result_content_type: work.result_content_type,
                metadata: work.metadata,
                decode: work.decode,
            },
            policy: Policy {
                max_attempts: work.max_attempts,
                exits: work.exit_map.unwrap_or_default(),
                backoff: Backoff { initial: work.backoff_initial, max: work.backoff_max, factor: work.backoff_factor },
            },
            results: work.result,
            shutdown_timeout: work.shutdown_timeout,
            fail_on_empty: matches!(work.on_empty, cli::OnEmpty::Fail),
        })
    }
}

/// What would fail every run.
fn check_metadata(grants: &Grants) -> Result<(), Error> {
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

/// Sinks that would undo each other, or that this broker does not have.
fn check_results(specs: &[sink::Spec], broker: &Url, queue: &str) -> Result<(), Error> {
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
            sink::Spec::Publish(Address::Exchange { .. }) if matches!(broker, Url::Sqlite(_)) => {
                return Err(Error::configuration(
                    "the embedded queue has no exchanges",
                    "name a queue of the same file: --result queue:NAME (WQ_RESULT)",
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
            sandbox: sandbox_options(&exec.guest, Stderr::Inherit)?,
            max_message: exec.guest.max_message.as_u64(),
            guest: exec.guest.path,
        })
    }
}

impl Target {
    pub fn resolve(typed: &cli::Broker) -> Result<Target, Error> {
        let broker = broker_url(typed)?;
        let queue = match typed.queue.as_deref() {
            None | Some("") => {
                return Err(Error::configuration("no queue is named", "name it with --queue (QUEUE)"));
            }
            Some(queue) if queue.len() > 255 => {
                return Err(Error::configuration("the queue's name is longer than 255 bytes", "see --queue (QUEUE)"));
            }
            Some(queue) => queue.to_owned(),
        };
        Ok(Target { broker, queue })
    }
}

/// The flag and its variable first, then the variable's other name, then a file.
fn broker_url(typed: &cli::Broker) -> Result<Url, Error> {
    const HINT: &str =
        "set --broker (BROKER_URL, or BROKER_URL_FILE): amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps://… or sqlite:PATH";
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
        return Err(Error::configuration("no broker is named", HINT));
    };
    // The text itself is never shown: it holds a password.
    text.parse().map_err(|error| Error::configuration(format!("the broker's URL can't be used: {error}"), HINT))
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

fn sandbox_options(guest: &cli::Guest, stderr: Stderr) -> Result<sandbox::Options, Error> {
    if guest.timeout.is_zero() {
        return Err(Error::configuration("a guest that may run for 0s can't run", "see --timeout (WQ_TIMEOUT)"));
    }
    let zero_byte = |text: &String| text.contains('\0');
    if guest.args.iter().any(zero_byte) || guest.env.iter().any(zero_byte) {
        return Err(Error::configuration(
            "arguments and variables of a guest can't hold a zero byte",
            "see --env and ARGS",
        ));
    }
    Ok(sandbox::Options {
        limits: Limits {
            timeout: guest.timeout,
            memory: guest.max_memory_size.as_u64(),
            stdout: guest.max_stdout.as_u64(),
            stderr: guest.max_stderr.as_u64(),
        },
        grants: Grants {
            env: guest.env.iter().map(|entry| variable(entry)).collect::<Result<_, _>>()?,
            dirs: guest.dir.iter().map(|entry| dir(entry)).collect::<Result<_, _>>()?,
        },
        args: guest.args.clone(),
        stderr,
    })
}

/// `K=V`, or `K` for the value that it has with us.
fn variable(entry: &str) -> Result<(String, String), Error> {
    let (name, value) = match entry.split_once('=') {
        Some((name, value)) => (name, Ok(value.to_owned())),
        None => (entry, std::env::var(entry)),
    };
    if name.is_empty() {
        return Err(Error::configuration(format!("`--env {entry}` has no name"), "write --env NAME=VALUE"));
    }
    match value {
        Ok(value) => Ok((name.to_owned(), value)),
        Err(_) => Err(Error::configuration(
            format!("`--env {name}` takes its value from our environment, where it is not set, or is no UTF-8"),
            format!("set it, or write --env {name}=VALUE"),
        )),
    }
}

/// `HOST[::GUEST][:ro|:rw]`
fn dir(entry: &str) -> Result<Dir, Error> {
    let (folders, writable) = match (entry.strip_suffix(":rw"), entry.strip_suffix(":ro")) {
        (Some(folders), _) => (folders, true),
        (None, Some(folders)) => (folders, false),
        (None, None) => (entry, false),
    };
    let (host, guest) = folders.split_once("::").unwrap_or((folders, folders));
    if host.is_empty() || guest.is_empty() {
        return Err(Error::configuration(
            format!("`--dir {entry}` names no folder"),
            "write --dir HOST, --dir HOST::GUEST or --dir HOST::GUEST:rw",
        ));
    }
    // A missing grant would fail every run; better to fail before a message is taken.
    match std::fs::metadata(host) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(Error::configuration(format!("`--dir {entry}`: {host} is no folder"), "name a folder")),
        Err(error) => {
            return Err(Error::configuration(format!("`--dir {entry}`: {error}"), "the folder has to be there"));
        }
    }
    Ok(Dir { host: host.into(), guest: guest.to_owned(), writable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_only_unless_told_otherwise() {
        let dir = |entry: &str| super::dir(entry).unwrap();
        assert_eq!(dir("/tmp"), Dir { host: "/tmp".into(), guest: "/tmp".into(), writable: false });
        assert_eq!(dir("/tmp::/data"), Dir { host: "/tmp".into(), guest: "/data".into(), writable: false });
        assert_eq!(dir("/tmp::/data:rw"), Dir { host: "/tmp".into(), guest: "/data".into(), writable: true });
        assert_eq!(dir("/tmp:ro"), Dir { host: "/tmp".into(), guest: "/tmp".into(), writable: false });
        for bad in ["", "::/data", "/tmp::", "/no/such/folder", "/etc/hostname"] {
            assert!(super::dir(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_has_a_name_and_a_value() {
        assert_eq!(variable("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(variable("A=").unwrap(), ("A".into(), String::new()));
        assert!(variable("=b").is_err());
        assert!(variable("WQ_RUN_TEST_NOT_SET").is_err());
    }
}
