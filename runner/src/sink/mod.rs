//! Where results go. A message is acknowledged only after every sink has taken its result.

pub mod directory;
mod error;
mod format;
pub mod kind;
pub mod kinds;
#[cfg(test)]
pub mod memory;
mod nowhere;
mod queue;
mod record;
mod reply;
mod stdout;

use std::path::Path;
use std::sync::Arc;

pub use error::{Error, Failed};
pub use format::Format;
pub use kind::{Needs, Sink, Spec};
pub use record::{Identity, Record, Run};

use self::kind::Way;
use crate::broker::Outbox;
use crate::task::{Message, Undeliverable};

/// All the sinks of a worker, in the order in which they are written.
#[derive(Debug, Default)]
pub struct Sinks {
    sinks: Vec<Box<dyn Sink>>,
    format: Format,
    outbox: Option<Arc<dyn Outbox>>,
}

/// Looks whether results could be written to a place outside of the broker, and changes nothing there.
///
/// # Errors
/// When they could not.
pub fn look(spec: &Spec) -> Result<(), Error> {
    let looked = if spec.needs == Needs::Place { directory::look(Path::new(&spec.rest)) } else { Ok(()) };
    looked.map_err(|source| Error { to: spec.to_string(), source: source.into() })
}

impl Sinks {
    /// Opens sinks, so that what is wrong with one shows before a message is taken. `outbox` is there if one of them needs
    /// the broker.
    ///
    /// # Errors
    /// When results could not be delivered there.
    pub async fn open(specs: &[Spec], format: Format, outbox: Option<Arc<dyn Outbox>>) -> Result<Sinks, Error> {
        let way = Way(outbox.clone());
        let mut sinks = Vec::new();
        for spec in specs {
            let opened = (spec.kind.open)(spec, way.clone()).await;
            sinks.push(opened.map_err(|source| Error { to: spec.to_string(), source })?);
        }
        Ok(Sinks { sinks, format, outbox })
    }

    #[cfg(test)]
    pub fn of(sinks: Vec<Box<dyn Sink>>) -> Sinks {
        Sinks { sinks, ..Sinks::default() }
    }

    /// What is known before the run: a message whose result has nowhere to go is not worth one.
    pub fn undeliverable(&self, message: &Message) -> Option<Undeliverable> {
        self.sinks.iter().find_map(|sink| sink.undeliverable(message))
    }

    /// Whether a sink makes use of a result's [`Identity`]: it takes a hash of the message, which is more than many a run.
    pub fn identify_results(&self) -> bool {
        self.sinks.iter().any(|sink| sink.identifies())
    }

    /// Whether results say which [`Run`] they come from.
    pub fn tell_of_runs(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether nobody takes results.
    pub fn discard(&self) -> bool {
        self.sinks.iter().all(|sink| sink.discards())
    }

    /// Writes one result to each sink, once. When this returns, it is where it should be.
    ///
    /// # Errors
    /// At the first sink in which the result is not known to be. Those before it have it.
    pub async fn write(&self, record: &Record) -> Result<(), Error> {
        let formatted = self.format.format(record).await;
        for sink in &self.sinks {
            let record = if sink.has_format() { &*formatted } else { record };
            sink.write(record).await.map_err(|source| Error { to: sink.to_string(), source })?;
        }
        Ok(())
    }

    /// Ends what is open.
    pub async fn close(&self) {
        if let Some(outbox) = &self.outbox {
            outbox.close().await;
        }
    }
}
