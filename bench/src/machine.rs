//! Where and with what it was measured.

use std::path::Path;
use std::process::Command;

use crate::broker::RabbitMq;
use crate::contender::{Build, Tools};

/// Lines of "what: which".
pub fn describe(tools: &Tools, redis_server: Option<&Path>) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut lines = vec![
        ("CPU", format!("{}, {cores} cores, shared by the broker and the worker", cpu())),
        ("memory", memory()),
        ("system", system()),
        ("wq-run", wq_run(&tools.build(Build::Now).program)),
        ("rustc", said(Command::new("rustc").arg("--version"))),
        ("RabbitMQ", RabbitMq::version()),
        ("amqp-consume", package("amqp-tools")),
        ("Python", said(Command::new(&tools.python).arg("--version"))),
        ("wasmtime", said(Command::new(&tools.wasmtime).arg("--version"))),
        ("echo guest", size(&tools.echo)),
    ];
    if tools.has_before() {
        lines.push(("wq-run before", wq_run(&tools.build(Build::Before).program)));
    }
    if let Some(redis) = redis_server {
        lines.push(("Redis", said(Command::new(redis).arg("--version"))));
    }
    if let Some(cpython) = &tools.cpython {
        lines.push(("CPython as a module", size(cpython)));
    }
    if let Some(interpreter) = &tools.interpreter {
        lines.push((
            "interpreter",
            format!("CPython by componentize-py, {}, compiled {}", size(&interpreter.guest), size(&interpreter.cwasm)),
        ));
    }
    lines
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().to_owned())
}

fn memory() -> String {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = info.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
        kilobytes.parse::<f64>().ok()
    });
    kilobytes.map_or_else(|| "unknown".into(), |kilobytes| format!("{:.0} GiB", kilobytes / 1024.0 / 1024.0))
}

fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, Linux {}", name.unwrap_or("unknown").trim_matches('"'), kernel.trim())
}

/// It names its commit, if who built it told the compiler.
fn wq_run(program: &Path) -> String {
    said(Command::new(program).arg("--version")).replace('\n', "; ")
}

fn package(name: &str) -> String {
    format!("{name} {}", said(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", name])))
}

fn size(path: &Path) -> String {
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if bytes < 1 << 20 { format!("{} KB", bytes / 1000) } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}

/// What a program prints, or nothing.
fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
