//! `wq-run manifest`: prints what Kubernetes is to run, from the flags of `work`.

mod config_map;
mod deployment;
mod header;
mod job;
mod meta;
mod pod;
mod resources;
mod scaled_job;
mod scaled_object;
mod trigger;
mod volume;

use serde::Serialize;

use self::config_map::ConfigMap;
use self::deployment::{Deployment, DeploymentSpec, Selector};
use self::job::Job;
use self::meta::{Metadata, Object, labels, selector};
use self::pod::PodTemplate;
use self::scaled_job::ScaledJob;
use self::scaled_object::ScaledObject;
use self::trigger::TriggerAuthentication;
use self::volume::Volumes;
use super::process::say;
use crate::broker::admin::Status;
use crate::cli;
use crate::cli::kubernetes::Completions;
use crate::cli::manifest::Output;
use crate::config::{self, GUEST_FOLDER, Guest, Manifest, Target, Workload};
use crate::error::{Error, ExitStatus};
use crate::sandbox;

/// One of the objects that are printed.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Printed {
    ConfigMap(ConfigMap),
    TriggerAuthentication(TriggerAuthentication),
    Job(Job),
    Deployment(Deployment),
    ScaledJob(ScaledJob),
    ScaledObject(ScaledObject),
}

pub async fn run(args: cli::Manifest<cli::Work>) -> Result<u8, Error> {
    let output = args.parts().0.output;
    let config = Manifest::resolve(args)?;
    let (mut objects, path, size, mut volumes) = guest(&config).await?;
    volumes.others(&config.mounts);
    let completions = match &config.workload {
        Workload::Job(job) | Workload::ScaledJob(_, job) => completions(&config, job).await?,
        Workload::Deployment { .. } | Workload::ScaledDeployment(_) => None,
    };
    let template = pod::template(&config, &path, size, volumes);
    objects.extend(workload(&config, completions, template));
    let text = match output {
        Output::Json => json(&objects)?,
        Output::Yaml => header::of(std::env::args_os(), &config) + &yaml(&objects)?,
    };
    say(text.trim_end())?;
    Ok(ExitStatus::Done.code())
}

/// The objects that hold the guest, its path in a pod, its size in bytes if it is known, and the volume that it is in.
async fn guest(config: &Manifest) -> Result<(Vec<Printed>, String, Option<u64>, Volumes), Error> {
    let mut volumes = Volumes::default();
    let (path, bounds) = match &config.guest {
        Guest::Elsewhere { source, path } => {
            volumes.guest_from(source);
            return Ok((Vec::new(), format!("{GUEST_FOLDER}/{path}"), None, volumes));
        }
        Guest::Here { path, bounds } => (path, *bounds),
    };
    let (inspection, _) = sandbox::inspect(path.clone(), bounds).await?;
    if let Some(refused) = inspection.refused {
        return Err(Error::RefusedGuest { reason: refused.reason, hint: refused.hint });
    }
    let source = sandbox::read(path)?;
    let namespace = config.namespace.as_ref().map(|name| name.0.as_str());
    let held = config_map::hold(&config.name.0, namespace, &labels(&config.name.0), source)
        .map_err(|source| Error::Io { doing: "pack the guest".into(), source })?;
    let names: Vec<&str> = held.config_maps.iter().map(|map| map.metadata.name.as_str()).collect();
    volumes.guest_in(&names);
    let path = format!("{GUEST_FOLDER}/{}", held.file);
    let objects = held.config_maps.into_iter().map(Printed::ConfigMap).collect();
    Ok((objects, path, Some(inspection.size.wasm), volumes))
}

/// How many pods have to succeed.
async fn completions(config: &Manifest, job: &config::Job) -> Result<Option<u32>, Error> {
    match (job.completions, &config.target) {
        (Some(Completions::Number(number)), _) => Ok(Some(number)),
        (Some(Completions::Auto), Some(target)) => {
            let depth = depth(target).await.map_err(|error| error.on(&target.broker))?;
            let pods = depth.div_ceil(job.count.unwrap_or(1));
            match u32::try_from(pods).ok().filter(|pods| (1..=i32::MAX as u32).contains(pods)) {
                Some(pods) => Ok(Some(pods)),
                None => Err(Error::configuration(
                    format!(
                        "--completions auto: the queue {} has {depth} messages, and no Job has that many pods",
                        target.queue
                    ),
                    "publish them first; with very many, let each pod take several (--count) or work until the queue is empty \
                     (--drain)",
                )),
            }
        }
        _ => Ok(None),
    }
}

/// The messages that pods will get. Those that others work on are theirs.
async fn depth(target: &Target) -> Result<u64, Error> {
    let mut admin = target.broker.admin();
    let Status { ready, delayed, .. } = admin.status(&target.queue).await?;
    admin.close().await?;
    Ok(ready.saturating_add(delayed.unwrap_or(0)))
}

fn workload(config: &Manifest, completions: Option<u32>, template: PodTemplate) -> Vec<Printed> {
    let name = &config.name.0;
    match &config.workload {
        Workload::Job(job) => {
            let spec = job::spec(job, completions, config.max_attempts, template);
            vec![Printed::Job(object(config, job::KIND, spec))]
        }
        Workload::Deployment { replicas } => vec![deployment(config, Some(*replicas), template)],
        Workload::ScaledJob(scaled, job) => {
            let authentication = trigger::authentication(scaled, &config.secret);
            let job = job::spec(job, completions, config.max_attempts, template);
            vec![
                Printed::TriggerAuthentication(object(config, trigger::KIND, authentication)),
                Printed::ScaledJob(object(config, scaled_job::KIND, scaled_job::spec(scaled, job, name))),
            ]
        }
        Workload::ScaledDeployment(scaled) => {
            let authentication = trigger::authentication(scaled, &config.secret);
            vec![
                Printed::TriggerAuthentication(object(config, trigger::KIND, authentication)),
                deployment(config, None, template),
                Printed::ScaledObject(object(config, scaled_object::KIND, scaled_object::spec(scaled, name, name))),
            ]
        }
    }
}

fn deployment(config: &Manifest, replicas: Option<u32>, template: PodTemplate) -> Printed {
    let selector = Selector { match_labels: selector(&config.name.0) };
    Printed::Deployment(object(config, deployment::KIND, DeploymentSpec { replicas, selector, template }))
}

fn object<S>(config: &Manifest, (api_version, kind): (&'static str, &'static str), spec: S) -> Object<S> {
    let metadata = Metadata {
        name: config.name.0.clone(),
        namespace: config.namespace.as_ref().map(|name| name.0.clone()),
        labels: labels(&config.name.0),
    };
    Object { api_version, kind, metadata, spec }
}

/// In the form of YAML that Kubernetes reads: an older one, in which `on` and `no` are no texts.
fn yaml(objects: &[Printed]) -> Result<String, Error> {
    let mut text = String::new();
    for object in objects {
        let options =
            serde_saphyr::ser_options! { yaml_12: false, prefer_block_scalars: false, compact_list_indent: false };
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string_with_options(object, options).map_err(unwritten)?);
    }
    Ok(text)
}

fn json(objects: &[Printed]) -> Result<String, Error> {
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    serde_json::to_string_pretty(&list).map_err(unwritten)
}

fn unwritten(error: impl std::error::Error) -> Error {
    Error::Io { doing: "write the manifest".into(), source: std::io::Error::other(error.to_string()) }
}
