//! The guest: is it one, is it the right one, what does it ask for, and is its code kept.

use std::path::Path;
use std::time::{Duration, Instant};

use humantime::format_duration;

use crate::config::Work;
use crate::error::Error;
use crate::finding::{Findings, Topic};
use crate::folders;
use crate::sandbox::{self, Inspection, Isolation, Keep, Loading, Options, Sandbox};

/// Loads the guest as a worker does, and keeps nothing of it.
pub async fn look(config: &Work) -> Findings<Error> {
    let mut findings = Findings::default();
    let loading = Loading { keep: Keep::Nothing, ..config.loading.clone() };
    let began = Instant::now();
    let sandbox = match Sandbox::load(loading.clone(), config.sandbox.clone()).await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            findings.refusal(topic(&error), error);
            return findings;
        }
    };
    let took = began.elapsed();
    findings.good(Topic::Guest, format!("`{}` can run", sandbox.name()));
    match loading.digest {
        Some(_) => findings.good(Topic::Digest, format!("{}, as --guest-digest has it", sandbox.digest())),
        None => findings.note(Topic::Digest, format!("{}; --guest-digest would refuse any other", sandbox.digest())),
    }
    match sandbox::inspect(loading.guest.clone(), loading.bounds).await {
        Ok((inspection, _)) => imports(&inspection, &config.sandbox, &mut findings),
        Err(error) => findings.note(Topic::Imports, format!("not checked: {error}")),
    }
    wall(&loading, &sandbox, &mut findings);
    cache(loading.cache.as_deref(), sandbox.compiled_in().is_none(), took, &mut findings);
    findings
}

fn topic(error: &sandbox::Error) -> Topic {
    match error {
        sandbox::Error::Digest { .. } => Topic::Digest,
        sandbox::Error::Grant(_) | sandbox::Error::NoSockets { .. } => Topic::Imports,
        sandbox::Error::Wall(_) | sandbox::Error::Isolation(_) => Topic::Wall,
        sandbox::Error::NoRoom(_) | sandbox::Error::Thread(_) | sandbox::Error::CompileMemory { .. } => Topic::Memory,
        _ => Topic::Guest,
    }
}

/// What the guest can ask the host for, beside what it is granted.
fn imports(inspection: &Inspection, options: &Options, findings: &mut Findings<Error>) {
    let grants = &options.grants;
    let imports = |from: &str, name: &str| {
        let names = inspection.imports.iter().filter(|(origin, _)| *origin == from).flat_map(|(_, names)| names);
        names.into_iter().any(|import| import.split('@').next() == Some(name))
    };
    let opens_files = imports("wasi_snapshot_preview1", "path_open");
    let connects = imports("wasi:sockets", "tcp-create-socket") || imports("wasi:sockets", "tcp");
    let has_files = !grants.dirs.is_empty() || grants.metadata || options.limits.scratch.is_some();
    let before = findings.0.len();
    // A component has the interfaces of files whether it opens some or not.
    if opens_files && !has_files {
        findings.caution(
            Topic::Imports,
            "the guest imports `path_open`, and no folder is granted",
            "the guest cannot open any file; how it handles that depends on the guest",
            "--dir HOST::GUEST grants a folder, --scratch BYTES an empty one",
        );
    }
    if connects && grants.net.is_empty() {
        findings.caution(
            Topic::Imports,
            "the guest imports TCP sockets (wasi:sockets), and no address is granted",
            "the guest cannot open any connection; how it handles that depends on the guest",
            "--allow-net HOST:PORT grants an address",
        );
    }
    if !connects && !grants.net.is_empty() {
        findings.note(Topic::Imports, "--allow-net grants addresses, and the guest imports no sockets");
    }
    if inspection.kind == "module" && !opens_files && !grants.dirs.is_empty() {
        findings.note(Topic::Imports, "--dir grants folders, and the guest imports nothing that opens files");
    }
    if findings.0.len() == before {
        findings.good(Topic::Imports, "wq-run provides all imports of the guest, and none of them needs another grant");
    }
}

fn wall(loading: &Loading, sandbox: &Sandbox, findings: &mut Findings<Error>) {
    if !matches!(loading.isolation, Isolation::Process) {
        return;
    }
    match sandbox.missing_walls() {
        [] => findings.good(Topic::Wall, "guests run in separate processes"),
        missing => findings.caution(
            Topic::Wall,
            format!("parts of the second wall around guests' processes are missing: {}", missing.join("; ")),
            "fewer barriers hold a guest that breaks out of its sandbox",
            "a container's seccomp profile has to allow landlock and seccomp; with --wall required (WQ_WALL), a worker does not start if a part is missing",
        ),
    }
}

/// Whether the next start finds the compiled code.
fn cache(folder: Option<&Path>, is_cached: bool, took: Duration, findings: &mut Findings<Error>) {
    let took = format_duration(Duration::from_millis(took.as_millis() as u64));
    let consequence = format!("each start compiles the guest, which took {took} here");
    let Some(folder) = folder else {
        return findings.note(Topic::Cache, format!("there is no folder for compiled guests: {consequence}"));
    };
    let shown = folder.display();
    if is_cached {
        return findings.good(Topic::Cache, format!("the compiled guest is in {shown}"));
    }
    match made_in(folder) {
        Ok(()) => findings.good(Topic::Cache, format!("{shown} can be written to; the first start compiles the guest, which took {took} here")),
        Err(error) => findings.caution(
            Topic::Cache,
            format!("{shown} cannot be written to: {error}"),
            consequence,
            "set --cache-dir (WQ_CACHE_DIR) to a folder that can be written to, or one into which `wq-run compile` has put the guest",
        ),
    }
}

/// Whether files can be made in a folder that may have to be made first.
fn made_in(folder: &Path) -> std::io::Result<()> {
    let mut folder = folder;
    loop {
        match folders::can_be_written(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match folder.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => folder = parent,
                Some(_) => return folders::can_be_written(Path::new(".")),
                None => return Err(error),
            },
            looked => return looked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_can_be_made_where_the_one_above_it_can_be_written_to() {
        let folder = tempfile::tempdir().unwrap();
        assert!(made_in(&folder.path().join("a/b/c")).is_ok());
        assert!(!folder.path().join("a").exists(), "a look makes nothing");
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(made_in(&file).is_err());
        assert!(made_in(&file.join("below")).is_err());
    }
}
