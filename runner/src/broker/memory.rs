//! A broker in memory, for the tests of the worker's loop.

use super::{Ended, Link};

pub(crate) struct Adapter;

impl Adapter {
    pub(crate) async fn session(&mut self, link: &mut Link) -> Ended {
        link.established();
        while link.commands.recv().await.is_some() {}
        Ended::Closed
    }
}
