//! What good command lines have: help for each command, a version that says what this is, completions, manual pages.

use clap::CommandFactory as _;
use wq_run::cli::Cli;

use crate::harness::{installed, root, run, wq_run};

/// The commands that people see, and those inside of them, as words to type.
fn commands() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, words: &[String], found: &mut Vec<Vec<String>>) {
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            let words = [words, &[inner.get_name().to_owned()]].concat();
            walk(inner, &words, found);
            found.push(words);
        }
    }
    let mut found = Vec::new();
    walk(&Cli::command(), &[], &mut found);
    assert!(found.len() > 8);
    found
}

#[test]
fn help_and_a_command_is_the_help_of_the_command() {
    for words in commands() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let asked = run(wq_run(&["help"]).args(&words)).exits(0).out();
        let flag = run(wq_run(&words).arg("--help")).exits(0).out();
        assert!(asked.contains("Usage: wq-run"), "{asked}");
        assert_eq!(asked, flag, "{words:?}");
    }
}

#[test]
fn the_version_is_one_line_or_all_that_this_build_is() {
    let short = run(&mut wq_run(&["-V"])).exits(0).out();
    assert_eq!(short, format!("wq-run {}\n", env!("CARGO_PKG_VERSION")));
    let long = run(&mut wq_run(&["--version"])).exits(0).out();
    let lines: Vec<&str> = long.lines().collect();
    assert!(lines[0].starts_with(&format!("wq-run {} (commit ", env!("CARGO_PKG_VERSION"))), "{long}");
    assert!(
        lines[1].starts_with("wasmtime 48.") && lines[1].contains("WASI ") && lines[1].contains("preview 1"),
        "{long}"
    );
    assert_eq!(lines[2], "brokers: amqp, redis, sqlite, sqs");
}

#[test]
fn the_version_of_wasmtime_that_is_shown_is_the_one_that_is_built_in() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let (_, after) = lock.split_once("name = \"wasmtime\"\nversion = \"").unwrap();
    assert_eq!(wq_run::sandbox::WASMTIME, after.split('"').next().unwrap());
}

#[test]
fn completions_know_every_command_that_people_see_and_no_other() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&mut wq_run(&["completions", shell])).exits(0).out();
        for words in commands() {
            assert!(script.contains(words.last().unwrap()), "{shell}: {words:?}");
        }
        assert!(script.contains("max-attempts") && script.contains("grace-period"), "{shell}");
        assert!(!script.contains(wq_run::sandbox::CHILD_COMMAND) && !script.contains("compiler"), "{shell}");
    }
    run(&mut wq_run(&["completions", "tcsh"])).exits(2);
}

#[test]
fn bash_completes_commands_and_flags() {
    let Some(bash) = installed("bash") else { return };
    let script = run(&mut wq_run(&["completions", "bash"])).exits(0).out();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let completed = |words: &[&str]| {
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _wq__run wq-run '{}' ''; echo \"${{COMPREPLY[@]}}\"",
            file.path().display(),
            words.join(" "),
            words.len() - 1,
            words.last().unwrap(),
        );
        run(std::process::Command::new(&bash).args(["--norc", "-c", &line])).exits(0).out()
    };
    assert_eq!(completed(&["wq-run", "che"]).trim(), "check");
    assert_eq!(completed(&["wq-run", "check", "--stri"]).trim(), "--strict");
    assert_eq!(completed(&["wq-run", "queue", "stat"]).trim(), "status");
}

#[test]
fn every_command_has_a_manual_page_that_formats_without_a_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man");
    run(wq_run(&["man"]).arg(&pages).env("BROKER_URL", "amqp://u:s3cret@h")).exits(0);
    let mut names: Vec<String> =
        std::fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected: Vec<String> = commands().iter().map(|words| format!("wq-run-{}.1", words.join("-"))).collect();
    expected.push("wq-run.1".to_owned());
    expected.sort();
    assert_eq!(names, expected);
    let Some(groff) = installed("groff") else { return };
    for name in names {
        let page = pages.join(&name);
        assert!(!std::fs::read_to_string(&page).unwrap().contains("s3cret"));
        let formatted =
            run(std::process::Command::new(&groff).args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]).arg(page));
        formatted.exits(0);
        assert_eq!(formatted.stderr, "", "{name}");
    }
}
