//! Volumes, and where they are mounted.

use serde::Serialize;

use crate::cli::kubernetes::Source;
use crate::config::{GUEST_FOLDER, Mount};

/// The volumes of a pod.
#[derive(Debug, Default)]
pub struct Volumes {
    pub volumes: Vec<Volume>,
    pub mounts: Vec<VolumeMount>,
    pub has_writable_claim: bool,
}

#[derive(Debug, Serialize)]
pub struct Volume {
    name: String,
    #[serde(flatten)]
    made_of: MadeOf,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    name: String,
    mount_path: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum MadeOf {
    ConfigMap {
        name: String,
    },
    Secret {
        secret_name: String,
    },
    PersistentVolumeClaim {
        claim_name: String,
    },
    Image {
        reference: String,
        pull_policy: &'static str,
    },
    EmptyDir {
        #[serde(skip_serializing_if = "Option::is_none")]
        size_limit: Option<String>,
    },
    Projected {
        sources: Vec<Projected>,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Projected {
    ConfigMap { name: String },
}

impl Volumes {
    /// The guest, from what is there already.
    pub fn guest_from(&mut self, source: &Source) {
        self.add("guest".to_owned(), GUEST_FOLDER, made_of(source), true);
    }

    /// The guest, from ConfigMaps that are printed with the workload.
    pub fn guest_in(&mut self, config_maps: &[&str]) {
        let made_of = match config_maps {
            [only] => MadeOf::ConfigMap { name: (*only).to_owned() },
            several => MadeOf::Projected {
                sources: several.iter().map(|name| Projected::ConfigMap { name: (*name).to_owned() }).collect(),
            },
        };
        self.add("guest".to_owned(), GUEST_FOLDER, made_of, true);
    }

    pub fn others(&mut self, mounts: &[Mount]) {
        for (number, Mount { path, source, read_only }) in mounts.iter().enumerate() {
            self.has_writable_claim |= matches!(source, Source::Claim(_)) && !read_only;
            self.add(name(path, number), path, made_of(source), *read_only);
        }
    }

    fn add(&mut self, name: String, path: &str, made_of: MadeOf, read_only: bool) {
        self.mounts.push(VolumeMount { name: name.clone(), mount_path: path.to_owned(), read_only });
        self.volumes.push(Volume { name, made_of });
    }
}

/// A name that tells what the volume is for, and that no other one has.
fn name(path: &str, number: usize) -> String {
    match path {
        "/tmp" => "tmp".to_owned(),
        "/cache" => "cache".to_owned(),
        _ => format!("volume-{number}"),
    }
}

fn made_of(source: &Source) -> MadeOf {
    match source {
        Source::ConfigMap(name) => MadeOf::ConfigMap { name: name.0.clone() },
        Source::Secret(name) => MadeOf::Secret { secret_name: name.0.clone() },
        Source::Claim(name) => MadeOf::PersistentVolumeClaim { claim_name: name.0.clone() },
        Source::Image(image) => MadeOf::Image { reference: image.clone(), pull_policy: "IfNotPresent" },
        Source::EmptyDir(size) => MadeOf::EmptyDir { size_limit: size.as_ref().map(|size| size.0.clone()) },
    }
}
