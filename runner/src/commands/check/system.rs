//! What the worker and its guests may take of the system, beside what there is: memory, disk, and time to shut down.

use std::time::Duration;

use bytesize::ByteSize;
use humantime::format_duration;

use crate::config::Work;
use crate::error::Error;
use crate::finding::{Findings, Topic};
use crate::shutdown::LAST_RESORT_AFTER;
use crate::{folders, sandbox};

/// What a worker takes beside its guests, their messages and their results. In bytes.
const WORKER: u64 = 64 << 20;

pub fn look(config: &Work, grace_period: Duration, findings: &mut Findings<Error>) {
    memory(config, findings);
    scratch(config, findings);
    shutdown(config.shutdown_timeout, grace_period, findings);
}

/// All that a worker may take, if each guest, message and result is as large as it may be.
fn memory(config: &Work, findings: &mut Findings<Error>) {
    let limits = &config.sandbox.limits;
    let runs = config.worker.concurrency as u64;
    let waiting = (config.worker.prefetch as u64).saturating_sub(runs);
    let run = limits.memory.saturating_add(limits.message).saturating_add(limits.stdout);
    let needed = runs.saturating_mul(run).saturating_add(waiting.saturating_mul(limits.message)).saturating_add(WORKER);
    let mut sum = format!(
        "{runs} × ({} --max-memory-size + {} --max-message + {} --max-stdout)",
        size(limits.memory),
        size(limits.message),
        size(limits.stdout)
    );
    if waiting > 0 {
        sum += &format!(" + {waiting} × {} --max-message that wait (--prefetch)", size(limits.message));
    }
    sum += &format!(" + {} for the worker = {}", size(WORKER), size(needed));
    let container = sandbox::memory_limit();
    let (limit, whose) = match (container, total()) {
        (Some(limit), total) if total.is_none_or(|total| limit < total) => (limit, "the container's limit"),
        (_, Some(total)) => (total, "the memory of this machine"),
        _ => return findings.note(Topic::Memory, format!("{sum}; the system does not tell how much there is")),
    };
    if needed <= limit {
        return findings.good(Topic::Memory, format!("{sum}, and {whose} is {}", size(limit)));
    }
    findings.caution(
        Topic::Memory,
        format!("{sum}, and {whose} is {}", size(limit)),
        "if guests, messages and results reach their limits, the kernel kills the worker (exit 137); its messages are delivered again, and that counts as an attempt where the broker counts deliveries",
        "lower --max-memory-size, --max-message, --max-stdout or --concurrency (WQ_CONCURRENCY), or raise the limit",
    );
}

/// As flags have it: `512MiB`.
fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string().replace(".0 ", "").replace(' ', "")
}

/// The memory of the machine, in bytes.
fn total() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn scratch(config: &Work, findings: &mut Findings<Error>) {
    let Some(each) = config.sandbox.limits.scratch else { return };
    let folder = std::env::temp_dir();
    let shown = folder.display();
    let needed = each.saturating_mul(config.worker.concurrency as u64);
    if let Err(error) = folders::can_be_written(&folder) {
        return findings.caution(
            Topic::Scratch,
            format!("{shown} cannot be written to: {error}"),
            "no guest gets its scratch folder: each message is given back, and the worker ends with 74",
            "set TMPDIR to a folder that can be written to",
        );
    }
    match folders::free(&folder) {
        Ok(free) if free < needed => findings.caution(
            Topic::Scratch,
            format!("{shown} has {} left, and --scratch may take {}", size(free), size(needed)),
            "guests find the disk full before they have reached their limit",
            "set TMPDIR to a folder with more space, or lower --scratch or --concurrency (WQ_CONCURRENCY)",
        ),
        Ok(free) => findings.good(Topic::Scratch, format!("{shown} has {} left for {}", size(free), size(needed))),
        Err(error) => {
            findings.note(Topic::Scratch, format!("{shown}: the system does not tell how much room is left: {error}"))
        }
    }
}

/// A pod is killed when its grace period is over.
fn shutdown(timeout: Duration, grace_period: Duration, findings: &mut Findings<Error>) {
    let needed = timeout.saturating_add(LAST_RESORT_AFTER);
    let (needed_shown, given) = (format_duration(needed), format_duration(grace_period));
    if needed <= grace_period {
        let found = format!("a shutdown takes {needed_shown} at most, and the grace period is {given}");
        return findings.good(Topic::Shutdown, found);
    }
    findings.caution(
        Topic::Shutdown,
        format!("--shutdown-timeout {} plus {} for the end of the process is longer than the grace period of {given}", format_duration(timeout), format_duration(LAST_RESORT_AFTER)),
        "the worker is killed before it has given its messages back; they are delivered again, and that counts as an attempt where the broker counts deliveries",
        format!(
            "use a shorter --shutdown-timeout (WQ_SHUTDOWN_TIMEOUT), or set terminationGracePeriodSeconds: {} in the pod and \
             pass the same value to this command with --grace-period",
            needed.as_secs() + u64::from(needed.subsec_nanos() > 0)
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Verdict;

    #[test]
    fn a_shutdown_fits_into_its_grace_period_or_is_warned_of() {
        let seconds = Duration::from_secs;
        let is_good = |timeout, grace| {
            let mut findings = Findings::default();
            shutdown(timeout, grace, &mut findings);
            matches!(findings.0[0].verdict, Verdict::Good(_))
        };
        assert!(is_good(seconds(25), seconds(30)));
        assert!(is_good(seconds(26), seconds(30)));
        assert!(!is_good(seconds(27), seconds(30)));
        assert!(is_good(seconds(60), seconds(64)));
    }
}
