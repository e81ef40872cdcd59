//! The documentation does what it says: the console blocks of each page run in order, in a clean folder, and print what the
//! page shows; and each link leads somewhere.
//!
//! A page is Markdown. What a block needs is in a comment before it:
//!
//! - `<!-- not run: REASON -->` leaves a console block out;
//! - `<!-- run on RabbitMQ -->`, `<!-- run on Redis -->` and `<!-- run on SQS -->` lead the addresses of the page to a broker of
//!   the tests;
//! - `<!-- run with NAME.wasm -->` puts a program of `scripts/programs.sh` into the folder, and leaves the block out if it is
//!   missing;
//! - `<!-- run with Rust for WASI -->` and `<!-- run with C for WASI -->` leave a block out where the toolchain is missing;
//! - `<!-- run with the guest NAME -->` leaves a block out where `make guests` could not build that example guest;
//! - `<!-- file: NAME -->` writes a block of any language into a file.
//!
//! `…` in the output stands for any text, and a line `…` for any lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::programs::{cache, compiled, published};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::redis::Redis;
use crate::harness::sqs::{Emulator, KEYS, Sqs};
use crate::harness::{page_guest, required, root};

mod errors;
mod links;

/// A fenced block.
#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    /// The comment before it, without its marks.
    note: Option<String>,
    text: Vec<String>,
}

/// A command of a console block and what the page says that it prints.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    line: usize,
    command: String,
    prints: Vec<String>,
}

/// What the blocks of one page may need, started when the first one does.
#[derive(Default)]
struct Brokers {
    rabbitmq: Option<RabbitMq>,
    redis: Option<Redis>,
    sqs: Option<Sqs>,
}

/// All pages, by their paths in the project.
fn pages() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z", "--", "*.md"]).current_dir(root()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut open, mut note): (Option<Block>, Option<String>) = (None, None);
    for (line, text) in text.lines().enumerate() {
        let fence = text.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.push(text.to_owned()),
            (None, Some(language)) => {
                open =
                    Some(Block { line: line + 1, language: language.to_owned(), note: note.take(), text: Vec::new() });
            }
            (None, None) if text.is_empty() => {}
            (None, None) => {
                let comment = text.strip_prefix("<!--").and_then(|text| text.strip_suffix("-->"));
                note = comment.map(|comment| comment.trim().to_owned());
            }
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for (line, text) in (block.line + 1..).zip(&block.text) {
        if goes_on {
            let step = steps.last_mut().unwrap();
            step.command += "\n";
            step.command += text;
        } else if let Some(command) = text.strip_prefix("$ ") {
            steps.push(Step { line, command: command.to_owned(), prints: Vec::new() });
        } else {
            let step = steps.last_mut().unwrap_or_else(|| panic!("line {line}: a console block begins with `$ `"));
            step.prints.push(text.clone());
            continue;
        }
        goes_on = text.ends_with('\\');
    }
    steps
}

/// Whether these lines are what was printed.
fn is_printed(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => (0..=printed.len()).any(|skipped| is_printed(rest, &printed[skipped..])),
        Some((line, rest)) => printed.split_first().is_some_and(|(printed, others)| {
            let mut parts = line.split('…');
            let first = parts.next().unwrap_or_default();
            matches(printed.strip_prefix(first), parts) && is_printed(rest, others)
        }),
    }
}

/// Whether a line ends in these parts, with any text before each.
fn matches<'a>(line: Option<&str>, parts: impl Iterator<Item = &'a str> + Clone) -> bool {
    let (Some(line), mut left) = (line, parts.clone()) else { return false };
    match left.next() {
        None => line.is_empty(),
        Some(part) => {
            let ends = (0..=line.len()).filter(|at| line.is_char_boundary(*at));
            ends.into_iter().any(|at| matches(line[at..].strip_prefix(part), left.clone()))
        }
    }
}

impl Brokers {
    /// The command with the address of a broker that runs here; `None` if there is none.
    fn lead(&mut self, note: &str, command: &str) -> Option<String> {
        match note {
            "run on RabbitMQ" => {
                self.rabbitmq = self.rabbitmq.take().or_else(RabbitMq::start);
                Some(command.replace("amqp://guest:guest@localhost", &self.rabbitmq.as_ref()?.url()))
            }
            "run on Redis" => {
                self.redis = self.redis.take().or_else(|| Redis::start_with(&[]));
                Some(command.replace("redis://localhost", &self.redis.as_ref()?.url()))
            }
            "run on SQS" => {
                self.sqs = self.sqs.take().or_else(|| Sqs::start(Emulator::Ministack));
                Some(command.replace("sqs://eu-west-1", &format!("'{}'", self.sqs.as_ref()?.url())))
            }
            other => panic!("nothing is known of `{other}`"),
        }
    }
}

/// Where rustc is, if it compiles for WASI.
fn rust_for_wasi() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let is_there = sysroot.join("lib/rustlib/wasm32-wasip1/lib").is_dir();
    required(is_there.then(|| sysroot.join("bin")), "rustc does not compile for wasm32-wasip1")
}

fn c_for_wasi(folder: &Path) -> Option<()> {
    let (source, program) = (folder.join("probe.c"), folder.join("probe.wasm"));
    std::fs::write(&source, "int main(void) { return 0; }").unwrap();
    let mut clang = Command::new("clang");
    let compiles = clang.arg("--target=wasm32-wasi").arg("-o").args([&program, &source]).output();
    let compiles = compiles.is_ok_and(|output| output.status.success());
    let _ = (std::fs::remove_file(source), std::fs::remove_file(program));
    required(compiles.then_some(()), "clang does not compile for WASI")
}

/// The published program that a block is run with.
fn program(note: &str) -> Option<&str> {
    note.strip_prefix("run with ")?.strip_suffix(".wasm")
}

/// Runs the blocks of a page up to the first command that does something else than it shows.
///
/// # Errors
/// What that command did.
fn run(page: &str) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("build")).unwrap();
    std::os::unix::fs::symlink(root().join("build/guests"), at("build/guests")).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_wq-run")).parent().unwrap();
    let mut path = vec![binary.to_owned()];
    let mut brokers = Brokers::default();
    // Where the code of large programs is, if the page runs some.
    let mut codes: Option<String> = None;
    let mut all: Vec<Step> = Vec::new();
    for block in blocks(&read(page)) {
        let note = block.note.as_deref().unwrap_or_default();
        if let Some(name) = note.strip_prefix("file: ") {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), block.text.join("\n") + "\n").unwrap();
        }
        if block.language != "console" || note.starts_with("not run: ") {
            continue;
        }
        let steps = steps(&block);
        let led: Option<Vec<Step>> = match note {
            "" => Some(steps),
            "run with Rust for WASI" => rust_for_wasi().map(|folder| {
                path.push(folder);
                steps
            }),
            "run with C for WASI" => c_for_wasi(folder.path()).map(|()| steps),
            _ if note.starts_with("run with the guest ") => {
                let name = note.trim_start_matches("run with the guest ");
                let is_built = root().join("build/guests").join(name).with_extension("wasm").is_file();
                let missing = format!("`make guests` has not built the example guest `{name}`");
                required(is_built.then_some(steps), &missing)
            }
            _ if program(note).is_some() => program(note).and_then(published).map(|file| {
                compiled(&file);
                codes = Some(cache());
                let link = at(&file.file_name().unwrap().to_string_lossy());
                if !link.exists() {
                    std::os::unix::fs::symlink(&file, link).unwrap();
                }
                steps
            }),
            _ => steps
                .into_iter()
                .map(|step| Some(Step { command: brokers.lead(note, &step.command)?, ..step }))
                .collect(),
        };
        all.extend(led.into_iter().flatten());
    }
    if all.is_empty() {
        return Ok(0);
    }
    let is_asked = |number: usize| all.get(number + 1).is_some_and(|next| next.command.starts_with("echo $?"));
    // Each command finds the exit status of the one before in `$?`, as at a prompt.
    let end = "\u{1}";
    let lines = all.iter().enumerate().map(|(number, step)| {
        let fails = if is_asked(number) { "(exit $__status)" } else { "[ $__status = 0 ] || exit" };
        format!("{}\n__status=$?; printf '\\n{end}%s{end}' $__status; {fails}\n", step.command)
    });
    let script: String = lines.collect();
    std::fs::write(at(".script"), script).unwrap();
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let errors = std::fs::File::create(at(".errors")).unwrap();
    let output = Command::new("bash")
        .arg(".script")
        .current_dir(folder.path())
        .env_clear()
        .envs(KEYS)
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", folder.path())
        .env("LC_ALL", "C.UTF-8")
        .envs(codes.map(|folder| ("WQ_CACHE_DIR", folder)))
        .stdin(Stdio::null())
        .stderr(errors)
        .output()
        .expect("bash runs");
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut ends = printed.split(end);
    let errors = || std::fs::read_to_string(at(".errors")).unwrap_or_default();
    for (number, step) in all.iter().enumerate() {
        let place = format!("{page}:{}: $ {}", step.line, step.command);
        let (Some(printed), Some(status)) = (ends.next(), ends.next()) else {
            return Err(format!("{place}\nnever ended\n{}", errors()));
        };
        let lines: Vec<&str> = printed.trim_end_matches('\n').lines().collect();
        if status != "0" && !is_asked(number) {
            return Err(format!("{place}\nends with {status}\n{}", errors()));
        }
        if !is_printed(&step.prints, &lines) {
            let (printed, shown) = (lines.join("\n"), step.prints.join("\n"));
            return Err(format!("{place}\nprints:\n{printed}\nand should print:\n{shown}\n{}", errors()));
        }
    }
    Ok(all.len())
}

#[test]
fn the_commands_of_the_documentation_print_what_it_shows() {
    if page_guest("rust").is_none() {
        return;
    }
    let (mut ran, mut wrong) = (BTreeMap::new(), Vec::new());
    std::thread::scope(|scope| {
        let runs: Vec<_> = pages().into_iter().map(|page| (page.clone(), scope.spawn(move || run(&page)))).collect();
        for (page, run) in runs {
            match run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(commands) => drop(ran.insert(page, commands)),
                Err(error) => wrong.push(error),
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    for page in ["README.md", "docs/getting-started.md", "docs/embedded.md"] {
        assert!(ran[page] > 3, "{page}: {ran:?}");
    }
}

#[test]
fn a_page_is_read_as_its_reader_does() {
    let page = "\
text\n\n<!-- run on RabbitMQ -->\n```console\n$ one \\\n    two\nprinted\n$ three\n```\n```rust\n$ x\n```\n<!-- lost -->\ntext\n```console\n```\n";
    let blocks = blocks(page);
    let notes: Vec<_> = blocks.iter().map(|block| (block.language.as_str(), block.note.as_deref())).collect();
    assert_eq!(notes, [("console", Some("run on RabbitMQ")), ("rust", None), ("console", None)]);
    let step = |line, command: &str, prints: &[&str]| Step {
        line,
        command: command.to_owned(),
        prints: prints.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(&blocks[0]), [step(5, "one \\\n    two", &["printed"]), step(8, "three", &[])]);
}

#[test]
fn what_is_printed_has_to_be_what_is_shown() {
    let is = |expected: &[&str], printed: &[&str]| {
        is_printed(&expected.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), printed)
    };
    assert!(
        is(&[], &[])
            && is(&["a", "b"], &["a", "b"])
            && is(&["a … c…"], &["a b c"])
            && is(&["…", "b"], &["x", "a", "b"])
    );
    assert!(
        !is(&[], &["a"])
            && !is(&["a"], &[])
            && !is(&["a"], &["ab"])
            && !is(&["…b"], &["a"])
            && !is(&["a", "…"], &["b"])
    );
}
