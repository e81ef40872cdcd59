//! What deploy/ has: manifests, rendered by kustomize and valid by the schemas of Kubernetes; alerts, and a dashboard.

use std::process::Command;

use crate::harness::{installed, root, run, start};

#[test]
fn the_manifests_are_what_kubernetes_accepts() {
    // The script brings what else it needs.
    if installed("python3").is_none() {
        return;
    }
    run(Command::new(root().join("scripts/check-manifests.sh")).current_dir(root())).exits(0);
}

#[test]
fn the_examples_are_what_manifest_prints() {
    let printed = tempfile::tempdir().unwrap();
    let script = root().join("scripts/manifests.sh");
    run(Command::new(script).arg(printed.path()).env("WQ_RUN", env!("CARGO_BIN_EXE_wq-run"))).exits(0);
    let mut compared = 0;
    for folder in ["job", "examples"] {
        for entry in std::fs::read_dir(printed.path().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let shipped = root().join("deploy").join(folder).join(path.file_name().unwrap());
            let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
            assert!(read(&path) == read(&shipped), "{} is another: run `make manifests`", shipped.display());
            compared += 1;
        }
    }
    let shipped = std::fs::read_dir(root().join("deploy/examples")).unwrap().count();
    assert_eq!(compared, shipped + 1, "an example that `manifest` does not print");
}

#[test]
fn each_alert_fires_in_its_test_and_the_dashboard_asks_for_what_there_is() {
    if installed("promtool").is_none() {
        return;
    }
    run(Command::new(root().join("scripts/check-monitoring.sh")).current_dir(root())).exits(0);
}

#[test]
fn each_query_of_the_dashboard_returns_data_from_a_prometheus_that_scrapes_workers() {
    use clap::CommandFactory as _;

    let command = wq_run::cli::Cli::command();
    let serves_metrics =
        command.find_subcommand("work").unwrap().get_arguments().any(|flag| flag.get_long() == Some("listen"));
    if !serves_metrics || installed("prometheus").is_none() {
        return;
    }
    let mut script = Command::new(root().join("scripts/try-dashboard.sh"));
    let patience = std::time::Duration::from_secs(180);
    start(script.arg(env!("CARGO_BIN_EXE_wq-run")).current_dir(root())).end_within(patience).exits(0);
}
