//! KEDA's triggers and how they log in.

use std::collections::BTreeMap;

use serde::Serialize;

use super::meta::Object;
use crate::broker::scaler::Login;
use crate::cli::kubernetes::Key;
use crate::config::Scaled;

pub type TriggerAuthentication = Object<AuthenticationSpec>;

pub const KIND: (&str, &str) = ("keda.sh/v1alpha1", "TriggerAuthentication");

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    r#type: &'static str,
    metadata: BTreeMap<&'static str, String>,
    authentication_ref: Reference,
}

#[derive(Debug, Serialize)]
struct Reference {
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secret_target_ref: Vec<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_identity: Option<Identity>,
}

#[derive(Debug, Serialize)]
struct Parameter {
    parameter: &'static str,
    name: String,
    key: String,
}

#[derive(Debug, Serialize)]
struct Identity {
    provider: &'static str,
}

pub fn triggers(scaled: &Scaled, authentication: &str) -> Vec<Trigger> {
    let of_one = scaled.messages_per_pod.to_string();
    let trigger = |trigger: &crate::broker::scaler::Trigger| {
        let mut metadata: BTreeMap<&'static str, String> = trigger.metadata.iter().cloned().collect();
        metadata.insert(trigger.length, of_one.clone());
        Trigger { r#type: trigger.kind, metadata, authentication_ref: Reference { name: authentication.to_owned() } }
    };
    scaled.scaler.triggers.iter().map(trigger).collect()
}

/// How KEDA logs in, from the Secret that the workers have or from its own.
pub fn authentication(scaled: &Scaled, workers: &Key) -> AuthenticationSpec {
    let secret = scaled.secret.as_ref().unwrap_or(&workers.name);
    let from =
        |(parameter, key): (&'static str, &str)| Parameter { parameter, name: secret.0.clone(), key: key.to_owned() };
    let parts = |parts: &[(&'static str, &'static str)]| parts.iter().copied().map(from).collect();
    match &scaled.scaler.login {
        Login::Url(parameter) => {
            AuthenticationSpec { secret_target_ref: vec![from((parameter, &workers.key))], pod_identity: None }
        }
        Login::Parts(named) => AuthenticationSpec { secret_target_ref: parts(named), pod_identity: None },
        Login::Identity(_, named) if scaled.secret.is_some() => {
            AuthenticationSpec { secret_target_ref: parts(named), pod_identity: None }
        }
        Login::Identity(provider, _) => {
            AuthenticationSpec { secret_target_ref: Vec::new(), pod_identity: Some(Identity { provider }) }
        }
    }
}
