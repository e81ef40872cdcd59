//! What a release consists of: `scripts/dist.sh`, with the program that the tests have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{installed, root, run, start};

/// Packs a release into a folder: the archive, and the bill of materials.
fn pack(program: &Path, folder: &Path) -> [PathBuf; 2] {
    let mut script = Command::new(root().join("scripts/dist.sh"));
    script.arg("--prebuilt").arg(program).env("INTO", folder).env("DIRTY", "yes");
    // Sources of crates for other systems may have to be downloaded.
    let patience = std::time::Duration::from_secs(300);
    start(script.env("SOURCE_DATE_EPOCH", "1700000000").current_dir(root())).end_within(patience).exits(0);
    run(Command::new("sh").args(["-c", "sha256sum --check SHA256SUMS-*"]).current_dir(folder)).exits(0);
    let named = |end: &str| {
        let mut entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.display().to_string().ends_with(end)).unwrap_or_else(|| panic!("no {end}"))
    };
    [named(".tar.gz"), named(".cdx.json")]
}

#[test]
fn a_release_is_the_same_each_time_and_has_all_that_it_should() {
    if installed("python3").is_none() || installed("git").is_none() || installed("strip").is_none() {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    // As a release is; symbols would be most of what is packed.
    let program = work.path().join("wq-run");
    run(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_wq-run"))).exits(0);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [[archive, materials], [again, _]] = folders.each_ref().map(|folder| pack(&program, folder.path()));
    assert!(std::fs::read(&archive).unwrap() == std::fs::read(again).unwrap(), "the archives differ");

    let listed = run(Command::new("tar").arg("-tzf").arg(&archive)).exits(0).out();
    let files: BTreeSet<&str> = listed.lines().filter_map(|line| Some(line.split_once('/')?.1)).collect();
    for file in [
        "LICENSE",
        "README.md",
        "THIRD-PARTY-LICENSES.md",
        "bin/wq-run",
        "deploy/job/job.yaml",
        "docs/reference.md",
        "share/bash-completion/completions/wq-run",
        "share/fish/vendor_completions.d/wq-run.fish",
        "share/man/man1/wq-run-work.1",
        "share/zsh/site-functions/_wq-run",
        "wq-run.cdx.json",
    ] {
        assert!(files.contains(file), "no {file} in {files:#?}");
    }

    let materials: Value = serde_json::from_slice(&std::fs::read(materials).unwrap()).unwrap();
    assert_eq!(materials["metadata"]["component"]["name"], "wq-run");
    let components = materials["components"].as_array().unwrap();
    let names: BTreeSet<&str> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
    // The bill of materials lists the crates of the program, and not those of its tests or benchmarks.
    assert!(["wasmtime", "lapin", "redis", "aws-sigv4", "libsqlite3-sys"].iter().all(|name| names.contains(name)));
    assert!(["proptest", "vt100", "wq-bench"].iter().all(|name| !names.contains(name)), "{names:?}");
    let licences = run(Command::new("tar").args(["-xzOf"]).arg(&archive).args(["--wildcards", "*/THIRD-PARTY-*"]));
    let licences = licences.exits(0).out();
    for component in components {
        let named = format!("{} {}", component["name"].as_str().unwrap(), component["version"].as_str().unwrap());
        assert!(licences.contains(&named), "no licence of {named}");
        assert!(component["licenses"][0]["expression"].is_string() && component["hashes"][0]["content"].is_string());
    }
}
