//! The embedded queue in the table of kinds, and what can be done with one of its files.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::outbox::Outbox;
use super::walk::Walk;
use super::{LEASE, SYSTEM, admin, check};
use crate::broker::adapter::{Adapter, Broker, BrokerKind, Capabilities, Form};
use crate::broker::admin::Admin;
use crate::broker::check::{Findings, Settings};
use crate::broker::error::Error;
use crate::broker::outbox;
use crate::broker::subscription::Options;
use crate::broker::walk;

pub static KIND: BrokerKind = BrokerKind {
    name: "the embedded queue",
    system: SYSTEM,
    forms: &[Form { prefix: "sqlite:", rest: "PATH" }],
    capabilities: Capabilities {
        release_uncounted: true,
        retry_headers: true,
        broker_dead_letters: false,
        exchanges: false,
        reply: true,
        text_only: false,
        // SQLite's longest blob.
        max_message: Some(1_000_000_000),
        lease: Some(LEASE),
        longest_hold: None,
        longest_pause: None,
        longest_delay: None,
        expiration: false,
        most_seen: None,
    },
    queue_types: &[],
    queue_arguments: &[],
    dead_letter_queue: |queue| format!("{queue}.dead"),
    parse,
};

struct File(PathBuf);

fn parse(text: &str) -> Result<Arc<dyn Broker>, String> {
    let path = text.strip_prefix("sqlite:").unwrap_or(text);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err("`sqlite:` needs a path: sqlite:PATH".into());
    }
    Ok(Arc::new(File(path.into())))
}

#[async_trait]
impl Broker for File {
    fn adapter(&self, options: Options) -> Box<dyn Adapter> {
        Box::new(super::Adapter::new(self.0.clone(), options))
    }

    fn admin(&self) -> Box<dyn Admin> {
        Box::new(admin::Admin::new(self.0.clone()))
    }

    fn walk(&self, queue: &str) -> Box<dyn walk::Walk> {
        Box::new(Walk::new(self.0.clone(), queue))
    }

    async fn outbox(&self, options: outbox::Options) -> Result<Arc<dyn outbox::Outbox>, Error> {
        Ok(Arc::new(Outbox::open(self.0.clone(), &options).await?))
    }

    fn is_on_this_host(&self) -> bool {
        true
    }

    async fn check(&self, settings: &Settings) -> Findings {
        check::check(self.0.clone(), settings.clone()).await
    }

    fn hint(&self, error: &Error) -> Option<String> {
        let hint = match error {
            Error::Storage { .. } => {
                "is the disk full, or does it fail? The path comes from --broker (BROKER_URL)".into()
            }
            Error::FileLocked { path, .. } => format!(
                "another program keeps a transaction open; `fuser {path}` lists the processes that have the file open"
            ),
            Error::InaccessibleFile { .. } => {
                "the file and its folder have to be writable for this user; the path comes from --broker (BROKER_URL)"
                    .into()
            }
            Error::ForeignFile { .. } => {
                "is the path right? It comes from --broker (BROKER_URL); `wq-run queue declare` makes a new file".into()
            }
            Error::DamagedFile { path, .. } => format!(
                "keep a copy; `sqlite3 {path} .recover` prints what can be saved of it as SQL. The path comes from --broker \
                 (BROKER_URL)"
            ),
            _ => return None,
        };
        Some(hint)
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.0.display())
    }
}
