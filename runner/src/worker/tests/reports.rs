//! Reports of runs, as the worker gets them from its sandbox.

use std::task::{Context, Waker};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::sandbox::Input;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_report_of_a_short_run_does_not_wait_for_the_long_run_behind_it() {
    let sandbox = sandbox(1).await;
    for _ in 0..20 {
        let cancel = CancellationToken::new();
        // Computes until it is stopped.
        let long = sandbox.run(Input { cancel: cancel.clone().into(), ..Input::of("!") });
        let short = async {
            let report = sandbox.run(Input::of("a")).await;
            cancel.cancel();
            report
        };
        let both = tokio::time::timeout(SOON, async { tokio::join!(short, long) });
        let (short, long) = both.await.expect("the short one ends while the long one runs");
        assert_eq!(short.outcome, Outcome::Succeeded);
        // It is withdrawn if it was not begun when the short one's report came.
        assert!(matches!(long.outcome, Outcome::Interrupted | Outcome::Withdrawn));
    }
}

#[tokio::test]
async fn the_reports_of_many_short_runs_all_arrive() {
    let sandbox = sandbox(3).await;
    for runs in [1, 2, 15, 16, 17, 40] {
        let reports = futures_util::future::join_all((0..runs).map(|_| sandbox.run(Input::of("a"))));
        let reports = tokio::time::timeout(SOON, reports).await.expect("all of them arrive");
        assert!(reports.iter().all(|report| report.outcome == Outcome::Succeeded));
    }
}

#[tokio::test]
async fn whoever_no_longer_wants_a_report_takes_nobody_elses_with_it() {
    let sandbox = sandbox(1).await;
    for _ in 0..50 {
        let mut first = Box::pin(sandbox.run(Input::of("a")));
        let mut second = Box::pin(sandbox.run(Input::of("b")));
        let mut context = Context::from_waker(Waker::noop());
        // A report may be there at once, if the other thread is quick.
        if first.as_mut().poll(&mut context).is_pending() && second.as_mut().poll(&mut context).is_pending() {
            drop(first);
            let second = tokio::time::timeout(SOON, second).await.expect("it arrives");
            assert_eq!(second.stdout, "b");
        }
    }
}
