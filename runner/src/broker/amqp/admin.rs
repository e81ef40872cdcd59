//! What `wq-run publish` and `wq-run queue` do on an AMQP broker.

use bytes::Bytes;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use super::connection::{self, queue_error};
use super::publisher::{Publisher, short};
use super::{Url, convert};
use crate::broker::Error;
use crate::broker::admin::{QueueType, Status};
use crate::task::Properties;

pub struct Admin {
    nodes: Vec<Url>,
    publisher: Option<Publisher>,
}

impl Admin {
    pub fn new(nodes: Vec<Url>) -> Admin {
        Admin { nodes, publisher: None }
    }

    pub async fn publish(&mut self, queue: &str, properties: Properties, body: Bytes) -> Result<(), Error> {
        let publisher = match self.publisher.take() {
            Some(publisher) => publisher,
            None => Publisher::connect(&self.nodes, "wq-run publish").await?,
        };
        let publisher = self.publisher.insert(publisher);
        let stamped = Properties { timestamp: properties.timestamp.or_else(|| Some(convert::now())), ..properties };
        let native =
            convert::native(&stamped, FieldTable::default()).map_err(|reason| Error::Unpublished { reason })?;
        publisher.publish(queue, native, &body).await
    }

    pub async fn close(self) -> Result<(), Error> {
        match self.publisher {
            // Everything is confirmed by now.
            Some(publisher) => publisher.close().await.or(Ok(())),
            None => Ok(()),
        }
    }

    pub async fn declare(&self, queue: &str, kind: QueueType) -> Result<(), Error> {
        let (connection, channel) = self.open().await?;
        let mut arguments = FieldTable::default();
        let kind = match kind {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel
            .queue_declare(short(queue)?, QueueDeclareOptions::durable(), arguments)
            .await
            .map_err(|error| queue_error(error, queue, "declare"))?;
        connection::close(&connection).await
    }

    pub async fn status(&self, queue: &str) -> Result<Status, Error> {
        let (connection, channel) = self.open().await?;
        let declared = channel
            .queue_declare(short(queue)?, QueueDeclareOptions::durable().passive(), FieldTable::default())
            .await
            .map_err(|error| queue_error(error, queue, "look at"))?;
        let status = Status {
            ready: declared.message_count().into(),
            workers: Some(declared.consumer_count().into()),
            delayed: None,
            running: None,
        };
        connection::close(&connection).await?;
        Ok(status)
    }

    pub async fn purge(&self, queue: &str) -> Result<u64, Error> {
        let (connection, channel) = self.open().await?;
        let purged = channel
            .queue_purge(short(queue)?, QueuePurgeOptions::default())
            .await
            .map_err(|error| queue_error(error, queue, "purge"))?;
        connection::close(&connection).await?;
        Ok(purged.into())
    }

    async fn open(&self) -> Result<(Connection, Channel), Error> {
        let connection = connection::connect(&self.nodes, "wq-run queue").await?;
        let channel = connection.create_channel().await.map_err(|error| Error::Lost { source: Some(error.into()) })?;
        Ok((connection, channel))
    }
}
