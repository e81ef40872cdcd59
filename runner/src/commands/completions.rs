//! `wq-run completions` and the hidden `wq-run man`: what is made from the definition of the command line.

use super::process::report;
use crate::cli::{self, Cli, generated};
use crate::error::{Error, ExitStatus};
use crate::streams;

pub fn completions(args: &cli::Completions) -> Result<u8, Error> {
    let script = generated::completions(&Cli::definition(), args.shell);
    streams::print(&script).map_err(|source| Error::Io { doing: "write to stdout".into(), source })?;
    Ok(ExitStatus::Done.code())
}

pub fn man(args: &cli::Man) -> Result<u8, Error> {
    let folder = &args.folder;
    let written = std::fs::create_dir_all(folder).and_then(|()| generated::manual(Cli::definition(), folder));
    let doing = || format!("write manual pages to {}", folder.display());
    written.map_err(|source| Error::Io { doing: doing(), source })?;
    report(format!("wrote manual pages to {}", folder.display()))?;
    Ok(ExitStatus::Done.code())
}
