//! A sink for the tests of the worker, which look at what was written when.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::error::Cause;
use super::kind::Sink;
use super::record::Record;

#[derive(Debug)]
pub struct Memory(pub Arc<Mutex<Vec<Bytes>>>);

#[async_trait]
impl Sink for Memory {
    async fn write(&self, record: &Record) -> Result<(), Cause> {
        self.0.lock().expect("no test panics here").push(record.body.clone());
        Ok(())
    }

    fn identifies(&self) -> bool {
        false
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}
