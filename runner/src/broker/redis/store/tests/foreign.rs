//! What others do to a queue and to its server.

use bytes::Bytes;
use serde_json::Map;

use super::super::*;
use super::server::{DEAD, QUEUE, entry, failure, field, look, on_every_version, ready, take_one};
use crate::broker::redis::queue;
use crate::task::Properties;

#[tokio::test]
async fn an_entry_with_more_fields_than_a_script_can_copy_is_put_aside_rewritten() {
    on_every_version(async |server| {
        let mut add = redis::cmd("XADD");
        add.arg(QUEUE).arg("*");
        for number in 0..10_000 {
            add.arg(number).arg("v");
        }
        server.connect().await.request("add", QUEUE, add).await.unwrap();
        server.publish("behind").await;
        let store = server.store().await;
        let taken = take_one(&store).await;
        assert!(taken.unreadable.as_ref().unwrap().contains("10000 fields"));
        assert!(store.dead_letter(&taken.lease, DEAD, &failure(1)).await.unwrap());
        let entry = entry(server, DEAD).await;
        assert!(field(&entry, "body").unwrap().starts_with(br#"{"0":"v","1":"v""#));
        assert_eq!(field(&entry, "x-wq-attempt"), Some(b"1".as_slice()));
        assert_eq!(take_one(&store).await.message.body, "behind");
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_was_deleted_while_a_worker_had_it_is_forgotten() {
    on_every_version(async |server| {
        let (one, other) = (server.store().await, server.store().await);
        for body in ["gone", "retried", "stays"] {
            server.publish(body).await;
        }
        let taken = look(&one, 3).await;
        for taken in &taken {
            server.end_lease(&one, taken).await;
        }
        server.ask(&["XDEL", QUEUE, &taken[0].lease.id, &taken[1].lease.id]).await;
        assert!(!one.retry(&taken[1].lease, Duration::ZERO, &failure(1)).await.unwrap());
        let found = look(&other, 5).await;
        assert_eq!(found.iter().map(|taken| &taken.message.body[..]).collect::<Vec<_>>(), [b"stays"]);
        assert!(other.ack(&found[0].lease).await.unwrap());
        let counts = server.counts().await;
        assert_eq!((counts.ready, counts.running), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn messages_that_were_trimmed_or_are_out_of_reach_do_not_count_as_ready() {
    on_every_version(async |server| {
        for _ in 0..10 {
            server.publish("x").await;
        }
        let store = server.store().await;
        let taken = take_one(&store).await;
        server.ask(&["XTRIM", QUEUE, "MAXLEN", "0"]).await;
        assert_eq!(server.counts().await, Counts { running: 1, ..ready(0) });
        // More than are left in the stream are with workers: what is ready is seen nevertheless.
        server.publish("y").await;
        assert_eq!(server.counts().await.ready, 1);
        assert!(store.ack(&taken.lease).await.unwrap());
        assert_eq!(take_one(&store).await.message.body, "y");
        // A group that somebody made to begin at the end never gets what was there before.
        server.ask(&["DEL", QUEUE]).await;
        server.ask(&["XADD", QUEUE, "*", "body", "x"]).await;
        server.ask(&["XGROUP", "CREATE", QUEUE, GROUP, "$"]).await;
        assert_eq!(server.counts().await, ready(0));
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_declared_has_what_was_published_before() {
    on_every_version(async |server| {
        server.ask(&["DEL", QUEUE]).await;
        server.ask(&["XADD", QUEUE, "*", "body", "x"]).await;
        assert!(matches!(Store::open(&server.url, QUEUE).await, Err(Error::MissingQueue { .. })));
        queue::declare(&server.connect().await, QUEUE).await.unwrap();
        queue::declare(&server.connect().await, QUEUE).await.unwrap();
        assert_eq!(take_one(&server.store().await).await.message.body, "x");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_another_group_reads_is_refused_and_so_is_another_type() {
    on_every_version(async |server| {
        server.ask(&["XGROUP", "CREATE", QUEUE, "others", "0"]).await;
        let refused = Store::open(&server.url, QUEUE).await.err().expect("refused");
        assert!(matches!(refused, Error::Mismatch { .. }));
        let connection = server.connect().await;
        assert!(matches!(queue::declare(&connection, QUEUE).await, Err(Error::Mismatch { .. })));
        server.ask(&["SET", "text", "x"]).await;
        assert!(matches!(queue::declare(&connection, "text").await, Err(Error::Mismatch { .. })));
        assert!(matches!(Store::open(&server.url, "text").await, Err(Error::Mismatch { .. })));
        assert!(matches!(Store::open(&server.url, "none").await, Err(Error::MissingQueue { .. })));
        let body = Bytes::from("x");
        let published = queue::publish(&connection, "none", &Properties::default(), &Map::new(), body.clone()).await;
        assert!(!published.unwrap());
        let published = queue::publish(&connection, "text", &Properties::default(), &Map::new(), body).await;
        assert!(matches!(published, Err(Error::Mismatch { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_full_server_takes_no_retry_and_still_hands_out_and_forgets() {
    on_every_version(async |server| {
        let store = server.store().await;
        for body in ["retried", "first", "second"] {
            server.publish(body).await;
        }
        let taken = take_one(&store).await;
        assert!(store.retry(&taken.lease, Duration::from_millis(1), &failure(1)).await.unwrap());
        let taken = take_one(&store).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        // What came back is behind.
        server.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let refused = store.retry(&taken.lease, Duration::ZERO, &failure(1)).await;
        assert!(matches!(refused, Err(Error::Unpublished { .. })), "{}: {refused:?}", server.version);
        let refused = store.dead_letter(&taken.lease, DEAD, &failure(1)).await;
        assert!(matches!(refused, Err(Error::Unpublished { .. })));
        assert!(store.renew(&[&taken.lease]).await.unwrap().is_empty());
        assert!(store.ack(&taken.lease).await.unwrap());
        let mut bodies = Vec::new();
        for taken in look(&store, 5).await {
            bodies.push(String::from_utf8(taken.message.body.to_vec()).unwrap());
            assert!(store.ack(&taken.lease).await.unwrap());
        }
        let counts = server.counts().await;
        assert_eq!(counts.ready as usize + bodies.len(), 2, "{}", server.version);
        server.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
        bodies.extend(
            look(&store, 5).await.into_iter().map(|taken| String::from_utf8(taken.message.body.to_vec()).unwrap()),
        );
        bodies.sort();
        assert_eq!(bodies, ["retried", "second"]);
    })
    .await;
}

#[tokio::test]
async fn an_inbox_feeds_the_queue_as_there_is_room() {
    on_every_version(async |server| {
        let url: Url = format!("{}?inbox=jobs", server.url).parse().unwrap();
        server.ask(&["LPUSH", "jobs", "a", "b", "c"]).await;
        let store = Store::open(&url, QUEUE).await.unwrap();
        let keys = Keys::new(QUEUE, Some("jobs"));
        let ready = async || counts(&server.connect().await, &keys).await.unwrap().ready;
        assert_eq!(ready().await, 3);
        let first = take_one(&store).await;
        assert_eq!((&first.message.body[..], server.number(&["LLEN", "jobs"]).await), (b"a".as_slice(), 2));
        let others: Vec<_> = look(&store, 5).await.into_iter().map(|taken| taken.message.body).collect();
        assert_eq!(others, ["b", "c"]);
        assert_eq!((server.number(&["LLEN", "jobs"]).await, ready().await), (0, 0));
        // What lies in the stream comes first.
        server.ask(&["LPUSH", "jobs", "list"]).await;
        server.publish("stream").await;
        assert_eq!(take_one(&store).await.message.body, "stream");
        assert_eq!(server.number(&["LLEN", "jobs"]).await, 1);
        let waited = store.take(1, &CancellationToken::new()).await.unwrap();
        assert_eq!(waited[0].message.body, "list");
        server.ask(&["SET", "text", "x"]).await;
        let wrong: Url = format!("{}?inbox=text", server.url).parse().unwrap();
        let wrong = Store::open(&wrong, QUEUE).await.unwrap();
        assert!(matches!(wrong.look(1).await, Err(Error::Mismatch { .. })));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_told_them_again() {
    on_every_version(async |server| {
        let store = server.store().await;
        server.publish("x").await;
        server.ask(&["SCRIPT", "FLUSH"]).await;
        let taken = take_one(&store).await;
        assert!(store.ack(&taken.lease).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_is_missing_for_who_waits_for_a_message() {
    on_every_version(async |server| {
        let store = server.store().await;
        let never = CancellationToken::new();
        let (taken, ()) = tokio::join!(store.take(1, &never), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.ask(&["DEL", QUEUE]).await;
        });
        let missing = match taken {
            // Before 7.0 a wait goes on, and the next one tells.
            Ok(none) if none.is_empty() => store.take(1, &CancellationToken::new()).await.err(),
            taken => taken.err(),
        };
        assert!(matches!(missing, Some(Error::MissingQueue { .. })), "{}: {missing:?}", server.version);
        assert!(matches!(store.depth().await, Err(Error::MissingQueue { .. })));
    })
    .await;
}

#[tokio::test]
async fn what_others_wrote_to_our_keys_names_no_message() {
    on_every_version(async |server| {
        let store = server.store().await;
        server.ask(&["ZADD", "{q}:delayed", "1", "no id", "2", "1-1", "inf", "5-5"]).await;
        let mut add = redis::cmd("XADD");
        add.arg("{q}:delayed:body").arg("1-1");
        for number in 0..5_000 {
            add.arg(number).arg("v");
        }
        server.connect().await.request("add", QUEUE, add).await.unwrap();
        server.publish("x").await;
        assert_eq!(take_one(&store).await.message.body, "x");
        assert_eq!(server.number(&["ZCARD", "{q}:delayed"]).await, 1);
        assert!(store.take(1, &CancellationToken::new()).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_from_other_errors() {
    on_every_version(async |server| {
        server.publish("x").await;
        let words = ["ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-xack"];
        server.ask(&words).await;
        server.ask(&["ACL", "SETUSER", "stranger", "on", ">pw", "~other*", "+@all"]).await;
        let path = server.url.address();
        let url: Url = format!("redis+unix://reader:pw@localhost{path}").parse().unwrap();
        let store = Store::open(&url, QUEUE).await.unwrap();
        let taken = take_one(&store).await;
        let refused = store.ack(&taken.lease).await;
        assert!(matches!(refused, Err(Error::Forbidden { .. })), "{}: {refused:?}", server.version);
        let url: Url = format!("redis+unix://stranger:pw@localhost{path}").parse().unwrap();
        let refused = Store::open(&url, QUEUE).await.err();
        assert!(matches!(refused, Some(Error::Forbidden { .. })), "{}: {refused:?}", server.version);
        let url: Url = format!("redis+unix://stranger:wrong@localhost{path}").parse().unwrap();
        let refused = Store::open(&url, QUEUE).await.err();
        assert!(matches!(refused, Some(Error::Credentials { .. })), "{}: {refused:?}", server.version);
        server.ask(&["CONFIG", "SET", "requirepass", "secret"]).await;
        let refused = Store::open(&server.url, QUEUE).await.err();
        assert!(matches!(refused, Some(Error::Credentials { .. })), "{}: {refused:?}", server.version);
        let url: Url = format!("redis+unix://:secret@localhost{path}?db=99").parse().unwrap();
        let refused = Store::open(&url, QUEUE).await.err();
        assert!(matches!(refused, Some(Error::Settings { .. })), "{}: {refused:?}", server.version);
    })
    .await;
}
