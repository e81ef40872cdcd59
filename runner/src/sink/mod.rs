//! Where results go. A message is acknowledged only after every sink has taken its result.

mod stdout;

use std::str::FromStr;

use bytes::Bytes;

/// One result: what a guest wrote to stdout for one message.
#[derive(Clone, Debug)]
pub struct Record {
    pub body: Bytes,
}

/// `--result`: which kind of sink, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// To our own stdout, byte for byte.
    Stdout,
    /// Nowhere: the guest's work is done when it exits.
    None,
}

/// An open sink.
#[derive(Debug)]
pub enum Sink {
    Stdout,
    None,
    /// For the tests of the worker, which look at what was written when.
    #[cfg(test)]
    Memory(std::sync::Arc<std::sync::Mutex<Vec<Bytes>>>),
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write the result to {to}")]
pub struct Error {
    to: &'static str,
    source: std::io::Error,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stdout" => Ok(Spec::Stdout),
            "none" => Ok(Spec::None),
            _ => Err("a result goes to `stdout` or `none`".into()),
        }
    }
}

/// Opens a sink, so that what is wrong with it shows before a message is taken.
pub fn open(spec: &Spec) -> Sink {
    match spec {
        Spec::Stdout => Sink::Stdout,
        Spec::None => Sink::None,
    }
}

impl Sink {
    /// Writes one result. When this returns, the result is where it should be.
    ///
    /// # Errors
    /// When it is not known to be there.
    pub async fn write(&self, record: Record) -> Result<(), Error> {
        match self {
            Sink::Stdout => stdout::write(record.body).await.map_err(|source| Error { to: "stdout", source }),
            Sink::None => Ok(()),
            #[cfg(test)]
            Sink::Memory(written) => {
                written.lock().expect("no test panics here").push(record.body);
                Ok(())
            }
        }
    }
}
