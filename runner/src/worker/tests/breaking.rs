//! Tests of what the loop does when its breaker opens.

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// A worker whose breaker has just opened: three of its messages failed, one is still running, and one waits.
fn opened(mode: Mode, releases_count: bool) -> World {
    let breaker = breaker::Options::soon(3, Some(2));
    let mut world = World::with(Options { releases_count, breaker, ..options(mode, MILLISECOND, 2) });
    world.step(Step::Established);
    for _ in 0..5 {
        world.step(Step::Deliver);
    }
    for end in [End::Retry, End::DeadLetter] {
        world.step(Step::Finish(0, end));
    }
    assert!(!world.state.observers.breaker().is_open());
    world.step(Step::Finish(0, End::Retry));
    world
}

#[test]
fn an_open_breaker_takes_nothing_and_gives_back_what_has_not_begun() {
    let world = opened(Mode::Forever, false);
    assert!(world.state.observers.breaker().is_open());
    assert_eq!((world.wanted, world.state.waiting.len()), (0, 0));
    assert_eq!(world.settled.values().filter(|how| **how == "release").count(), 1);
}

#[test]
fn what_would_be_counted_if_it_were_given_back_waits_and_is_tried_first() {
    let mut world = opened(Mode::Forever, true);
    assert_eq!((world.wanted, world.state.waiting.len()), (0, 1));
    let started = world.started;
    world.step(Step::TryDue);
    assert_eq!((world.wanted, world.state.waiting.len(), world.started), (0, 0, started + 1));
}

#[test]
fn one_message_is_tried_and_if_it_succeeds_all_goes_on() {
    let mut world = opened(Mode::Forever, false);
    let old = world.running.len();
    world.step(Step::TryDue);
    assert_eq!(world.wanted, 1);
    // A broker has one more on its way.
    for _ in 0..2 {
        world.step(Step::Deliver);
    }
    assert_eq!(world.running.len(), old + 1);
    // What ran before does not decide.
    world.step(Step::Finish(0, End::Ack));
    assert!(world.state.observers.breaker().is_open());
    world.step(Step::Finish(old - 1, End::Ack));
    assert!(!world.state.observers.breaker().is_open());
    assert_eq!(world.wanted, u64::MAX);
}

#[test]
fn a_worker_that_is_to_end_ends_after_its_tries_and_a_service_goes_on() {
    for (tries, ends) in [(Some(2), true), (None, false)] {
        let mut world =
            World::with(Options { breaker: breaker::Options::soon(1, tries), ..options(Mode::Drain, MILLISECOND, 1) });
        world.step(Step::Established);
        world.step(Step::Deliver);
        world.step(Step::Finish(0, End::Retry));
        for _ in 0..2 {
            assert!(world.state.stopping.is_none());
            world.step(Step::TryDue);
            world.step(Step::Deliver);
            world.step(Step::Finish(0, End::Retry));
        }
        assert_eq!(matches!(world.state.stopping, Some(StopReason::BreakerOpen { tries: 2 })), ends);
        assert_eq!(world.cancelled, ends);
    }
}

#[test]
fn a_queue_is_not_called_empty_while_nothing_is_taken_from_it() {
    let mut world = opened(Mode::Drain, false);
    while !world.running.is_empty() {
        world.step(Step::Finish(0, End::Ack));
    }
    for _ in 0..3 {
        world.step(Step::Depth(0, 0));
    }
    assert!(world.state.stopping.is_none() && world.state.probe_at.is_none());
    world.step(Step::TryDue);
    assert!(world.state.probe_at.is_some());
    for _ in 0..EMPTY_LOOKS {
        world.step(Step::Depth(0, 0));
    }
    assert!(matches!(world.state.stopping, Some(StopReason::Empty)));
}

#[test]
fn a_count_goes_on_where_its_breaker_stopped_it() {
    let mut world =
        World::with(Options { breaker: breaker::Options::soon(2, Some(9)), ..options(Mode::Count(4), MILLISECOND, 1) });
    world.step(Step::Established);
    for _ in 0..2 {
        world.step(Step::Deliver);
        world.step(Step::Finish(0, End::Retry));
    }
    assert_eq!(world.wanted, 0);
    world.step(Step::TryDue);
    assert_eq!(world.wanted, 1);
    world.step(Step::Deliver);
    world.step(Step::Finish(0, End::Ack));
    assert_eq!(world.wanted, 1, "of four, three are done");
}

#[test]
fn a_count_takes_no_more_than_it_starts_when_its_breaker_closes() {
    let breaker = breaker::Options::soon(1, Some(9));
    let mut world = World::with(Options { releases_count: true, breaker, ..options(Mode::Count(5), MILLISECOND, 1) });
    world.step(Step::Established);
    for _ in 0..4 {
        world.step(Step::Deliver);
    }
    world.step(Step::Finish(0, End::Retry));
    assert_eq!((world.wanted, world.state.waiting.len()), (0, 3));
    world.step(Step::TryDue);
    world.step(Step::Finish(0, End::Ack));
    // Three of the five have begun, and one waits.
    assert_eq!((world.started, world.state.waiting.len(), world.wanted), (3, 1, 1));
}
