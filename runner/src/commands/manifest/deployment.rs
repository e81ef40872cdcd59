//! Deployments of workers.

use serde::Serialize;

use super::meta::{Labels, Object};
use super::pod::PodTemplate;

pub type Deployment = Object<DeploymentSpec>;

pub const KIND: (&str, &str) = ("apps/v1", "Deployment");

#[derive(Debug, Serialize)]
pub struct DeploymentSpec {
    /// `None` where something else scales it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    pub selector: Selector,
    pub template: PodTemplate,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: Labels,
}
