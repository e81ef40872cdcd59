//! What a manifest is made of, beside what it says of its pods.

use std::path::PathBuf;
use std::time::Duration;

use crate::broker::scaler::Scaler;
use crate::cli::kubernetes::{Completions, Name, Source};
use crate::sandbox::Bounds;

#[derive(Debug)]
pub enum Workload {
    Job(Job),
    Deployment { replicas: u32 },
    ScaledJob(Scaled, Job),
    ScaledDeployment(Scaled),
}

#[derive(Debug)]
pub struct Job {
    /// `None` for a drain.
    pub completions: Option<Completions>,
    /// Messages of one pod, if it takes a count of them.
    pub count: Option<u64>,
    pub parallelism: u32,
    pub backoff_limit: Option<u32>,
    pub ttl: Duration,
}

#[derive(Debug)]
pub struct Scaled {
    pub scaler: Scaler,
    pub messages_per_pod: u32,
    pub replicas: (u32, u32),
    pub polling_interval: Duration,
    pub cooldown: Duration,
    /// The Secret with the broker's URL or the parts of its login, if another one than the workers' was named.
    pub secret: Option<Name>,
}

#[derive(Debug)]
pub enum Guest {
    /// A file that is here.
    Here { path: PathBuf, bounds: Bounds },
    /// What pods get from elsewhere, and the path in it.
    Elsewhere { source: Source, path: String },
}

/// A volume in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub path: String,
    pub source: Source,
    pub read_only: bool,
}

/// What decides about the resources of a pod. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub concurrency: u64,
    pub prefetch: u64,
    pub guest_memory: u64,
    pub message: u64,
    pub stdout: u64,
    /// Messages are unpacked.
    pub decodes: bool,
    /// Guests run in processes of their own.
    pub in_processes: bool,
    /// Pods have to compile the guest.
    pub compiles: bool,
}
