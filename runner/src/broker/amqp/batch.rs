//! Many messages for one queue: published in their order over one channel, without a wait between them, and confirmed together.
//!
//! lapin hands a returned message to whichever confirm of its channel completes next. So nothing of a batch is believed before
//! all of it is answered, and a batch of which anything came back is confirmed nowhere.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation};

use super::publisher::{
    Deadline, NEW_QUEUE_PAUSE, NEW_QUEUE_PAUSE_MAX, Publisher, confirmed, frame_max, name, refused,
};
use super::{delays, size};
use crate::broker::admin::Confirmed;
use crate::broker::{Address, Error};
use crate::causes::chain;
use crate::fault::{self, Point};

/// A message for a queue.
pub type Item = (BasicProperties, Bytes);

impl Publisher {
    /// Publishes messages into a queue, and returns when the broker has answered for all of them.
    pub async fn publish_all(&self, queue: &str, items: Vec<Item>, deadline: Deadline) -> Confirmed {
        let to = Address::Queue(queue.to_owned());
        let mut answers: Vec<Option<Result<Confirmation, lapin::Error>>> = items.iter().map(|_| None).collect();
        let publishing = self.by(deadline, self.publish_side_by_side(&to, &items, &mut answers));
        let unanswered = publishing.await.err();
        let came_back = |answer: &Option<Result<Confirmation, lapin::Error>>| {
            matches!(answer, Some(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))))
        };
        if let Some(Some(Ok(answer))) = answers.iter().find(|answer| came_back(answer))
            && let Err(error) = confirmed(&to, answer)
        {
            return Confirmed::none(items.len(), error);
        }
        let mut all = Confirmed::default();
        for answer in answers {
            all.push(match answer {
                Some(Ok(answer)) => confirmed(&to, &answer),
                Some(Err(error)) => Err(refused(&to, error, self.usable())),
                None => Err(Error::Lost { source: None }),
            });
        }
        // This is the cause of the missing answers, so it replaces the errors that stand for them.
        if let Some(error) = unanswered {
            all.failed = Some(error);
        }
        all
    }

    /// Publishes messages that come into a queue after a pause.
    pub async fn publish_all_delayed(
        &self,
        queue: &str,
        pause: Duration,
        items: Vec<Item>,
        deadline: Deadline,
    ) -> Confirmed {
        let count = items.len();
        let preparing = async {
            // What expires in a delay queue has no other way.
            self.look_for(&Address::Queue(queue.to_owned())).await?;
            self.make_delay_queue(queue, pause).await
        };
        let life = match self.by(deadline, preparing).await {
            Ok(life) => life,
            Err(error) => return Confirmed::none(count, error),
        };
        let expiration = pause.min(Duration::from_secs(life)).as_millis().to_string();
        let expiration = ShortString::from(expiration.as_str());
        let expiring = |(properties, body): Item| (properties.with_expiration(expiration.clone()), body);
        let items: Vec<Item> = items.into_iter().map(expiring).collect();
        let delay_queue = delays::name(queue, life);
        let mut pause = NEW_QUEUE_PAUSE;
        loop {
            let confirmed = self.publish_all(&delay_queue, items.clone(), deadline).await;
            match &confirmed.failed {
                // Made a moment ago, it may have no leader yet.
                Some(Error::Rejected { .. })
                    if confirmed.each.iter().all(|one| !one) && pause < NEW_QUEUE_PAUSE_MAX =>
                {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                // Deleted since it was declared.
                Some(error @ Error::MissingQueue { .. }) => {
                    return Confirmed::none(count, Error::Unpublished { reason: chain(error) });
                }
                _ => return confirmed,
            }
        }
    }

    async fn publish_side_by_side(
        &self,
        to: &Address,
        items: &[Item],
        answers: &mut [Option<Result<Confirmation, lapin::Error>>],
    ) -> Result<(), Error> {
        let limit = frame_max(self.connection());
        if items.iter().any(|(properties, _)| size::content_header(properties) > limit) {
            // It would take the connection with it.
            return Err(Error::TooLarge { reason: format!("its headers do not fit into a frame of {limit} bytes") });
        }
        let channel = self.channel().await?;
        let (_, key) = to.parts();
        let key = name(key)?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        // Each is handed to the connection when it is first polled, which happens in their order.
        let sending = items
            .iter()
            .map(|(properties, body)| channel.basic_publish("".into(), key.clone(), options, body, properties.clone()));
        let sent = join_all(sending).await;
        fault::reach(Point::Published);
        for (answer, sent) in answers.iter_mut().zip(sent) {
            *answer = Some(match sent {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            });
        }
        fault::reach(Point::Confirmed);
        self.put_back(channel);
        Ok(())
    }
}
