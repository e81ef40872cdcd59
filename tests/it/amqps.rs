//! TLS: the broker's certificate is verified, against the authority that the URL names or the system's.

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run};

#[test]
fn amqps_works_with_the_authority_that_the_url_names() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let url =
        format!("amqps://guest:guest@localhost:{}?cacertfile={}", rabbitmq.tls_port, rabbitmq.ca_file().display());
    run(queue.command(&["publish", "over TLS"]).env("BROKER_URL", &url)).exits(0);
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &url)).exits(0).prints("over TLS");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let url = format!("amqps://guest:guest@localhost:{}", rabbitmq.tls_port);
    let args = ["work", &guest("echo")];
    refused_at_once(&queue, &args, &url, &["is not trusted here", "cacertfile"]);
    refused_at_once(&queue, &["publish", "x"], &url, &["is not trusted here", "cacertfile"]);
    let missing = format!("{url}?cacertfile=/no/such/ca.pem");
    run(queue.command(&args).env("BROKER_URL", &missing)).exits(78).says("/no/such/ca.pem");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    // This address leads to the same host, and its certificate does not name it.
    let authority = rabbitmq.ca_file();
    let url = format!("amqps://guest:guest@0.0.0.0:{}?cacertfile={}", rabbitmq.tls_port, authority.display());
    refused_at_once(&queue, &["work", &guest("echo")], &url, &["for another host name", "BROKER_URL"]);
}

#[test]
fn a_port_without_tls_is_named_as_such() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let url = format!("amqps://guest:guest@localhost:{}", rabbitmq.port);
    refused_at_once(&queue, &["work", &guest("echo")], &url, &["does not speak TLS", "5671", "amqp://"]);
}

#[test]
fn a_node_with_a_bad_certificate_does_not_keep_the_others_from_being_tried() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let bad = format!("amqps://guest:guest@localhost:{}", rabbitmq.tls_port);
    let url = format!("{bad},{}", rabbitmq.url());
    run(queue.command(&["publish", "x"]).env("BROKER_URL", &url)).exits(0);
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &url)).exits(0).prints("x");
    // A node that is down may come back, so that this one is tried again.
    let url = format!("amqp://guest:guest@127.0.0.1:1,{bad}");
    let args = ["work", &guest("echo"), "--connect-timeout", "500ms"];
    run(queue.command(&args).env("BROKER_URL", &url)).exits(69).says("trying again");
}

/// It would be the same at every try.
fn refused_at_once(queue: &Queue, args: &[&str], url: &str, says: &[&str]) {
    let refused = run(queue.command(args).env("BROKER_URL", url));
    refused.exits(78);
    for text in says {
        refused.says(text);
    }
    assert!(!refused.stderr.contains("trying again"), "{}", refused.stderr);
}

#[test]
fn a_broker_that_wants_a_certificate_of_its_clients_gets_one() {
    let settings = "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true";
    let Some(rabbitmq) = RabbitMq::start_with(settings) else { return };
    let queue = Queue::new(Broker::Classic(&rabbitmq));
    let [cert, key] = rabbitmq.client_files();
    let without =
        format!("amqps://guest:guest@localhost:{}?cacertfile={}", rabbitmq.tls_port, rabbitmq.ca_file().display());
    let with = format!("{without}&certfile={}&keyfile={}", cert.display(), key.display());
    run(queue.command(&["publish", "x"]).env("BROKER_URL", &without)).exits(69);
    run(queue.command(&["publish", "known"]).env("BROKER_URL", &with)).exits(0);
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &with)).exits(0).prints("known");
}
