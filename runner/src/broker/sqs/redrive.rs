//! A queue's own dead-lettering, which may come before ours, or be what the worker relies on.

use serde::Deserialize;

use crate::broker::error::Error;
use crate::broker::subscription::Options;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    max_receive_count: serde_json::Value,
}

/// What a redrive policy does to a worker with these options: what to say about it, or nothing.
///
/// # Errors
/// When the worker leaves dead letters to the queue, and there is no policy.
pub fn judged(policy: Option<&String>, options: &Options) -> Result<Option<String>, Error> {
    let Some(policy) = policy.and_then(|policy| serde_json::from_str::<Policy>(policy).ok()) else {
        if options.rejects {
            let source = "it has no redrive policy, so a message would be delivered again and again";
            return Err(Error::Mismatch { doing: "use --dead-letter-by broker".into(), source: source.into() });
        }
        return Ok(None);
    };
    let number = &policy.max_receive_count;
    let most = number.as_u64().or_else(|| number.as_str()?.parse().ok()).unwrap_or(u64::MAX);
    let attempts = u64::from(options.max_attempts);
    if !options.rejects && most <= attempts {
        return Ok(Some(format!(
            "the queue's redrive policy moves a message after {most} deliveries, restarts of workers included, which is before \
             wq-run can put it aside with the reason: raise its maxReceiveCount above --max-attempts ({attempts})"
        )));
    }
    if options.rejects && most < attempts {
        return Ok(Some(format!(
            "the queue's redrive policy moves a message after {most} deliveries: it is not run {attempts} times (--max-attempts)"
        )));
    }
    Ok(None)
}
