//! `wq-run compile`: compiles a guest into the cache, for workers to find.

use super::process::report;
use crate::cli;
use crate::config::Compile;
use crate::error::{Error, ExitStatus};
use crate::sandbox::{self, Entry};

pub async fn run(args: cli::Compile) -> Result<u8, Error> {
    let config = Compile::resolve(args)?;
    let Entry { path, size, digest } = sandbox::compile(config.loading, config.sandbox).await?;
    report(format!("{digest} compiled: {size} bytes in {}", path.display()))?;
    Ok(ExitStatus::Done.code())
}
