//! What every object begins with.

use std::collections::BTreeMap;

use serde::Serialize;

/// An object as `kubectl apply` takes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object<S> {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub metadata: Metadata,
    pub spec: S,
}

#[derive(Clone, Debug, Serialize)]
pub struct Metadata {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub labels: Labels,
}

pub type Labels = BTreeMap<&'static str, String>;

/// By which a workload finds its pods.
pub fn selector(name: &str) -> Labels {
    Labels::from([("app.kubernetes.io/name", name.to_owned())])
}

/// What all objects of one manifest have in common.
pub fn labels(name: &str) -> Labels {
    let mut labels = selector(name);
    labels.insert("app.kubernetes.io/component", "worker".to_owned());
    labels.insert("app.kubernetes.io/part-of", "wq-run".to_owned());
    labels
}
