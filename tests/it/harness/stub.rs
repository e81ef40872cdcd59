//! A small HTTP server that answers what a test tells it to, and keeps what it was asked.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// By names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

pub struct Stub {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    /// Answers each request with a status and a body.
    pub fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, keeps) = (Arc::new(answer), asked.clone());
        // Ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (answer, keeps) = (answer.clone(), keeps.clone());
                std::thread::spawn(move || serve(&client, &*answer, &keeps));
            }
        });
        Stub { url, asked }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panics here").clone()
    }
}

impl Asked {
    /// The action of a request to SQS.
    pub fn action(&self) -> &str {
        self.headers.get("x-amz-target").and_then(|target| target.strip_prefix("AmazonSQS.")).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("it is JSON")
    }
}

fn serve(client: &TcpStream, answer: &dyn Fn(&Asked) -> (u16, String), keeps: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(client.try_clone().expect("a handle"));
    while let Some(asked) = read(&mut reader) {
        keeps.lock().expect("no test panics here").push(asked.clone());
        let (status, body) = answer(&asked);
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        // Whoever asked may be gone.
        let mut client = client;
        if client.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl std::io::BufRead) -> Option<Asked> {
    let mut line = String::new();
    let mut next = |line: &mut String| {
        line.clear();
        reader.read_line(line).ok().filter(|read| *read > 0)
    };
    next(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        next(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { method, path, headers, body: String::from_utf8(body).expect("it is text") })
}
