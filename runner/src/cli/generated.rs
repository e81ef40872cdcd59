//! What is made from the definition of the command line: completions for shells, and manual pages.

use std::io;
use std::path::Path;

use clap::Command;
pub use clap_complete::Shell;
use clap_mangen::Man;

const NAME: &str = "wq-run";

/// The script with which a shell completes our command line.
pub fn completions(all: &Command, shell: Shell) -> Vec<u8> {
    // The generators would offer hidden commands too.
    let commands = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut visible = Command::new(NAME).args(all.get_arguments().cloned()).subcommands(commands);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible, NAME, &mut script);
    if shell == Shell::Bash {
        // clap_complete 4.6 calls a program with a hyphen by two names, so that no command of it would find its flags.
        let text = String::from_utf8_lossy(&script).replace("wq__subcmd__run", "wq__run");
        script = text.into_bytes();
    }
    script
}

/// Writes a page for each command into a folder: `wq-run.1`, `wq-run-work.1` and so on.
///
/// # Errors
/// When a file can't be written.
pub fn manual(all: Command, folder: &Path) -> io::Result<()> {
    let mut all = all.version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    // Gives each command its full name.
    all.build();
    page(&all, folder)
}

fn page(command: &Command, folder: &Path) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        page(inner, folder)?;
    }
    Man::new(command.clone()).manual("wq-run").generate_to(folder).map(drop)
}
