//! docs/log.md against the code: each event is there with its level and its fields, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use serde_json::Value;
use wq_run::task::limits::Limits;
use wq_run::task::{Outcome, Refused, Undeliverable, Verdict};

use crate::harness::{Run, root};
use crate::tidy::{imports, sources};

/// What is known of an event: from the code, or from the page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub levels: BTreeSet<String>,
    pub fields: BTreeSet<String>,
}

type Events = BTreeMap<String, Event>;

/// The events that are written without a macro: they are said when there may be no log, or have more than it can hold.
const BY_HAND: [&str; 3] =
    ["stopped", "the worker did not stop in time", "a third signal came before the worker had stopped"];

/// What the page calls the text of a line that a guest wrote.
const A_GUESTS_LINE: &str = "the line itself";

/// What each line of JSON has.
const COMMON: [&str; 5] = ["timestamp", "level", "message", "target", "span"];

/// The events of docs/log.md.
pub fn documented() -> Events {
    let page = std::fs::read_to_string(root().join("docs/log.md")).unwrap();
    let mut events = Events::new();
    let mut first: Option<BTreeSet<String>> = None;
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let levels: BTreeSet<String> =
            cells.get(1).into_iter().flat_map(|cell| cell.split(", ")).map(str::to_owned).collect();
        if !levels.iter().all(|level| ["ERROR", "WARN", "INFO"].contains(&level.as_str())) {
            continue;
        }
        let mut fields = words(cells[2]);
        if cells[2].starts_with("the same") {
            fields.extend(first.clone().expect("a row before it"));
        } else {
            first = Some(fields.clone());
        }
        let event = cells[0].trim_matches('`').to_owned();
        assert!(events.insert(event.clone(), Event { levels, fields }).is_none(), "{event} has two rows");
    }
    events
}

/// The events in the code. An event with a text of its own has no name, and fails.
fn in_the_code() -> Events {
    let mut events = Events::new();
    for (file, source) in sources() {
        let tokens: TokenStream = source.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        Reader { file: &file, events: &mut events, common: None }.read(tokens);
    }
    events
}

struct Reader<'a> {
    file: &'a str,
    events: &'a mut Events,
    /// The fields of a macro of this file that stands for an event.
    common: Option<Vec<Vec<TokenTree>>>,
}

impl Reader<'_> {
    fn read(&mut self, tokens: TokenStream) {
        let tokens = imports::without_tests(tokens);
        for at in 0..tokens.len() {
            match &tokens[at..] {
                // `tracing::info!(…)`
                [TokenTree::Ident(root), colon, other, TokenTree::Ident(level), bang, TokenTree::Group(of), ..]
                    if root == "tracing" && is(colon, ':') && is(other, ':') && is(bang, '!') =>
                {
                    self.event(&level.to_string(), parts(of));
                }
                // `tracing::$level!(…)` in a macro of the file.
                [TokenTree::Ident(root), colon, _, dollar, TokenTree::Ident(_), bang, TokenTree::Group(of), ..]
                    if root == "tracing" && is(colon, ':') && is(dollar, '$') && is(bang, '!') =>
                {
                    let mut fields = parts(of);
                    fields.pop();
                    self.common = Some(fields);
                }
                // And its use: `line!(info, "…")`
                [TokenTree::Ident(name), bang, TokenTree::Group(of), ..] if name == "line" && is(bang, '!') => {
                    let mut said = parts(of);
                    let (level, text) = (said.remove(0)[0].to_string(), said.remove(0));
                    let mut all = self.common.clone().unwrap_or_else(|| panic!("{}: line! is no event", self.file));
                    all.push(text);
                    self.event(&level, all);
                }
                _ => {}
            }
            if let TokenTree::Group(group) = &tokens[at] {
                self.read(group.stream());
            }
        }
    }

    fn event(&mut self, level: &str, parts: Vec<Vec<TokenTree>>) {
        if !["info", "warn", "error"].contains(&level) {
            return;
        }
        let (mut name, mut fields, mut is_a_guests) = (None, BTreeSet::new(), false);
        for part in parts {
            let text: String = part.iter().map(ToString::to_string).collect();
            match &part[..] {
                [TokenTree::Literal(literal)] => name = Some(literal.to_string().trim_matches('"').to_owned()),
                [TokenTree::Ident(word), colon, ..] if word == "target" && is(colon, ':') => is_a_guests = true,
                _ if is_a_guests => {}
                _ => {
                    assert!(
                        !text.starts_with('?') && !text.contains("=?"),
                        "{}: {text} shows a type of Rust",
                        self.file
                    );
                    let field = text.split('=').next().expect("a name").trim_start_matches('%');
                    fields.insert(field.to_owned());
                }
            }
        }
        let name = if is_a_guests { Some(A_GUESTS_LINE.to_owned()) } else { name };
        let name = name.unwrap_or_else(|| panic!("{}: an event without a text", self.file));
        assert!(!name.contains(['{', '\\']), "{}: {name:?} is not always the same text", self.file);
        let event = self.events.entry(name).or_default();
        event.levels.insert(level.to_uppercase());
        event.fields.extend(fields);
    }
}

/// What commas are between.
fn parts(group: &Group) -> Vec<Vec<TokenTree>> {
    assert_eq!(group.delimiter(), Delimiter::Parenthesis);
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    tokens.split(|token| is(token, ',')).filter(|part| !part.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

fn is(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

#[test]
fn the_log_has_the_events_of_its_page_with_their_levels_and_fields() {
    let (mut documented, real) = (documented(), in_the_code());
    let code: String = sources().into_iter().map(|(_, source)| source).collect();
    for event in BY_HAND {
        documented.remove(event).unwrap_or_else(|| panic!("docs/log.md has no {event:?}"));
        assert!(code.contains(&format!("\"{event}\"")), "the code has no {event:?}");
    }
    let missing: Vec<_> = real.keys().filter(|event| !documented.contains_key(*event)).collect();
    let gone: Vec<_> = documented.keys().filter(|event| !real.contains_key(*event)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not in docs/log.md: {missing:#?}\nonly there: {gone:#?}");
    for (event, real) in real {
        assert_eq!(documented[&event], real, "{event}: docs/log.md on the left, the code on the right");
    }
}

#[test]
fn the_pages_settlements_are_those_of_the_log() {
    use wq_run::observe::Settled;
    let all = [
        Settled::Acked,
        Settled::Retried,
        Settled::DeadLettered,
        Settled::Rejected,
        Settled::Released,
        Settled::GivenBack,
        Settled::LeaseLost(String::new()),
        Settled::Unsettled(String::new()),
        Settled::Failed(String::new()),
    ];
    let real: BTreeSet<String> = all.iter().map(|settled| settled.name().to_owned()).collect();
    assert_eq!(values("### `settlement`"), real);
}

#[test]
fn the_pages_outcomes_are_those_of_the_log() {
    let text = String::new;
    let runs = [
        Outcome::Succeeded,
        Outcome::Silent,
        Outcome::Exited(1),
        Outcome::Trapped(text()),
        Outcome::TimedOut(Default::default()),
        Outcome::Withdrawn,
        Outcome::Interrupted,
        Outcome::Crashed(text()),
        Outcome::HostFault(text()),
    ];
    let others = [
        Verdict::Abandoned(3),
        Verdict::TooLarge(1),
        Verdict::Unreadable(text()),
        Verdict::Undecodable(text()),
        Verdict::Undeliverable(Undeliverable::TooLarge(text())),
        Verdict::Undeliverable(Undeliverable::NoReplyTo),
        Verdict::Undeliverable(Undeliverable::Unwritable(text())),
        Verdict::Undeliverable(Undeliverable::NoRequester(text())),
        Verdict::Refused(Refused::Right, text()),
        Verdict::HostFault(text()),
    ];
    let verdicts = runs.into_iter().map(Verdict::Run).chain(others).map(|verdict| verdict.name().to_owned());
    let limits = Limits::TABLE.iter().filter_map(|row| row.outcome).map(str::to_owned);
    assert_eq!(values("### `outcome`"), verdicts.chain(limits).collect());
}

/// The first cells of the table under a heading.
fn values(heading: &str) -> BTreeSet<String> {
    let page = std::fs::read_to_string(root().join("docs/log.md")).unwrap();
    let (_, after) = page.split_once(&format!("\n{heading}\n")).expect("the heading is there");
    let rows = after.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.flat_map(|row| row.split(" | ").next().unwrap().split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Holds every line of JSON that a run has written against the page.
#[track_caller]
pub fn keeps_the_contract(run: &Run) {
    let documented = documented();
    for line in run.stderr.lines() {
        let Ok(Value::Object(line)) = serde_json::from_str::<Value>(line) else { continue };
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let (level, target) = (text("level"), text("target"));
        if !["INFO", "WARN", "ERROR"].contains(&level) {
            continue;
        }
        assert!(target.starts_with("wq_run") || target == "guest", "{line:?} comes from a library");
        let name = if target == "guest" { A_GUESTS_LINE } else { text("message") };
        let event = documented.get(name).unwrap_or_else(|| panic!("docs/log.md has no {name:?}: {line:?}"));
        assert!(event.levels.contains(level), "{name} is not {level}");
        for field in line.keys().filter(|field| !COMMON.contains(&field.as_str())) {
            assert!(event.fields.contains(field), "docs/log.md has no field {field} of {name}");
        }
    }
}
