//! The volumes of a pod: those that are asked for, and those that flags of `work` need.

use std::path::Path;

use super::parts::{Mount, Workload};
use crate::cli;
use crate::cli::kubernetes::{Quantity, Source};
use crate::cli::manifest::Pods;
use crate::config::guest::{check_deterministic, named_dir};
use crate::error::Error;

/// Where pods find the guest.
pub const GUEST_FOLDER: &str = "/guest";

/// Where a worker that is started anew in its pod finds the compiled guest again.
const CACHE_FOLDER: &str = "/cache";

/// Where the folders for runs are made.
const TEMPORARY: &str = "/tmp";

/// What a pod's temporary folder may hold beside the scratch folders, in bytes: what `--metadata` writes.
const BESIDE_SCRATCH: u64 = 64 << 20;

/// A folder that a worker uses.
struct Place {
    path: String,
    writable: bool,
    /// The flag that names it.
    flag: &'static str,
}

/// What a pod keeps its files in.
pub struct Volumes {
    pub mounts: Vec<Mount>,
    pub cache: Cache,
    /// Each pod has to compile the guest.
    pub compiles: bool,
}

/// Where compiled code is kept.
pub enum Cache {
    Nowhere,
    In(String),
}

/// The volumes that are asked for, and those that the flags need.
pub fn volumes(pods: &Pods, work: &cli::Work, workload: &Workload) -> Result<Volumes, Error> {
    let mut mounts: Vec<Mount> = Vec::new();
    for cli::kubernetes::Mount { path, source } in &pods.mount {
        if mounts.iter().any(|mount| mount.path == *path) || is_in(path, GUEST_FOLDER) {
            return Err(Error::configuration(
                format!("--mount {path}=…: something else is mounted there"),
                "see --mount",
            ));
        }
        mounts.push(Mount { path: path.clone(), source: source.clone(), read_only: true });
    }
    let places = places(work)?;
    for Place { path, writable, flag } in &places {
        let mount = mounts.iter().find(|mount| is_in(path, &mount.path));
        let what = match mount {
            None => "the pods have no such folder",
            Some(mount) if *writable && !can_be_written(&mount.source) => "that volume is read-only",
            Some(_) => continue,
        };
        return Err(Error::configuration(
            format!("{flag} {path}: {what}"),
            format!("mount a claim there: --mount {path}=pvc/NAME"),
        ));
    }
    let mut writable: Vec<String> = places.into_iter().filter(|place| place.writable).map(|place| place.path).collect();
    let mut add = |path: &str, size: Option<u64>| {
        if !mounts.iter().any(|mount| is_in(path, &mount.path)) {
            let size = size.map(|bytes| Quantity(format!("{}Mi", bytes.div_ceil(1 << 20))));
            mounts.push(Mount { path: path.to_owned(), source: Source::EmptyDir(size), read_only: true });
        }
        writable.push(path.to_owned());
    };
    if work.metadata || work.guest.limits.scratch.is_some() {
        let scratch = work.guest.limits.scratch.unwrap_or(0).saturating_mul(work.concurrency.into());
        add(TEMPORARY, Some(scratch.saturating_add(BESIDE_SCRATCH)));
    }
    let cache = cache_of(pods, work, workload);
    if let Cache::In(path) = &cache
        && !is_in(path, GUEST_FOLDER)
    {
        add(path, None);
    }
    for mount in &mut mounts {
        mount.read_only = !can_be_written(&mount.source) || !writable.iter().any(|path| is_in(path, &mount.path));
    }
    let is_kept = |path: &String| {
        is_in(path, GUEST_FOLDER)
            || mounts.iter().any(|mount| is_in(path, &mount.path) && !matches!(mount.source, Source::EmptyDir(_)))
    };
    let compiles = if let Cache::In(path) = &cache { !is_kept(path) } else { true };
    Ok(Volumes { mounts, cache, compiles })
}

fn can_be_written(source: &Source) -> bool {
    match source {
        Source::Claim(_) | Source::EmptyDir(_) => true,
        Source::ConfigMap(_) | Source::Secret(_) | Source::Image(_) => false,
    }
}

/// Whether a path is a folder or lies in it.
fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The folders that flags name, which no pod has by itself.
fn places(work: &cli::Work) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    let mut add = |path: &Path, writable, flag| match path.to_str() {
        Some(path) if path.starts_with('/') && !path.split('/').any(|part| part == "..") => {
            places.push(Place { path: path.trim_end_matches('/').to_owned(), writable, flag });
            Ok(())
        }
        _ => Err(Error::configuration(
            format!("{flag} {}: a folder of a pod begins with a slash", path.display()),
            format!("write {flag} with a path from the root on"),
        )),
    };
    let dirs = work.guest.grants.dir.iter().map(|entry| named_dir(entry)).collect::<Result<Vec<_>, _>>()?;
    if work.guest.grants.deterministic {
        check_deterministic(work.guest.limits.scratch.is_some(), &dirs)?;
    }
    for dir in &dirs {
        add(&dir.host, dir.writable, "--dir")?;
    }
    for folder in work.result.iter().filter_map(|spec| spec.folder()) {
        add(folder, true, "--result dir:")?;
    }
    if let Some(folder) = &work.record {
        add(folder, true, "--record")?;
    }
    Ok(places)
}

fn cache_of(pods: &Pods, work: &cli::Work, workload: &Workload) -> Cache {
    match (&work.guest.cache_dir, &pods.guest_from, workload) {
        _ if work.guest.no_cache => Cache::Nowhere,
        (Some(path), _, _) => Cache::In(path.to_string_lossy().trim_end_matches('/').to_owned()),
        // Where deploy/guest.Dockerfile puts it.
        (None, Some(Source::Image(_)), _) => Cache::In(format!("{GUEST_FOLDER}{CACHE_FOLDER}")),
        // A container is started anew in its pod.
        (None, _, Workload::Deployment { .. } | Workload::ScaledDeployment(_)) => Cache::In(CACHE_FOLDER.to_owned()),
        // Each pod of a Job starts once.
        (None, _, Workload::Job(_) | Workload::ScaledJob(..)) => Cache::Nowhere,
    }
}
