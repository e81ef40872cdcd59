//! What only SQS does: signatures and credentials, order, receipts that end, its own dead-lettering. Against emulators, and where
//! those do not look, against a small server of ours.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::harness::queue::{Broker, Queue};
use crate::harness::sqs::{Emulator, KEYS, Sqs};
use crate::harness::stub::{Asked, Stub};
use crate::harness::{guest, run, start, wq_run};

fn standard() -> Option<Queue<'static>> {
    Sqs::shared(Emulator::Ministack).map(|sqs| Queue::new(Broker::Sqs(sqs)))
}

fn fifo() -> Option<Queue<'static>> {
    Sqs::shared(Emulator::Ministack).map(|sqs| Queue::new(Broker::SqsFifo(sqs)))
}

/// An answer to a look at a queue.
fn counts(_: &Asked) -> (u16, String) {
    (200, json!({ "Attributes": { "ApproximateNumberOfMessages": "7" } }).to_string())
}

fn refusal(status: u16, code: &str, message: &str) -> (u16, String) {
    (status, json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message }).to_string())
}

/// wq-run with nothing of AWS in its environment, and no way to the machine's own role.
fn status_at(stub: &Stub) -> std::process::Command {
    let mut command = wq_run(&["queue", "status"]);
    let url = format!("sqs://eu-central-1/123456789012/job1?endpoint={}", stub.url);
    command.env("BROKER_URL", url).env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

#[test]
fn a_request_arrives_signed_for_its_region_and_its_host() {
    let stub = Stub::start(counts);
    let looked = run(status_at(&stub).envs(KEYS).env("AWS_SESSION_TOKEN", "the token"));
    assert!(looked.exits(0).out().contains("ready 7"));
    let [asked] = stub.asked().try_into().expect("one request");
    assert_eq!((asked.method.as_str(), asked.path.as_str(), asked.action()), ("POST", "/", "GetQueueAttributes"));
    assert_eq!(asked.json()["QueueUrl"], format!("{}/123456789012/job1", stub.url));
    let header = |name: &str| asked.headers[name].as_str();
    assert_eq!(stub.url, format!("http://{}", header("host")));
    assert_eq!(header("x-amz-security-token"), "the token");
    let (day, _) = header("x-amz-date").split_once('T').expect("a day and a time");
    let signature = header("authorization");
    let scope = format!("AWS4-HMAC-SHA256 Credential=test/{day}/eu-central-1/sqs/aws4_request, ");
    assert!(signature.starts_with(&scope), "{signature}");
    for signed in ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
        assert!(signature.contains(signed), "{signed} is not signed: {signature}");
    }
}

#[test]
fn the_variables_of_aws_lead_to_another_endpoint() {
    let stub = Stub::start(counts);
    let mut command = status_at(&stub);
    command.envs(KEYS).env("BROKER_URL", "https://sqs.eu-central-1.amazonaws.com/123456789012/job1");
    assert!(run(command.env("AWS_ENDPOINT_URL_SQS", &stub.url)).exits(0).out().contains("ready 7"));
    assert_eq!(stub.asked().len(), 1);
}

/// A server that gives a pod its keys, others each time.
fn pod_identity() -> Stub {
    let number = AtomicU32::new(1);
    Stub::start(move |asked| {
        assert_eq!(asked.headers["authorization"], "the pod's token");
        let number = number.fetch_add(1, Ordering::Relaxed);
        let keys = json!({
            "AccessKeyId": format!("KEY{number}"),
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": "2100-01-01T00:00:00Z",
        });
        (200, keys.to_string())
    })
}

#[test]
fn credentials_that_aws_calls_expired_are_asked_for_again_and_no_more_than_once() {
    let signed_by = |asked: &Asked, key: &str| asked.headers["authorization"].contains(&format!("Credential={key}/"));
    for (ends, code) in [("KEY2", 0), ("never", 77)] {
        let stub = Stub::start(move |asked| match signed_by(asked, ends) {
            true => counts(asked),
            false => refusal(403, "ExpiredTokenException", "The security token included in the request is expired"),
        });
        let pod = pod_identity();
        let mut command = status_at(&stub);
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", pod.url));
        let ended = run(command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the pod's token"));
        ended.exits(code);
        assert_eq!((pod.asked().len(), stub.asked().len()), (2, 2), "{}", ended.stderr);
    }
}

#[test]
fn a_pods_role_that_fails_is_an_error_and_never_replaced_by_that_of_its_machine() {
    let machine = Stub::start(|_| (200, "a role with more rights".into()));
    let sts = Stub::start(|_| {
        let error = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform \
                     sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>";
        (403, error.into())
    });
    let refuses = Stub::start(|_| (403, "{}".into()));
    let stub = Stub::start(counts);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a token").unwrap();
    let token = token.path().to_str().unwrap();
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/worker");
    let table: [(&str, Vec<(&str, &str)>); 4] = [
        ("AccessDenied", vec![("AWS_WEB_IDENTITY_TOKEN_FILE", token), role]),
        ("no such file", vec![("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/token"), role]),
        // Half of what it takes.
        ("AWS_ROLE_ARN", vec![("AWS_WEB_IDENTITY_TOKEN_FILE", token)]),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", &refuses.url)]),
    ];
    for (says, variables) in table {
        let mut command = status_at(&stub);
        command.env("AWS_ENDPOINT_URL_STS", &sts.url).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &machine.url);
        let refused = run(command.env("AWS_EC2_METADATA_DISABLED", "false").envs(variables));
        refused.exits(77);
        assert!(refused.stderr.to_lowercase().contains(&says.to_lowercase()), "{says}: {}", refused.stderr);
    }
    assert!(machine.asked().is_empty() && stub.asked().is_empty());
    assert!(!sts.asked().is_empty());
}

#[test]
fn what_is_refused_has_the_exit_status_and_the_hint_that_help() {
    let table = [
        (403, "AccessDeniedException", "User: arn:… is not authorized", 77, "docs/sqs.md"),
        (400, "QueueDoesNotExist", "The specified queue does not exist.", 78, "queue declare --queue job1"),
        (403, "InvalidClientTokenId", "The security token is invalid.", 77, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "Signature expired: 20261124T000000Z is now earlier", 77, "clock"),
    ];
    for (status, code, message, exit, hint) in table {
        let stub = Stub::start(move |_| refusal(status, code, message));
        run(status_at(&stub).envs(KEYS)).exits(exit).says(message).says(hint);
    }
    run(&mut status_at(&Stub::start(counts))).exits(77).says("there are no credentials").says("AWS_ACCESS_KEY_ID");
    let keys = "sqs://AKIA:s3cret@eu-central-1/1/q";
    let refused = run(wq_run(&["queue", "status"]).env("BROKER_URL", keys));
    refused.exits(78).says("keys do not go into the address");
    assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
}

/// A queue of SQS in a few lines: one message, and refusals before it where a test wants some.
fn one_message(refuse: impl Fn(&str, u32) -> Option<(u16, String)> + Send + Sync + 'static) -> Stub {
    let (numbers, gone) = (AtomicU32::new(0), AtomicU32::new(0));
    Stub::start(move |asked| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if let Some(refused) = refuse(asked.action(), number) {
            return refused;
        }
        let answer = match asked.action() {
            "ReceiveMessage" if gone.fetch_add(1, Ordering::Relaxed) == 0 => json!({ "Messages": [
                { "MessageId": "m", "ReceiptHandle": "r", "Body": "hello", "Attributes": { "ApproximateReceiveCount": "1" } },
            ] }),
            "GetQueueAttributes" => json!({ "Attributes": {} }),
            _ => all_done(asked),
        };
        (200, answer.to_string())
    })
}

/// The answer to a request for several messages of which each was done.
fn all_done(asked: &Asked) -> serde_json::Value {
    let asked = asked.json();
    let ids = asked["Entries"].as_array().into_iter().flatten().map(|entry| json!({ "Id": entry["Id"] }));
    json!({ "Successful": ids.collect::<Vec<_>>() })
}

#[test]
fn what_an_answer_leaves_out_is_neither_published_nor_acknowledged() {
    // An answer that names nothing, as of a proxy in between.
    let stub = one_message(|action, _| action.ends_with("MessageBatch").then(|| (200, "{}".to_owned())));
    let published = run(work_at(&stub, &[]).args(["--publish-timeout", "2s"]));
    published.exits(74).says("\"settlement\":\"failed\"");
    let mut publish = wq_run(&["publish", "a", "b"]);
    publish.env("BROKER_URL", format!("sqs://eu-central-1/1/q?endpoint={}", stub.url)).envs(KEYS);
    run(&mut publish).exits(74).says("not confirmed: messages 1-2").prints("");
}

fn work_at(stub: &Stub, flags: &[&str]) -> std::process::Command {
    let mut command = wq_run(&["work", &guest("echo")]);
    let url = format!("sqs://eu-central-1/1/q?endpoint={}", stub.url);
    command.args(flags).env("BROKER_URL", url).envs(KEYS);
    command
}

#[test]
fn requests_that_are_throttled_or_fail_for_a_moment_are_made_again() {
    let stub = one_message(|_, number| match number % 3 {
        0 => Some(refusal(400, "RequestThrottled", "Rate exceeded")),
        1 => Some((503, "<html>Service Unavailable</html>".into())),
        _ => None,
    });
    let worked = run(&mut work_at(&stub, &[]));
    worked.exits(0).prints("hello").says("\"settlement\":\"ack\"").says("a request to SQS failed; trying again");
}

#[test]
fn one_entry_of_a_batch_that_fails_is_one_message_that_is_lost() {
    // The receipt is no good any more: another worker has the message, or had it.
    let lost = json!({ "Failed": [
        { "Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": true, "Message": "The receipt handle has expired" },
    ] });
    let stub = one_message(move |action, _| (action == "DeleteMessageBatch").then(|| (200, lost.to_string())));
    run(&mut work_at(&stub, &[])).exits(74).says("\"settlement\":\"unsettled\"");
}

#[test]
fn a_worker_that_is_stopped_while_it_waits_takes_no_message_along() {
    let Some(queue) = standard() else { return };
    let sqs = queue.sqs().unwrap();
    for _ in 0..3 {
        let mut worker = start(queue.command(&["work", &guest("echo"), "--forever"]).env("RUST_LOG", "wq_run=debug"));
        // Its next request waits for longer.
        worker.wait_for("\"action\":\"ReceiveMessage\"");
        worker.signal("TERM");
        worker.wait_for("SIGTERM");
        queue.publish(&["x"]);
        worker.end();
        // At once, and not when a lease is over: whatever the worker was still handed it has given back.
        assert_eq!((sqs.hidden(&queue.name), queue.depth()), (0, 1));
        assert_eq!(queue.take().body, b"x");
    }
}

#[test]
fn a_drain_that_ends_takes_no_message_along() {
    let Some(queue) = standard() else { return };
    let sqs = queue.sqs().unwrap();
    for _ in 0..5 {
        run(&mut queue.command(&["work", &guest("echo"), "--drain"])).exits(0);
        queue.publish(&["x"]);
        assert_eq!((sqs.hidden(&queue.name), queue.depth()), (0, 1));
        queue.take();
    }
}

#[test]
fn the_messages_of_a_group_are_run_one_after_the_other_and_a_retry_holds_them_up() {
    let Some(queue) = fifo() else { return };
    let bodies: Vec<String> = (1..=6).map(|number| format!("m{number}")).collect();
    queue.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    let drained = run(queue.command(&["work", &guest("line"), "--drain"]).args(["--concurrency", "4"]));
    assert_eq!(drained.exits(0).out().lines().collect::<Vec<_>>(), bodies);
    // The first one fails twice, and the second one waits for its end.
    queue.publish(&["fails", "works"]);
    let flags = ["--concurrency", "4", "--max-attempts", "2", "--backoff-initial", "1s", "--log-format", "json"];
    let drained = run(queue.command(&["work", &guest("obey"), "--drain"]).args(flags));
    let log = &drained.exits(65).stderr;
    let at = |settlement: &str| log.find(&format!("\"settlement\":\"{settlement}\"")).expect("it is settled so");
    assert!(at("retry") < at("dead-letter") && at("dead-letter") < at("ack"), "{log}");
    assert_eq!(queue.take_dead().body, b"fails");
}

#[test]
fn a_result_that_is_published_twice_is_there_once_on_a_queue_that_keeps_order() {
    let Some(queue) = fifo() else { return };
    let results = queue.beside("results");
    queue.publish(&["x"]);
    let args = ["work", &guest("echo"), "--wait", "30s", "--result", &format!("queue:{results}")];
    let killed = run(queue.command(&args).env("WQ_FAULT", "confirmed:kill"));
    assert_eq!(killed.code, None, "{}", killed.stderr);
    run(&mut queue.command(&args)).exits(0).says("\"attempt\":2");
    assert_eq!(queue.take_from(&results).body, b"x");
    assert_eq!(queue.depth_of(&results), 0);
}

#[test]
fn the_redrive_policy_of_a_queue_is_heeded() {
    let Some(queue) = standard() else { return };
    let sqs = queue.sqs().unwrap();
    let by_broker = ["--dead-letter-by", "broker", "--backoff-initial", "0", "--max-attempts", "2"];
    let refused = run(queue.command(&["work", &guest("fail")]).args(by_broker));
    refused.exits(78).says("no redrive policy");
    let dead = queue.beside("moved");
    let arn = sqs.on(&dead, "GetQueueAttributes", json!({ "AttributeNames": ["QueueArn"] }));
    let policy = json!({ "deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": "2" });
    sqs.on(&queue.name, "SetQueueAttributes", json!({ "Attributes": { "RedrivePolicy": policy.to_string() } }));
    queue.publish(&["x"]);
    let worked = run(queue.command(&["work", &guest("fail"), "--drain"]).args(by_broker));
    worked.exits(65).says("\"settlement\":\"retry\"").says("\"settlement\":\"reject\"");
    assert!(!worked.stderr.contains("maxReceiveCount"), "{}", worked.stderr);
    assert_eq!(queue.take_from(&dead).body, b"x");
    // Ours would come too late, and says so.
    run(&mut queue.command(&["work", &guest("echo"), "--drain", "--max-attempts", "2"]))
        .exits(0)
        .says("maxReceiveCount");
    let warned = run(&mut queue.command(&["work", &guest("echo"), "--drain", "--max-attempts", "1"]));
    assert!(!warned.exits(0).stderr.contains("maxReceiveCount"), "{}", warned.stderr);
}

#[test]
fn a_message_of_a_program_that_knows_nothing_of_wq_run_is_taken_as_it_is() {
    let Some(queue) = standard() else { return };
    let sqs = queue.sqs().unwrap();
    let attributes = json!({
        "customer": { "DataType": "String", "StringValue": "c7" },
        "n": { "DataType": "Number", "StringValue": "12" },
    });
    sqs.send(&queue.name, "späße", attributes);
    let got = run(&mut queue.command(&["queue", "get", "--json"])).exits(0).out();
    let got: serde_json::Value = serde_json::from_str(&got).unwrap();
    assert_eq!(got["body"], "späße");
    let headers = &got["properties"]["application_headers"];
    assert_eq!((&headers["customer"], &headers["n"]), (&json!("c7"), &json!(12)));
    assert_eq!(got["properties"]["message_id"].as_str().map(str::len), Some(36));
}

#[test]
fn an_answer_goes_to_the_queue_whose_url_a_message_names_and_to_no_other_host() {
    let Some(queue) = standard() else { return };
    let sqs = queue.sqs().unwrap();
    let answers = queue.beside("answers");
    let stranger = Stub::start(counts);
    let url = sqs.queue_url(&answers).unwrap();
    for reply_to in [url.as_str(), &answers, &format!("{}/1/{answers}", stranger.url)] {
        let attributes = json!({ "reply-to": { "DataType": "String", "StringValue": reply_to } });
        sqs.send(&queue.name, "question", attributes);
        run(&mut queue.command(&["work", &guest("echo"), "--result", "reply"])).exits(0);
        assert_eq!(queue.take_from(&answers).body, b"question");
    }
    assert!(stranger.asked().is_empty());
}

#[test]
fn a_name_that_no_sqs_queue_can_have_is_refused_before_any_request() {
    let Some(queue) = standard() else { return };
    for name in ["q.dead", "q/x", &"x".repeat(81)] {
        run(queue.command(&["queue", "status"]).env("QUEUE", name)).exits(78).says("80 at most");
    }
    run(queue.command(&["queue", "declare", "--type", "fifo"]).env("QUEUE", "q")).exits(78).says("`.fifo`");
}
