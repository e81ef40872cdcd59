//! The worker's side of a broker for tests: deliveries with real receipts, and the settlements that come of them.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Command, Delivery, Handed, Link, Notice};
use crate::task::{Message, Origin};

pub(crate) struct Fake {
    link: Link,
    notices: mpsc::UnboundedReceiver<Notice>,
    /// Keeps the channel open, as a subscription does.
    _commands: mpsc::UnboundedSender<Command>,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        let (notices_tx, notices) = mpsc::unbounded_channel();
        let (commands_tx, commands) = mpsc::unbounded_channel();
        let link = Link {
            notices: notices_tx,
            commands_tx: commands_tx.downgrade(),
            commands,
            session: 1,
            established: true,
            cancelled: false,
        };
        Fake { link, notices, _commands: commands_tx }
    }

    pub(crate) fn deliver(&mut self, number: u64) -> Delivery {
        let origin = Origin { delivery_tag: number, ..Origin::default() };
        let handed = Handed { message: Message::default(), origin, attempt: 1, unfinished: 0 };
        self.link.deliver(self.link.tag(number), CancellationToken::new(), handed);
        match self.notices.try_recv() {
            Ok(Notice::Delivery(delivery)) => delivery,
            other => panic!("a delivery was sent, and not {other:?}"),
        }
    }

    /// What has been settled since the last call: the delivery's number, and how.
    pub(crate) fn settled(&mut self) -> Vec<(u64, &'static str)> {
        let mut settled = Vec::new();
        while let Ok(command) = self.link.commands.try_recv() {
            if let Command::Settle { tag, settlement, .. } = command {
                settled.push((tag.number, settlement.name()));
            }
        }
        settled
    }
}
