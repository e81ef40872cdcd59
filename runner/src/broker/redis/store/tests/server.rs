//! A server for one test, and words for it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::SystemTime;

use serde_json::Map;

use super::super::*;
use crate::broker::redis::queue;
use crate::task::{Properties, Usage};

pub const QUEUE: &str = "q";
pub const DEAD: &str = "q.dead";

/// A server of its own. It ends when `alive` is closed: by us, or by the kernel when the tests end in whichever way.
pub struct Server {
    shell: Child,
    alive: Option<ChildStdin>,
    _folder: tempfile::TempDir,
    pub url: Url,
    pub version: String,
}

const WATCH: &str = r#""$@" </dev/null >/dev/null 2>&1 & cat; kill -KILL 0"#;

impl Server {
    pub async fn start(program: &Path, version: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh"]).arg(program).args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
        command.arg("--dir").arg(folder.path()).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = command.spawn().unwrap();
        let alive = shell.stdin.take();
        let url: Url = format!("redis+unix://{}", socket.display()).parse().unwrap();
        let server = Server { shell, alive, _folder: folder, url, version: version.to_owned() };
        for _ in 0..500 {
            if Connection::open(&server.url, QUEUE, None).await.is_ok() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not start", program.display());
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(&self.url, QUEUE, Some(ANSWER_TIMEOUT)).await.unwrap()
    }

    pub async fn ask(&self, words: &[&str]) -> Value {
        let mut request = redis::cmd(words[0]);
        request.arg(&words[1..]);
        self.connect().await.request("ask", QUEUE, request).await.unwrap()
    }

    pub async fn number(&self, words: &[&str]) -> i64 {
        number(self.ask(words).await).unwrap()
    }

    pub async fn store(&self) -> Store {
        Store::open(&self.url, QUEUE).await.unwrap()
    }

    pub async fn publish(&self, body: &str) {
        let (connection, properties, body) = (self.connect().await, Properties::default(), body.to_owned().into());
        assert!(queue::publish(&connection, QUEUE, &properties, &Map::new(), body).await.unwrap());
    }

    /// The lease of a message is over from now on, and still with this consumer.
    pub async fn end_lease(&self, store: &Store, taken: &Taken) {
        let idle = millis(LEASE + Duration::from_secs(1)).to_string();
        self.ask(&["XCLAIM", QUEUE, GROUP, &store.consumer, "0", &taken.lease.id, "IDLE", &idle, "JUSTID"]).await;
    }

    pub async fn counts(&self) -> Counts {
        counts(&self.connect().await, &Keys::new(QUEUE, None)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

/// Servers by their versions: the system's, and those that `scripts/install.sh redis` brings.
pub fn programs() -> Vec<(&'static str, PathBuf)> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/redis");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::iter::once(build.join("system")).chain(std::env::split_paths(&path));
    let mut programs: Vec<_> = system.map(|folder| ("system", folder.join("redis-server"))).collect();
    programs.extend(["6.2", "8.2"].map(|version| (version, build.join(version).join("redis-server"))));
    programs.retain(|(_, program)| program.is_file());
    programs.dedup_by_key(|(version, _)| *version);
    if programs.len() < 3 {
        assert!(std::env::var_os("CI").is_none(), "not all versions of redis-server are installed");
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"\nSKIPPED: not all versions of redis-server are here\n",
        );
    }
    programs
}

/// Runs a test on an empty queue of every version.
pub async fn on_every_version(test: impl AsyncFn(&Server)) {
    for (version, program) in programs() {
        let server = Server::start(&program, version).await;
        queue::declare(&server.connect().await, QUEUE).await.unwrap();
        test(&server).await;
    }
}

pub async fn look(store: &Store, room: usize) -> Vec<Taken> {
    *store.next_look() = Instant::now();
    store.look(room).await.unwrap().0
}

pub async fn take_one(store: &Store) -> Taken {
    let mut taken = look(store, 1).await;
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

pub fn failure(attempt: u32) -> Failure {
    Failure {
        outcome: "exit",
        exit_code: Some(1),
        error: "the guest exited with 1".into(),
        stderr: "oh".into(),
        guest: "sha256:0".into(),
        attempt,
        at: SystemTime::UNIX_EPOCH,
        usage: Usage::default(),
    }
}

pub fn ready(ready: u64) -> Counts {
    Counts { ready, delayed: 0, running: 0 }
}

pub async fn entry(server: &Server, stream: &str) -> Vec<Field> {
    let entry = list(server.ask(&["XRANGE", stream, "-", "+", "COUNT", "1"]).await).unwrap().pop().unwrap();
    let [_, entry] = parts(entry).unwrap();
    fields(entry).unwrap()
}

pub fn field<'a>(fields: &'a [Field], name: &str) -> Option<&'a [u8]> {
    let mut found = fields.iter().filter(|(known, _)| known == name.as_bytes());
    let first = found.next().map(|(_, value)| &value[..]);
    assert!(found.next().is_none(), "{name} is there twice");
    first
}
