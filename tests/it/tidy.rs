//! The rules that ARCHITECTURE.md states and the tables of the reference, held against the code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use wq_run::cli::Cli;
use wq_run::error::ExitStatus;

use crate::harness::root;

pub mod imports;
mod texts;

/// Rows of modules by folder, the lowest first: a module imports only from rows above its own. `*` is what no row names.
const LAYERS: [(&str, &[&[&str]]); 3] = [
    (
        "",
        &[
            &["task", "fault", "finding", "folders", "locks", "blocking", "version", "visible", "causes"],
            &["streams", "message_span"],
            &["envelope", "settle", "sandbox", "shutdown", "observe"],
            &["broker", "case"],
            &["sink"],
            &["worker"],
            &["cli"],
            &["error"],
            &["config"],
            &["commands"],
            &["main", "lib", "fuzz"],
        ],
    ),
    (
        "broker/",
        &[
            &["failure", "percent", "scaler", "speaks", "tls"],
            &["error"],
            &["admin", "bounds", "command", "outbox", "pauses", "walk"],
            &["subscription"],
            &["check", "link"],
            &["adapter"],
            &["leased", "supervise"],
            // A folder for each kind of broker. None knows another.
            &["*"],
            &["kinds"],
            &["url"],
            &["mod", "fake", "fuzz"],
        ],
    ),
    (
        "sandbox/",
        &[
            &["isolation", "proposals", "spawned", "wire"],
            &["known", "tiers"],
            &["world"],
            &["abi"],
            &["load"],
            &["run"],
            &["place"],
            &["mod", "fuzz"],
        ],
    ),
];

/// Which crate is named only where.
const HOMES: [(&str, &[&str]); 34] = [
    ("addr2line", &["sandbox/load/lines.rs"]),
    ("amq_protocol", &["broker/amqp/filter", "broker/amqp/fuzz.rs", "broker/amqp/size.rs"]),
    ("async_rs", &["broker/amqp/transport.rs"]),
    ("wasmtime", &["sandbox/"]),
    ("wasmtime_wasi", &["sandbox/", "observe/log.rs"]),
    ("wasmtime_wasi_http", &["sandbox/abi/"]),
    ("hyper", &["sandbox/abi/http/exchange.rs", "observe/listen.rs"]),
    ("http_body", &["sandbox/abi/http/exchange.rs"]),
    ("tokio_rustls", &["sandbox/abi/http/tls.rs"]),
    ("aws_config", &["broker/sqs/", "observe/log.rs"]),
    ("aws_credential_types", &["broker/sqs/credentials.rs"]),
    ("aws_sigv4", &["broker/sqs/client.rs"]),
    ("aws_smithy_http_client", &["broker/sqs/client.rs"]),
    ("aws_smithy_runtime_api", &["broker/sqs/"]),
    ("aws_smithy_types", &["broker/sqs/client.rs"]),
    ("lapin", &["broker/amqp/", "observe/log.rs"]),
    // `kinds.rs` names our own module `redis`, and not the crate.
    ("redis", &["broker/redis/", "broker/kinds.rs"]),
    ("rusqlite", &["broker/sqlite/"]),
    ("rustix", &["broker/sqlite/clock.rs", "folders.rs", "sandbox/", "shutdown.rs", "streams"]),
    ("serde_saphyr", &["commands/manifest"]),
    ("signal_hook", &["main.rs", "shutdown.rs"]),
    ("landlock", &["sandbox/place/wall/"]),
    ("seccompiler", &["sandbox/place/wall/"]),
    ("close_fds", &["sandbox/place/wall/"]),
    ("opentelemetry", &["observe/"]),
    ("ureq", &["observe/"]),
    ("hdrhistogram", &["observe/counts.rs"]),
    ("indicatif", &["observe/progress.rs"]),
    ("prometheus_client", &["observe/metrics.rs"]),
    ("hyper_util", &["observe/listen.rs"]),
    ("http_body_util", &["sandbox/abi/http/exchange.rs", "observe/listen.rs"]),
    ("clap", &["cli.rs", "cli/", "main.rs"]),
    ("clap_complete", &["cli/generated.rs"]),
    ("clap_mangen", &["cli/generated.rs"]),
];

const MAX_LINES: usize = 500;

pub fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let base = root().join("runner/src");
    let mut found = Vec::new();
    walk(&base, &mut found);
    let name = |path: &Path| path.strip_prefix(&base).unwrap().display().to_string();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The module of a folder that a file belongs to, and its row.
fn layer<'a>(file: &'a str, folder: &str, rows: &[&[&str]]) -> Option<(&'a str, usize)> {
    let module = file.strip_prefix(folder)?.split(['/', '.']).next()?;
    let row = |name| rows.iter().position(|row| row.contains(&name));
    let row = row(module).or_else(|| row("*"));
    Some((module, row.unwrap_or_else(|| panic!("{file}: `{module}` has no layer in tidy.rs"))))
}

#[test]
fn a_module_imports_only_from_the_layers_above_it() {
    let mut wrong = Vec::new();
    for (file, imported) in imports::imports(&sources()) {
        for (folder, rows) in LAYERS {
            let Some((module, row)) = layer(&file, folder, rows) else { continue };
            for from in &imported {
                if layer(from, folder, rows).is_some_and(|(other, above)| other != module && above >= row) {
                    wrong.push(format!("{file} imports from {from}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "from a layer that is not above their own:\n{}", wrong.join("\n"));
}

#[test]
fn no_imports_go_in_a_circle() {
    let circles = imports::circles(&imports::imports(&sources()));
    let circles: Vec<String> = circles.iter().map(|files| files.join(" → ")).collect();
    assert!(circles.is_empty(), "files that import from each other:\n{}", circles.join("\n"));
}

#[test]
fn the_layers_are_those_of_the_architecture() {
    // What is there for tests, and the file that only lists the others.
    const NOT_SHOWN: [&str; 3] = ["fake", "fuzz", "lib"];
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (folder, rows) in LAYERS {
        let folder = if folder.is_empty() { "runner/src/" } else { folder };
        let shown = table(&text, &format!("Inside of `{folder}`:"));
        let shown: Vec<BTreeSet<&str>> = shown
            .iter()
            .map(|row| row[1].split(" · ").map(|name| if name.starts_with('`') { name.trim_matches('`') } else { "*" }))
            .map(Iterator::collect)
            .collect();
        let real = rows.iter().map(|row| row.iter().copied().filter(|name| !NOT_SHOWN.contains(name)).collect());
        assert_eq!(shown, real.collect::<Vec<BTreeSet<&str>>>(), "{folder}");
    }
}

#[test]
fn each_library_is_named_only_where_it_belongs() {
    for (file, source) in sources() {
        for (library, homes) in HOMES {
            let named = source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .any(|line| line.contains(&format!("{library}::")) || line.contains(&format!("{library}=")));
            assert!(!named || homes.iter().any(|home| file.starts_with(home)), "{file} names {library}");
        }
    }
}

#[test]
fn no_text_outside_of_its_adapter_speaks_of_rabbitmq() {
    for (file, source) in sources() {
        if file.starts_with("broker/amqp/") {
            continue;
        }
        for text in texts::texts(&source, file.starts_with("cli")) {
            assert!(!text.to_lowercase().contains("rabbitmq"), "{file}: what an adapter can do says its kind: {text}");
        }
    }
}

#[test]
fn no_comment_outside_of_its_adapter_speaks_of_rabbitmq() {
    for (file, source) in sources().iter().filter(|(file, _)| !file.starts_with("broker/amqp/")) {
        // Another program, whose exit codes and JSON we share.
        let source = source.to_lowercase().replace("rabbitmq-cli-consumer", "");
        let at = source.lines().position(|line| line.contains("rabbit"));
        assert_eq!(at.map(|at| at + 1), None, "{file}, this line: what an adapter can do says its kind");
    }
}

#[test]
fn every_files_first_line_is_a_sentence_that_says_what_it_is() {
    for (file, source) in sources() {
        let line = source.lines().next().unwrap_or_default();
        assert!(line.starts_with("//! ") && line.ends_with('.'), "{file} begins with: {line}");
    }
}

#[test]
fn no_file_outgrows_its_idea() {
    for (file, source) in sources() {
        let lines = source.lines().count();
        assert!(lines <= MAX_LINES, "{file} has {lines} lines: split it by idea");
    }
}

fn reference() -> String {
    std::fs::read_to_string(root().join("docs/reference.md")).unwrap()
}

/// The rows of the first table after a heading, as cells.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, after) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace("\\|", "|")).collect())
        .collect()
}

#[test]
fn the_references_exit_codes_are_those_of_the_program() {
    let documented: Vec<(String, String)> =
        table(&reference(), "## Exit status").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let real: Vec<(String, String)> =
        ExitStatus::ALL.iter().map(|(status, text)| (status.code().to_string(), (*text).to_owned())).collect();
    assert_eq!(documented, real);
}

#[test]
fn the_references_flags_are_those_of_work_with_their_variables_and_defaults() {
    let documented: BTreeSet<(String, String, String)> = table(&reference(), "## Flags")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone(), row[2].clone()))
        .collect();
    let mut command = Cli::command();
    // Hands the global flags down to the commands.
    command.build();
    let work = command.find_subcommand("work").unwrap();
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let real: BTreeSet<(String, String, String)> = work
        .get_arguments()
        .filter(|argument| argument.get_long().is_some_and(|long| long != "help"))
        .map(|argument| {
            let long = format!("--{}", argument.get_long().unwrap());
            let flag = argument.get_short().map_or(long.clone(), |short| format!("-{short}, {long}"));
            let env = argument.get_env().map(|env| env.to_string_lossy().into_owned()).unwrap_or_default();
            let takes_value = argument.get_action().takes_values();
            let default = argument.get_default_values().first().filter(|_| takes_value);
            let default = default.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
            (code(&flag), code(&env), code(&default))
        })
        .collect();
    let missing: Vec<_> = real.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&real).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "not in the reference: {missing:#?}\nonly in the reference: {wrong:#?}"
    );
}

#[test]
fn the_references_guest_exit_codes_are_those_of_the_policy() {
    use wq_run::settle::{Backoff, ExitMap, Policy};
    use wq_run::task::{Attempt, Outcome};
    let policy = Policy {
        max_attempts: 3,
        exits: ExitMap::default(),
        backoff: Backoff { initial: Default::default(), max: Default::default(), factor: 1.0 },
        rejects: false,
    };
    for row in table(&reference(), "## A guest's exit code") {
        for code in row[0].split(", ").filter_map(|code| code.parse::<u8>().ok()) {
            let outcome = if code == 0 { Outcome::Succeeded } else { Outcome::Exited(code) };
            let attempt = Attempt { number: 1, max: 3 };
            let settlement = policy.decide(&outcome.into(), "", "", attempt, std::time::SystemTime::UNIX_EPOCH, 0.0);
            assert!(row[1].starts_with(settlement.name()), "{code}: {} is not {}", row[1], settlement.name());
        }
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let output = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    // In pieces, so that this file does not name what it looks for.
    let hosts: Vec<String> = [["crates", "io"], ["pypi", "org"], ["npmjs", "com"], ["npmjs", "org"], ["debian", "org"]]
        .map(|parts| parts.join("."))
        .into();
    for file in String::from_utf8(output.stdout).unwrap().split_terminator('\0') {
        if file.ends_with("Cargo.lock") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(file)) else { continue };
        for host in &hosts {
            assert!(!text.contains(host.as_str()), "{file} names {host}");
        }
        let binary =
            [".wasm", ".cwasm", ".so", ".a", ".tar", ".gz", ".zst"].iter().any(|ending| file.ends_with(ending));
        assert!(!binary, "{file} is a binary");
    }
}

#[test]
fn the_references_results_are_those_that_can_be_asked_for() {
    let mut documented = BTreeSet::new();
    for row in table(&reference(), "## Results") {
        let typed = row[0].trim_matches('`');
        let spec: wq_run::sink::Spec = typed.parse().unwrap_or_else(|error| panic!("{typed}: {error}"));
        assert_eq!(spec.to_string(), typed);
        documented.insert(spec.kind.name);
    }
    let real = wq_run::sink::kinds::KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(documented, real);
}

#[test]
fn the_references_brokers_are_those_of_the_table_of_kinds() {
    use bytesize::ByteSize;
    use wq_run::broker::{BrokerKind, KINDS, QueueArgument};

    let reference = reference();
    let row = |label: &str, cell: &dyn Fn(&BrokerKind) -> String| {
        let cells = KINDS.iter().map(|kind| format!(" {} |", cell(kind)));
        format!("| {label} |{}", cells.collect::<String>())
    };
    let code = |text: &str| format!("`{text}`");
    let yes = |can: bool| if can { "yes" } else { "no" }.to_owned();
    let longest = |bound: Option<std::time::Duration>| {
        bound.map_or("any".to_owned(), |bound| humantime::format_duration(bound).to_string())
    };
    let forms = |kind: &BrokerKind| kind.forms.iter().map(|form| code(&format!("{}{}", form.prefix, form.rest)));
    let types = |kind: &BrokerKind| match kind.queue_types {
        [] => "one type".to_owned(),
        [default] => code(default),
        [default, others @ ..] => {
            let others = others.iter().map(|other| format!(", {}", code(other)));
            format!("{} (the default){}", code(default), others.collect::<String>())
        }
    };
    let arguments = |kind: &BrokerKind| {
        let argument = |argument: &QueueArgument| {
            let only = argument.only_for.map_or(String::new(), |only| format!(" ({only})"));
            format!("`--{}`{only}", argument.flag)
        };
        let arguments: Vec<String> = kind.queue_arguments.iter().map(argument).collect();
        if arguments.is_empty() { "no arguments".to_owned() } else { arguments.join(", ") }
    };
    let lease = |kind: &BrokerKind| match kind.capabilities.lease {
        None => "with the end of its connection".to_owned(),
        Some(lease) => format!("after {}", humantime::format_duration(lease)),
    };
    let size = |kind: &BrokerKind| match kind.capabilities.max_message {
        None => "by its settings".to_owned(),
        Some(size) => ByteSize(size).display().si().to_string(),
    };
    let expected = [
        format!("| |{}", KINDS.iter().map(|kind| format!(" {} |", kind.name)).collect::<String>()),
        format!("| --- |{}", " --- |".repeat(KINDS.len())),
        row("`--broker`", &|kind| forms(kind).collect::<Vec<_>>().join(", ")),
        row("`queue declare --type`", &types),
        row("`--dead-letter-by broker`", &|kind| yes(kind.capabilities.broker_dead_letters)),
        row("`--dead-letter-queue`, the default", &|kind| code(&(kind.dead_letter_queue)("QUEUE"))),
        row("`--result exchange:NAME/KEY`", &|kind| yes(kind.capabilities.exchanges)),
        row("`--result reply`", &|kind| yes(kind.capabilities.reply)),
        row("a message given back is never counted", &|kind| yes(kind.capabilities.release_uncounted)),
        row("a retried message says what failed", &|kind| yes(kind.capabilities.retry_headers)),
        row("messages of a worker that died come back", &lease),
        row("`--timeout`, the longest", &|kind| longest(kind.capabilities.longest_hold)),
        row("`--backoff-max`, the longest", &|kind| longest(kind.capabilities.longest_pause)),
        row("`publish --delay`, the longest", &|kind| longest(kind.capabilities.longest_delay)),
        row("`publish --expiration`", &|kind| yes(kind.capabilities.expiration)),
        row("`queue declare` takes", &arguments),
        row("messages that one look sees, `dlq list` or `queue peek`", &|kind| {
            kind.capabilities
                .most_seen
                .map_or("any".to_owned(), |most| format!("{most}, which are with it until it ends"))
        }),
        row("bodies", &|kind| if kind.capabilities.text_only { "text, others in base64" } else { "bytes" }.to_owned()),
        row("the largest message", &size),
    ];
    let (_, section) = reference.split_once("\n## Brokers\n").expect("a section about brokers");
    let table: Vec<&str> = section.lines().skip_while(|line| !line.starts_with('|')).collect();
    for (at, line) in expected.iter().enumerate() {
        assert_eq!(table.get(at), Some(&line.as_str()), "the reference's table of brokers");
    }
    assert!(!table[expected.len()].starts_with('|'), "one row too many: {}", table[expected.len()]);
}

#[test]
fn the_checks_that_are_documented_are_those_that_can_be_found() {
    use wq_run::finding::Topic;
    let guide = std::fs::read_to_string(root().join("docs/check.md")).unwrap();
    let documented: Vec<String> =
        table(&guide, "## What it looks at").iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let real: Vec<&str> = Topic::ALL.iter().map(|topic| topic.name()).collect();
    assert_eq!(documented, real);
}

#[test]
fn the_flags_that_only_check_has_are_documented() {
    let guide = std::fs::read_to_string(root().join("docs/check.md")).unwrap();
    let command = Cli::command();
    let longs = |name: &str| -> BTreeSet<String> {
        let command = command.find_subcommand(name).unwrap();
        command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
    };
    let (work, check) = (longs("work"), longs("check"));
    assert!(work.is_subset(&check), "a worker has flags that cannot be checked");
    for flag in check.difference(&work) {
        assert!(guide.contains(&format!("`--{flag}")), "--{flag} is not in docs/check.md");
    }
}

#[test]
fn the_guides_limits_are_those_of_the_table() {
    use wq_run::task::limits::{Limits, Row};
    let guide = std::fs::read_to_string(root().join("docs/guests.md")).unwrap();
    let rows = table(&guide, "## What it may use");
    let documented: BTreeSet<(String, String)> = rows.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let outcome = |row: &Row| row.outcome.map_or("(none)".to_owned(), |name| format!("`{name}`"));
    let real = Limits::TABLE.iter().map(|row| (outcome(row), format!("`--{}`", row.flag))).collect();
    assert_eq!(documented, real);
    for row in rows {
        let flag = row[1].trim_matches('`').trim_start_matches('-');
        let limit = Limits::TABLE.iter().find(|limit| limit.flag == flag).unwrap();
        let default = limit.default.unwrap_or_default();
        assert!(row[2].replace(' ', "").starts_with(default), "{flag}: {} is not {default}", row[2]);
    }
}
