//! Addresses that lead to the port of something else: what is there is said, and nobody waits for it.

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::redis::Redis;
use crate::harness::{guest, run, wq_run};

/// A worker and a command end at once: it would be the same at every try.
#[track_caller]
fn refused(url: &str, texts: &[&str]) {
    let work = ["work", &guest("echo"), "--connect-timeout", "1h"];
    for args in [&work[..], &["publish", "x"]] {
        let refused = run(wq_run(args).env("BROKER_URL", url).env("QUEUE", "q"));
        refused.exits(78);
        for text in texts {
            refused.says(text);
        }
    }
}

#[test]
fn an_amqp_address_of_another_server_is_told_what_is_there() {
    let Some(redis) = Redis::shared() else { return };
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    // Redis waits for the end of a line, and AMQP's protocol header has none: a short timeout keeps the test fast.
    let url = format!("amqp://127.0.0.1:{}?connection_timeout=300", redis.port);
    refused(&url, &["speaks the protocol of Redis, not AMQP", "redis:// is for this server", "5672", "BROKER_URL"]);
    let url = format!("amqps://127.0.0.1:{}?connection_timeout=300", redis.port);
    refused(&url, &["speaks the protocol of Redis, not AMQP"]);
    let url = format!("amqp://127.0.0.1:{}", rabbitmq.tls_port);
    refused(&url, &["expects TLS on this port, but the address is one without TLS", "amqps://", "5672"]);
}

#[test]
fn a_redis_address_of_another_server_is_told_what_is_there() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let Some((redis, tls_port)) = Redis::start_with_tls() else { return };
    let url = format!("redis://127.0.0.1:{}", rabbitmq.port);
    refused(&url, &["speaks AMQP, not the protocol of Redis", "amqp:// is for this server", "6379", "BROKER_URL"]);
    refused(
        &format!("redis://127.0.0.1:{tls_port}"),
        &["expects TLS on this port, but the address is one without TLS"],
    );
    let url = format!("rediss://127.0.0.1:{}?connection_timeout=300", redis.port);
    refused(&url, &["does not speak TLS on this port"]);
}

#[test]
fn the_port_of_a_web_page_is_called_so() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let (worker, address) = crate::metrics::listening(&mut queue.command(&["work", &guest("echo"), "--forever"]));
    for scheme in ["amqp", "redis"] {
        refused(&format!("{scheme}://{address}?connection_timeout=1000"), &["speaks HTTP, not ", "port"]);
    }
    worker.signal("TERM");
    worker.end().exits(0);
}

/// It may be a broker that is slow, so that it is tried again.
#[test]
fn a_silent_server_is_reported_as_unreachable() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for scheme in ["amqp", "redis"] {
        let url = format!("{scheme}://127.0.0.1:{port}?connection_timeout=200");
        run(wq_run(&["publish", "x"]).env("BROKER_URL", url).env("QUEUE", "q")).exits(69).says("cannot reach");
    }
}
