//! A web server whose every answer is one that a client has to cope with. It counts who comes.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub struct Web {
    pub port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    /// The first lines of requests, and their `Host`.
    requests: Mutex<Vec<(String, String)>>,
    /// What came after requests that were answered.
    rest: AtomicU64,
    /// A file, and what it is to hold once `/moves` was asked for.
    moves: Mutex<Option<(PathBuf, String)>>,
}

impl Web {
    pub fn start() -> Web {
        Web::start_with(None)
    }

    /// Encrypted, with the certificate `server.pem` of a folder.
    pub fn encrypted(folder: &std::path::Path) -> Web {
        let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("its key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key));
        Web::start_with(Some(Arc::new(config.expect("they belong together"))))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let (seen, tls) = (shared.clone(), tls.clone());
                std::thread::spawn(move || {
                    // A client that goes away is what the tests are about.
                    let _ = match tls {
                        None => serve(stream, &seen),
                        Some(tls) => ServerConnection::new(tls)
                            .map_err(std::io::Error::other)
                            .and_then(|connection| serve(StreamOwned::new(connection, stream), &seen)),
                    };
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Web { port, seen }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many there still are.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// How many bytes came after the ends of requests.
    pub fn rest(&self) -> u64 {
        self.seen.rest.load(Ordering::SeqCst)
    }

    /// Has `/moves` write a text to a file before it answers.
    pub fn moves(&self, file: PathBuf, text: String) {
        *self.seen.moves.lock().expect("no thread panics") = Some((file, text));
    }

    pub fn last_request(&self) -> (String, String) {
        self.seen.requests.lock().expect("no thread panics").last().cloned().expect("there was one")
    }
}

trait Stream: Read + Write {}

impl Stream for TcpStream {}
impl Stream for StreamOwned<ServerConnection, TcpStream> {}

fn serve(stream: impl Stream, seen: &Seen) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let found = lines.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned));
        found.unwrap_or_default().trim().to_owned()
    };
    let first = lines.first().cloned().unwrap_or_default();
    seen.requests.lock().expect("no thread panics").push((first.clone(), header("host:")));
    let path = first.split(' ').nth(1).unwrap_or_default();
    let port = path.rsplit('/').next().unwrap_or_default();
    match path {
        "/count" => {
            let count = if header("transfer-encoding:") == "chunked" {
                chunks(&mut stream)?
            } else {
                let length: usize = header("content-length:").parse().unwrap_or_default();
                std::io::copy(&mut stream.by_ref().take(length as u64), &mut std::io::sink())? as usize
            };
            let text = format!("{count} bytes");
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
        }
        // The head of the request as it came.
        "/raw" => {
            if header("transfer-encoding:") == "chunked" {
                chunks(&mut stream)?;
            }
            let text = lines.join("\n").to_lowercase();
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
        }
        "/moves" => {
            if let Some((file, text)) = &*seen.moves.lock().expect("no thread panics") {
                std::fs::write(file, text)?;
            }
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmoved")?;
        }
        "/continues" => loop {
            write!(stream.get_mut(), "HTTP/1.1 100 Continue\r\n\r\n")?;
        },
        "/zeroes" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                stream.get_mut().write_all(&[b'0'; 4096])?;
            }
        }
        "/switches" => write!(
            stream.get_mut(),
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )?,
        "/lengths" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")?
        }
        "/headers" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n")?;
            for number in 0_u64.. {
                write!(stream.get_mut(), "X-{number}: {number}\r\n")?;
            }
        }
        "/header" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nX: ")?;
            loop {
                stream.get_mut().write_all(&[b'x'; 4096])?;
            }
        }
        "/trailers" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")?;
            for number in 0_u64.. {
                write!(stream.get_mut(), "X-{number}: {number}\r\n")?;
            }
        }
        "/body" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                write!(stream.get_mut(), "1000\r\n{}\r\n", "x".repeat(4096))?;
            }
        }
        "/huge" => write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx")?,
        "/cut" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
            return Ok(());
        }
        "/nonsense" => write!(stream.get_mut(), "GO AWAY\r\n\r\n")?,
        // Never answers, or never ends.
        "/silent" => {}
        "/waits" => write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")?,
        "/trickles" => {
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
            loop {
                stream.get_mut().write_all(b"x")?;
                stream.get_mut().flush()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        _ if path.starts_with("/redirect/") => write!(
            stream.get_mut(),
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 5\r\n\r\nthere"
        )?,
        _ if path.ends_with("/missing") => {
            write!(stream.get_mut(), "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?
        }
        _ if path.ends_with("/busy") => {
            write!(stream.get_mut(), "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
        }
        _ => write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?,
    }
    stream.get_mut().flush()?;
    // Until the client leaves.
    let rest = std::io::copy(&mut stream, &mut std::io::sink())?;
    seen.rest.fetch_add(rest, Ordering::SeqCst);
    Ok(())
}

/// Reads a body in chunks, and says how long it was.
fn chunks(stream: &mut impl std::io::BufRead) -> std::io::Result<usize> {
    let mut sum = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        std::io::copy(&mut stream.take(size as u64 + 2), &mut std::io::sink())?;
        if size == 0 {
            return Ok(sum);
        }
        sum += size;
    }
}
