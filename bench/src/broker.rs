//! A RabbitMQ of our own: its own node, ports and folder, on the loopback interface. It ends with us, however we end.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::Result;

pub struct RabbitMq {
    port: u16,
    shell: Child,
    alive: Option<ChildStdin>,
    // Removed after the server has ended.
    _folder: tempfile::TempDir,
}

/// Runs the server and its port mapper until stdin ends, then kills the whole process group. Its stdout is the server's alone,
/// so that it ends with it.
const WATCH: &str = r#"
    epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 >/dev/null 2>&1 &
    "$@" </dev/null &
    exec >/dev/null
    cat
    kill -KILL 0
"#;

/// Debian's wrapper in /usr/sbin wants to change the user; the script behind it runs as anybody.
const SERVERS: [&str; 3] =
    ["/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/sbin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server"];

impl RabbitMq {
    /// Returns when it takes connections.
    pub fn start() -> Result<RabbitMq> {
        let server = SERVERS.iter().find(|server| Path::new(server).is_file());
        let server = server.ok_or("there is no rabbitmq-server: run `scripts/install.sh rabbitmq`")?;
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let [port, dist_port, epmd_port] = free_ports()?;
        let config = format!("listeners.tcp.1 = 127.0.0.1:{port}\n");
        std::fs::write(path("rabbitmq.conf"), config)?;
        std::fs::write(path("enabled_plugins"), "[].")?;
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "sh", server])
            .env("HOME", folder.path())
            .env("RABBITMQ_NODENAME", format!("wqbench{port}@localhost"))
            .env("RABBITMQ_DIST_PORT", dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .env("ERL_EPMD_PORT", epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let alive = shell.stdin.take();
        let stdout = shell.stdout.take().ok_or("the server has no stdout")?;
        // From here on, dropping it ends it.
        let rabbitmq = RabbitMq { port, shell, alive, _folder: folder };
        let mut lines = BufReader::new(stdout).lines();
        let mut said = String::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                return Err(format!("rabbitmq-server ended before it was ready:\n{said}").into());
            };
            if line.contains("completed with") {
                break;
            }
            said += &line;
            said += "\n";
        }
        // A server that can't write its output any more would stop.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(rabbitmq)
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    pub fn version() -> String {
        let library = PathBuf::from("/usr/lib/rabbitmq/lib");
        let entries = std::fs::read_dir(library).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_prefix("rabbitmq_server-").map(str::to_owned))
            .next()
            .unwrap_or_else(|| "of unknown version".into())
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
