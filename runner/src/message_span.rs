//! The span that names a message in the log, made when an event needs it.
//!
//! Everything that is logged about a message is logged within its span. Most messages have no event that is logged, and
//! creating a span with its text takes a considerable part of the CPU time of a short message. So code that works on a message
//! only notes the message for its thread, and the first event on that thread creates the span and enters it.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tracing::span::EnteredSpan;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer;

use crate::task::{Message, Origin};

/// The target of message spans. Filters always keep it, because an event about a message has to name the message at each level.
const TARGET: &str = "wq_run::message";
pub const KEEP: &str = "wq_run::message=error";

/// Names a message in all events that are logged within it.
#[derive(Clone, Debug, Default)]
pub struct MessageSpan(Option<Arc<Named>>);

#[derive(Debug)]
struct Named {
    queue: String,
    message_id: Option<String>,
    delivery_tag: u64,
    attempt: u32,
    redelivered: bool,
    trace_id: OnceLock<String>,
    span: OnceLock<tracing::Span>,
}

/// As long as this exists, events of its thread are within the span.
#[must_use]
pub struct Entered {
    is_noted: bool,
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

pin_project! {
    /// A future that is polled and dropped within a span.
    pub struct Within<F> {
        span: MessageSpan,
        // `None` once it is dropped.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Within<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.span.enter();
            this.future.set(None);
        }
    }
}

/// Makes the span of a message for its first event. Has to come before the layer that writes events.
pub struct OnDemand;

struct Noted {
    span: MessageSpan,
    entered: Option<EnteredSpan>,
}

thread_local! {
    /// The spans that this thread is within, the innermost last.
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
}

/// Whether spans are made when they are entered. A filter that names a span needs it before there is an event.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Makes spans when they are entered, for a `RUST_LOG` that names a span, such as `[message{attempt=2}]=debug`.
pub fn make_at_once() {
    AT_ONCE.store(true, Ordering::Relaxed);
}

// === impl MessageSpan ===

impl MessageSpan {
    pub fn new(message: &Message, origin: &Origin, attempt: u32) -> MessageSpan {
        MessageSpan(Some(Arc::new(Named {
            queue: origin.queue.clone(),
            message_id: message.properties.message_id.clone(),
            delivery_tag: origin.delivery_tag,
            attempt,
            redelivered: origin.redelivered,
            trace_id: OnceLock::new(),
            span: OnceLock::new(),
        })))
    }

    /// The innermost span of this thread; that of no message if there is none.
    pub fn current() -> MessageSpan {
        let current = NOTED.try_with(|noted| noted.try_borrow().ok()?.last().map(|noted| noted.span.clone()));
        current.ok().flatten().unwrap_or_default()
    }

    /// Adds the trace to which the message belongs.
    pub fn belongs_to(&self, trace_id: &str) {
        let Some(named) = &self.0 else { return };
        let _ = named.trace_id.set(trace_id.to_owned());
        if let Some(span) = named.span.get() {
            span.record("trace_id", trace_id);
        }
    }

    pub fn enter(&self) -> Entered {
        let Some(named) = &self.0 else { return Entered::not_noted() };
        let entered = AT_ONCE.load(Ordering::Relaxed).then(|| named.span().clone().entered());
        let note = |noted: &RefCell<Vec<Noted>>| {
            let Ok(mut noted) = noted.try_borrow_mut() else { return false };
            noted.push(Noted { span: self.clone(), entered });
            true
        };
        // A thread that ends has no place for it any more.
        match NOTED.try_with(note) {
            Ok(true) => Entered { is_noted: true, _not_send: PhantomData },
            Ok(false) | Err(_) => Entered::not_noted(),
        }
    }

    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.enter();
        work()
    }

    /// The future, within this span.
    pub fn around<F: Future>(self, future: F) -> Within<F> {
        Within { span: self, future: Some(future) }
    }
}

impl Named {
    fn span(&self) -> &tracing::Span {
        self.span.get_or_init(|| {
            tracing::error_span!(
                target: TARGET,
                "message",
                queue = self.queue,
                message.id = self.message_id.as_deref(),
                delivery.tag = self.delivery_tag,
                attempt = self.attempt,
                redelivered = self.redelivered,
                trace_id = self.trace_id.get().map(String::as_str),
            )
        })
    }
}

// === impl Entered ===

impl Entered {
    fn not_noted() -> Entered {
        Entered { is_noted: false, _not_send: PhantomData }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.is_noted {
            let left = NOTED.try_with(|noted| noted.try_borrow_mut().ok()?.pop());
            // Out of the borrow: to leave a span calls the subscriber.
            drop(left);
        }
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        match this.future.as_pin_mut() {
            Some(future) => future.poll(context),
            None => Poll::Pending,
        }
    }
}

// === impl OnDemand ===

impl<S: Subscriber> Layer<S> for OnDemand {
    fn on_event(&self, _: &Event<'_>, _: layer::Context<'_, S>) {
        let missing = |noted: &RefCell<Vec<Noted>>| {
            let noted = noted.try_borrow().ok()?;
            noted.last().filter(|noted| noted.entered.is_none())?.span.0.clone()
        };
        let Ok(Some(named)) = NOTED.try_with(missing) else { return };
        // Out of the borrow: to make and enter a span calls the subscriber.
        let entered = named.span().clone().entered();
        let _ = NOTED.try_with(|noted| {
            if let Ok(mut noted) = noted.try_borrow_mut()
                && let Some(noted) = noted.last_mut()
            {
                noted.entered = Some(entered);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(tag: u64) -> MessageSpan {
        MessageSpan::new(&Message::default(), &Origin { delivery_tag: tag, ..Origin::default() }, 1)
    }

    fn current() -> Option<u64> {
        MessageSpan::current().0.map(|named| named.delivery_tag)
    }

    #[test]
    fn a_thread_is_at_the_message_that_was_entered_last() {
        assert_eq!(current(), None);
        span(1).in_scope(|| {
            span(2).in_scope(|| assert_eq!(current(), Some(2)));
            MessageSpan::default().in_scope(|| assert_eq!(current(), Some(1), "one of no message changes nothing"));
        });
        assert_eq!(current(), None);
    }

    #[test]
    fn a_future_is_within_its_span_when_it_is_polled_and_when_it_is_dropped() {
        struct Sees<'a>(&'a RefCell<Vec<Option<u64>>>);
        impl Drop for Sees<'_> {
            fn drop(&mut self) {
                self.0.borrow_mut().push(current());
            }
        }
        let seen = RefCell::new(Vec::new());
        let sees = Sees(&seen);
        let mut within = Box::pin(span(7).around(async move {
            let sees = sees;
            sees.0.borrow_mut().push(current());
            std::future::pending::<()>().await;
        }));
        let waits = within.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending();
        assert!(waits && current().is_none());
        drop(within);
        assert_eq!(*seen.borrow(), [Some(7), Some(7)]);
    }

    #[test]
    fn no_event_no_span() {
        let span = span(1);
        span.in_scope(|| ());
        assert!(span.0.is_some_and(|named| named.span.get().is_none()));
    }
}
