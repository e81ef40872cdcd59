//! The scripts, on every version of the server that is here.
//!
//! A lease is made to end by telling the server so.

mod foreign;
mod server;

use std::time::SystemTime;

use bytes::Bytes;

use self::server::{DEAD, QUEUE, Server, entry, failure, field, look, on_every_version, ready, take_one};
use super::*;
use crate::broker::redis::queue;

#[tokio::test]
async fn a_message_is_taken_once_and_gone_when_it_is_acknowledged() {
    on_every_version(async |server| {
        server.publish("x").await;
        let (one, other) = (server.store().await, server.store().await);
        let taken = take_one(&one).await;
        assert_eq!((taken.attempt, taken.unfinished, taken.redelivered), (1, 0, false));
        assert_eq!(taken.message.body, "x");
        assert!(look(&other, 1).await.is_empty());
        let counts = server.counts().await;
        assert_eq!((counts.ready, counts.running), (0, 1));
        assert!(one.ack(&taken.lease).await.unwrap());
        assert!(!one.ack(&taken.lease).await.unwrap());
        assert_eq!(server.number(&["XLEN", QUEUE]).await, 0);
        assert_eq!(server.counts().await.running, 0);
    })
    .await;
}

#[tokio::test]
async fn a_message_whose_lease_ended_is_taken_over_and_its_first_holder_can_do_nothing_to_it() {
    on_every_version(async |server| {
        server.publish("x").await;
        let (one, other) = (server.store().await, server.store().await);
        let stale = take_one(&one).await;
        server.end_lease(&one, &stale).await;
        assert_eq!(server.counts().await.ready, 1);
        let again = take_one(&other).await;
        assert_eq!((again.attempt, again.unfinished, again.redelivered), (2, 1, true));
        assert_eq!(one.renew(&[&stale.lease]).await.unwrap(), [0]);
        assert!(!one.ack(&stale.lease).await.unwrap());
        assert!(!one.release(&stale.lease).await.unwrap());
        assert!(!one.retry(&stale.lease, Duration::ZERO, &failure(1)).await.unwrap());
        assert!(!one.dead_letter(&stale.lease, DEAD, &failure(1)).await.unwrap());
        // Its new holder has it as before.
        assert!(other.renew(&[&again.lease]).await.unwrap().is_empty());
        assert!(other.ack(&again.lease).await.unwrap());
        assert_eq!((server.number(&["XLEN", QUEUE]).await, server.number(&["EXISTS", DEAD]).await), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_one_worker_took_twice_is_settled_by_its_last_number_only() {
    on_every_version(async |server| {
        server.publish("x").await;
        let store = server.store().await;
        let first = take_one(&store).await;
        server.end_lease(&store, &first).await;
        let second = take_one(&store).await;
        assert_eq!(store.renew(&[&first.lease, &second.lease]).await.unwrap(), [0]);
        assert!(!store.ack(&first.lease).await.unwrap());
        assert!(store.ack(&second.lease).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_was_renewed_is_not_taken_away_and_the_renewal_not_counted() {
    on_every_version(async |server| {
        server.publish("x").await;
        let (one, other) = (server.store().await, server.store().await);
        let taken = take_one(&one).await;
        server.end_lease(&one, &taken).await;
        assert!(one.renew(&[&taken.lease]).await.unwrap().is_empty());
        assert!(look(&other, 1).await.is_empty());
        server.end_lease(&one, &taken).await;
        assert_eq!(take_one(&other).await.attempt, 2);
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_given_back_comes_at_once_and_only_dead_workers_stay_counted() {
    on_every_version(async |server| {
        server.publish("x").await;
        let (one, other) = (server.store().await, server.store().await);
        let taken = take_one(&one).await;
        assert!(one.release(&taken.lease).await.unwrap());
        assert_eq!(server.counts().await, ready(1));
        let again = take_one(&other).await;
        assert_eq!((again.attempt, again.unfinished, again.redelivered), (1, 0, true));
        server.end_lease(&other, &again).await;
        let third = take_one(&one).await;
        assert_eq!((third.attempt, third.unfinished), (2, 1));
        assert!(one.release(&third.lease).await.unwrap());
        assert_eq!(take_one(&other).await.attempt, 2);
    })
    .await;
}

#[tokio::test]
async fn a_retry_waits_and_is_the_same_message_byte_for_byte() {
    on_every_version(async |server| {
        let mut add = redis::cmd("XADD");
        add.arg(QUEUE).arg("*").arg("body").arg(b"\xff\0").arg(b"h\xe4").arg(b"\xe4").arg(b"h\xe4").arg(b"2");
        add.arg("message_id").arg("m").arg("x-wq-stderr").arg("old").arg("x-wq-stderr").arg("older");
        server.connect().await.request("add", QUEUE, add).await.unwrap();
        let store = server.store().await;
        let taken = take_one(&store).await;
        assert!(store.retry(&taken.lease, Duration::from_millis(300), &failure(1)).await.unwrap());
        let counts = server.counts().await;
        assert_eq!((counts.ready, counts.delayed, counts.running), (0, 1, 0));
        assert_eq!(server.number(&["XLEN", QUEUE]).await, 0);
        let (none, wait) = store.look(1).await.unwrap();
        assert!(none.is_empty() && wait <= Duration::from_millis(300));
        tokio::time::sleep(Duration::from_millis(310)).await;
        assert_eq!(server.counts().await.ready, 1);
        let again = take_one(&store).await;
        assert_eq!((again.attempt, again.unfinished, again.redelivered), (2, 0, false));
        assert_eq!(again.message.properties.message_id.as_deref(), Some("m"));
        let entry = entry(server, QUEUE).await;
        assert_eq!(
            &entry[..3],
            &[
                (b"body".to_vec(), Bytes::from_static(b"\xff\0")),
                (b"h\xe4".to_vec(), Bytes::from_static(b"\xe4")),
                (b"h\xe4".to_vec(), Bytes::from_static(b"2")),
            ]
        );
        assert_eq!(field(&entry, "x-wq-stderr"), Some(b"oh".as_slice()));
        assert_eq!(field(&entry, "x-wq-attempt"), Some(b"1".as_slice()));
        // The first failure stays the first one.
        let failed_again = Failure { at: SystemTime::now(), ..failure(2) };
        assert!(store.retry(&again.lease, Duration::ZERO, &failed_again).await.unwrap());
        let third = take_one(&store).await;
        assert_eq!(third.attempt, 3);
        assert_eq!(third.message.headers["x-wq-first-failed-at"], "1970-01-01T00:00:00.000Z");
        assert!(store.ack(&third.lease).await.unwrap());
        for key in ["{q}:delayed", "{q}:delayed:body"] {
            let left = if key.ends_with("body") {
                server.number(&["XLEN", key]).await
            } else {
                server.number(&["ZCARD", key]).await
            };
            assert_eq!(left, 0, "{key}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_is_in_a_queue_of_its_own_with_its_reason() {
    on_every_version(async |server| {
        server.publish("x").await;
        server.publish("y").await;
        let store = server.store().await;
        for body in ["x", "y"] {
            let taken = take_one(&store).await;
            assert!(store.dead_letter(&taken.lease, DEAD, &failure(3)).await.unwrap());
            assert_eq!(taken.message.body, body);
        }
        assert_eq!(server.number(&["XLEN", QUEUE]).await, 0);
        let dead = Store::open(&server.url, DEAD).await.unwrap();
        let letters = look(&dead, 5).await;
        assert_eq!(letters.len(), 2);
        assert_eq!((letters[0].attempt, letters[0].message.headers["x-wq-outcome"].as_str()), (1, Some("exit")));
        assert_eq!(letters[0].message.headers["x-wq-attempt"], 3);
    })
    .await;
}

#[tokio::test]
async fn an_ended_lease_behind_many_that_go_on_is_found_at_once() {
    on_every_version(async |server| {
        let (busy, dead, other) = (server.store().await, server.store().await, server.store().await);
        for number in 0..301 {
            server.publish(&number.to_string()).await;
        }
        assert_eq!(look(&busy, 300).await.len(), 300);
        let taken = take_one(&dead).await;
        server.end_lease(&dead, &taken).await;
        assert_eq!(take_one(&other).await.message.body, "300");
        let (_, pause) = (other.look(1).await.unwrap(), other.next_look().saturating_duration_since(Instant::now()));
        assert!(pause < LEASE);
    })
    .await;
}

#[tokio::test]
async fn a_consumer_is_removed_when_it_leaves_or_is_long_gone_but_never_with_its_messages() {
    on_every_version(async |server| {
        server.publish("x").await;
        let consumers = async || list(server.ask(&["XINFO", "CONSUMERS", QUEUE, GROUP]).await).unwrap().len();
        let store = server.store().await;
        let taken = take_one(&store).await;
        store.leave().await.unwrap();
        assert_eq!(consumers().await, 1);
        assert!(store.ack(&taken.lease).await.unwrap());
        store.leave().await.unwrap();
        assert_eq!(consumers().await, 0);
        server.publish("y").await;
        let with_message = server.store().await;
        take_one(&with_message).await;
        let idle = server.store().await;
        server.ask(&["XGROUP", "CREATECONSUMER", QUEUE, GROUP, &idle.consumer]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let open = async |gone: u64| {
            let keys = &[QUEUE];
            let connection = server.connect().await;
            connection
                .run("open", Script::Open, keys, |call| {
                    call.arg(GROUP).arg(gone);
                })
                .await
                .unwrap();
        };
        open(60_000).await;
        assert_eq!(consumers().await, 2);
        open(10).await;
        assert_eq!(consumers().await, 1);
        server.end_lease(&with_message, &Taken { ..look_at(server).await }).await;
        assert_eq!(take_one(&server.store().await).await.message.body, "y");
    })
    .await;
}

/// The only message, as somebody who has not taken it.
async fn look_at(server: &Server) -> Taken {
    let entry = list(server.ask(&["XRANGE", QUEUE, "-", "+"]).await).unwrap().pop().unwrap();
    server.store().await.new_message(entry).unwrap()
}

#[tokio::test]
async fn a_purge_deletes_what_no_worker_has() {
    on_every_version(async |server| {
        let store = server.store().await;
        for number in 0..25 {
            server.publish(&number.to_string()).await;
        }
        let taken = look(&store, 4).await;
        assert!(store.retry(&taken[0].lease, Duration::from_secs(60), &failure(1)).await.unwrap());
        assert!(store.release(&taken[1].lease).await.unwrap());
        server.end_lease(&store, &taken[2]).await;
        let deleted = queue::purge(&server.connect().await, &Keys::new(QUEUE, None)).await.unwrap();
        assert_eq!(deleted, 24);
        assert_eq!(server.counts().await, Counts { running: 1, ..ready(0) });
        assert!(store.ack(&taken[3].lease).await.unwrap());
        assert_eq!(server.number(&["XLEN", QUEUE]).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_wait_ends_with_a_message_with_its_time_and_when_it_is_told_so() {
    on_every_version(async |server| {
        let store = server.store().await;
        let never = CancellationToken::new();
        let began = Instant::now();
        assert!(store.take(1, &never).await.unwrap().is_empty());
        // More than the library's own half second.
        assert!(began.elapsed() >= WAIT);
        let (taken, ()) = tokio::join!(store.take(1, &never), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.publish("x").await;
        });
        let taken = taken.unwrap();
        assert_eq!(taken[0].message.body, "x");
        assert!(store.ack(&taken[0].lease).await.unwrap());
        let hurry = CancellationToken::new();
        let began = Instant::now();
        let (taken, ()) = tokio::join!(store.take(1, &hurry), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            hurry.cancel();
        });
        assert!(taken.unwrap().is_empty() && began.elapsed() < WAIT);
        assert_eq!(server.counts().await.running, 0);
    })
    .await;
}
