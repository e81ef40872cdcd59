//! Takes messages of SQS for one worker.

use std::sync::Arc;

use async_trait::async_trait;

use super::client::Client;
use super::leases::{Place, Taker};
use super::url::Url;
use crate::broker::adapter;
use crate::broker::error::{Error, Kind};
use crate::broker::leased::{self, Went};
use crate::broker::link::{Ended, Link};
use crate::broker::subscription::Options;

pub struct Adapter {
    url: Url,
    options: Options,
    /// Made by the first session. Its connections and credentials outlive that.
    client: Option<Arc<Client>>,
}

impl Adapter {
    pub fn new(url: Url, options: Options) -> Adapter {
        Adapter { url, options, client: None }
    }
}

#[async_trait]
impl adapter::Adapter for Adapter {
    async fn session(&mut self, link: &mut Link) -> Ended {
        let client = match self.client.take().map_or_else(|| Client::new(&self.url), Ok) {
            Ok(client) => self.client.insert(client).clone(),
            Err(error) => return Ended::Refused(error),
        };
        let place = Place { url: self.url.clone(), client };
        match leased::session::<Taker>(&place, &self.options, link).await {
            Went::Closed => Ended::Closed,
            Went::NotOpened(error) | Went::Failed { error, .. } => ended(error),
        }
    }
}

/// Whether another session may fare better.
fn ended(error: Error) -> Ended {
    match error.kind() {
        Kind::Unreachable | Kind::Lost => Ended::Lost(error),
        Kind::Refused | Kind::Configuration => Ended::Refused(error),
    }
}
