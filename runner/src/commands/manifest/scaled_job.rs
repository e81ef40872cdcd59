//! KEDA's ScaledJobs: a Job for each message, or for each few of them.

use serde::Serialize;

use super::job::JobSpec;
use super::meta::Object;
use super::trigger::{self, Trigger};
use crate::config::Scaled;

pub type ScaledJob = Object<ScaledJobSpec>;

pub const KIND: (&str, &str) = ("keda.sh/v1alpha1", "ScaledJob");

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaledJobSpec {
    polling_interval: u64,
    min_replica_count: u32,
    max_replica_count: u32,
    successful_jobs_history_limit: u32,
    failed_jobs_history_limit: u32,
    rollout: Rollout,
    scaling_strategy: Strategy,
    job_target_ref: JobSpec,
    triggers: Vec<Trigger>,
}

#[derive(Debug, Serialize)]
struct Rollout {
    /// Jobs that run are left alone.
    strategy: &'static str,
}

#[derive(Debug, Serialize)]
struct Strategy {
    strategy: &'static str,
}

pub fn spec(scaled: &Scaled, job: JobSpec, authentication: &str) -> ScaledJobSpec {
    ScaledJobSpec {
        polling_interval: scaled.polling_interval.as_secs().max(1),
        min_replica_count: scaled.replicas.0,
        max_replica_count: scaled.replicas.1,
        successful_jobs_history_limit: 20,
        failed_jobs_history_limit: 20,
        rollout: Rollout { strategy: "gradual" },
        // If the scaler also counts messages that workers have, KEDA has to subtract the Jobs that run (`default`). Otherwise
        // it must not (`accurate`).
        scaling_strategy: Strategy { strategy: if scaled.scaler.counts_running { "default" } else { "accurate" } },
        job_target_ref: job,
        triggers: trigger::triggers(scaled, authentication),
    }
}
