//! Emulators of SQS, and words for them: JSON over HTTP by another client than the one under test. Nothing but AWS itself is the
//! real thing; docs/sqs.md says where the two are known to differ.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::queue::Found;
use super::rabbitmq::free_ports;
use super::{eventually, required, root};

pub struct Sqs {
    pub port: u16,
    /// In its own process group, which ends when `alive` is closed: by us, or by the kernel when the tests end in whichever way.
    process: Process,
    _folder: tempfile::TempDir,
}

struct Process {
    shell: Child,
    alive: Option<ChildStdin>,
}

/// Runs a command until stdin ends, then kills the whole process group.
const WATCH: &str = r#"
    "$@" </dev/null >/dev/null 2>&1 &
    cat
    kill -KILL 0
"#;

/// Keys that emulators take.
pub const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

/// Runs a part of a test in a process that has [`KEYS`]: one cannot give itself variables while others of its threads run.
/// What it runs there is this test again, on the queues of SQS alone.
pub fn with_keys(part: impl FnOnce()) {
    const CHILD: &str = "WQ_TEST_HAS_KEYS";
    if std::env::var_os(CHILD).is_some() {
        return part();
    }
    let thread = std::thread::current();
    let name = thread.name().expect("a test's thread has its name");
    let mut command = Command::new(std::env::current_exe().expect("it is known"));
    command.args(["--exact", name, "--nocapture"]).env("WQ_TEST_QUEUES", "sqs").env(CHILD, "yes").envs(KEYS);
    let ran = super::run(&mut command);
    ran.exits(0);
    assert!(ran.out().contains("1 passed"), "{}", ran.out());
}

/// What there is to run: both are emulators, and each was written from AWS's documentation by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    Ministack,
    Fauxqs,
}

impl Sqs {
    /// The server that all tests share. Each queue has a name of its own.
    pub fn shared(emulator: Emulator) -> Option<&'static Sqs> {
        static MINISTACK: OnceLock<Option<Sqs>> = OnceLock::new();
        static FAUXQS: OnceLock<Option<Sqs>> = OnceLock::new();
        let shared = match emulator {
            Emulator::Ministack => &MINISTACK,
            Emulator::Fauxqs => &FAUXQS,
        };
        shared.get_or_init(|| Sqs::start(emulator)).as_ref()
    }

    /// A server for one test, which may do anything to it.
    pub fn start(emulator: Emulator) -> Option<Sqs> {
        let program = match emulator {
            Emulator::Ministack => root().join("build/sqs/venv/bin/ministack"),
            Emulator::Fauxqs => root().join("build/sqs/fauxqs/serve.mjs"),
        };
        let missing = format!("`scripts/install.sh sqs` has not brought {emulator:?}, which stands in for SQS");
        let program = required(program.is_file().then_some(program), &missing)?;
        let [port] = free_ports();
        let folder = tempfile::tempdir().expect("a folder");
        let sqs = Sqs { port, process: Process::start(emulator, &program, port, folder.path()), _folder: folder };
        eventually("SQS answers", || sqs.try_ask("ListQueues", &json!({})).ok());
        sqs.process.alive.as_ref()?;
        Some(sqs)
    }

    /// The address in which queues are named by `QUEUE`. The lease is as short as it can be: tests wait for its end.
    pub fn url(&self) -> String {
        format!("sqs://us-east-1?visibility_timeout=15&endpoint=http://127.0.0.1:{}", self.port)
    }

    /// Asks for something and expects no refusal.
    #[track_caller]
    pub fn ask(&self, action: &str, input: Value) -> Value {
        self.try_ask(action, &input).unwrap_or_else(|refusal| panic!("{action}: {refusal}"))
    }

    pub fn try_ask(&self, action: &str, input: &Value) -> Result<Value, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let answer = agent
            .post(format!("http://127.0.0.1:{}/", self.port))
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            // Read by emulators for the region, and by nobody for the signature.
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20261124/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0",
            )
            .send(input.to_string().as_bytes());
        let mut answer = answer.map_err(|error| error.to_string())?;
        let text =
            answer.body_mut().with_config().limit(64 << 20).read_to_string().map_err(|error| error.to_string())?;
        let value = if text.is_empty() { json!({}) } else { serde_json::from_str(&text).map_err(|_| text.clone())? };
        if answer.status().is_success() { Ok(value) } else { Err(text) }
    }

    pub fn queue_url(&self, name: &str) -> Option<String> {
        let found = self.try_ask("GetQueueUrl", &json!({ "QueueName": name })).ok()?;
        Some(found["QueueUrl"].as_str()?.to_owned())
    }

    /// Asks for something about a queue.
    #[track_caller]
    pub fn on(&self, name: &str, action: &str, mut input: Value) -> Value {
        input["QueueUrl"] = self.queue_url(name).expect("there is such a queue").into();
        self.ask(action, input)
    }

    /// A number of the queue's; 0 if there is no queue.
    pub fn count(&self, name: &str, attribute: &str) -> u64 {
        let Some(url) = self.queue_url(name) else { return 0 };
        let input = json!({ "QueueUrl": url, "AttributeNames": [attribute] });
        let answer = self.try_ask("GetQueueAttributes", &input);
        answer.ok().and_then(|answer| answer["Attributes"][attribute].as_str()?.parse().ok()).unwrap_or(0)
    }

    pub fn ready(&self, name: &str) -> u64 {
        self.count(name, "ApproximateNumberOfMessages")
    }

    /// Handed over, or waiting for the end of a pause.
    pub fn hidden(&self, name: &str) -> u64 {
        self.count(name, "ApproximateNumberOfMessagesNotVisible")
    }

    /// Sends a message as a program that knows nothing of wq-run.
    pub fn send(&self, name: &str, body: &str, attributes: Value) {
        let mut input = json!({ "MessageBody": body, "MessageAttributes": attributes });
        if name.ends_with(".fifo") {
            input["MessageGroupId"] = "test".into();
            input["MessageDeduplicationId"] = format!("{}", fastrand::u64(..)).into();
        }
        self.on(name, "SendMessage", input);
    }

    /// Takes a message out, as SQS has it.
    pub fn receive(&self, name: &str) -> Option<Value> {
        self.queue_url(name)?;
        let input = json!({ "MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"] });
        let received = self.on(name, "ReceiveMessage", input).pointer("/Messages/0")?.clone();
        self.on(name, "DeleteMessage", json!({ "ReceiptHandle": received["ReceiptHandle"] }));
        Some(received)
    }

    /// Takes a message out, in the words of all brokers.
    pub fn take(&self, name: &str) -> Option<Found> {
        let received = self.receive(name)?;
        let attribute = |name: &str| received["MessageAttributes"][name]["StringValue"].as_str().map(str::to_owned);
        let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
        let rest: Value = attribute("x-wq").map_or(json!({}), |rest| serde_json::from_str(&rest).expect("it is JSON"));
        let of = |part: &str| -> BTreeMap<String, String> {
            let map = rest[part].as_object().cloned().unwrap_or_default();
            map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        };
        let (mut properties, mut headers) = (of("properties"), of("headers"));
        let names =
            [("message_id", "message-id"), ("correlation_id", "correlation-id"), ("content_type", "content-type")];
        for (property, name) in names {
            properties.extend(attribute(name).map(|value| (property.to_owned(), value)));
        }
        headers.extend(attribute("traceparent").map(|value| ("traceparent".to_owned(), value)));
        let body = received["Body"].as_str().expect("a body is text").to_owned();
        let body = match attribute("x-wq-body").as_deref() {
            Some("base64") => BASE64.decode(body.as_bytes()).expect("it is base64"),
            Some("empty") => Vec::new(),
            _ => body.into_bytes(),
        };
        let redelivered = received["Attributes"]["ApproximateReceiveCount"] != "1";
        Some(Found { body, properties, headers, redelivered, expires: false })
    }
}

impl Process {
    fn start(emulator: Emulator, program: &Path, port: u16, folder: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh"]).arg(program).current_dir(folder).env("HOME", folder);
        match emulator {
            Emulator::Ministack => command
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", port.to_string())
                .env("SERVICES", "sqs,sts")
                .env("LOG_LEVEL", "ERROR"),
            Emulator::Fauxqs => command.env("FAUXQS_PORT", port.to_string()),
        };
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("sh runs");
        let alive = shell.stdin.take();
        Process { shell, alive }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}
