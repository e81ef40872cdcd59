//! Tests of the loop against a broker that answers when a test tells it to, and against one that keeps books.

mod books;
pub mod scripted;

use std::time::Duration;

use self::scripted::{Call, SHORT, TERMS, World, in_time, options, passing, taken};
use super::*;
use crate::broker::subscription::{Depth, Notice};
use crate::task::Settlement;

#[tokio::test]
async fn a_take_is_never_dropped_and_never_made_twice() {
    let mut world = World::remote(TERMS, 4);
    let (mut deliveries, waiting) = world.hand_over(&[10, 11]).await;
    world.subscription.abort().cancel();
    for (delivery, lease) in deliveries.drain(..).zip([10, 11]) {
        let settling = tokio::spawn(delivery.receipt.settle(Settlement::Ack));
        let (settled, _, answer) = world.settlement().await;
        assert_eq!(settled, lease);
        let _ = answer.send(Ok(Held::Yes));
        in_time(settling).await.unwrap().unwrap();
        world.sync().await;
        assert!(!waiting.is_closed());
    }
    assert!(world.calls.try_recv().is_err(), "no other call is made beside the take");
    let _ = waiting.send(Ok(vec![taken(12)]));
    world.delivery().await;
}

#[tokio::test]
async fn settlements_go_on_side_by_side() {
    let mut world = World::remote(TERMS, 4);
    let (deliveries, _waiting) = world.hand_over(&[10, 11, 12]).await;
    let mut settling: Vec<_> =
        deliveries.into_iter().map(|delivery| tokio::spawn(delivery.receipt.settle(Settlement::Ack))).collect();
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(world.settlement().await);
    }
    // Whichever is answered is done, though the ones before it are not.
    for (_, _, answer) in answers.drain(..).rev() {
        let _ = answer.send(Ok(Held::Yes));
        in_time(settling.pop().unwrap()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_broker_that_takes_one_settlement_at_a_time_gets_one_at_a_time() {
    let mut world = World::remote(Terms { settlements: 1, ..TERMS }, 4);
    let (deliveries, _waiting) = world.hand_over(&[10, 11]).await;
    for delivery in deliveries {
        drop(delivery);
    }
    let (first, how, answer) = world.settlement().await;
    assert_eq!((first, how), (10, "release"));
    world.sync().await;
    assert!(world.calls.try_recv().is_err());
    let _ = answer.send(Ok(Held::Yes));
    assert_eq!(world.settlement().await.0, 11);
}

#[tokio::test]
async fn renewals_go_on_beside_a_settlement_that_hangs() {
    let mut world = World::remote(Terms { lease: TERMS.lease, ..SHORT }, 4);
    let (mut deliveries, _waiting) = world.hand_over(&[10, 11]).await;
    let other = deliveries.pop().unwrap();
    let settling = tokio::spawn(deliveries.pop().unwrap().receipt.settle(Settlement::Ack));
    let mut hangs = None;
    let mut renewals = 0;
    while renewals < 3 {
        match world.call().await {
            Call::Settle { lease: 10, answer, .. } => hangs = Some(answer),
            Call::Renew { leases, answer } => {
                assert!(leases.contains(&(2, 11)));
                // One that has begun to be settled is renewed no longer.
                assert!(hangs.is_none() || leases.len() == 1, "{leases:?}");
                renewals += usize::from(hangs.is_some());
                let _ = answer.send(Ok(Renewed::default()));
            }
            other => panic!("{}", other.name()),
        }
    }
    assert!(!settling.is_finished() && !other.receipt.lost().is_cancelled());
}

#[tokio::test]
async fn a_lease_whose_renewals_are_confirmed_is_kept_and_one_that_is_not_is_lost() {
    let mut world = World::remote(SHORT, 4);
    let (deliveries, _waiting) = world.hand_over(&[10, 11]).await;
    let mut renewals = 0;
    let lost = [0, 1].map(|at| deliveries[at].receipt.lost().clone());
    let renewing = async {
        loop {
            let (_, answer) = world.renewal().await;
            renewals += 1;
            let _ = answer.send(Ok(Renewed { unconfirmed: vec![2], ..Renewed::default() }));
        }
    };
    in_time(async {
        tokio::select! {
            () = renewing => {}
            () = lost[1].cancelled() => {}
        }
    })
    .await;
    assert!(renewals > 2 && !lost[0].is_cancelled());
}

#[tokio::test]
async fn a_delivery_is_lost_by_our_clock_when_renewals_hang() {
    let mut world = World::remote(SHORT, 4);
    let (mut deliveries, waiting) = world.hand_over(&[10]).await;
    let receipt = deliveries.pop().unwrap().receipt;
    let (_, hangs) = world.renewal().await;
    in_time(receipt.lost().cancelled()).await;
    // It settles nothing any more: another worker may have the message.
    let settled = in_time(receipt.settle(Settlement::Ack)).await;
    assert!(matches!(settled, Err(Error::Broken { .. })), "{settled:?}");
    while let Ok(call) = world.calls.try_recv() {
        assert!(matches!(call, Call::Renew { .. }), "{}", call.name());
    }
    drop((hangs, waiting));
}

#[tokio::test]
async fn a_settlement_that_outlasts_its_lease_is_given_up() {
    let mut world = World::remote(Terms { renew: TERMS.renew, ..SHORT }, 4);
    let (mut deliveries, _waiting) = world.hand_over(&[10]).await;
    let settling = tokio::spawn(deliveries.pop().unwrap().receipt.settle(Settlement::Ack));
    let (_, _, mut answer) = world.settlement().await;
    in_time(answer.closed()).await;
    let settled = in_time(settling).await.unwrap();
    assert!(matches!(settled, Err(Error::Broken { .. })), "{settled:?}");
}

#[tokio::test]
async fn a_broker_on_this_host_keeps_a_lease_until_it_says_otherwise() {
    let lease = Duration::from_millis(300);
    let mut world = World::new::<false>(Terms { lease, ..SHORT }, options(4, None));
    let (deliveries, _waiting) = world.hand_over(&[10, 11]).await;
    let (_, answer) = world.renewal().await;
    // As long as another process holds the lock: well after the end of the lease.
    tokio::time::sleep(3 * lease).await;
    let _ = answer.send(Err(passing()));
    let (_, answer) = world.renewal().await;
    assert!(deliveries.iter().all(|delivery| !delivery.receipt.lost().is_cancelled()));
    let _ = answer.send(Ok(Renewed { lost: vec![1], ..Renewed::default() }));
    in_time(deliveries[0].receipt.lost().cancelled()).await;
    assert!(!deliveries[1].receipt.lost().is_cancelled());
}

#[tokio::test]
async fn a_cancel_awaits_the_take_and_gives_back_what_it_brings() {
    let mut world = World::remote(TERMS, 4);
    let (_, hurry, answer) = world.take().await;
    assert!(!hurry.is_cancelled());
    world.subscription.cancel();
    in_time(hurry.cancelled()).await;
    world.sync().await;
    let _ = answer.send(Ok(vec![taken(10), taken(11)]));
    for lease in [10, 11] {
        let (released, how, answer) = world.settlement().await;
        assert_eq!((released, how), (lease, "release"));
        let _ = answer.send(Ok(Held::Yes));
    }
    world.sync().await;
    assert!(world.calls.try_recv().is_err(), "nothing more is taken");
    assert!(matches!(world.subscription.next().await, Some(Notice::Established)));
    assert!(world.subscription.notices.try_recv().is_err(), "the worker sees none of it");
}

#[tokio::test]
async fn the_end_awaits_the_take_too() {
    let mut world = World::remote(TERMS, 4);
    let (_, hurry, answer) = world.take().await;
    let World { mut calls, subscription, .. } = world;
    let closing = tokio::spawn(subscription.close());
    in_time(hurry.cancelled()).await;
    let _ = answer.send(Ok(vec![taken(10)]));
    let Some(Call::Settle { lease: 10, settlement: "release", answer }) = in_time(calls.recv()).await else {
        panic!("what the take brought is given back");
    };
    let _ = answer.send(Ok(Held::Yes));
    let Some(Call::Close { answer }) = in_time(calls.recv()).await else { panic!("the broker is told of the end") };
    let _ = answer.send(Ok(()));
    in_time(closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_look_finds_is_taken_before_the_next_look() {
    let mut world = World::remote(TERMS, 4);
    let (_, _, taking) = world.take().await;
    world.subscription.probe();
    world.subscription.probe();
    world.sync().await;
    let _ = taking.send(Ok(Vec::new()));
    let Call::Depth { answer } = world.call().await else { panic!("a look comes before the next take") };
    let _ = answer.send(Ok(Depth { ready: 1, ..Depth::default() }));
    let (_, hurry, taking) = world.take().await;
    assert!(hurry.is_cancelled(), "somebody waits for the next look");
    let _ = taking.send(Ok(vec![taken(10)]));
    let Call::Depth { answer } = world.call().await else { panic!("each question is answered") };
    let _ = answer.send(Ok(Depth::default()));
    world.take().await;
}

#[tokio::test]
async fn the_end_awaits_a_look_too() {
    let mut world = World::remote(TERMS, 4);
    let (_, _, taking) = world.take().await;
    world.subscription.probe();
    world.sync().await;
    let _ = taking.send(Ok(Vec::new()));
    let Call::Depth { answer: looking } = world.call().await else { panic!("a look comes before the next take") };
    let World { mut calls, subscription, .. } = world;
    let closing = tokio::spawn(subscription.close());
    // A look may hold what it finds: cut off, it would keep that from everybody for a whole lease.
    tokio::time::sleep(TERMS.wait / 4).await;
    assert!(!looking.is_closed() && calls.try_recv().is_err());
    let _ = looking.send(Ok(Depth::default()));
    let Some(Call::Close { answer }) = in_time(calls.recv()).await else { panic!("the broker is told of the end") };
    let _ = answer.send(Ok(()));
    in_time(closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_depends_on_nothing_that_hangs() {
    let mut world = World::remote(TERMS, 4);
    let (mut deliveries, waiting) = world.hand_over(&[10]).await;
    let settling = tokio::spawn(deliveries.pop().unwrap().receipt.settle(Settlement::Ack));
    let (_, _, answer) = world.settlement().await;
    let World { calls, subscription, mut went } = world;
    let closed = in_time(subscription.close()).await;
    assert!(matches!(&closed, Err(Error::Unanswered { doing }) if doing == "take messages back"), "{closed:?}");
    let settled = in_time(settling).await.unwrap();
    assert!(matches!(settled, Err(Error::Lost { .. })), "{settled:?}");
    assert!(matches!(went.recv().await, Some(Went::Closed)));
    drop((calls, waiting, answer));
}

#[tokio::test]
async fn an_abort_gives_up_what_hangs_and_leaves_the_take() {
    let mut world = World::remote(TERMS, 4);
    let (mut deliveries, waiting) = world.hand_over(&[10]).await;
    let settling = tokio::spawn(deliveries.pop().unwrap().receipt.settle(Settlement::Ack));
    let (_, _, answer) = world.settlement().await;
    world.subscription.abort().cancel();
    let settled = in_time(settling).await.unwrap();
    assert!(matches!(settled, Err(Error::Unanswered { .. })), "{settled:?}");
    assert!(answer.is_closed() && !waiting.is_closed());
}

#[tokio::test]
async fn a_settlement_is_tried_again_while_its_error_may_pass() {
    let mut options = options(4, None);
    options.publish_timeout = Duration::from_secs(1);
    let mut world = World::new::<true>(TERMS, options);
    let (mut deliveries, _waiting) = world.hand_over(&[10, 11]).await;
    let settling = tokio::spawn(deliveries.pop().unwrap().receipt.settle(Settlement::Ack));
    for result in [Err(passing()), Err(passing()), Ok(Held::Yes)] {
        let _ = world.settlement().await.2.send(result);
    }
    in_time(settling).await.unwrap().unwrap();
    // And no longer than its time; the reason is told, though the last try is never answered.
    let settling = tokio::spawn(deliveries.pop().unwrap().receipt.settle(Settlement::Ack));
    let _ = world.settlement().await.2.send(Err(passing()));
    let (_, _, mut hangs) = world.settlement().await;
    in_time(hangs.closed()).await;
    let settled = in_time(settling).await.unwrap();
    assert!(matches!(settled, Err(Error::Unpublished { .. })), "{settled:?}");
}

#[tokio::test]
async fn a_look_comes_after_the_take_and_what_that_brings() {
    let mut world = World::remote(TERMS, 4);
    let (_, hurry, answer) = world.take().await;
    world.subscription.probe();
    in_time(hurry.cancelled()).await;
    world.sync().await;
    assert!(world.calls.try_recv().is_err(), "a look beside a take could miss what that has taken");
    let _ = answer.send(Ok(vec![taken(10)]));
    let Call::Depth { answer } = world.call().await else { panic!("a look comes before the next take") };
    let _ = answer.send(Ok(Depth { ready: 7, ..Depth::default() }));
    let _delivery = world.delivery().await;
    let Some(Notice::Depth(depth)) = world.subscription.next().await else { panic!("the probe is answered") };
    assert_eq!(depth.ready, 7);
    world.take().await;
}

#[tokio::test]
async fn no_more_is_taken_than_there_is_room_for_and_wanted() {
    let mut world = World::new::<true>(TERMS, options(3, Some(5)));
    let (room, _, answer) = world.take().await;
    assert_eq!(room, 3);
    let _ = answer.send(Ok(vec![taken(10), taken(11)]));
    let (room, _, answer) = world.take().await;
    assert_eq!(room, 1);
    let _ = answer.send(Ok(vec![taken(12)]));
    let mut settled = 0;
    for _ in 0..3 {
        drop(world.delivery().await);
        settled += 1;
    }
    // Two of five are left, whatever becomes free.
    while settled > 0 {
        match world.call().await {
            Call::Settle { answer, .. } => drop(answer.send(Ok(Held::Yes))),
            Call::Take { room, answer, .. } => {
                assert!(room <= 2);
                let _ = answer.send(Ok(vec![]));
                continue;
            }
            other => panic!("{}", other.name()),
        }
        settled -= 1;
    }
    let rooms = async {
        loop {
            let (room, _, answer) = world.take().await;
            let _ = answer.send(Ok(vec![]));
            if room == 2 {
                return;
            }
        }
    };
    in_time(rooms).await;
}

#[tokio::test]
async fn an_error_ends_a_session_and_what_its_take_still_brings_goes_back() {
    let mut world = World::remote(SHORT, 4);
    let (mut deliveries, waiting) = world.hand_over(&[10]).await;
    let receipt = deliveries.pop().unwrap().receipt;
    let (_, answer) = world.renewal().await;
    let _ = answer.send(Err(Error::Lost { source: None }));
    in_time(receipt.lost().cancelled()).await;
    let _ = waiting.send(Ok(vec![taken(11)]));
    let (released, how, answer) = world.settlement().await;
    assert_eq!((released, how), (11, "release"));
    let _ = answer.send(Ok(Held::Yes));
    let went = in_time(world.went.recv()).await;
    assert!(matches!(went, Some(Went::Failed { error: Error::Lost { .. }, worked: true })));
    // The next session knows nothing of the receipts of this one.
    let (_, _, answer) = world.take().await;
    let _ = answer.send(Ok(vec![taken(12)]));
    world.delivery().await.receipt.lost();
    let settled = in_time(receipt.settle(Settlement::Ack)).await;
    assert!(matches!(settled, Err(Error::Lost { .. })), "{settled:?}");
}

#[tokio::test]
async fn a_take_that_is_never_answered_ends_the_session() {
    let mut world = World::remote(Terms { wait: Duration::ZERO, ..TERMS }, 4);
    let (_, _, answer) = world.take().await;
    let went = in_time(world.went.recv()).await;
    assert!(matches!(went, Some(Went::Failed { error: Error::Unanswered { .. }, worked: false })));
    drop(answer);
}
