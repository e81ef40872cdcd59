//! `wq-run check`: looks whether a worker with these flags could do its work, and takes no message.

mod guest;
mod report;
mod system;

use self::report::Line;
use crate::broker::check::Settings;
use crate::broker::{self, Url};
use crate::cli;
use crate::config::Work;
use crate::error::{Error, ExitStatus};
use crate::finding::{Finding, Findings, Topic, Verdict};
use crate::sink::{self, Spec};
use crate::worker::record;

pub async fn run(args: cli::Check) -> Result<u8, Error> {
    let cli::Check { work, json, strict, grace_period } = args;
    let findings = match Work::resolve(work) {
        Ok(config) => look(config, grace_period).await,
        Err(error) => {
            let mut findings = Findings::default();
            findings.refusal(Topic::Settings, error);
            findings.note(Topic::Guest, "not checked, and the broker was not checked: correct the settings first");
            findings
        }
    };
    let lines: Vec<Line> = findings.0.into_iter().map(Line::from).collect();
    if json {
        report::as_json(&lines)?
    } else {
        report::for_people(&lines)?
    }
    Ok(status(&lines, strict))
}

/// The status of the first error is the one that a worker would end with: it looks in the same order.
fn status(lines: &[Line], strict: bool) -> u8 {
    let warned = strict && lines.iter().any(Line::is_warning);
    let error = lines.iter().find_map(|line| line.exit_status);
    error.unwrap_or(if warned { ExitStatus::Warned.code() } else { ExitStatus::Done.code() })
}

async fn look(config: Work, grace_period: std::time::Duration) -> Findings<Error> {
    let mut findings = Findings::default();
    let queue = &config.subscription.queue;
    findings.good(Topic::Settings, format!("queue `{queue}` on {}", config.broker));
    let settings = settings(&config);
    let (of_guest, of_broker) = tokio::join!(guest::look(&config), config.broker.check(&settings));
    findings.append(of_guest);
    system::look(&config, grace_period, &mut findings);
    findings.0.extend(of_broker.0.into_iter().map(|finding| as_ended(finding, &config.broker)));
    for spec in &config.results {
        look_at_result(spec, &mut findings);
    }
    if let Some(record::Options { folder, .. }) = &config.record {
        match record::look(folder) {
            Ok(()) => findings.good(Topic::Results, format!("cases are saved in `{}`", folder.display())),
            Err(cause) => findings.refusal(Topic::Results, Error::no_cases(folder, &cause)),
        }
    }
    findings
}

/// What the worker would ask of its broker.
fn settings(config: &Work) -> Settings {
    let limits = &config.sandbox.limits;
    Settings {
        options: config.subscription.clone(),
        timeout: limits.timeout,
        results: config.results.iter().filter_map(|spec| spec.address().cloned()).collect(),
        replies: config.results.iter().any(|spec| spec.needs == sink::Needs::Requester),
        largest: limits.message.saturating_add(limits.stdout),
    }
}

/// A finding about the broker, with the error that a worker would end with.
fn as_ended(finding: Finding<broker::Error>, broker: &Url) -> Finding<Error> {
    let Finding { topic, subject, verdict } = finding;
    let verdict = match verdict {
        Verdict::Good(found) => Verdict::Good(found),
        Verdict::Note(found) => Verdict::Note(found),
        Verdict::Caution { found, consequence, remedy } => Verdict::Caution { found, consequence, remedy },
        Verdict::Refusal { error, consequence } => {
            let error = match &subject {
                Some(to) if topic == Topic::Results => sink::Error { to: to.clone(), source: error.into() }.into(),
                _ => Error::from(error),
            };
            Verdict::Refusal { error: error.on(broker), consequence }
        }
    };
    Finding { topic, subject, verdict }
}

/// Looks at a result's destination, unless it is on the broker: the broker's own check looks at those.
fn look_at_result(spec: &Spec, findings: &mut Findings<Error>) {
    if spec.needs_broker() {
        return;
    }
    match sink::look(spec) {
        Ok(()) => findings.good(Topic::Results, format!("results go to `{spec}`")),
        Err(error) => findings.refusal(Topic::Results, error),
    }
}
