//! `--result none`: nowhere. The guest's work is done when it exits.

use std::fmt;

use async_trait::async_trait;

use super::error::Cause;
use super::kind::{Needs, Sink, SinkKind};
use super::record::Record;

pub const KIND: SinkKind = SinkKind {
    name: "none",
    rest: None,
    needs: |_| Ok(Needs::Nothing),
    has_format: false,
    open: |_, _| Box::pin(async { Ok(Box::new(Nowhere) as Box<dyn Sink>) }),
};

#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn write(&self, _record: &Record) -> Result<(), Cause> {
        Ok(())
    }

    fn identifies(&self) -> bool {
        false
    }

    fn discards(&self) -> bool {
        true
    }
}

impl fmt::Display for Nowhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nowhere")
    }
}
