//! A TCP relay in front of a broker that can be cut, or go silent: a network that fails on command.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    target: u16,
    /// Bytes relayed so far, both ways together.
    relayed: AtomicU64,
    /// Cut every connection once so many bytes are through.
    cut_after: AtomicU64,
    /// Cut a connection once so many bytes of the target's are through.
    cut_each_after: AtomicU64,
    /// Take bytes and pass none of them on.
    silent: AtomicBool,
    /// End each new connection at once, and leave the old ones alone.
    refuses: AtomicBool,
    /// Both ends of all connections so far.
    open: Mutex<Vec<TcpStream>>,
    /// Methods of AMQP that the target's answers lose, by class and number.
    withheld: Mutex<Vec<(u16, u16)>>,
}

/// Cuts what an AMQP broker sends into frames.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Proxy {
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            target,
            relayed: AtomicU64::new(0),
            cut_after: AtomicU64::new(u64::MAX),
            cut_each_after: AtomicU64::new(u64::MAX),
            silent: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            open: Mutex::default(),
            withheld: Mutex::default(),
        });
        let accepting = state.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.refuses.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", accepting.target)) else { continue };
                let ends = [&client, &server].map(|end| end.try_clone().expect("a handle"));
                accepting.open.lock().expect("no test panics here").extend(ends);
                for (from, to, answers) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    let state = accepting.clone();
                    std::thread::spawn(move || state.relay(from, to, answers));
                }
            }
        });
        Proxy { port, state }
    }

    pub fn relayed(&self) -> u64 {
        self.state.relayed.load(Ordering::Relaxed)
    }

    /// Cuts every connection now, also one over which nothing comes. New ones are let in.
    pub fn cut(&self) {
        for end in self.state.open.lock().expect("no test panics here").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Lets so many more bytes through, and cuts a connection at its next byte after that.
    pub fn cut_after(&self, bytes: u64) {
        self.state.relayed.store(0, Ordering::Relaxed);
        self.state.cut_after.store(bytes, Ordering::Relaxed);
    }

    /// Cuts every connection, the next ones too, once so many bytes of the target's went through it.
    pub fn cut_each_after(&self, bytes: u64) {
        self.state.cut_each_after.store(bytes, Ordering::Relaxed);
    }

    /// Drops these AMQP methods from now on, and passes everything else: a broker that sends heartbeats but never these answers.
    pub fn withhold(&self, methods: &[(u16, u16)]) {
        self.state.withheld.lock().expect("no test panics here").extend(methods);
    }

    /// Whether each new connection ends at once: a broker that has as many as it may have.
    pub fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Swallows everything from now on, and keeps the connections open: a cable that was pulled.
    pub fn go_silent(&self) {
        self.state.silent.store(true, Ordering::Relaxed);
    }
}

impl State {
    fn relay(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let mut buffer = [0; 4096];
        let mut answered = 0;
        let mut frames = Frames::default();
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if self.silent.load(Ordering::Relaxed) {
                continue;
            }
            answered += if answers { count as u64 } else { 0 };
            if answered > self.cut_each_after.load(Ordering::Relaxed) {
                break;
            }
            let before = self.relayed.fetch_add(count as u64, Ordering::Relaxed);
            let left = self.cut_after.load(Ordering::Relaxed).saturating_sub(before);
            let passes = usize::try_from(left).map_or(count, |left| left.min(count));
            let passing = &buffer[..passes];
            let written = if answers {
                let withheld = self.withheld.lock().expect("no test panics here").clone();
                // What speaks no AMQP has no frames.
                if withheld.is_empty() && frames.0.is_empty() {
                    to.write_all(passing)
                } else {
                    to.write_all(&frames.without(passing, &withheld))
                }
            } else {
                to.write_all(passing)
            };
            if written.is_err() || passes < count {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

impl Frames {
    /// Adds bytes, and returns the frames that are complete now, without those of these methods.
    fn without(&mut self, bytes: &[u8], methods: &[(u16, u16)]) -> Vec<u8> {
        /// Type, channel and size; and a byte at the end.
        const AROUND: usize = 8;
        self.0.extend(bytes);
        let mut passing = Vec::new();
        while let [kind, _, _, a, b, c, d, payload @ ..] = self.0.as_slice() {
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if payload.len() <= size {
                break;
            }
            let method = match payload {
                [a, b, c, d, ..] if *kind == 1 => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
                _ => None,
            };
            let frame = self.0.drain(..size + AROUND).collect::<Vec<_>>();
            if !method.is_some_and(|method| methods.contains(&method)) {
                passing.extend(frame);
            }
        }
        passing
    }
}
