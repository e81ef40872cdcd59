//! A Redis of our own: its own port and folder, so that it can be killed and started again. And words for it, spoken over the
//! wire by us: the tests see a queue through something else than the code under test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use super::rabbitmq::{free_ports, make_certificates};
use super::{PATIENCE, eventually, required, root};

pub struct Redis {
    folder: tempfile::TempDir,
    program: PathBuf,
    pub port: u16,
    settings: Vec<String>,
    lasts_until_the_end: bool,
    process: Mutex<Option<Process>>,
}

/// The server, in a process group that ends when `alive` is closed: by us, or by the kernel when the test process ends in
/// whichever way.
struct Process {
    shell: Child,
    alive: Option<ChildStdin>,
}

/// Runs a command until stdin ends, then kills the whole process group. A folder that nobody will remove any more is removed
/// from outside of the group.
const WATCH: &str = r#"
    "$@" </dev/null >/dev/null 2>&1 &
    cat
    [ -z "$WQ_REMOVE" ] || setsid sh -c 'sleep 1; rm -rf "$WQ_REMOVE"' &
    kill -KILL 0
"#;

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    Number(i64),
    Text(Vec<u8>),
    Refusal(String),
    List(Vec<Answer>),
}

impl Redis {
    /// The server that all tests share which do nothing to it. Each queue has keys of its own.
    pub fn shared() -> Option<&'static Redis> {
        static SHARED: OnceLock<Option<Redis>> = OnceLock::new();
        SHARED.get_or_init(|| Redis::launch(Redis::program()?, &[], true)).as_ref()
    }

    /// A server for one test, which may do anything to it.
    pub fn start() -> Option<Redis> {
        Redis::start_with(&[])
    }

    /// A server with more settings: names and values in turns.
    pub fn start_with(settings: &[&str]) -> Option<Redis> {
        Redis::launch(Redis::program()?, settings, false)
    }

    /// A server of another version, which `scripts/install.sh redis` has put into a folder.
    pub fn start_version(version: &str) -> Option<Redis> {
        let program = root().join("build/redis").join(version).join("redis-server");
        let missing = format!("`scripts/install.sh redis` has not brought Redis {version}");
        Redis::launch(required(program.is_file().then_some(program), &missing)?, &[], false)
    }

    fn program() -> Option<PathBuf> {
        let ours = root().join("build/redis/system/redis-server");
        if ours.is_file() { Some(ours) } else { super::installed("redis-server") }
    }

    fn launch(program: PathBuf, settings: &[&str], lasts_until_the_end: bool) -> Option<Redis> {
        Redis::launch_in(tempfile::tempdir().expect("a folder"), program, settings, lasts_until_the_end)
    }

    fn launch_in(
        folder: tempfile::TempDir,
        program: PathBuf,
        settings: &[&str],
        lasts_until_the_end: bool,
    ) -> Option<Redis> {
        let [port] = free_ports();
        let redis = Redis {
            folder,
            program,
            port,
            settings: settings.iter().map(|word| (*word).to_owned()).collect(),
            lasts_until_the_end,
            process: Mutex::default(),
        };
        redis.restart();
        Some(redis)
    }

    /// A server that speaks TLS too, on the second port.
    pub fn start_with_tls() -> Option<(Redis, u16)> {
        let program = Redis::program()?;
        let [tls_port] = free_ports();
        let folder = tempfile::tempdir().expect("a folder");
        make_certificates(folder.path());
        let file = |name: &str| folder.path().join(name).display().to_string();
        let settings = [
            ("--tls-port", tls_port.to_string()),
            ("--tls-cert-file", file("server.pem")),
            ("--tls-key-file", file("server.key")),
            ("--tls-ca-cert-file", file("ca.pem")),
        ];
        let settings: Vec<&str> = settings.iter().flat_map(|(name, value)| [*name, value]).collect();
        Redis::launch_in(folder, program, &settings, false).map(|redis| (redis, tls_port))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts the server again, after `kill`, and returns when it takes requests.
    pub fn restart(&self) {
        let folder = self.folder.path();
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCH, "sh"])
            .arg(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(folder)
            // What is confirmed is on the disk.
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .args(&self.settings)
            .env("WQ_REMOVE", if self.lasts_until_the_end { folder } else { Path::new("") })
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut shell = command.spawn().expect("sh runs");
        let alive = shell.stdin.take();
        *self.process.lock().expect("no test panics here") = Some(Process { shell, alive });
        eventually("redis-server takes requests", || {
            let answer = Wire::connect(self.port).ok()?.ask(&["PING"]).ok()?;
            // A server that asks for a password is ready. A server that is still loading its file is not.
            match answer {
                Answer::Refusal(reason) if reason.starts_with("LOADING") => None,
                _ => Some(()),
            }
        });
    }

    /// Kills the server at this very moment.
    pub fn kill(&self) {
        drop(self.process.lock().expect("no test panics here").take());
    }

    /// Asks for something and expects no refusal.
    #[track_caller]
    pub fn ask<W: AsRef<[u8]>>(&self, words: &[W]) -> Answer {
        let mut wire = Wire::connect(self.port).expect("it runs");
        match wire.ask(words).expect("it answers") {
            Answer::Refusal(reason) => panic!("refused: {reason}"),
            answer => answer,
        }
    }

    pub fn number<W: AsRef<[u8]>>(&self, words: &[W]) -> i64 {
        match self.ask(words) {
            Answer::Number(number) => number,
            other => panic!("{other:?} is no number"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.shell.wait();
    }
}

impl Answer {
    pub fn list(self) -> Vec<Answer> {
        match self {
            Answer::List(list) => list,
            Answer::Nothing => Vec::new(),
            other => panic!("{other:?} is no list"),
        }
    }

    pub fn bytes(self) -> Vec<u8> {
        match self {
            Answer::Text(bytes) => bytes,
            other => panic!("{other:?} is no text"),
        }
    }

    pub fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    pub fn number(self) -> i64 {
        match self {
            Answer::Number(number) => number,
            other => panic!("{other:?} is no number"),
        }
    }

    /// Names and values in turns.
    pub fn fields(self) -> BTreeMap<String, Answer> {
        let mut fields = BTreeMap::new();
        let mut words = self.list().into_iter();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            fields.insert(name.text(), value);
        }
        fields
    }
}

/// A connection.
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    pub fn connect(port: u16) -> std::io::Result<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Wire(BufReader::new(stream)))
    }

    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> std::io::Result<Answer> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            request.extend(format!("${}\r\n", word.len()).into_bytes());
            request.extend(word);
            request.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&request)?;
        self.read()
    }

    fn read(&mut self) -> std::io::Result<Answer> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        let number = || line[1..].parse::<i64>().map_err(|_| std::io::Error::other(line.clone()));
        Ok(match line.as_bytes().first() {
            Some(b'+') => Answer::Text(line.as_bytes()[1..].to_vec()),
            Some(b'-') => Answer::Refusal(line[1..].to_owned()),
            Some(b':') => Answer::Number(number()?),
            Some(b'$' | b'*') if number()? < 0 => Answer::Nothing,
            Some(b'$') => {
                let mut bytes = vec![0; number()? as usize + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Answer::Text(bytes)
            }
            Some(b'*') => {
                let list = (0..number()?).map(|_| self.read()).collect::<std::io::Result<_>>()?;
                Answer::List(list)
            }
            _ => return Err(std::io::Error::other(format!("the connection has ended: {line}"))),
        })
    }
}
