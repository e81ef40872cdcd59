//! The part of the wall by landlock: which files can be opened and changed, and which ports connected to.
//!
//! A folder's descriptor carries no right, so this holds whatever is open. A file's descriptor keeps the rights that it has.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, NetPort,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};

use super::openings::Openings;

/// The newest version whose rights were tried here.
const NEWEST: ABI = ABI::V9;

/// Before it, renaming from folder to folder within one grant is refused. That would change what guests can do.
const OLDEST: ABI = ABI::V2;

const READ: BitFlags<AccessFs> = landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// Landlock as it stands: its version, and what that version does not know.
pub(super) struct Landlock {
    pub(super) version: i32,
    pub(super) missing: Vec<&'static str>,
}

pub(super) fn restrict(openings: &Openings) -> Result<Landlock, String> {
    // By itself the crate asks an old kernel for what it understands and leaves the rest open, without an error.
    let oldest =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(OLDEST));
    oldest.map_err(|_| "the kernel has none from 5.19 on, or a container's seccomp profile refuses it".to_owned())?;
    let RestrictionStatus { ruleset, landlock, .. } = rules(openings).map_err(|error| error.to_string())?;
    match landlock {
        LandlockStatus::Available { effective_abi, .. } if ruleset != RulesetStatus::NotEnforced => {
            let mut missing = Vec::new();
            if effective_abi < ABI::V3 {
                missing.push("a file that may only be read can be emptied (Linux 6.2 closes this)");
            }
            if effective_abi < ABI::V4 && !openings.ports.is_empty() {
                missing.push("ports are not limited to the granted ones (Linux 6.7 closes this)");
            }
            Ok(Landlock { version: effective_abi as i32, missing })
        }
        LandlockStatus::Available { .. } => Err("the kernel has it, and enforces nothing".into()),
        LandlockStatus::NotEnabled => Err("it is switched off in this kernel".into()),
        LandlockStatus::NotImplemented => Err("this kernel has none".into()),
    }
}

fn rules(openings: &Openings) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let write = AccessFs::from_all(NEWEST)
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::IoctlDev
            | AccessFs::ResolveUnix);
    for dir in openings.dirs {
        ruleset = open(ruleset, &dir.host, if dir.writable { write } else { READ })?;
    }
    for folder in &openings.own {
        ruleset = open(ruleset, folder, write)?;
    }
    for folder in &openings.given {
        ruleset = open(ruleset, folder, READ)?;
    }
    for port in &openings.ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    if !openings.ports.is_empty() {
        // A guest may leave the near end of its connection to the system, by binding to port 0.
        ruleset = ruleset.add_rule(NetPort::new(0, AccessNet::BindTcp))?;
    }
    ruleset.restrict_self()
}

/// A folder that can't be opened can't be opened by the guest either, and the run says so.
fn open(ruleset: RulesetCreated, folder: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(folder) {
        Ok(opened) => ruleset.add_rule(PathBeneath::new(opened, access)),
        Err(_) => Ok(ruleset),
    }
}
