//! Side by side with `amqp-consume`, which the Kubernetes page uses: what it gets wrong, on the same broker in the same
//! run. If a newer version mends one of these, its test says so.

use std::process::Command;

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{Run, Running, eventually, guest, installed, required, run, start};

/// `amqp-consume`, for one message.
fn theirs(queue: &Queue, options: &[&str], command: &[&str]) -> Option<Command> {
    let mut consume = Command::new(installed("amqp-consume")?);
    consume.arg(format!("--url={}", queue.url())).args(["-q", &queue.name, "-c", "1"]).args(options).args(command);
    Some(consume)
}

fn classic() -> Option<Queue<'static>> {
    RabbitMq::shared().map(|rabbitmq| Queue::new(Broker::Classic(rabbitmq)))
}

/// Still running a while after it should have ended. The only place where a time has to pass: nothing happens.
fn hangs(running: &mut Running) -> bool {
    std::thread::sleep(std::time::Duration::from_secs(2));
    running.is_running()
}

fn killed(running: Running) -> Run {
    running.signal("KILL");
    running.end()
}

#[test]
fn a_task_that_fails_is_a_success_for_them_and_not_for_us() {
    let Some(queue) = classic() else { return };
    queue.publish(&["task"]);
    // Reads all of it, finds nothing and exits with 1.
    let Some(mut theirs) = theirs(&queue, &[], &["grep", "not in there"]) else { return };
    run(&mut theirs).exits(0);
    queue.wait_for_depth(1);
    run(&mut queue.command(&["work", &guest("fail"), "--backoff-initial", "0"])).exits(75);
    assert_eq!(queue.take().body, b"task");
}

#[test]
fn a_task_that_does_not_read_kills_them_and_not_us() {
    let Some(queue) = classic() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'x'; 1 << 20]).unwrap();
    run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
    let Some(mut theirs) = theirs(&queue, &[], &["true"]) else { return };
    // Ended by SIGPIPE, which is not an exit code.
    assert_eq!(run(&mut theirs).code, None);
    queue.wait_for_depth(1);
    run(&mut queue.command(&["work", &guest("nothing")])).exits(0);
}

#[test]
fn a_task_longer_than_the_heartbeat_is_delivered_twice_by_them_and_once_by_us() {
    let Some(queue) = classic() else { return };
    queue.publish(&["long"]);
    let Some(mut theirs) = theirs(&queue, &["--heartbeat=1"], &["sleep", "8"]) else { return };
    let theirs = start(&mut theirs);
    // Handed over, and given back by the broker while the task still runs.
    queue.wait_for_depth(0);
    queue.wait_for_depth(1);
    killed(theirs);
    queue.wait_for_depth(1);
    let url = format!("{}?heartbeat=1", queue.url());
    let args = ["work", &guest("spin"), "--timeout", "8s", "--max-attempts", "1"];
    run(queue.command(&args).env("BROKER_URL", url)).exits(65).says("\"settlement\":\"dead-letter\"");
    queue.take_dead();
}

#[test]
fn an_empty_queue_holds_them_for_ever_and_us_as_long_as_we_are_told() {
    let Some(queue) = classic() else { return };
    let Some(mut theirs) = theirs(&queue, &[], &["cat"]) else { return };
    let mut theirs = start(&mut theirs);
    assert!(hangs(&mut theirs));
    killed(theirs);
    run(&mut queue.command(&["work", &guest("echo"), "--wait", "100ms"])).exits(0);
}

#[test]
fn a_deleted_queue_holds_them_for_ever_and_ends_us_with_its_name() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let Some(mut theirs) = theirs(&queue, &[], &["cat"]) else { return };
    let mut theirs = start(&mut theirs);
    let mut ours = start(queue.command(&["work", &guest("echo")]).env("RUST_LOG", "info,wq_run=debug"));
    ours.wait_for("subscribed");
    eventually("both are subscribed", || {
        run(&mut queue.command(&["queue", "status"])).out().contains("workers 2").then_some(())
    });
    rabbitmq.ctl(&["delete_queue", &queue.name]);
    ours.end().exits(78).says(&queue.name);
    assert!(hangs(&mut theirs));
    killed(theirs);
}

#[test]
fn as_pid_1_they_wait_to_be_killed_and_we_leave_when_asked() {
    let Some(queue) = classic() else { return };
    let namespaces = Command::new("unshare").args(["--pid", "--fork", "true"]).status();
    let possible = namespaces.is_ok_and(|status| status.success());
    if required(possible.then_some(()), "unshare can't make a PID namespace here").is_none() {
        return;
    }
    let as_pid_1 = |command: &Command| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child"]).arg(command.get_program()).args(command.get_args());
        unshare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        unshare
    };
    let child_of = |running: &Running| {
        eventually("unshare has started its child", || {
            let path = format!("/proc/{0}/task/{0}/children", running.id());
            std::fs::read_to_string(path).ok()?.split_whitespace().next().map(str::to_owned)
        })
    };
    let terminate = |pid: &str| {
        assert!(Command::new("kill").args(["-TERM", pid]).status().unwrap().success());
    };
    let subscribed = || {
        eventually("it is subscribed", || {
            run(&mut queue.command(&["queue", "status"])).out().contains("workers 1").then_some(())
        });
    };

    let Some(theirs) = theirs(&queue, &[], &["cat"]) else { return };
    let mut theirs = start(&mut as_pid_1(&theirs));
    subscribed();
    terminate(&child_of(&theirs));
    assert!(hangs(&mut theirs));
    killed(theirs);
    eventually("it is gone", || {
        run(&mut queue.command(&["queue", "status"])).out().contains("workers 0").then_some(())
    });

    let ours = start(&mut as_pid_1(&queue.command(&["work", &guest("echo")])));
    subscribed();
    terminate(&child_of(&ours));
    ours.end().exits(143);
}
