//! A Prometheus of our own that scrapes what a test tells it to, and its `promtool`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::rabbitmq::free_ports;
use super::{Run, Running, eventually, http, required, root, run_with, start_onto};

pub struct Prometheus {
    address: SocketAddr,
    _folder: tempfile::TempDir,
    _process: Running,
}

/// A program of Prometheus, which `scripts/install.sh prometheus` has put into a folder.
fn program(name: &str) -> Option<PathBuf> {
    let ours = root().join("build/prometheus").join(name);
    let missing = format!("`scripts/install.sh prometheus` has not brought {name}");
    required(ours.is_file().then_some(ours), &missing)
}

/// What `promtool` says of metrics.
pub fn lint(metrics: &str) -> Option<Run> {
    Some(run_with(Command::new(program("promtool")?).args(["check", "metrics"]), metrics.as_bytes()))
}

impl Prometheus {
    /// Scrapes this address each second.
    pub fn start(target: SocketAddr) -> Option<Prometheus> {
        let program = program("prometheus")?;
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: wq-run, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        std::fs::write(&config, text).expect("written");
        let address = SocketAddr::from(([127, 0, 0, 1], free_ports::<1>()[0]));
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let process = start_onto(&mut command, Stdio::null(), Stdio::null());
        let prometheus = Prometheus { address, _folder: folder, _process: process };
        let is_ready = || http::request(address, "GET", "/-/ready").is_ok_and(|answer| answer.status == 200);
        eventually("Prometheus is ready", || is_ready().then_some(()));
        Some(prometheus)
    }

    /// The value of a query that has one.
    pub fn value(&self, query: &str) -> Option<f64> {
        let encoded: String =
            percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC).collect();
        let found = self.ask(&format!("/api/v1/query?query={encoded}"));
        found["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// The names of all series.
    pub fn names(&self) -> Vec<String> {
        let found = self.ask("/api/v1/label/__name__/values");
        found.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    fn ask(&self, path: &str) -> Value {
        let answer = http::get(self.address, path);
        let answer: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].clone()
    }
}
