//! The pods of every workload: a worker, as the `restricted` Pod Security standard asks for it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::meta::{Labels, labels};
use super::volume::{Volume, VolumeMount};
use crate::cli::kubernetes::EnvFrom;
use crate::config::Manifest;

/// The container. `podFailurePolicy` names it too.
pub const CONTAINER: &str = "worker";

const PORT: &str = "metrics";

/// The image's own user.
const USER: u32 = 65532;

#[derive(Debug, Serialize)]
pub struct PodTemplate {
    metadata: TemplateMetadata,
    pub spec: PodSpec,
}

#[derive(Debug, Serialize)]
struct TemplateMetadata {
    labels: Labels,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<&'static str>,
    termination_grace_period_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_name: Option<String>,
    automount_service_account_token: bool,
    enable_service_links: bool,
    security_context: PodSecurity,
    containers: [Container; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<Volume>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodSecurity {
    run_as_non_root: bool,
    run_as_user: u32,
    run_as_group: u32,
    /// For claims that are written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    fs_group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs_group_change_policy: Option<&'static str>,
    seccomp_profile: Typed,
}

#[derive(Debug, Serialize)]
struct Typed {
    r#type: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: &'static str,
    image: String,
    image_pull_policy: &'static str,
    args: Vec<String>,
    env: [Variable; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env_from: Vec<Variables>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    liveness_probe: Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readiness_probe: Option<Probe>,
    resources: Resources,
    security_context: Security,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volume_mounts: Vec<VolumeMount>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: &'static str,
    value_from: ValueFrom,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ValueFrom {
    secret_key_ref: KeyRef,
}

#[derive(Debug, Serialize)]
struct KeyRef {
    name: String,
    key: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Variables {
    SecretRef { name: String },
    ConfigMapRef { name: String },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: &'static str,
    container_port: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: HttpGet,
    period_seconds: u32,
    timeout_seconds: u32,
    failure_threshold: u32,
}

#[derive(Debug, Serialize)]
struct HttpGet {
    path: &'static str,
    port: &'static str,
}

#[derive(Debug, Serialize)]
struct Resources {
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Security {
    allow_privilege_escalation: bool,
    read_only_root_filesystem: bool,
    capabilities: Capabilities,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    drop: [&'static str; 1],
}

/// The pods of a workload. The guest has this path in them, and this size if that is known.
pub fn template(config: &Manifest, guest: &str, size: Option<u64>, volumes: super::volume::Volumes) -> PodTemplate {
    let port = config.port;
    let annotations = port.map_or_else(BTreeMap::new, |port| {
        BTreeMap::from([
            ("prometheus.io/scrape", "true".to_owned()),
            ("prometheus.io/port", port.to_string()),
            ("prometheus.io/path", "/metrics".to_owned()),
        ])
    });
    let probe = |path, period_seconds| {
        let http_get = HttpGet { path, port: PORT };
        Probe { http_get, period_seconds, timeout_seconds: 5, failure_threshold: 3 }
    };
    let text = |amounts: BTreeMap<String, crate::cli::kubernetes::Quantity>| {
        amounts.into_iter().map(|(name, quantity)| (name, quantity.0)).collect()
    };
    let container = Container {
        name: CONTAINER,
        image: config.image.clone(),
        image_pull_policy: "IfNotPresent",
        args: args(config, guest),
        env: [Variable {
            name: "BROKER_URL",
            value_from: ValueFrom {
                secret_key_ref: KeyRef { name: config.secret.name.0.clone(), key: config.secret.key.clone() },
            },
        }],
        env_from: config
            .env_from
            .iter()
            .map(|from| match from {
                EnvFrom::Secret(name) => Variables::SecretRef { name: name.0.clone() },
                EnvFrom::ConfigMap(name) => Variables::ConfigMapRef { name: name.0.clone() },
            })
            .collect(),
        ports: port.iter().map(|port| Port { name: PORT, container_port: *port }).collect(),
        // Both answer while the guest is compiled.
        liveness_probe: port.map(|_| probe("/healthz", 10)),
        readiness_probe: port.map(|_| probe("/readyz", 5)),
        resources: Resources {
            requests: text(super::resources::requests(&config.load, size, config.requests.clone())),
            limits: text(super::resources::limits(&config.load, size, config.limits.clone())),
        },
        security_context: Security {
            allow_privilege_escalation: false,
            read_only_root_filesystem: true,
            capabilities: Capabilities { drop: ["ALL"] },
        },
        volume_mounts: volumes.mounts,
    };
    let group = volumes.has_writable_claim.then_some(USER);
    PodTemplate {
        metadata: TemplateMetadata { labels: labels(&config.name.0), annotations },
        spec: PodSpec {
            restart_policy: None,
            termination_grace_period_seconds: config.grace.as_secs() + u64::from(config.grace.subsec_nanos() > 0),
            service_account_name: config.service_account.as_ref().map(|name| name.0.clone()),
            automount_service_account_token: false,
            enable_service_links: false,
            security_context: PodSecurity {
                run_as_non_root: true,
                run_as_user: USER,
                run_as_group: USER,
                fs_group: group,
                fs_group_change_policy: group.map(|_| "OnRootMismatch"),
                seccomp_profile: Typed { r#type: "RuntimeDefault" },
            },
            containers: [container],
            volumes: volumes.volumes,
        },
    }
}

/// The command line. Kubernetes replaces `$(NAME)` in it, also by what comes from a Secret, and `$$` by a `$`.
fn args(config: &Manifest, guest: &str) -> Vec<String> {
    let mut args = vec!["work".to_owned(), guest.to_owned()];
    args.extend(config.flags.iter().cloned());
    if !config.args.is_empty() {
        args.push("--".to_owned());
        args.extend(config.args.iter().cloned());
    }
    args.into_iter().map(|arg| arg.replace('$', "$$")).collect()
}
