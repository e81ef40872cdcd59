//! Messages on a connection of the double: published, handed over, settled.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, basic};

use super::{BASIC, Connection, Consumer, Incoming, Out};
use crate::double::books::Message;
use crate::double::fault::Fault;

#[derive(Clone, Copy, Debug)]
enum Settled {
    Acked,
    Dropped,
    GivenBack,
}

impl Connection {
    pub(super) fn on_basic(&mut self, id: u16, method: basic::AMQPMethod) {
        use basic::AMQPMethod as Method;
        match method {
            Method::Qos(qos) => self.answer(id, "basic.qos-ok", |connection| {
                connection.channel(id).prefetch = qos.prefetch_count;
                AMQPClass::Basic(Method::QosOk(basic::QosOk {}))
            }),
            Method::Consume(consume) => {
                let queue = consume.queue.to_string();
                if !self.knows(&queue) {
                    return self.send_channel_close(id, 404, &format!("NOT_FOUND - no queue '{queue}' in vhost '/'"));
                }
                self.answer(id, "basic.consume-ok", |connection| {
                    connection.consumers += 1;
                    let tag = format!("consumer-{}", connection.consumers);
                    let channel = connection.channel(id);
                    let prefetch = channel.prefetch;
                    channel.consumers.push(Consumer { tag: tag.clone(), queue, prefetch });
                    AMQPClass::Basic(Method::ConsumeOk(basic::ConsumeOk { consumer_tag: tag.into() }))
                });
            }
            Method::Cancel(cancel) => self.answer(id, "basic.cancel-ok", |connection| {
                let tag = cancel.consumer_tag.to_string();
                connection.channel(id).consumers.retain(|consumer| consumer.tag != tag);
                AMQPClass::Basic(Method::CancelOk(basic::CancelOk { consumer_tag: cancel.consumer_tag }))
            }),
            Method::Get(get) => self.on_get(id, &get.queue.to_string()),
            Method::Publish(publish) => {
                self.channel(id).incoming = Some(Incoming { publish, header: None, body: Vec::new() });
            }
            Method::Ack(ack) => self.settle(id, ack.delivery_tag, ack.multiple, Settled::Acked),
            Method::Nack(nack) => {
                let how = if nack.requeue { Settled::GivenBack } else { Settled::Dropped };
                self.settle(id, nack.delivery_tag, nack.multiple, how);
            }
            Method::Reject(reject) => {
                let how = if reject.requeue { Settled::GivenBack } else { Settled::Dropped };
                self.settle(id, reject.delivery_tag, false, how);
            }
            other => self.breach(format!("sent {other:?}")),
        }
    }

    fn settle(&mut self, id: u16, tag: u64, multiple: bool, how: Settled) {
        if self.loses_ack && matches!(how, Settled::Acked) {
            self.ended = true;
            return;
        }
        let out = &mut self.channel(id).out;
        let settled: Vec<Out> = if multiple {
            let rest = out.split_off(&(tag + 1));
            std::mem::replace(out, rest).into_values().collect()
        } else {
            out.remove(&tag).into_iter().collect()
        };
        if settled.is_empty() {
            self.breach(format!("{how:?} of tag {tag}, which is unknown or was settled before"));
            return self.send_channel_close(id, 406, &format!("PRECONDITION_FAILED - unknown delivery tag {tag}"));
        }
        let mut books = self.world.books();
        for Out { queue, message, .. } in settled.into_iter().rev() {
            match how {
                Settled::Acked => books.forget(&queue, message, true),
                Settled::Dropped => books.forget(&queue, message, false),
                Settled::GivenBack => books.give_back(&queue, message),
            }
        }
    }

    // === Messages to the client

    fn on_get(&mut self, id: u16, queue: &str) {
        if !self.knows(queue) {
            return self.send_channel_close(id, 404, &format!("NOT_FOUND - no queue '{queue}' in vhost '/'"));
        }
        if self.world.books().queues[queue].ready.is_empty() {
            return self
                .answer(id, "basic.get-empty", |_| AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})));
        }
        let fault = self.strike("basic.get-ok");
        if self.refused(id, fault) {
            return;
        }
        let (delivery_tag, message) = self.hand_over(id, queue, "");
        let method = basic::AMQPMethod::GetOk(basic::GetOk {
            delivery_tag,
            redelivered: message.redelivered,
            exchange: "".into(),
            routing_key: queue.into(),
            message_count: 0,
        });
        self.put(&AMQPFrame::Method(id, AMQPClass::Basic(method)), fault);
        self.put_content(id, ["basic.get-ok.header", "basic.get-ok.body"], message);
    }

    pub(super) fn deliver(&mut self) {
        self.world.books().expire();
        let ids: Vec<u16> = self.channels.keys().copied().collect();
        for id in ids {
            while let Some((consumer_tag, queue)) = self.next_for(id) {
                let fault = self.strike("basic.deliver");
                if self.refused(id, fault) {
                    break;
                }
                let (delivery_tag, message) = self.hand_over(id, &queue, &consumer_tag);
                let method = basic::AMQPMethod::Deliver(basic::Deliver {
                    consumer_tag: consumer_tag.into(),
                    delivery_tag,
                    redelivered: message.redelivered,
                    exchange: "".into(),
                    routing_key: queue.into(),
                });
                self.put(&AMQPFrame::Method(id, AMQPClass::Basic(method)), fault);
                self.put_content(id, ["basic.deliver.header", "basic.deliver.body"], message);
            }
        }
    }

    /// A consumer with room, and its queue with a message.
    fn next_for(&self, id: u16) -> Option<(String, String)> {
        if self.closing || self.ended {
            return None;
        }
        let channel = self.channels.get(&id)?;
        let books = self.world.books();
        let wants = |consumer: &&Consumer| {
            let with_it = channel.out.values().filter(|out| out.consumer == consumer.tag).count();
            let room = consumer.prefetch == 0 || with_it < usize::from(consumer.prefetch);
            room && !books.queues[&consumer.queue].ready.is_empty()
        };
        let consumer = channel.consumers.iter().filter(|_| !channel.closing).find(wants)?;
        Some((consumer.tag.clone(), consumer.queue.clone()))
    }

    fn hand_over(&mut self, id: u16, queue: &str, consumer: &str) -> (u64, Message) {
        let message = self.world.books().take(queue).expect("it was looked at before");
        let channel = self.channel(id);
        channel.last_tag += 1;
        let tag = channel.last_tag;
        let out = Out { queue: queue.to_owned(), consumer: consumer.to_owned(), message: message.clone() };
        channel.out.insert(tag, out);
        (tag, message)
    }

    fn put_content(&mut self, id: u16, [header_name, body_name]: [&'static str; 2], message: Message) {
        let body_size = message.body.len() as u64;
        let header = AMQPContentHeader { class_id: BASIC, body_size, properties: message.properties };
        let frames = [(header_name, AMQPFrame::Header(id, header)), (body_name, AMQPFrame::Body(id, message.body))];
        for (name, frame) in frames {
            if self.ended || self.closing || self.channels.get(&id).is_none_or(|channel| channel.closing) {
                return;
            }
            let fault = self.strike(name);
            if self.refused(id, fault) {
                return;
            }
            self.put(&frame, fault);
        }
    }

    // === Messages from the client

    pub(super) fn on_header(&mut self, id: u16, header: AMQPContentHeader) {
        let Some(incoming) = &mut self.channel(id).incoming else {
            return self.breach("sent a header without a message");
        };
        let is_empty = header.body_size == 0;
        incoming.header = Some(header);
        if is_empty {
            self.on_published(id);
        }
    }

    pub(super) fn on_body(&mut self, id: u16, part: &[u8]) {
        let Some(Incoming { header: Some(header), body, .. }) = &mut self.channel(id).incoming else {
            return self.breach("sent a body without a header");
        };
        body.extend_from_slice(part);
        if body.len() as u64 >= header.body_size {
            self.on_published(id);
        }
    }

    fn on_published(&mut self, id: u16) {
        let channel = self.channel(id);
        let Some(Incoming { publish, header: Some(header), body }) = channel.incoming.take() else { return };
        channel.published += 1;
        let (delivery_tag, confirms) = (channel.published, channel.confirms);
        if !confirms {
            return self.breach("published without confirms");
        }
        let fault = self.strike("basic.ack");
        let returned = |reply_code| basic::Return {
            reply_code,
            reply_text: "NO_ROUTE".into(),
            exchange: publish.exchange.clone(),
            routing_key: publish.routing_key.clone(),
        };
        let put_returned = |connection: &mut Connection, reply_code| {
            let method = basic::AMQPMethod::Return(returned(reply_code));
            connection.put(&AMQPFrame::Method(id, AMQPClass::Basic(method)), None);
            connection.put(&AMQPFrame::Header(id, header.clone()), None);
            if !body.is_empty() {
                connection.put(&AMQPFrame::Body(id, body.clone()), None);
            }
        };
        let ack = AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple: false }));
        match fault {
            Some(Fault::Return(code)) => put_returned(self, code),
            Some(Fault::Nack) => {
                let nack = basic::Nack { delivery_tag, multiple: false, requeue: false };
                let nack = AMQPClass::Basic(basic::AMQPMethod::Nack(nack));
                return self.put(&AMQPFrame::Method(id, nack), None);
            }
            fault if self.refused(id, fault) => return,
            fault => {
                let case = self.world.case.as_ref();
                let confirmed =
                    !fault.is_some_and(|fault| !matches!(fault, Fault::Late | Fault::Twice | Fault::Cut(1000)));
                let stored = confirmed || case.is_some_and(|case| case.stores_unconfirmed());
                let (exchange, key) = (publish.exchange.to_string(), publish.routing_key.to_string());
                let routed =
                    !stored || self.world.books().publish(&exchange, &key, body.clone(), header.properties.clone());
                if !routed && publish.mandatory {
                    put_returned(self, 312);
                }
            }
        }
        let fault = fault.filter(|fault| !fault.refuses());
        self.put(&AMQPFrame::Method(id, ack), fault);
    }

    // === Answers and faults
}
