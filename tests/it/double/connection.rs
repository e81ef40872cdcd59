//! One connection to the double: the broker's side of AMQP 0-9-1, with a fault in one place.

mod messages;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};

use super::World;
use super::books::Message;
use super::fault::{Corruption, Fault, LATE};

/// How often a connection looks for messages that others have published.
const LOOK_AROUND: Duration = Duration::from_millis(5);

/// The role of a connection whose client has not named it yet.
const NEW: &str = "new";

const BASIC: u16 = 60;

pub struct Connection {
    world: Arc<World>,
    socket: TcpStream,
    inbound: Vec<u8>,
    role: String,
    channels: BTreeMap<u16, Channel>,
    consumers: u32,
    beat: Option<(Duration, Instant)>,
    /// Sends heartbeats and nothing else.
    mute: bool,
    /// Sends nothing.
    frozen: bool,
    /// The next acknowledgement is lost, and the connection too.
    loses_ack: bool,
    /// Waits for the client's word that it knows of the end.
    closing: bool,
    ended: bool,
}

#[derive(Default)]
struct Channel {
    prefetch: u16,
    consumers: Vec<Consumer>,
    out: BTreeMap<u64, Out>,
    last_tag: u64,
    confirms: bool,
    published: u64,
    incoming: Option<Incoming>,
    closing: bool,
}

struct Consumer {
    tag: String,
    queue: String,
    prefetch: u16,
}

/// A message that is with the client.
struct Out {
    queue: String,
    consumer: String,
    message: Message,
}

struct Incoming {
    publish: basic::Publish,
    header: Option<AMQPContentHeader>,
    body: Vec<u8>,
}

impl Connection {
    pub fn serve(world: Arc<World>, socket: TcpStream) {
        socket.set_nodelay(true).expect("it is a socket");
        socket.set_nonblocking(false).expect("it is a socket");
        socket.set_read_timeout(Some(LOOK_AROUND)).expect("it is not zero");
        let mut connection = Connection {
            world,
            socket,
            inbound: Vec::new(),
            role: NEW.to_owned(),
            channels: BTreeMap::new(),
            consumers: 0,
            beat: None,
            mute: false,
            frozen: false,
            loses_ack: false,
            closing: false,
            ended: false,
        };
        let mut buffer = [0; 16_384];
        while !connection.ended && !connection.world.stopped() {
            match connection.socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => connection.inbound.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
            connection.read_frames();
            connection.deliver();
            connection.beat();
        }
        let _ = connection.socket.shutdown(Shutdown::Both);
        connection.give_all_back();
    }

    fn breach(&self, what: impl Into<String>) {
        self.world.books().breaches.push(format!("{}: {}", self.role, what.into()));
    }

    fn read_frames(&mut self) {
        while !self.ended {
            // A client that gets no answer to its protocol header probes for other protocols with a `PING` line. A broker answers
            // anything but AMQP with its own protocol header.
            if self.inbound.starts_with(b"PING ") {
                let _ = self.socket.write_all(b"AMQP\0\0\x09\x01");
                self.ended = true;
                return;
            }
            let inbound = std::mem::take(&mut self.inbound);
            match parse_frame(inbound.as_slice()) {
                Ok((rest, frame)) => {
                    self.inbound = rest.to_vec();
                    self.on_frame(frame);
                }
                Err(error) if error.is_incomplete() => {
                    self.inbound = inbound;
                    return;
                }
                Err(error) => {
                    self.breach(format!("sent what is no frame: {error:?}"));
                    self.ended = true;
                }
            }
        }
    }

    fn on_frame(&mut self, frame: AMQPFrame) {
        match frame {
            AMQPFrame::ProtocolHeader(_) => self.greet(),
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => {}
            AMQPFrame::Method(0, AMQPClass::Connection(method)) => self.on_connection(method),
            AMQPFrame::Method(..) | AMQPFrame::Header(..) | AMQPFrame::Body(..) if self.closing => {}
            AMQPFrame::Method(id, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                self.answer(id, "channel.open-ok", |connection| {
                    connection.channels.insert(id, Channel::default());
                    AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
                });
            }
            AMQPFrame::Method(id, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => {
                self.channels.remove(&id);
            }
            frame => {
                let id = frame.channel_id();
                match self.channels.get(&id) {
                    None => self.breach(format!("{frame} on channel {id}, which is not open")),
                    Some(channel) if channel.closing => {
                        // Crossed the end of the channel on its way. The client's own end needs an answer all the same.
                        if let AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(_))) = frame {
                            let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                            self.put(&AMQPFrame::Method(id, ok), None);
                        }
                    }
                    Some(_) => match frame {
                        AMQPFrame::Method(_, method) => self.on_method(id, method),
                        AMQPFrame::Header(_, header) => self.on_header(id, header),
                        AMQPFrame::Body(_, body) => self.on_body(id, &body),
                        _ => {}
                    },
                }
            }
        }
    }

    // === The connection

    fn greet(&mut self) {
        let mut capabilities = FieldTable::default();
        for name in ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"] {
            capabilities.insert(name.into(), AMQPValue::Boolean(true));
        }
        capabilities.insert("authentication_failure_close".into(), AMQPValue::Boolean(true));
        let mut server_properties = FieldTable::default();
        server_properties.insert("product".into(), AMQPValue::LongString("a test double".into()));
        server_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        };
        self.answer(0, "connection.start", |_| AMQPClass::Connection(connection::AMQPMethod::Start(start)));
    }

    fn on_connection(&mut self, method: connection::AMQPMethod) {
        use connection::AMQPMethod as Method;
        match method {
            Method::StartOk(ok) => {
                if let Some(AMQPValue::LongString(name)) = ok.client_properties.inner().get("connection_name") {
                    self.role = role(&name.to_string()).to_owned();
                }
                let tune = connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
                self.answer(0, "connection.tune", |_| AMQPClass::Connection(Method::Tune(tune)));
            }
            Method::TuneOk(ok) => {
                let every = Duration::from_millis(u64::from(ok.heartbeat) * 1000 / 3);
                self.beat = (ok.heartbeat > 0).then(|| (every, Instant::now()));
            }
            Method::Open(_) => {
                self.answer(0, "connection.open-ok", |_| AMQPClass::Connection(Method::OpenOk(connection::OpenOk {})))
            }
            Method::Close(_) => {
                self.give_all_back();
                self.closing = true;
                self.answer(0, "connection.close-ok", |_| {
                    AMQPClass::Connection(Method::CloseOk(connection::CloseOk {}))
                });
                // Where the answer is not sent, the connection stays, as it would with a broker that hangs.
                let silent = self.mute || self.frozen || self.case_struck_here();
                self.ended |= !silent;
            }
            Method::CloseOk(_) => self.ended = true,
            other => self.breach(format!("sent {other:?}")),
        }
    }

    /// Whether the frame that was just counted was swallowed.
    fn case_struck_here(&self) -> bool {
        let books = self.world.books();
        let last = books.sent.last();
        self.world
            .case
            .as_ref()
            .zip(last)
            .is_some_and(|(case, last)| case.strikes(last) && case.fault == Fault::Swallow)
    }

    // === Methods of a channel

    fn on_method(&mut self, id: u16, method: AMQPClass) {
        match method {
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => self.answer(id, "channel.close-ok", |connection| {
                connection.close_channel(id);
                connection.channels.remove(&id);
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
            }),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => self.answer(id, "confirm.select-ok", |connection| {
                connection.channel(id).confirms = true;
                AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
            }),
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => self.on_exchange_declare(id, &declare),
            AMQPClass::Queue(method) => self.on_queue(id, method),
            AMQPClass::Basic(method) => self.on_basic(id, method),
            other => self.breach(format!("sent {other:?}")),
        }
    }

    fn on_exchange_declare(&mut self, id: u16, declare: &exchange::Declare) {
        let name = declare.exchange.to_string();
        if !self.world.books().exchanges.contains_key(&name) {
            return self.send_channel_close(id, 404, &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"));
        }
        self.answer(id, "exchange.declare-ok", |_| {
            AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
        });
    }

    fn on_queue(&mut self, id: u16, method: queue::AMQPMethod) {
        let name = match &method {
            queue::AMQPMethod::Declare(declare) => declare.queue.to_string(),
            queue::AMQPMethod::Purge(purge) => purge.queue.to_string(),
            other => return self.breach(format!("sent {other:?}")),
        };
        let creates = matches!(&method, queue::AMQPMethod::Declare(declare) if !declare.passive);
        if !creates && !self.knows(&name) {
            return self.send_channel_close(id, 404, &format!("NOT_FOUND - no queue '{name}' in vhost '/'"));
        }
        match method {
            queue::AMQPMethod::Declare(declare) => self.answer(id, "queue.declare-ok", |connection| {
                let mut books = connection.world.books();
                if !declare.passive {
                    books.declare(&name, &declare.arguments);
                }
                let message_count = u32::try_from(books.queues[&name].ready.len()).expect("few");
                let queue = declare.queue;
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
                    queue,
                    message_count,
                    consumer_count: 0,
                }))
            }),
            _ => self.answer(id, "queue.purge-ok", |connection| {
                let mut books = connection.world.books();
                let ready = &mut books.queues.get_mut(&name).expect("it is known").ready;
                let message_count = u32::try_from(ready.len()).expect("few");
                ready.clear();
                AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count }))
            }),
        }
    }

    fn knows(&self, queue: &str) -> bool {
        self.world.books().queues.contains_key(queue)
    }

    fn channel(&mut self, id: u16) -> &mut Channel {
        self.channels.get_mut(&id).expect("it is open")
    }

    /// Does what was asked for and says so, unless a fault of this place is to refuse it.
    fn answer(&mut self, id: u16, name: &'static str, act: impl FnOnce(&mut Connection) -> AMQPClass) {
        let fault = self.strike(name);
        if self.refused(id, fault) {
            return;
        }
        let answer = act(self);
        self.put(&AMQPFrame::Method(id, answer), fault);
    }

    /// Counts the frame; the fault, if it strikes here.
    fn strike(&mut self, name: &'static str) -> Option<Fault> {
        let mut books = self.world.books();
        let place = books.count(&self.role, name);
        // A frame that is not sent cannot have a fault.
        if self.mute || self.frozen {
            return None;
        }
        let fault = self.world.case.as_ref().filter(|case| case.strikes(&place)).map(|case| case.fault);
        if fault.is_some() {
            books.struck.get_or_insert_with(Instant::now);
        }
        fault
    }

    /// Sends a refusal in place of an answer.
    fn refused(&mut self, id: u16, fault: Option<Fault>) -> bool {
        match fault {
            Some(Fault::CloseChannel(code)) => self.send_channel_close(id, code, "the double refuses"),
            Some(Fault::CloseConnection(reply_code)) => {
                let reply_text = "the double refuses".into();
                let close = connection::Close { reply_code, reply_text, class_id: 0, method_id: 0 };
                let close = AMQPClass::Connection(connection::AMQPMethod::Close(close));
                self.put(&AMQPFrame::Method(0, close), None);
                self.give_all_back();
                self.closing = true;
            }
            Some(Fault::CancelConsumers) => {
                let consumers = self.channels.get_mut(&id).map(|channel| std::mem::take(&mut channel.consumers));
                for consumer in consumers.into_iter().flatten() {
                    let consumer_tag = consumer.tag.into();
                    let cancel =
                        AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag, nowait: true }));
                    self.put(&AMQPFrame::Method(id, cancel), None);
                }
                // What was asked for is done and answered all the same, but there is nobody to deliver to.
                return self.last_is("basic.deliver");
            }
            _ => return false,
        }
        true
    }

    fn last_is(&self, name: &str) -> bool {
        self.world.books().sent.last().is_some_and(|place| place.frame == name)
    }

    fn send_channel_close(&mut self, id: u16, reply_code: u16, text: &str) {
        let close = channel::Close { reply_code, reply_text: text.into(), class_id: 0, method_id: 0 };
        let close = AMQPClass::Channel(channel::AMQPMethod::Close(close));
        self.put(&AMQPFrame::Method(id, close), None);
        self.close_channel(id);
        self.channels.entry(id).or_default().closing = true;
    }

    /// Takes back what is with the client.
    fn close_channel(&mut self, id: u16) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.consumers.clear();
        let mut books = self.world.books();
        for Out { queue, message, .. } in std::mem::take(&mut channel.out).into_values().rev() {
            books.give_back(&queue, message);
        }
    }

    fn give_all_back(&mut self) {
        let ids: Vec<u16> = self.channels.keys().copied().collect();
        for id in ids {
            self.close_channel(id);
        }
    }

    fn beat(&mut self) {
        let Some((every, last)) = &mut self.beat else { return };
        if last.elapsed() >= *every {
            *last = Instant::now();
            if !self.frozen {
                self.write(&encoded(&AMQPFrame::Heartbeat));
            }
        }
    }

    /// Sends a frame, with its fault.
    fn put(&mut self, frame: &AMQPFrame, fault: Option<Fault>) {
        if self.mute || self.frozen || self.ended {
            return;
        }
        let bytes = encoded(frame);
        match fault {
            Some(Fault::Swallow) => {}
            Some(Fault::Mute) => self.mute = true,
            Some(Fault::Freeze) => self.frozen = true,
            Some(Fault::Late) => {
                std::thread::sleep(LATE);
                self.write(&bytes);
            }
            Some(Fault::Twice) => self.write(&[bytes.clone(), bytes].concat()),
            Some(Fault::Cut(thousandths)) => {
                self.write(&bytes[..bytes.len() * usize::from(thousandths) / 1000]);
                self.ended = true;
            }
            Some(Fault::LoseAck) => {
                self.loses_ack = true;
                self.write(&bytes);
            }
            Some(Fault::Corrupt(corruption)) => self.write(&corrupted(bytes, corruption)),
            _ => self.write(&bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // A client that has gone is seen by the next read.
        let _ = self.socket.write_all(bytes);
    }
}

fn role(connection_name: &str) -> &'static str {
    ["takes", "puts aside", "results of", "publish", "queue"]
        .into_iter()
        .find(|role| connection_name.starts_with(&format!("wq-run {role}")))
        .unwrap_or("nameless")
}

fn encoded(frame: &AMQPFrame) -> Vec<u8> {
    let written = gen_frame(frame)(WriteContext::from(Vec::new())).expect("it goes into memory");
    written.into_inner().0
}

fn corrupted(mut bytes: Vec<u8>, corruption: Corruption) -> Vec<u8> {
    const TYPE: usize = 0;
    const CHANNEL: usize = 2;
    const LENGTH: std::ops::Range<usize> = 3..7;
    let length = (bytes.len() - 8) as u32;
    let mut set_length = |length: u32| bytes[LENGTH].copy_from_slice(&length.to_be_bytes());
    match corruption {
        Corruption::Huge => set_length(0xFFFF_FFF0),
        Corruption::Longer => set_length(length + 64),
        Corruption::Shorter => set_length(length.saturating_sub(1)),
        Corruption::End => *bytes.last_mut().expect("it has an end") = 0,
        Corruption::StrangeChannel => bytes[CHANNEL] += 100,
        Corruption::OtherChannel => bytes[CHANNEL] = u8::from(bytes[CHANNEL] == 0),
        Corruption::UnknownType => bytes[TYPE] = 99,
        Corruption::WrongType => bytes[TYPE] = bytes[TYPE] % 3 + 1,
        Corruption::Nonsense => {
            let last = bytes.len() - 1;
            bytes[LENGTH.end..last].fill(0xFF);
        }
    }
    bytes
}
