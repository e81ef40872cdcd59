//! `wq-run exec --case`: gives a guest what a case holds, and compares what comes out.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use serde_json::json;

use crate::case::{Case, Now};
use crate::config::Replay;
use crate::error::Error;
use crate::sandbox::{Dir, Env, Sandbox};
use crate::streams;
use crate::task::Outcome;
use crate::task::limits::Limits;
use crate::visible::lines;
use crate::worker::metadata::Metadata;
use crate::worker::{decode, environment};

/// What a run is given.
pub struct Given {
    pub stdin: Bytes,
    pub env: Env,
    pub dirs: Vec<Dir>,
}

/// What is in a case beside its body and its outputs. In bytes.
const BESIDE: u64 = 16 << 20;

/// The longest way to write a byte in JSON: as `\u0000`.
const LONGEST_BYTE: u64 = 6;

/// Reads a case that is no larger than one within these limits can be.
pub fn read(file: &Path, limits: &Limits) -> Result<Case, Error> {
    let most = [limits.message, limits.stdout]
        .iter()
        .fold(BESIDE, |most, limit| most.saturating_add(limit.saturating_mul(LONGEST_BYTE)));
    let unreadable = |source| Error::Io { doing: format!("read the case {} (--case)", file.display()), source };
    let mut json = Vec::new();
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(unreadable)?)
    };
    source.take(most.saturating_add(1)).read_to_end(&mut json).map_err(unreadable)?;
    if json.len() as u64 > most {
        return Err(Error::case(file, &crate::case::Error::Damaged(format!("it is larger than {most} bytes"))));
    }
    Case::read(&json).map_err(|error| Error::case(file, &error))
}

/// Says in what this run is another one than that of the case.
pub fn say_what_is_other(replay: &Replay, sandbox: &Sandbox) {
    let Replay { case, not_given, .. } = replay;
    if let Some(digest) = case.guest.digest.as_ref().filter(|digest| *digest != sandbox.digest()) {
        tracing::warn!(
            guest = sandbox.name(),
            guest.digest = sandbox.digest(),
            case.digest = digest,
            "the guest is not the one of the case (--guest-digest refuses another one)"
        );
    }
    if !not_given.is_empty() {
        let not_given = not_given.join(" ");
        tracing::warn!(
            not_given,
            "the recorded run had grants that this run does not have: a case grants nothing by itself"
        );
    }
    let withheld: Vec<&str> = case
        .withheld
        .iter()
        .map(String::as_str)
        .filter(|place| !["stdout", "stderr", "the error"].contains(place))
        .collect();
    if !withheld.is_empty() {
        let withheld = withheld.join(", ");
        tracing::warn!(withheld, "secrets were left out of the case: the guest sees *** in their place");
    }
}

/// What the guest was given, as far as the case holds it.
pub fn given(replay: &Replay, sandbox: &Sandbox, max_message: u64) -> Result<(Given, Option<Metadata>), Error> {
    let case = &replay.case;
    let (mut message, origin, attempt) = (case.message.message.clone(), case.message.origin(), case.attempt());
    let too_large =
        || Error::configuration(format!("the message is larger than {max_message} bytes"), "raise --max-message");
    if message.body.len() as u64 > max_message {
        return Err(too_large());
    }
    let encoding = message.properties.content_encoding.take_if(|encoding| replay.decode && decode::knows(encoding));
    if let Some(encoding) = encoding {
        message.body = decode::decode(&encoding, &message.body, max_message).map_err(|error| match error {
            decode::Error::TooLarge => too_large(),
            decode::Error::Corrupt(reason) => Error::configuration(
                format!("the message is not in the encoding that it names: {reason}"),
                "leave out --decode",
            ),
        })?;
    }
    let index = case.context.job_completion_index.as_deref();
    let env = environment::of(&message, &origin, attempt, &case.carried(), index, sandbox.is_deterministic());
    let stdin = std::mem::take(&mut message.body);
    let metadata = if replay.metadata {
        let written = sandbox.room().folder().and_then(|folder| Metadata::write(folder, &message, &origin, attempt));
        let doing = || "write the guest's message.json (--metadata)".to_owned();
        Some(written.map_err(|source| Error::Io { doing: doing(), source })?)
    } else {
        None
    };
    let dirs = metadata.iter().map(Metadata::dir).collect();
    Ok((Given { stdin, env, dirs }, metadata))
}

/// Says on stderr whether the run matches the case. Returns whether it does.
pub fn compare(case: &Case, outcome: &Outcome, stdout: &[u8], stderr: &str) -> bool {
    let now = Now { outcome: outcome.name(), exit_code: outcome.exit_code(), stdout, stderr };
    let (differences, compared) = case.differences(now);
    let is_same = differences.is_empty();
    let text = if streams::err::speaks_json() {
        let differences: Vec<_> = differences
            .iter()
            .map(|difference| json!({ "what": difference.what, "was": difference.was, "is": difference.is }))
            .collect();
        let line = json!({ "message": "case", "same": is_same, "compared": compared, "differences": differences });
        format!("{line}\n")
    } else {
        let mut text = match (is_same, compared.is_empty()) {
            (true, true) => "wq-run: the case does not record how the run ended\n".to_owned(),
            (true, false) => format!("wq-run: the run matches the case: {}\n", compared.join(", ")),
            (false, _) => "wq-run: the run does not match the case\n".to_owned(),
        };
        for difference in &differences {
            let (was, is) = (lines(&difference.was).replace('\n', "\\n"), lines(&difference.is).replace('\n', "\\n"));
            // Writing to a text does not fail.
            let _ = writeln!(text, "  {:<9}  was {was}, and is {is}", difference.what);
        }
        text
    };
    streams::err::push(text.as_bytes());
    is_same
}
