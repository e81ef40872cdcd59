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
    let args = ["work", &guest("echo"), "--connect-timeout", "500ms"];
    run(queue.command(&args).env("BROKER_URL", &url)).exits(69).says("certificate");
    let missing = format!("{url}?cacertfile=/no/such/ca.pem");
    run(queue.command(&args).env("BROKER_URL", &missing)).exits(78).says("/no/such/ca.pem");
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
