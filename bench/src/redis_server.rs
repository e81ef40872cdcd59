//! A Redis of our own: its own port and folder, on the loopback interface. It ends with us, however we end.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::broker::free_ports;

pub struct RedisServer {
    port: u16,
    shell: Child,
    alive: Option<ChildStdin>,
    // Removed after the server has ended.
    _folder: tempfile::TempDir,
}

/// Runs the server until stdin ends, then kills the whole process group.
const WATCH: &str = r#"
    "$@" </dev/null &
    cat
    kill -KILL 0
"#;

const PATIENCE: Duration = Duration::from_secs(10);

impl RedisServer {
    /// Returns when it answers.
    pub fn start(program: &Path) -> Result<RedisServer> {
        let folder = tempfile::tempdir()?;
        let [port] = free_ports()?;
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "sh"])
            .arg(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            // Stored as in production; the disk is written to once a second.
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--dir"])
            .arg(folder.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let alive = shell.stdin.take();
        // From here on, dropping it ends it.
        let server = RedisServer { port, shell, alive, _folder: folder };
        let started = Instant::now();
        while let Err(error) = server.connect().and_then(|mut redis| Ok(redis::cmd("PING").exec(&mut redis)?)) {
            if started.elapsed() > PATIENCE {
                return Err(format!("{} does not answer: {error}", program.display()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connect(&self) -> Result<redis::Connection> {
        Ok(redis::Client::open(self.url())?.get_connection()?)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}
