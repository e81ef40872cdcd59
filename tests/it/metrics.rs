//! `/metrics`: each metric moves as it should, on every kind of queue; the docs, promtool and a real Prometheus agree.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use crate::harness::prometheus::{self, Prometheus};
use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::samples::Samples;
use crate::harness::{Running, eventually, guest, http, root, start};

/// Starts a worker with `--listen`; says where it listens.
pub fn listening(command: &mut Command) -> (Running, SocketAddr) {
    let mut worker = start(command.args(["--listen", "127.0.0.1:0"]).env("WQ_LOG_FORMAT", "json"));
    worker.wait_for("\"listening\"");
    let line = worker.seen().lines().last().expect("it was waited for");
    let line: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    let address = line["address"].as_str().and_then(|address| address.parse().ok()).expect("it says where");
    (worker, address)
}

fn sqlite<'a>() -> Queue<'a> {
    Queue::new(Broker::Sqlite(tempfile::tempdir().expect("a folder")))
}

/// What `tests/guests/use.wat` takes.
const TAKES: f64 = 16.0 * 1024.0 * 1024.0;

/// Scrapes until a metric has a value.
fn until(address: SocketAddr, name: &str, labels: &[(&str, &str)], value: f64) -> Samples {
    eventually(&format!("{name}{labels:?} is {value}"), || {
        let samples = Samples::scrape(address);
        let is = samples.value(name, labels);
        assert!(is.is_none_or(|is| is <= value), "{name}{labels:?} is {is:?}, and not {value}:\n{}", samples.text);
        (is == Some(value)).then_some(samples)
    })
}

/// A worker of a broker whose connections can be cut, where there are connections that hold messages.
fn worker(queue: &Queue) -> (Running, SocketAddr, Option<Proxy>) {
    let args = ["work", &guest("use"), "--forever", "--max-attempts", "2", "--timeout", "3s"];
    let mut command = queue.command(&args);
    command.args(["--backoff-initial", "10ms", "--backoff-max", "10ms"]);
    let proxy = match &queue.broker {
        Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => Some(Proxy::start(rabbitmq.port)),
        _ => None,
    };
    if let Some(proxy) = &proxy {
        command.env("BROKER_URL", format!("amqp://guest:guest@127.0.0.1:{}", proxy.port));
    }
    let (worker, address) = listening(&mut command);
    (worker, address, proxy)
}

#[test]
fn each_metric_moves_as_it_should() {
    on_every_queue(|queue| {
        let (mut worker, address, proxy) = worker(queue);
        let none = until(address, "wq_broker_connected", &[], 1.0);
        assert_eq!(none.value("wq_messages_total", &[]), Some(0.0));
        for name in ["wq_in_flight", "wq_leases_lost_total", "wq_results_bytes_total", "wq_broker_reconnects_total"] {
            assert_eq!(none.value(name, &[]), Some(0.0), "{name}");
        }
        assert_eq!(none.value("wq_guest_cpu_seconds_total", &[]), Some(0.0));
        let messages = |outcome, settlement, count| {
            let labels = [("queue", &*queue.name), ("outcome", outcome), ("settlement", settlement)];
            until(address, "wq_messages_total", &labels, count)
        };

        queue.publish(&["ok"]);
        let success = messages("success", "ack", 1.0);
        assert_eq!(success.value("wq_results_bytes_total", &[]), Some(2.0));
        assert_eq!(success.value("wq_run_duration_seconds_count", &[("outcome", "success")]), Some(1.0));
        assert_eq!(success.value("wq_settlement_duration_seconds_count", &[("settlement", "ack")]), Some(1.0));
        assert_eq!(success.value("wq_messages_total", &[]), Some(1.0), "nothing else");

        queue.publish(&["f"]);
        let failed = messages("exit", "dead-letter", 1.0);
        assert_eq!(failed.value("wq_messages_total", &[("outcome", "exit"), ("settlement", "retry")]), Some(1.0));
        assert_eq!(failed.value("wq_run_duration_seconds_count", &[("outcome", "exit")]), Some(2.0));
        assert_eq!(failed.value("wq_settlement_duration_seconds_count", &[("settlement", "retry")]), Some(1.0));
        assert_eq!(failed.value("wq_results_bytes_total", &[]), Some(2.0), "what failed has no result");

        queue.publish(&["d"]);
        let dead = messages("exit", "dead-letter", 2.0);
        assert_eq!(dead.value("wq_settlement_duration_seconds_count", &[("settlement", "dead-letter")]), Some(2.0));
        assert_eq!(dead.value("wq_messages_total", &[("settlement", "retry")]), Some(1.0));

        queue.publish(&["s"]);
        let timeout = messages("timeout", "dead-letter", 1.0);
        assert_eq!(timeout.value("wq_messages_total", &[("outcome", "timeout"), ("settlement", "retry")]), Some(1.0));
        let longer = |le| timeout.value("wq_run_duration_seconds_bucket", &[("outcome", "timeout"), ("le", le)]);
        assert_eq!((longer("1"), longer("30")), (Some(0.0), Some(2.0)), "{}", timeout.text);
        let cpu = |samples: &Samples| samples.value("wq_guest_cpu_seconds_total", &[]);
        assert!(cpu(&timeout) > cpu(&dead), "the guest span: {}", timeout.text);

        // On SQS nobody can take a message from its worker.
        let lost = f64::from(u8::from(queue.sqs().is_none()));
        queue.publish(&["n"]);
        worker.wait_for("started");
        match &proxy {
            Some(proxy) => {
                proxy.cut();
                until(address, "wq_leases_lost_total", &[], lost);
            }
            None if lost > 0.0 => {
                queue.take_over();
                until(address, "wq_leases_lost_total", &[], lost);
                queue.end_leases();
            }
            None => {}
        }
        let end = messages("success", "ack", 2.0);
        let end =
            if end.value("wq_in_flight", &[]) == Some(0.0) { end } else { until(address, "wq_in_flight", &[], 0.0) };
        let told = end.value("wq_messages_total", &[("settlement", "unsettled")]).unwrap_or(0.0);
        assert_eq!(told, lost, "{}:\n{}\n{}", queue.url(), end.text, worker.seen());
        assert_eq!(end.value("wq_leases_lost_total", &[]), Some(lost));
        assert_eq!(end.value("wq_broker_connected", &[]), Some(1.0));
        let reconnects = end.value("wq_broker_reconnects_total", &[]).unwrap_or_default();
        assert_eq!(reconnects > 0.0, proxy.is_some(), "{reconnects}");
        // By all runs, of which there was one for each message that ended.
        let runs = end.value("wq_messages_total", &[]).unwrap_or_default();
        assert_eq!(runs, 7.0 + lost);
        assert_eq!(end.value("wq_run_duration_seconds_count", &[]), Some(runs));
        assert_eq!(end.value("wq_guest_peak_memory_bytes_sum", &[]), Some(runs * TAKES));
        let within = |le| end.value("wq_guest_peak_memory_bytes_bucket", &[("le", le)]);
        assert_eq!((within("4194304"), within("16777216")), (Some(0.0), Some(runs)));
        // They were published just now, by a program that says when.
        assert_eq!(end.value("wq_message_age_seconds_count", &[]), Some(runs));
        assert_eq!(end.value("wq_message_age_seconds_bucket", &[("le", "60")]), Some(runs), "{}", end.text);
        assert!(prometheus::lint(&end.text).is_none_or(|lint| lint.exits(0).stderr.is_empty()));

        worker.signal("TERM");
        worker.end().exits(0);
        for _ in 0..3 {
            queue.take_dead();
        }
    });
}

#[test]
fn the_depth_of_the_queue_is_what_the_broker_tells() {
    on_every_queue(|queue| {
        queue.publish(&["runs"]);
        let (mut worker, address) = listening(&mut queue.command(&["work", &guest("sleep"), "--forever"]));
        worker.wait_for("started");
        queue.publish(&["waits", "waits"]);
        queue.wait_for_depth(2);
        // The first scrape asks the broker.
        let samples = Samples::scrape(address);
        let depth = |state| samples.value("wq_queue_depth", &[("queue", &*queue.name), ("state", state)]);
        assert_eq!(depth("ready"), Some(2.0), "{}", samples.text);
        assert_eq!(samples.value("wq_in_flight", &[]), Some(1.0));
        let (running, delayed) = match &queue.broker {
            // AMQP has no word for them.
            Broker::Quorum(_) | Broker::Classic(_) => (depth("running"), depth("delayed")),
            _ => (Some(1.0), Some(0.0)),
        };
        assert_eq!((depth("running"), depth("delayed")), (running, delayed));
        // A second scrape within 15 seconds does not ask again.
        queue.take();
        assert_eq!(Samples::scrape(address).value("wq_queue_depth", &[("state", "ready")]), Some(2.0));
        worker.signal("TERM");
        worker.signal("INT");
        assert!(matches!(worker.end().code, Some(130 | 143)));
        queue.wait_for_depth(2);
        queue.take();
        queue.take();
    });
}

#[test]
fn the_depth_of_the_queue_for_dead_letters_is_what_is_in_it() {
    on_every_queue(|queue| {
        let work = || {
            let (worker, address) = listening(&mut queue.command(&["work", &guest("reject"), "--forever"]));
            until(address, "wq_broker_connected", &[], 1.0);
            let depth = || Samples::scrape(address).value("wq_dead_letter_queue_depth", &[("queue", &*queue.name)]);
            (worker, address, eventually("the broker tells", depth))
        };
        let (worker, address, depth) = work();
        assert_eq!(depth, 0.0, "no message has died, so that there is no queue for dead letters");
        queue.publish(&["a", "b"]);
        until(address, "wq_messages_total", &[("settlement", "dead-letter")], 2.0);
        worker.signal("TERM");
        worker.end().exits(0);
        let (worker, _, depth) = work();
        assert_eq!(depth, 2.0);
        worker.signal("TERM");
        worker.end().exits(0);
        for _ in 0..2 {
            queue.take_dead();
        }
    });
}

#[test]
fn dead_letters_that_the_broker_moves_are_counted_only_in_a_queue_that_is_named() {
    on_rabbitmq(|queue| {
        let work = |named: &[&str]| {
            let args = ["work", &guest("echo"), "--forever", "--dead-letter-by", "broker"];
            let (worker, address) = listening(queue.command(&args).args(named));
            until(address, "wq_broker_connected", &[], 1.0);
            let samples = until(address, "wq_queue_depth", &[("state", "ready")], 0.0);
            worker.signal("TERM");
            worker.end().exits(0);
            samples.value("wq_dead_letter_queue_depth", &[])
        };
        assert_eq!(work(&[]), None);
        assert_eq!(work(&["--dead-letter-queue", &queue.dead_letter_queue()]), Some(0.0));
    });
}

/// `queue.declare-ok`
const DECLARED: (u16, u16) = (50, 11);

#[test]
fn a_broker_that_does_not_tell_the_depth_costs_the_metrics_nothing_else() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let proxy = Proxy::start(rabbitmq.port);
    let mut command = queue.command(&["work", &guest("echo"), "--forever"]);
    command.env("BROKER_URL", format!("amqp://guest:guest@127.0.0.1:{}", proxy.port));
    let (mut worker, address) = listening(command.env("RUST_LOG", "info"));
    eventually("it consumes", || (http::get(address, "/readyz").status == 200).then_some(()));
    proxy.withhold(&[DECLARED]);
    assert_eq!(Samples::scrape(address).value("wq_queue_depth", &[]), None);
    queue.publish(&["x"]);
    worker.wait_for("done");
    assert_eq!(until(address, "wq_messages_total", &[], 1.0).value("wq_queue_depth", &[]), None);
    worker.signal("TERM");
    worker.end().exits(0);
}

#[test]
fn a_guest_is_compiled_once_and_then_found_in_the_cache() {
    let (queue, cache) = (sqlite(), tempfile::tempdir().unwrap());
    let figures = || {
        let mut command = queue.command(&["work", &guest("use"), "--forever"]);
        let (worker, address) = listening(command.args(["--cache-dir", cache.path().to_str().unwrap()]));
        let samples = until(address, "wq_broker_connected", &[], 1.0);
        worker.signal("TERM");
        worker.end().exits(0);
        let value = |name| samples.value(name, &[]).unwrap();
        (
            value("wq_guest_cache_hits_total"),
            value("wq_guest_cache_misses_total"),
            value("wq_guest_compile_seconds") > 0.0,
        )
    };
    assert_eq!(figures(), (0.0, 1.0, true));
    assert_eq!(figures(), (1.0, 0.0, false));
}

#[test]
fn a_real_prometheus_scrapes_a_worker() {
    let queue = sqlite();
    let mut command = queue.command(&["work", &guest("use"), "--forever", "--max-attempts", "1"]);
    let (worker, address) = listening(&mut command);
    let Some(prometheus) = Prometheus::start(address) else { return };
    let sees = |query: &str, value: f64| {
        eventually(query, || (prometheus.value(query) == Some(value)).then_some(()));
    };
    sees("up", 1.0);
    queue.publish(&["ok", "f"]);
    sees(&format!(r#"wq_messages_total{{queue="{}",outcome="success",settlement="ack"}}"#, queue.name), 1.0);
    sees(r#"wq_messages_total{outcome="exit",settlement="dead-letter"}"#, 1.0);
    sees(r#"sum(wq_run_duration_seconds_count)"#, 2.0);
    sees("wq_guest_peak_memory_bytes_sum", 2.0 * TAKES);
    sees(&format!(r#"wq_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION")), 1.0);
    // What Prometheus has is what the docs have.
    let names: BTreeSet<String> = prometheus.names().into_iter().filter(|name| name.starts_with("wq_")).collect();
    let names: BTreeSet<&str> = names.iter().map(|name| family(name)).collect();
    assert_eq!(names, documented().iter().map(|row| &*row.name).collect());
    worker.signal("TERM");
    worker.end().exits(0);
    queue.take_dead();
}

/// A row of the table in docs/metrics.md.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    name: String,
    kind: String,
    labels: Vec<String>,
    help: String,
}

fn documented() -> Vec<Row> {
    let docs = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = docs.lines().filter(|line| line.starts_with("| `wq_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else { panic!("four cells: {row}") };
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(|label| label.trim_matches('`').into());
        let [name, kind, help] = [name.trim_matches('`'), kind, help].map(str::to_owned);
        Row { name, kind, labels: labels.collect(), help }
    })
    .collect()
}

/// The metric that a series belongs to.
fn family(series: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|part| series.strip_suffix(part)).unwrap_or(series)
}

#[test]
fn the_docs_have_each_metric_with_its_type_its_labels_and_its_help() {
    let queue = sqlite();
    let mut command = queue.command(&["work", &guest("use"), "--forever"]);
    let (worker, address) = listening(&mut command);
    queue.publish(&["ok"]);
    until(address, "wq_messages_total", &[], 1.0);
    let samples = Samples::scrape(address);
    let mut real: Vec<Row> = Vec::new();
    for sample in samples.all() {
        let name = family(&sample.name);
        let (kind, help) = samples.described(name).unwrap_or_else(|| panic!("{name} has no type:\n{}", samples.text));
        let labels = sample.labels.keys().filter(|label| *label != "le").cloned().collect();
        let row = Row { name: name.into(), kind: kind.into(), labels, help: help.trim_end_matches('.').into() };
        if !real.contains(&row) {
            real.push(row);
        }
    }
    let mut documented = documented();
    for row in &mut documented {
        row.labels.sort();
    }
    documented.sort();
    real.sort();
    assert_eq!(documented, real);
    worker.signal("TERM");
    worker.end().exits(0);
}
