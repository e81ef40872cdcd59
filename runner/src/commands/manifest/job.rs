//! Jobs, by themselves and as what KEDA starts.

use serde::Serialize;

use super::meta::Object;
use super::pod::{CONTAINER, PodTemplate};
use crate::config;

pub type Job = Object<JobSpec>;

pub const KIND: (&str, &str) = ("batch/v1", "Job");

/// What no new pod mends: the command line (2), the guest (66), a bug (70), the broker's refusal (77), the configuration (78),
/// dead letters that are left (81), a breaker that stays open (82).
pub const FAIL_JOB: [u8; 7] = [2, 66, 70, 77, 78, 81, 82];

/// Stopped by a signal, with the messages given back.
pub const IGNORE: [u8; 2] = [130, 143];

/// Kubernetes counts in 32 bits with a sign.
const MOST: u64 = i32::MAX as u64;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    completions: Option<u32>,
    parallelism: u32,
    backoff_limit: u64,
    ttl_seconds_after_finished: u64,
    pod_failure_policy: Policy,
    template: PodTemplate,
}

#[derive(Debug, Serialize)]
struct Policy {
    rules: [Rule; 3],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_pod_conditions: Option<[Condition; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_exit_codes: Option<ExitCodes>,
}

#[derive(Debug, Serialize)]
struct Condition {
    r#type: &'static str,
    /// The default, which schemas up to 1.34 ask for all the same.
    status: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExitCodes {
    container_name: &'static str,
    operator: &'static str,
    values: Vec<u8>,
}

/// A Job with so many completions. Each message may fail that often before wq-run puts it aside; the Job must not give up
/// before that.
pub fn spec(job: &config::Job, completions: Option<u32>, max_attempts: u32, mut template: PodTemplate) -> JobSpec {
    // podFailurePolicy asks for it. It also keeps each failed pod and its log.
    template.spec.restart_policy = Some("Never");
    let pods = u64::from(completions.unwrap_or(job.parallelism));
    let messages = pods.saturating_mul(job.count.unwrap_or(1));
    let backoff_limit = job.backoff_limit.map_or(messages.saturating_mul(max_attempts.into()), u64::from);
    JobSpec {
        completions,
        parallelism: completions.map_or(job.parallelism, |completions| job.parallelism.min(completions)),
        backoff_limit: backoff_limit.min(MOST),
        ttl_seconds_after_finished: job.ttl.as_secs().min(MOST),
        pod_failure_policy: policy(),
        template,
    }
}

/// By wq-run's exit status. All others count against the limit, and a new pod takes the next message.
fn policy() -> Policy {
    let by_exit_code = |action, values: &[u8]| Rule {
        action,
        on_pod_conditions: None,
        on_exit_codes: Some(ExitCodes { container_name: CONTAINER, operator: "In", values: values.to_vec() }),
    };
    // A node that is drained, or a pod with a higher priority: not the task's fault.
    let disrupted = Rule {
        action: "Ignore",
        on_pod_conditions: Some([Condition { r#type: "DisruptionTarget", status: "True" }]),
        on_exit_codes: None,
    };
    Policy { rules: [disrupted, by_exit_code("Ignore", &IGNORE), by_exit_code("FailJob", &FAIL_JOB)] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitStatus;

    #[test]
    fn every_exit_status_has_its_place_in_the_policy() {
        // 0 is no failure. These count: another pod, or another message, may fare better.
        const COUNT: [u8; 8] = [0, 1, 65, 69, 74, 75, 79, 80];
        for (status, meaning) in ExitStatus::ALL {
            let places = [&COUNT[..], &FAIL_JOB, &IGNORE].iter().filter(|codes| codes.contains(&status.code())).count();
            assert_eq!(places, 1, "{}: {meaning}", status.code());
        }
    }
}
