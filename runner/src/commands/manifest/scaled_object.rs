//! KEDA's ScaledObjects: the size of a Deployment.

use serde::Serialize;

use super::meta::Object;
use super::trigger::{self, Trigger};
use crate::config::Scaled;

pub type ScaledObject = Object<ScaledObjectSpec>;

pub const KIND: (&str, &str) = ("keda.sh/v1alpha1", "ScaledObject");

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaledObjectSpec {
    scale_target_ref: Target,
    polling_interval: u64,
    cooldown_period: u64,
    min_replica_count: u32,
    max_replica_count: u32,
    triggers: Vec<Trigger>,
}

#[derive(Debug, Serialize)]
struct Target {
    name: String,
}

pub fn spec(scaled: &Scaled, deployment: &str, authentication: &str) -> ScaledObjectSpec {
    ScaledObjectSpec {
        scale_target_ref: Target { name: deployment.to_owned() },
        polling_interval: scaled.polling_interval.as_secs().max(1),
        cooldown_period: scaled.cooldown.as_secs(),
        min_replica_count: scaled.replicas.0,
        max_replica_count: scaled.replicas.1,
        triggers: trigger::triggers(scaled, authentication),
    }
}
