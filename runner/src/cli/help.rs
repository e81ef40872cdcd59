//! What help has beyond the flags: examples for each command, and a short form (`-h`) that fits a screen.

use clap::{Arg, Command};

/// Commands by their names, and how they are used. A build that lacks a command leaves its examples out.
const EXAMPLES: &[(&[&str], &str)] = &[
    (
        &["work"],
        "wq-run work task.wasm --broker sqlite:queue.db --queue job1\n\
         wq-run work task.wasm --drain --concurrency 4 --result dir:results\n\
         wq-run work task.wasm --record cases",
    ),
    (&["check"], "wq-run check task.wasm --queue job1 --strict"),
    (
        &["exec"],
        "wq-run exec task.wasm --timeout 10s < message.json\nwq-run exec task.wasm --case cases/order-7.1.json",
    ),
    (&["compile"], "wq-run compile task.wasm --cache-dir /var/cache/wq-run"),
    (&["inspect"], "wq-run inspect task.wasm"),
    (&["publish"], "wq-run publish --queue job1 apple banana\nwq-run publish --queue job1 --lines urls.txt"),
    (&["queue", "declare"], "wq-run queue declare --queue job1"),
    (&["queue", "status"], "wq-run queue status --queue job1"),
    (&["queue", "get"], "wq-run queue get --queue results --all\nwq-run queue get --queue job1.dead --json"),
    (&["queue", "peek"], "wq-run queue peek --queue job1"),
    (&["queue", "purge"], "wq-run queue purge --queue job1"),
    (&["dlq", "list"], "wq-run dlq list --queue job1"),
    (
        &["dlq", "show"],
        "wq-run dlq show --queue job1 --outcome timeout\nwq-run dlq show --queue job1 --id order-7 --case > order-7.json",
    ),
    (&["dlq", "replay"], "wq-run dlq replay --queue job1 --outcome timeout"),
    (&["dlq", "purge"], "wq-run dlq purge --queue job1 --older-than 30d"),
    (&["manifest", "job"], "wq-run manifest job task.wasm --queue job1 --drain | kubectl apply --server-side -f -"),
    (&["manifest", "worker"], "wq-run manifest worker task.wasm --queue job1 --replicas 3"),
    (&["manifest", "keda"], "wq-run manifest keda task.wasm --queue job1"),
    (&["completions"], "wq-run completions bash > ~/.local/share/bash-completion/completions/wq-run"),
];

/// What the short form of a command with many flags shows; `--help` has all of them.
const COMMON: &[&str] = &[
    "help",
    "broker",
    "queue",
    "count",
    "drain",
    "forever",
    "concurrency",
    "result",
    "timeout",
    "dir",
    // Of other commands.
    "stats",
    "case",
    "strict",
    "completions",
    "replicas",
    "name",
];

/// A command with more flags than this has them hidden in its short form.
const MANY: usize = 15;

/// Flags whose whole text would fill the short form, and what it says of them.
const BRIEF: &[(&str, &str)] = &[
    ("broker", "The broker: amqp://USER:PASSWORD@HOST, redis://HOST, sqs://REGION or sqlite:PATH"),
    ("result", "Where results go: stdout, dir:PATH, queue:NAME, reply or none"),
];

/// The definition of the command line with all that help has.
pub fn described(all: Command) -> Command {
    let all = EXAMPLES.iter().fold(all, |all, (path, examples)| with_examples(all, path, examples));
    all.mut_subcommands(brief)
}

fn with_examples(command: Command, path: &[&str], examples: &str) -> Command {
    let Some((name, rest)) = path.split_first() else {
        let lines: String = examples.lines().map(|line| format!("\n  {line}")).collect();
        return command.after_help(format!("Examples:{lines}"));
    };
    // Asked to change a command that is not there, clap makes one.
    match command.find_subcommand(name) {
        Some(_) => command.mut_subcommand(name, |inner| with_examples(inner, rest, examples)),
        None => command,
    }
}

/// Makes the short form short.
fn brief(command: Command) -> Command {
    let command = command.mut_subcommands(brief);
    let is_long = command.get_arguments().count() > MANY;
    command.mut_args(|arg| {
        let Some(name) = arg.get_long().map(str::to_owned) else { return arg };
        let arg = arg.hide_short_help(is_long && !COMMON.contains(&name.as_str()));
        with_brief_help(arg, &name)
    })
}

fn with_brief_help(arg: Arg, name: &str) -> Arg {
    let Some((_, text)) = BRIEF.iter().find(|(flag, _)| *flag == name) else { return arg };
    match arg.get_help().cloned() {
        Some(whole) => arg.help(*text).long_help(whole),
        None => arg,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The commands that people see and that do something, by their names.
    fn leaves(command: &Command, path: &[String]) -> Vec<(Vec<String>, Command)> {
        let visible = command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
        let inner: Vec<_> =
            visible.flat_map(|inner| leaves(inner, &[path, &[inner.get_name().to_owned()]].concat())).collect();
        if inner.is_empty() { vec![(path.to_vec(), command.clone())] } else { inner }
    }

    #[test]
    fn every_command_has_an_example_that_is_understood() {
        let all = described(Cli::command());
        for (path, command) in leaves(&all, &[]) {
            let help = command.get_after_help().unwrap_or_else(|| panic!("{path:?} has no example")).to_string();
            let examples: Vec<&str> = help.lines().skip(1).collect();
            assert!(!examples.is_empty(), "{path:?}");
            for example in examples {
                let line = example.split(['|', '<', '>']).next().unwrap().split_whitespace();
                let parsed = all.clone().try_get_matches_from(line.clone());
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
                let names: Vec<&str> = line.skip(1).take(path.len()).collect();
                assert_eq!(names, path, "{example} is an example of another command");
            }
        }
    }

    #[test]
    fn the_short_form_of_help_fits_a_screen() {
        const SCREEN: (usize, usize) = (80, 50);
        let mut all = described(Cli::command());
        all.build();
        for (path, command) in leaves(&all, &[]) {
            let help = command.term_width(SCREEN.0).render_help().to_string();
            let lines = help.lines().count();
            assert!(lines <= SCREEN.1, "{path:?}: {lines} lines\n{help}");
        }
    }

    #[test]
    fn no_flag_is_lost_in_the_long_form() {
        let mut all = described(Cli::command());
        all.build();
        let work = all.find_subcommand_mut("work").unwrap();
        let help = work.render_long_help().to_string();
        for flag in ["--fuel", "--exit-map", "--broker", "BROKER_URL_FILE", "exchange:NAME/KEY"] {
            assert!(help.contains(flag), "{flag}");
        }
    }
}
