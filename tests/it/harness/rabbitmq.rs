//! A RabbitMQ of our own: its own node name, ports and folder, so that it can be stopped, killed and started again.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use super::{eventually, installed};

pub struct RabbitMq {
    folder: tempfile::TempDir,
    server: PathBuf,
    node: String,
    pub port: u16,
    pub tls_port: u16,
    dist_port: u16,
    epmd_port: u16,
    settings: String,
    lasts: Lasts,
    process: Mutex<Option<Process>>,
}

/// When a node ends and its folder is removed. The shared node is in a `static`, which is never dropped.
#[derive(PartialEq)]
enum Lasts {
    UntilDropped,
    UntilTheEnd,
}

/// The server and its helpers, in a process group. They end when `alive` is closed: by us, or by the kernel when the
/// test process ends in whichever way.
struct Process {
    shell: Child,
    alive: Option<ChildStdin>,
}

/// Nodes that share their queues.
pub struct Cluster {
    pub nodes: [RabbitMq; 3],
    _port_mapper: PortMapper,
}

/// Where the nodes of a cluster find each other. It outlives each of them.
struct PortMapper {
    port: u16,
    _process: Process,
}

/// Runs a command and the port mapper until stdin ends, then kills the whole process group. Only the command holds stdout, so
/// stdout ends when the command does. A process outside of the group removes the shared node's folder, because nothing else
/// would.
const WATCH: &str = r#"
    epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 >/dev/null 2>&1 &
    "$@" </dev/null &
    exec >/dev/null
    cat
    [ -z "$WQ_REMOVE" ] || setsid sh -c 'sleep 1; rm -rf "$WQ_REMOVE"' &
    kill -KILL 0
"#;

/// Runs a program in another root file system that sees our network, our processes and the node's folder.
const ENTER: &str = r#"
    set -e
    root=$1 folder=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    exec chroot "$root" "$@"
"#;

/// `make test-rabbitmq4` runs the same tests on a newer RabbitMQ, which lies in this root file system.
fn other_root() -> Option<OsString> {
    std::env::var_os("WQ_TEST_RABBITMQ_ROOT")
}

impl RabbitMq {
    /// The node shared by all tests that do not disturb it.
    pub fn shared() -> Option<&'static RabbitMq> {
        static SHARED: OnceLock<Option<RabbitMq>> = OnceLock::new();
        SHARED.get_or_init(|| RabbitMq::launch("", Lasts::UntilTheEnd)).as_ref()
    }

    /// A node for one test, which may do anything to it.
    pub fn start() -> Option<RabbitMq> {
        RabbitMq::start_with("")
    }

    /// A node with more lines in its configuration.
    pub fn start_with(settings: &str) -> Option<RabbitMq> {
        RabbitMq::launch(settings, Lasts::UntilDropped)
    }

    fn launch(settings: &str, lasts: Lasts) -> Option<RabbitMq> {
        let rabbitmq = RabbitMq::prepare(settings, lasts)?;
        rabbitmq.restart();
        Some(rabbitmq)
    }

    fn prepare(settings: &str, lasts: Lasts) -> Option<RabbitMq> {
        let mut server = installed("rabbitmq-server")?;
        // Debian's wrapper in /usr/sbin wants to change the user; the script behind it runs as anybody.
        let inner = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        if inner.is_file() || other_root().is_some() {
            server = inner.to_owned();
        }
        let [port, tls_port, dist_port, epmd_port] = free_ports();
        let rabbitmq = RabbitMq {
            folder: tempfile::tempdir().expect("a folder"),
            server,
            node: format!("wq{port}@localhost"),
            port,
            tls_port,
            dist_port,
            epmd_port,
            settings: settings.to_owned(),
            lasts,
            process: Mutex::default(),
        };
        make_certificates(rabbitmq.folder.path());
        Some(rabbitmq)
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// The authority that signed the node's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A client's certificate and its key, of the same authority.
    pub fn client_files(&self) -> [PathBuf; 2] {
        ["client.pem", "client.key"].map(|name| self.folder.path().join(name))
    }

    /// Starts the node again, after `kill`, and returns when it takes connections.
    pub fn restart(&self) {
        let folder = self.folder.path();
        let path = |name: &str| folder.join(name);
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nlisteners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {ca}\n\
             ssl_options.certfile = {cert}\nssl_options.keyfile = {key}\ndefault_pass = guest\n{settings}\n",
            self.port,
            self.tls_port,
            ca = self.ca_file().display(),
            cert = path("server.pem").display(),
            key = path("server.key").display(),
            settings = self.settings,
        );
        std::fs::write(path("rabbitmq.conf"), config).expect("its configuration");
        std::fs::write(path("enabled_plugins"), "[].").expect("its plugins");
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCH, "sh"])
            .args(self.program("rabbitmq-server"))
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("WQ_REMOVE", if self.lasts == Lasts::UntilTheEnd { folder } else { Path::new("") })
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut shell = command.spawn().expect("sh runs");
        let alive = shell.stdin.take();
        let mut said = String::new();
        let mut lines = BufReader::new(shell.stdout.take().expect("piped")).lines();
        loop {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("rabbitmq-server ended before it was ready:\n{said}"));
            if line.contains("completed with") {
                break;
            }
            said += &line;
            said += "\n";
        }
        // A server that can't write its output any more would stop.
        std::thread::spawn(move || lines.for_each(drop));
        *self.process.lock().expect("no test panics here") = Some(Process { shell, alive });
    }

    /// Kills the node without a warning, as a power cut does; the queues that were declared survive it.
    pub fn kill(&self) {
        self.sync();
        self.cut_power();
    }

    /// RabbitMQ 3.10 writes its queues to the disk some time after they were declared; one that is missing there is gone,
    /// or never gets a leader again. The queues of an operator are older than that; these are made so.
    pub fn sync(&self) {
        self.ctl(&["eval", "[dets:sync(Table) || Table <- dets:all()], mnesia:sync_log(), mnesia:dump_log()."]);
    }

    /// From now on the node stops reading from every connection that publishes.
    pub fn raise_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "0.0001"]);
    }

    pub fn lift_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    }

    /// Kills the node at this very moment.
    pub fn cut_power(&self) {
        drop(self.process.lock().expect("no test panics here").take());
    }

    /// Asks the node for something that AMQP has no word for.
    pub fn ctl(&self, args: &[&str]) -> String {
        let program = self.program("rabbitmqctl");
        let output = Command::new(&program[0])
            .args(&program[1..])
            .args(["--node", &self.node])
            .args(args)
            .env("HOME", self.folder.path())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .output()
            .expect("rabbitmqctl runs");
        assert!(output.status.success(), "rabbitmqctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A program of the server, as words to start it with: ours, or that of another root file system.
    fn program(&self, name: &str) -> Vec<OsString> {
        let program = self.server.with_file_name(name).into_os_string();
        let Some(root) = other_root() else { return vec![program] };
        let words = ["unshare", "--mount", "sh", "-c", ENTER, "sh"].map(OsString::from);
        words.into_iter().chain([root, self.folder.path().into(), program]).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

// === impl Cluster ===

impl Cluster {
    /// Three nodes, each of which can be killed. A node on the smaller side of a partition stops serving.
    pub fn start() -> Option<Cluster> {
        let mut nodes = [(); 3].map(|()| RabbitMq::prepare("", Lasts::UntilDropped));
        let names = nodes.each_ref().map(|node| node.as_ref().map(|node| node.node.clone()));
        let port_mapper = PortMapper::start();
        for node in nodes.iter_mut().flatten() {
            let list = names.iter().flatten().zip(1..);
            let list = list.map(|(name, number)| format!("cluster_formation.classic_config.nodes.{number} = {name}\n"));
            node.settings = format!(
                "cluster_partition_handling = pause_minority\n\
                 cluster_formation.peer_discovery_backend = classic_config\n{}",
                list.collect::<String>()
            );
            node.epmd_port = port_mapper.port;
            let cookie = node.folder.path().join(".erlang.cookie");
            std::fs::write(&cookie, "wq-run-tests").expect("a cookie");
            std::fs::set_permissions(&cookie, Permissions::from_mode(0o400)).expect("for us alone");
        }
        let [first, second, third] = nodes;
        let nodes = [first?, second?, third?];
        // They find each other, and agree on who makes the cluster that the others join.
        std::thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| node.restart());
            }
        });
        Some(Cluster { nodes, _port_mapper: port_mapper })
    }

    /// The nodes as a list of URLs, beginning with this one. A node that is silent is given up soon.
    pub fn urls(&self, first: usize) -> String {
        let url = |number: usize| format!("{}?heartbeat=2&connection_timeout=3000", self.nodes[number % 3].url());
        [first, first + 1, first + 2].map(url).join(",")
    }

    /// The node that leads a quorum queue, by its number.
    pub fn leader(&self, asked: usize, queue: &str) -> Option<usize> {
        let leaders = self.nodes[asked].ctl(&["list_queues", "name", "leader"]);
        let line = leaders.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")))?;
        self.nodes.iter().position(|node| node.node == line.trim())
    }
}

impl RabbitMq {
    /// Cuts a node off from the others of its cluster: they are not let in any more, nor is it.
    pub fn isolate(&self) {
        self.ctl(&["eval", "[begin erlang:set_cookie(N, no), erlang:disconnect_node(N) end || N <- nodes()]."]);
    }
}

impl PortMapper {
    fn start() -> PortMapper {
        let [port] = free_ports();
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCH, "sh", "true"])
            .env("ERL_EPMD_PORT", port.to_string())
            .env("WQ_REMOVE", "")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut shell = command.spawn().expect("sh runs");
        let alive = shell.stdin.take();
        // Otherwise the first node would start a port mapper of its own, which would die with the node.
        eventually("the port mapper listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        PortMapper { port, _process: Process { shell, alive } }
    }
}

/// Ports that were free a moment ago.
///
/// Never an ephemeral port: the system could give it to another connection while a node is down, and the node could not start
/// again.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u32 = 10_000;
    /// Linux hands out those from 32,768 on.
    const COUNT: u32 = 22_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Another run of the tests begins elsewhere.
    let begin = std::process::id().wrapping_mul(7919);
    [(); N].map(|()| {
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port);
        let mut ports = std::iter::repeat_with(|| {
            let next = begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
            (FIRST + next % COUNT) as u16
        });
        ports.by_ref().take(COUNT as usize).find_map(free).expect("a free port")
    })
}

/// An authority in `ca.pem`, and what it has signed for a server and for a client: `server.pem`, `server.key` and so on.
pub fn make_certificates(folder: &Path) {
    let script = r#"set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem \
            -addext basicConstraints=critical,CA:TRUE
        openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > san
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=client -keyout client.key -out client.csr
        printf 'extendedKeyUsage=clientAuth' > usage
        openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile usage -out client.pem
    "#;
    let output = Command::new("sh").args(["-c", script]).current_dir(folder).output().expect("sh runs");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
