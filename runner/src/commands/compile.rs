//! `wq-run compile`: compiles a guest into the cache, for workers to find.

use super::process::report;
use crate::cli;
use crate::config::Compile;
use crate::error::{Error, ExitStatus};
use crate::sandbox::{self, Entry, Tier};

pub async fn run(args: cli::Compile) -> Result<u8, Error> {
    let config = Compile::resolve(args)?;
    let Entry { path, size, digest, tier } = sandbox::compile(config.loading, config.sandbox).await?;
    let how = match tier {
        Tier::Optimised => String::new(),
        Tier::Winch | Tier::SinglePass => format!(" fast, by {}", tier.name()),
    };
    report(format!("{digest} compiled{how}: {size} bytes in {}", path.display()))?;
    Ok(ExitStatus::Done.code())
}
