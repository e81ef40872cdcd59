//! Turns what was typed into what is used: the command line and the environment, checked once.
//!
//! Below this, nothing validates.

mod ability;
mod case;
mod dlq;
mod guest;
mod listen;
mod manifest;
mod metadata;
mod mode;
mod publish;
mod results;
mod retries;
mod target;

pub use ability::{queue_arguments_on, queue_type_on};
pub use case::Replay;
pub use dlq::{DeadLetters, Filters};
pub use guest::bounds;
pub use listen::Listen;
pub use manifest::{GUEST_FOLDER, Guest, Job, Load, Manifest, Mount, Scaled, Workload};
pub use publish::{From, Publish, Stamp};
pub use target::Target;

use std::time::Duration;

use crate::broker::{self, Url, outbox};
use crate::case::Case;
use crate::cli;
use crate::error::Error;
use crate::sandbox::{self, Keep, Loading, Stderr};
use crate::settle::Policy;
use crate::sink;
use crate::worker::{self, Mode, record};

/// All that `work` needs.
#[derive(Debug)]
pub struct Work {
    pub loading: Loading,
    pub sandbox: sandbox::Options,
    pub broker: Url,
    pub subscription: broker::Options,
    pub worker: worker::Options,
    /// There if cases are to be saved.
    pub record: Option<record::Options>,
    pub policy: Policy,
    pub results: Vec<sink::Spec>,
    pub result_format: sink::Format,
    /// There if one of the results goes to the broker.
    pub outbox: Option<outbox::Options>,
    pub shutdown_timeout: Duration,
    pub dead_letters_fail: bool,
    /// Whether the dead-letter queue is known. With `--dead-letter-by broker` it is not, unless `--dead-letter-queue` names it.
    pub dead_letters_known: bool,
    pub fail_on_empty: bool,
    /// There if the worker is to be looked at.
    pub listen: Option<Listen>,
}

/// All that `exec` needs.
#[derive(Debug)]
pub struct Exec {
    pub loading: Loading,
    pub sandbox: sandbox::Options,
    pub max_message: u64,
    pub stats: bool,
    /// The case that is run again.
    pub replay: Option<Replay>,
}

/// All that `compile` needs.
#[derive(Debug)]
pub struct Compile {
    pub loading: Loading,
    pub sandbox: sandbox::Options,
}

impl Work {
    pub fn resolve(work: cli::Work) -> Result<Work, Error> {
        let mode = mode::mode(&work)?;
        let Target { broker, queue } = Target::resolve(&work.broker)?;
        target::warn_of_timeout(&broker, work.guest.limits.timeout);
        let wait = mode::wait(&work, mode)?;
        let prefetch = mode::prefetch(&work)?;
        let longest_hold = mode::longest_hold(&work, prefetch);
        let policy = retries::policy(&work);
        ability::check(broker.kind(), &policy, &work.result, longest_hold)?;
        retries::warn_of_rejects(&broker, &queue, &policy);
        let dead_letter_queue = retries::dead_letter_queue(&work, &broker, &queue, &policy)?;
        retries::check_delay_queues(&broker, &queue, &policy)?;
        let dead_letters_known = !policy.rejects || work.dead_letter_queue.is_some();
        let dead_letters_fail = retries::dead_letters_fail(&work, &policy)?;
        results::check(&work, &queue)?;
        let mut sandbox = guest::options(&work.guest, Stderr::Log)?;
        metadata::grant(&work, &mut sandbox)?;
        let listen = work.listen.map(|address| Listen::resolve(&work, address, longest_hold, &policy));
        Ok(Work {
            listen,
            record: case::recording(&work, &sandbox),
            sandbox,
            loading: guest::loading(&work.guest, work.concurrency.into())?,
            outbox: results::outbox(&work, &queue),
            subscription: broker::Options {
                queue,
                prefetch,
                count: if let Mode::Count(count) = mode { Some(count) } else { None },
                longest_hold,
                dead_letter_queue,
                connect_timeout: work.connect_timeout,
                wait_for_queue: work.wait_for_queue.unwrap_or_default(),
                reconnect_timeout: work.reconnect_timeout,
                publish_timeout: work.publish_timeout,
                longest_pause: policy.longest_pause(),
                max_attempts: policy.max_attempts,
                rejects: policy.rejects,
            },
            worker: worker_options(&work, &broker, mode, wait, prefetch),
            broker,
            policy,
            result_format: results::format(&work)?,
            results: work.result,
            shutdown_timeout: work.shutdown_timeout,
            dead_letters_fail,
            dead_letters_known,
            fail_on_empty: matches!(work.on_empty, cli::OnEmpty::Fail),
        })
    }
}

fn worker_options(
    work: &cli::Work,
    broker: &Url,
    mode: Mode,
    wait: Option<Duration>,
    prefetch: u16,
) -> worker::Options {
    worker::Options {
        mode,
        wait,
        concurrency: work.concurrency.into(),
        prefetch: prefetch.into(),
        breaker: retries::breaker(work, mode),
        releases_count: !broker.kind().capabilities.release_uncounted,
        max_message: work.guest.limits.message,
        result_content_type: work.result_content_type.clone(),
        metadata: work.metadata,
        decode: work.decode,
        quiet: work.quiet,
    }
}

impl Exec {
    /// `case` is what was read from `--case`.
    pub fn resolve(mut exec: cli::Exec, case: Option<Case>) -> Result<Exec, Error> {
        let file = exec.case.case.clone().unwrap_or_default();
        let replay = case.map(|case| case::replay(&mut exec, &file, case)).transpose()?;
        let mut sandbox = guest::options(&exec.guest, Stderr::Inherit)?;
        if replay.as_ref().is_some_and(|replay| replay.metadata) {
            metadata::grant_to(&mut sandbox)?;
        }
        Ok(Exec {
            sandbox,
            replay,
            loading: guest::loading(&exec.guest, 1)?,
            max_message: exec.guest.limits.message,
            stats: exec.stats,
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
        let loading = Loading { keep: Keep::Always, ..loading };
        Ok(Compile { sandbox: guest::options(&compile.guest, Stderr::Inherit)?, loading })
    }
}
