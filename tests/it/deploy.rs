//! The manifests: rendered by kustomize, and valid by the schemas of Kubernetes.

use std::process::Command;

use crate::harness::{installed, root, run};

#[test]
fn the_manifests_are_what_kubernetes_accepts() {
    // The script brings what else it needs.
    if installed("python3").is_none() {
        return;
    }
    run(Command::new(root().join("scripts/check-manifests.sh")).current_dir(root())).exits(0);
}
