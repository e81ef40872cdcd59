//! `/healthz` and `/readyz`, and that nothing that a client of `--listen` does reaches the worker.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::harness::http::{self, Answer, get};
use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{PATIENCE, eventually, guest, run, wq_run};
use crate::metrics::listening;

fn sqlite<'a>() -> Queue<'a> {
    Queue::new(Broker::Sqlite(tempfile::tempdir().expect("a folder")))
}

/// Asks until a probe answers like this.
fn until(address: SocketAddr, path: &str, status: u16, says: &str) {
    let is = |answer: &Answer| answer.status == status && answer.body.contains(says);
    eventually(&format!("{path} answers {status} {says:?}"), || is(&get(address, path)).then_some(()));
}

#[track_caller]
fn is_alive(address: SocketAddr) {
    let answer = get(address, "/healthz");
    assert_eq!((answer.status, &*answer.body), (200, "ok\n"));
}

#[test]
fn a_worker_is_ready_while_it_consumes_and_not_any_more_when_it_drains() {
    on_every_queue(|queue| {
        let (mut worker, address) = listening(&mut queue.command(&["work", &guest("nap"), "--forever"]));
        until(address, "/readyz", 200, "ok");
        is_alive(address);
        queue.publish(&["x"]);
        worker.wait_for("started");
        worker.signal("TERM");
        until(address, "/readyz", 503, "SIGTERM");
        is_alive(address);
        worker.end().exits(0);
    });
}

#[test]
fn a_worker_without_a_connection_is_not_ready_and_no_reason_to_start_it_anew() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let proxy = Proxy::start(rabbitmq.port);
    proxy.refuse(true);
    let mut command = queue.command(&["work", &guest("echo"), "--forever", "--connect-timeout", "1m"]);
    command.env("BROKER_URL", format!("amqp://guest:guest@127.0.0.1:{}?heartbeat=1", proxy.port));
    let (worker, address) = listening(&mut command);
    until(address, "/readyz", 503, "not connected to the broker yet");
    is_alive(address);
    proxy.refuse(false);
    until(address, "/readyz", 200, "ok");
    proxy.refuse(true);
    proxy.cut_after(0);
    until(address, "/readyz", 503, "the connection was lost");
    is_alive(address);
    proxy.cut_after(u64::MAX);
    proxy.refuse(false);
    until(address, "/readyz", 200, "ok");
    worker.signal("TERM");
    worker.end().exits(0);
}

#[test]
fn a_worker_is_looked_at_while_its_guest_is_loaded() {
    let queue = sqlite();
    let pipe = tempfile::tempdir().unwrap().keep().join("guest.wasm");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (worker, address) = listening(&mut queue.command(&["work", pipe.to_str().unwrap(), "--forever"]));
    until(address, "/readyz", 503, "the guest is being loaded");
    is_alive(address);
    assert_eq!(get(address, "/metrics").status, 200);
    worker.signal("TERM");
    worker.end().exits(143);
    std::fs::remove_dir_all(pipe.parent().unwrap()).unwrap();
}

#[test]
fn a_loop_that_hangs_is_told_by_the_probe() {
    let queue = sqlite();
    let mut command = queue.command(&["work", &guest("echo"), "--forever"]);
    let (worker, address) = listening(command.env("WQ_FAULT", "idle:sleep=15"));
    until(address, "/healthz", 503, "the worker's loop has not moved for");
    // And after it goes on, all is well.
    until(address, "/healthz", 200, "ok");
    worker.signal("TERM");
    worker.end().exits(0);
}

#[test]
fn a_guest_that_nothing_stops_is_told_by_the_probe() {
    let queue = sqlite();
    queue.publish(&["x"]);
    let mut command = queue.command(&["work", &guest("echo"), "--forever", "--timeout", "1s"]);
    // The guest's thread; and the end of the worker that follows from it, so that somebody has the time to ask.
    let (worker, address) = listening(command.env("WQ_FAULT", "running:sleep=60,closed:sleep=5"));
    until(address, "/healthz", 503, "a guest could not be stopped");
    until(address, "/readyz", 503, "a guest could not be stopped");
    worker.end().exits(80);
    queue.take();
}

#[test]
fn an_address_that_cannot_be_had_is_refused_before_a_message_is_taken() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        run(&mut queue.command(&["work", &guest("echo"), "--listen", &address]))
            .exits(78)
            .says(&format!("cannot listen on {address}"))
            .says("--listen (WQ_LISTEN)");
        // The documentation's own network.
        run(queue.command(&["work", &guest("echo")]).env("WQ_LISTEN", "192.0.2.1:9090")).exits(78).says("WQ_LISTEN");
        queue.take();
    });
}

#[test]
fn an_address_has_to_say_who_may_connect() {
    for port in [":9090", "9090"] {
        run(&mut wq_run(&["work", &guest("echo"), "--listen", port]))
            .exits(2)
            .says("127.0.0.1:9090 is for this host alone")
            .says("0.0.0.0:9090");
    }
    run(wq_run(&["work", &guest("echo")]).env("WQ_LISTEN", "example.org:80")).exits(2).says("IP:PORT");
}

#[test]
fn nothing_but_the_three_pages_is_served() {
    let queue = sqlite();
    let (worker, address) = listening(&mut queue.command(&["work", &guest("echo"), "--forever"]));
    until(address, "/readyz", 200, "ok");
    let asked = |method, path| http::request(address, method, path).unwrap();
    assert_eq!(asked("GET", "/").status, 404);
    assert_eq!(asked("GET", "/metrics/").status, 404);
    assert_eq!(asked("GET", "/metrics?name=wq_in_flight").status, 200);
    let head = asked("HEAD", "/healthz");
    assert_eq!((head.status, &*head.body), (200, ""));
    for path in ["/metrics", "/healthz", "/readyz"] {
        let refused = asked("POST", path);
        assert_eq!((refused.status, &*refused.headers["allow"]), (405, "GET, HEAD"));
    }
    worker.signal("TERM");
    worker.end().exits(0);
}

#[test]
fn clients_that_are_slow_or_say_too_much_hold_nothing_up() {
    on_every_queue(|queue| {
        let (mut worker, address) = listening(&mut queue.command(&["work", &guest("echo"), "--forever"]));
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        // More than there are places: some say nothing, some begin and stop.
        let silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
        for mut stream in silent.iter().step_by(2) {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").unwrap();
        }
        queue.publish(&["a", "b", "c"]);
        queue.wait_for_depth(0);
        // They are sent away one after the other, and whoever asks has an answer.
        until(address, "/healthz", 200, "ok");
        drop(silent);
        // A head without an end, and one that asks again and again and reads nothing.
        let mut endless = connect();
        while endless.write_all(b"x-header: and so on\r\n").is_ok() {}
        let mut deaf = connect();
        while deaf.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").is_ok() {}
        let mut answers = Vec::new();
        let _ = deaf.read_to_end(&mut answers);
        is_alive(address);
        queue.publish(&["d"]);
        // What has not begun would be given back.
        for _ in ["a", "b", "c", "d"] {
            worker.wait_for("\"settlement\":\"ack\"");
        }
        worker.signal("TERM");
        let end = worker.end();
        assert_eq!(end.exits(0).out(), "abcd");
    });
}
