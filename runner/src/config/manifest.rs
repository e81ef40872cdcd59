//! Resolves what `manifest` prints: which workload, and what its pods run with.

mod flags;
mod parts;
mod volumes;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::parts::{Guest, Job, Load, Mount, Scaled, Workload};
pub use self::volumes::GUEST_FOLDER;
use self::volumes::Volumes;
use super::guest::{bounds, check};
use super::target::Target;
use super::{ability, mode, results, retries};
use crate::broker::MAX_NAME;
use crate::cli::kubernetes::{Amount, Completions, EnvFrom, Key, Name, Quantity, Source};
use crate::cli::manifest::{JobBounds, Pods, Scaling};
use crate::cli::{self, Manifest as Typed};
use crate::error::Error;
use crate::shutdown::LAST_RESORT_AFTER;
use crate::worker::Mode;

/// Messages that one pod is started for, unless it takes a count of them.
const MESSAGES_PER_POD: u32 = 10;

/// All that `manifest` needs.
#[derive(Debug)]
pub struct Manifest {
    pub workload: Workload,
    pub name: Name,
    pub namespace: Option<Name>,
    pub image: String,
    pub guest: Guest,
    /// The broker as it is reached from here, if it was named.
    pub target: Option<Target>,
    pub secret: Key,
    pub env_from: Vec<EnvFrom>,
    pub service_account: Option<Name>,
    /// Flags of `work`.
    pub flags: Vec<String>,
    /// The guest's own arguments.
    pub args: Vec<String>,
    pub mounts: Vec<Mount>,
    /// How long a pod may take to end.
    pub grace: Duration,
    pub load: Load,
    pub requests: BTreeMap<String, Quantity>,
    pub limits: BTreeMap<String, Quantity>,
    /// The port of the probes and the metrics.
    pub port: Option<u16>,
    pub max_attempts: u32,
}

impl Manifest {
    pub fn resolve(typed: Typed<cli::Work>) -> Result<Manifest, Error> {
        let (pods, working) = typed.parts();
        let work = &working.work;
        let mode = mode_of(&typed)?;
        let (target, queue) = target(&work.broker)?;
        let policy = retries::policy(work);
        let prefetch = mode::prefetch(work)?;
        check(&work.guest)?;
        check_variables(pods, &work.guest.grants)?;
        results::check(work, &queue)?;
        if let Some(Target { broker, .. }) = &target {
            if broker.broker().is_on_this_host() {
                return Err(Error::configuration(
                    format!("{broker} is on this host alone, and pods run on others"),
                    "name the broker that the pods use: --broker (BROKER_URL)",
                ));
            }
            ability::check(broker.kind(), &policy, &work.result, mode::longest_hold(work, prefetch))?;
        }
        let name = match &pods.name {
            Some(name) => name.clone(),
            None => Name::resembling(&queue)
                .ok_or_else(|| Error::configuration("the name of the queue has no letter or digit", "see --name"))?,
        };
        let workload = workload(&typed, mode, target.as_ref())?;
        let Volumes { mounts, cache, compiles } = volumes::volumes(pods, work, &workload)?;
        let flags = flags::flags(working, &queue, mode, &policy, &workload, &cache);
        let limits = &work.guest.limits;
        Ok(Manifest {
            port: flags::port(&flags)?,
            workload,
            name,
            namespace: pods.namespace.clone(),
            image: pods.image.clone(),
            guest: guest(pods, &work.guest)?,
            target,
            secret: pods.broker_secret.clone(),
            env_from: pods.env_from.clone(),
            service_account: pods.service_account.clone(),
            flags,
            args: work.guest.args.clone(),
            mounts,
            // A second for the kubelet, which counts from the moment at which it asks.
            grace: work.shutdown_timeout.saturating_add(LAST_RESORT_AFTER + Duration::from_secs(1)),
            load: Load {
                concurrency: work.concurrency.into(),
                prefetch: prefetch.into(),
                guest_memory: limits.memory,
                message: limits.message,
                stdout: limits.stdout,
                decodes: work.decode,
                in_processes: matches!(work.guest.isolation, cli::Isolation::Process),
                compiles,
            },
            requests: amounts(&pods.requests, "--requests")?,
            limits: amounts(&pods.limits, "--limits")?,
            max_attempts: work.max_attempts,
        })
    }
}

/// A pod has no variables of ours.
fn check_variables(pods: &Pods, grants: &cli::Grants) -> Result<(), Error> {
    match grants.env.iter().find(|entry| !entry.contains('=')) {
        Some(name) if pods.env_from.is_empty() => Err(Error::configuration(
            format!("`--env {name}` takes its value from the environment of the pod, which has no such variable"),
            format!("name a Secret or a ConfigMap that has it: --env-from secret/NAME; or write --env {name}=VALUE"),
        )),
        _ => Ok(()),
    }
}

/// The queue, and the broker if it is named: pods have its address from a Secret.
fn target(typed: &cli::Broker) -> Result<(Option<Target>, String), Error> {
    if Target::is_named(typed) {
        let target = Target::resolve(typed)?;
        let queue = target.queue.clone();
        return Ok((Some(target), queue));
    }
    match typed.queue.as_deref() {
        None | Some("") => Err(Error::configuration("no queue is named", "name it with --queue (QUEUE)")),
        Some(queue) if queue.len() > MAX_NAME => {
            Err(Error::configuration("the queue's name is longer than 255 bytes", "see --queue (QUEUE)"))
        }
        Some(queue) => Ok((None, queue.to_owned())),
    }
}

/// How many messages a pod takes.
fn mode_of(typed: &Typed<cli::Work>) -> Result<Mode, Error> {
    let work = &typed.parts().1.work;
    if let Typed::Worker(_) = typed {
        return match work {
            _ if work.count.is_some() || work.drain => Err(Error::configuration(
                "the workers of a Deployment never end, but --count and --drain end a worker",
                "leave these flags out, or print a Job: wq-run manifest job",
            )),
            _ if work.wait.is_some() => Err(Error::configuration(
                "--wait (WQ_WAIT) cannot be used with workers that never end",
                "leave it out, or print a Job: wq-run manifest job",
            )),
            _ => Ok(Mode::Forever),
        };
    }
    let mode = mode::mode(work)?;
    mode::wait(work, mode)?;
    match (typed, mode) {
        (Typed::Job(_), Mode::Forever) => Err(Error::configuration(
            "a Job ends, but workers with --forever never do",
            "use --drain or --count (WQ_MODE), or print a Deployment: wq-run manifest worker",
        )),
        _ => Ok(mode),
    }
}

fn workload(typed: &Typed<cli::Work>, mode: Mode, target: Option<&Target>) -> Result<Workload, Error> {
    let count = if let Mode::Count(count) = mode { Some(count) } else { None };
    let job = |bounds: &JobBounds, completions, parallelism| Job {
        completions,
        count,
        parallelism,
        backoff_limit: bounds.backoff_limit,
        ttl: bounds.ttl,
    };
    match typed {
        Typed::Worker(worker) => Ok(Workload::Deployment { replicas: worker.replicas }),
        Typed::Job(typed) => match (count, typed.completions) {
            (Some(_), None) => Err(Error::configuration(
                "a Job has to know how many pods it needs",
                "set --completions N, or --completions auto to count the messages in the queue; or let pods work until the queue is empty: --drain",
            )),
            (None, Some(_)) => Err(Error::configuration(
                "--completions cannot be used with a drain (WQ_MODE), which ends when the queue is empty",
                "leave it out; --parallelism sets the number of pods",
            )),
            (Some(_), Some(Completions::Auto)) if target.is_none() => Err(Error::configuration(
                "--completions auto counts what is in the queue, and no broker is named",
                "set --broker (BROKER_URL, or BROKER_URL_FILE) to the broker as it is reached from here",
            )),
            (_, completions) => Ok(Workload::Job(job(&typed.bounds, completions, typed.parallelism))),
        },
        Typed::Keda(keda) => {
            let of_jobs = mode != Mode::Forever;
            let scaled = scaled(&keda.scaling, mode, target, of_jobs)?;
            match of_jobs {
                // Each takes what its own count says, and a drain what it finds.
                true => Ok(Workload::ScaledJob(scaled, job(&keda.bounds, count.map(|_| Completions::Number(1)), 1))),
                false => Ok(Workload::ScaledDeployment(scaled)),
            }
        }
    }
}

fn scaled(scaling: &Scaling, mode: Mode, target: Option<&Target>, of_jobs: bool) -> Result<Scaled, Error> {
    let Some(Target { broker, queue }) = target else {
        return Err(Error::configuration(
            "how KEDA counts messages depends on the broker, and none is named",
            "set --broker (BROKER_URL, or BROKER_URL_FILE); its password is not printed",
        ));
    };
    let Some(scaler) = broker.broker().scaler(queue, of_jobs) else {
        return Err(Error::configuration(
            format!("KEDA has no way to count the messages of {broker}"),
            "see --broker (BROKER_URL)",
        ));
    };
    if scaling.min_replicas > scaling.max_replicas {
        return Err(Error::configuration("--min-replicas is above --max-replicas", "swap them"));
    }
    let of_one = match mode {
        Mode::Count(count) => u32::try_from(count).unwrap_or(u32::MAX),
        Mode::Drain | Mode::Forever => MESSAGES_PER_POD,
    };
    Ok(Scaled {
        scaler,
        messages_per_pod: scaling.messages_per_pod.unwrap_or(of_one),
        replicas: (scaling.min_replicas, scaling.max_replicas),
        polling_interval: scaling.polling_interval,
        cooldown: scaling.cooldown,
        secret: scaling.scaler_secret.clone(),
    })
}

fn guest(pods: &Pods, guest: &cli::Guest) -> Result<Guest, Error> {
    let Some(source) = pods.guest_from.clone() else {
        return Ok(Guest::Here { path: guest.path.clone(), bounds: bounds(&guest.compiling)? });
    };
    if matches!(source, Source::EmptyDir(_) | Source::Secret(_)) {
        return Err(Error::configuration(
            "a guest comes from a ConfigMap, an image or a claim",
            "see --guest-from: configmap/NAME, image/IMAGE or pvc/NAME",
        ));
    }
    let path = guest.path.to_string_lossy().trim_start_matches('/').to_owned();
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        return Err(Error::configuration(
            "with --guest-from, GUEST (WQ_GUEST) has to be a path in the volume that --guest-from names",
            "write the name of a file in it, task.wasm for example",
        ));
    }
    Ok(Guest::Elsewhere { source, path })
}

fn amounts(typed: &[Amount], flag: &str) -> Result<BTreeMap<String, Quantity>, Error> {
    let mut amounts = BTreeMap::new();
    for Amount { resource, quantity } in typed {
        if amounts.insert(resource.clone(), quantity.clone()).is_some() {
            return Err(Error::configuration(format!("{flag} has {resource} twice"), format!("see {flag}")));
        }
    }
    Ok(amounts)
}
