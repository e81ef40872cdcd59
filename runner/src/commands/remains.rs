//! What a worker leaves behind that found its queue empty: dead letters (`--on-dead-letters fail`).

use crate::broker::admin::{Admin, Status};
use crate::broker::{Error, Url};

/// How many dead letters there are, if all of the queue's work is done; `None` if there are none, or if somebody is still at work,
/// who will look as well.
///
/// To be asked when this worker takes nothing more: where a broker tells no more than who takes messages, it would see itself.
///
/// # Errors
/// When the broker does not say.
pub async fn dead_letters(broker: &Url, queue: &str, dead_letter_queue: &str) -> Result<Option<u64>, Error> {
    let mut admin = broker.broker().admin();
    let found = look(&mut *admin, queue, dead_letter_queue).await;
    let closed = admin.close().await;
    let found = found?;
    closed?;
    Ok(found)
}

async fn look(admin: &mut dyn Admin, queue: &str, dead_letter_queue: &str) -> Result<Option<u64>, Error> {
    if !is_done(admin.status(queue).await?) {
        return Ok(None);
    }
    match admin.status(dead_letter_queue).await {
        Ok(Status { ready, running, delayed, .. }) => {
            let all = ready + running.unwrap_or(0) + delayed.unwrap_or(0);
            Ok(Some(all).filter(|all| *all > 0))
        }
        // It is made for the first dead letter.
        Err(Error::MissingQueue { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nothing of a queue is ready, delayed, or with another worker, as far as its broker tells. Where it does not say how many
/// messages are with workers, a worker that takes messages may have one.
fn is_done(Status { ready, running, delayed, workers, .. }: Status) -> bool {
    ready == 0 && delayed.unwrap_or(0) == 0 && running.or(workers).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_done_when_nobody_has_anything_of_it() {
        let done =
            |ready, running, delayed, workers| is_done(Status { ready, running, delayed, workers, elsewhere: None });
        assert!(done(0, Some(0), Some(0), None) && done(0, None, None, Some(0)) && done(0, Some(0), None, Some(3)));
        assert!(!done(1, Some(0), Some(0), None));
        assert!(!done(0, Some(1), Some(0), Some(0)));
        assert!(!done(0, Some(0), Some(1), None));
        assert!(!done(0, None, None, Some(1)));
    }
}
