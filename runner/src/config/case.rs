//! Resolves what `--record` keeps, and what a case asks of the run that repeats it.

use std::path::Path;

use crate::case::secrets::Secrets;
use crate::case::{self, Case, Flags, Grants};
use crate::cli;
use crate::config::guest::named_dir;
use crate::error::Error;
use crate::sandbox;
use crate::task::Outcome;
use crate::task::limits::{Limits, Value};
use crate::worker::record;

/// A case that is to be run again.
#[derive(Debug)]
pub struct Replay {
    pub case: Case,
    pub metadata: bool,
    pub decode: bool,
    /// Grants that the case had and this run has not, as they are typed.
    pub not_given: Vec<String>,
}

/// What the cases of a worker have in common.
pub fn recording(work: &cli::Work, sandbox: &sandbox::Options) -> Option<record::Options> {
    let folder = work.record.clone()?;
    let guest = &work.guest;
    let flags = Flags {
        args: guest.args.clone(),
        argv0: guest.argv0.clone(),
        isolation: match guest.isolation {
            cli::Isolation::Thread => case::Isolation::Thread,
            cli::Isolation::Process => case::Isolation::Process,
        },
        deterministic: guest.grants.deterministic,
        output_is_due: sandbox.output_is_due,
        metadata: work.metadata,
        decode: work.decode,
        limits: Flags::limits_of(&guest.limits),
    };
    let name = |entry: &String| entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).to_owned();
    let grants = Grants {
        env: guest.grants.env.iter().map(name).collect(),
        inherit_env: guest.grants.inherit_env,
        dir: sandbox.grants.dirs.iter().map(dir).collect(),
        allow_net: guest.grants.allow_net.iter().map(ToString::to_string).collect(),
        allow_http: guest.grants.allow_http.iter().map(ToString::to_string).collect(),
        scratch: guest.limits.scratch,
    };
    let secrets = Secrets::new(sandbox.grants.env.iter().map(|(_, value)| value.clone()));
    Some(record::Options { folder, flags, grants, secrets })
}

fn dir(dir: &sandbox::Dir) -> String {
    format!("{}::{}:{}", dir.host.display(), dir.guest, if dir.writable { "rw" } else { "ro" })
}

/// Takes from a case what was not typed. It gives no grant: whoever made the case is not who runs it here.
pub fn replay(exec: &mut cli::Exec, file: &Path, case: Case) -> Result<Replay, Error> {
    let typed = &exec.case;
    let mut replay = Replay { case, metadata: typed.metadata, decode: typed.decode, not_given: Vec::new() };
    let guest = &mut exec.guest;
    if let Some(flags) = &replay.case.flags {
        let limits = flags.limits().map_err(|error| Error::case(file, &error))?;
        let values = guest.limits.values();
        let known = |flag: &str| -> Option<Value> {
            let said = limits.iter().find(|(row, _)| row.flag == flag).map(|(_, value)| *value);
            let here = values.iter().find(|(row, _)| row.flag == flag).and_then(|(_, value)| *value);
            if typed.is_typed(flag) { here } else { said.or(here) }
        };
        // Each row that has to have a value has one here.
        if let Ok(limits) = Limits::read(|row| known(row.flag)) {
            guest.limits = limits;
        }
        if guest.args.is_empty() {
            guest.args.clone_from(&flags.args);
        }
        // A program may look at its own name, whatever its file is called here.
        let named = flags.argv0.as_ref().or(replay.case.guest.name.as_ref());
        guest.argv0 = guest.argv0.take().or_else(|| named.cloned());
        if !typed.is_typed("isolation") && flags.isolation == case::Isolation::Process {
            guest.isolation = cli::Isolation::Process;
        }
        if !typed.is_typed("empty-output") && flags.output_is_due {
            guest.empty_output = cli::EmptyOutput::Fail;
        }
        if flags.deterministic && !(guest.grants.allow_net.is_empty() && guest.grants.allow_http.is_empty()) {
            return Err(Error::configuration(
                "the recorded run had --deterministic, which cannot be used with --allow-net or --allow-http",
                "leave them out",
            ));
        }
        guest.grants.deterministic |= flags.deterministic;
        replay.metadata |= flags.metadata;
        replay.decode |= flags.decode;
    }
    // A dead letter tells of this flag by its outcome alone.
    if !typed.is_typed("empty-output") && replay.case.run.outcome.as_deref() == Some(Outcome::Silent.name()) {
        guest.empty_output = cli::EmptyOutput::Fail;
    }
    if let Some(grants) = &replay.case.grants {
        replay.not_given = not_given(grants, guest)?;
    }
    Ok(replay)
}

/// The grants of the case that were not typed.
fn not_given(had: &Grants, guest: &cli::Guest) -> Result<Vec<String>, Error> {
    let has = &guest.grants;
    let mut missing = Vec::new();
    let names: Vec<&str> = has.env.iter().map(|entry| entry.split('=').next().unwrap_or_default()).collect();
    let is_inherited = |name: &str| has.inherit_env && std::env::var_os(name).is_some();
    for name in had.env.iter().filter(|name| !names.contains(&name.as_str()) && !is_inherited(name)) {
        missing.push(format!("--env {name}"));
    }
    if had.inherit_env && !has.inherit_env {
        missing.push("--inherit-env".to_owned());
    }
    let given = has.dir.iter().map(|entry| named_dir(entry)).collect::<Result<Vec<_>, _>>()?;
    for entry in &had.dir {
        // The folder may be another one here.
        let is_given = named_dir(entry)
            .is_ok_and(|had| given.iter().any(|given| given.guest == had.guest && (given.writable || !had.writable)));
        if !is_given {
            missing.push(format!("--dir {entry}"));
        }
    }
    let lists = [
        ("--allow-net", &had.allow_net, has.allow_net.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ("--allow-http", &had.allow_http, has.allow_http.iter().map(ToString::to_string).collect()),
    ];
    for (flag, had, given) in lists {
        missing.extend(had.iter().filter(|entry| !given.contains(entry)).map(|entry| format!("{flag} {entry}")));
    }
    if let Some(bytes) = had.scratch.filter(|_| guest.limits.scratch.is_none()) {
        missing.push(format!("--scratch {bytes}"));
    }
    Ok(missing)
}
