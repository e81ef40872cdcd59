//! The flags of the `work` that runs in pods.

use std::time::Duration;

use super::parts::Workload;
use super::volumes::Cache;
use crate::cli;
use crate::cli::manifest::Working;
use crate::error::Error;
use crate::settle::Policy;
use crate::worker::Mode;

/// What a pod may need beside the pauses between the runs of its message: to start, and to be handed it.
const TO_BE_HANDED_OVER: Duration = Duration::from_secs(10);

/// How long pods wait for a queue that comes later than they do.
const FOR_THE_QUEUE: &str = "5m";

/// Where workers answer probes, if nothing else is said.
const LISTEN: &str = "0.0.0.0:9090";

/// The flags of the pods' `work`: those that were given, and those that are better than their defaults in a pod.
pub fn flags(
    working: &Working<cli::Work>,
    queue: &str,
    mode: Mode,
    policy: &Policy,
    workload: &Workload,
    cache: &Cache,
) -> Vec<String> {
    // Not copied as they were typed: what they resolve to is added here, and the broker's address comes from a Secret.
    const ELSEWHERE: [&str; 7] = ["broker", "queue", "count", "drain", "forever", "cache-dir", "no-cache"];
    let mut flags = vec![format!("--queue={queue}")];
    match mode {
        Mode::Count(1) => {}
        Mode::Count(count) => flags.push(format!("--count={count}")),
        Mode::Drain => flags.push("--drain".to_owned()),
        Mode::Forever => flags.push("--forever".to_owned()),
    }
    let given = working.given.iter().filter(|given| !ELSEWHERE.contains(&given.flag.as_str()));
    flags.extend(given.flat_map(|given| match given.values.as_slice() {
        [] => vec![format!("--{}", given.flag)],
        values => values.iter().map(|value| format!("--{}={value}", given.flag)).collect(),
    }));
    let mut default = |flag: &str, value: &str| {
        // A build can do without some of them.
        let is_known = working.known.iter().any(|known| known == flag);
        if is_known && !working.given.iter().any(|given| given.flag == flag) {
            flags.push(format!("--{flag}={value}"));
        }
    };
    if let Mode::Count(_) = mode {
        // If there are more pods than messages, the extra pods have to end. A pod for a message that is tried again has to wait
        // until the pause before its next run is over.
        let pause = policy.longest_pause();
        let wait = TO_BE_HANDED_OVER.saturating_add(pause).saturating_add(pause / 2);
        default("wait", &humantime::format_duration(Duration::from_secs(wait.as_secs())).to_string().replace(' ', ""));
    }
    match workload {
        Workload::Job(_) => default("on-dead-letters", "fail"),
        Workload::Deployment { .. } | Workload::ScaledDeployment(_) => {
            default("wait-for-queue", FOR_THE_QUEUE);
            default("listen", LISTEN);
        }
        Workload::ScaledJob(..) => {}
    }
    flags.push(match cache {
        Cache::Nowhere => "--no-cache".to_owned(),
        Cache::In(path) => format!("--cache-dir={path}"),
    });
    flags
}

/// The port of `--listen`.
pub fn port(flags: &[String]) -> Result<Option<u16>, Error> {
    let Some(address) = flags.iter().find_map(|flag| flag.strip_prefix("--listen=")) else { return Ok(None) };
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).filter(|port| *port != 0);
    let is_loopback = ["127.", "[::1]", "localhost"].iter().any(|start| address.starts_with(start));
    match port {
        Some(port) if !is_loopback => Ok(Some(port)),
        _ => Err(Error::configuration(
            format!("--listen {address}: nothing outside of the pod can reach this address"),
            "a pod listens at 0.0.0.0:9090, for example (--listen, WQ_LISTEN)",
        )),
    }
}
