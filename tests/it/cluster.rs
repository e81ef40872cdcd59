//! A cluster of three nodes that share a quorum queue: one is killed, one is cut off from the others. A worker that has
//! the list of them goes on, and nothing is lost.

use std::collections::BTreeSet;

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::Cluster;
use crate::harness::{PATIENCE, Running, eventually, guest, run, start};

#[test]
fn a_cluster_that_loses_its_leader_and_then_a_node_of_ours_loses_no_message() {
    let Some(cluster) = Cluster::start() else { return };
    let queue = Queue::new(Broker::Quorum(&cluster.nodes[0]));
    let leader = eventually("the queue has a leader", || cluster.leader(0, &queue.name));
    let mut published: Vec<String> = Vec::new();
    let mut publish = |count: u32, name: &str| {
        // A line each; the guest takes a second for one.
        let bodies: Vec<String> = (0..count).map(|number| format!("{name} {number}\n")).collect();
        run(queue.command(&["publish"]).args(&bodies).env("BROKER_URL", cluster.urls(leader + 2))).exits(0);
        published.extend(bodies);
    };
    let service = |first: usize| {
        let mut command = queue.command(&["work", &guest("nap"), "--forever", "--concurrency", "2"]);
        start(command.env("BROKER_URL", cluster.urls(first)).env("RUST_LOG", "info,wq_run=debug"))
    };
    let goes_on = |service: &mut Running| service.wait_for("\"settlement\":\"ack\"");
    let comes_back = |service: &mut Running| {
        service.wait_for("the broker is not available; trying again");
        service.wait_for("subscribed");
    };

    // One is connected to the leader, the other one to the next node.
    let mut services = [service(leader), service(leader + 1)];
    services.iter_mut().for_each(|service| service.wait_for("subscribed"));
    publish(16, "under the first leader");
    services.iter_mut().for_each(goes_on);
    cluster.nodes[leader].cut_power();
    comes_back(&mut services[0]);
    publish(8, "under the second leader");
    services.iter_mut().for_each(goes_on);

    // Both are connected to the node after the killed leader now. Cut that node off.
    cluster.nodes[leader].restart();
    publish(16, "with three nodes again");
    services.iter_mut().for_each(goes_on);
    cluster.nodes[(leader + 1) % 3].isolate();
    services.iter_mut().for_each(comes_back);
    publish(8, "without the node that was cut off");
    services.iter_mut().for_each(goes_on);

    let mut results = String::new();
    for service in services {
        service.signal("TERM");
        results += &service.end().exits(0).out();
    }
    let mut last = queue.command(&["work", &guest("nap"), "--drain", "--wait", "5s", "--concurrency", "4"]);
    results += &run(last.env("BROKER_URL", cluster.urls(leader + 2))).exits(0).out();
    let results: BTreeSet<&str> = results.split_inclusive('\n').collect();
    let lost: Vec<_> = published.iter().filter(|body| !results.contains(body.as_str())).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(results.len(), published.len(), "what was never published has a result");
}

#[test]
fn a_queue_whose_node_is_down_is_not_taken_for_one_that_does_not_exist() {
    let Some(cluster) = Cluster::start() else { return };
    // A classic queue lives on the node that it was declared at.
    let queue = Queue::new(Broker::Classic(&cluster.nodes[0]));
    let args = ["work", &guest("echo"), "--forever", "--reconnect-timeout", "5m"];
    let mut service = start(queue.command(&args).env("BROKER_URL", cluster.urls(1)).env("RUST_LOG", "wq_run=debug"));
    service.wait_for("subscribed");
    cluster.nodes[0].kill();
    service.wait_for("is not available at the moment");
    // One that starts now does not blame the queue either.
    let mut late = queue.command(&["work", &guest("echo"), "--connect-timeout", "2s"]);
    let late = start(late.env("BROKER_URL", cluster.urls(1))).end_within(2 * PATIENCE);
    late.exits(69).says("is not available at the moment").says("cluster_status");
    cluster.nodes[0].restart();
    service.wait_for_within("subscribed", 2 * PATIENCE);
    queue.publish(&["there again"]);
    service.wait_for("\"settlement\":\"ack\"");
    service.signal("TERM");
    service.end().exits(0).prints("there again");
}
