//! The loop of all brokers with leases, which hand a message out again if they hear nothing more of it for a while.
//!
//! An adapter implements [`Leases`], the calls to its broker; the loop decides when they are made. All calls go on beside the
//! loop, so that none holds up another: a take that waits, a settlement that hangs, a renewal.
//!
//! Where other workers may reach the broker while we can't ([`Leases::REMOTE`]), a delivery is lost by our own clock before its
//! lease can have ended. A broker on this host is different: what keeps us from a file keeps all workers from it. There a lease
//! that ran out stays ours until another worker takes the message, and the next renewal or settlement tells.

mod gather;
#[cfg(any(feature = "redis", feature = "sqs"))]
mod kept;
mod leases;
mod session;
mod settling;
#[cfg(test)]
mod tests;

#[cfg(any(feature = "redis", feature = "sqs"))]
pub use kept::{Holder, Keeping, Kept};
pub use leases::Held;
pub(crate) use leases::{Leases, Renewed, Taken, Terms};

pub(crate) use self::session::came_too_late;
use self::session::{CLOSE_WITHIN, Session};
use super::error::Error;
use super::link::Link;
use super::subscription::Options;

/// How a session went.
pub(crate) enum Went {
    Closed,
    NotOpened(Error),
    /// `worked` says whether the broker had done anything for us before.
    Failed {
        error: Error,
        worked: bool,
    },
}

/// One session, from opening the broker to its end.
pub(crate) async fn session<L: Leases>(place: &L::Place, options: &Options, link: &mut Link) -> Went {
    // A file is there at once, and has to be the one that its path names when work begins. A connection takes as long to make
    // as a guest to load.
    if !L::REMOTE && link.begin().await.is_closed() {
        return Went::Closed;
    }
    let leases = match link.while_disconnected(L::open(place, options)).await {
        Some(Ok(leases)) => leases,
        Some(Err(error)) => return Went::NotOpened(error),
        None => return Went::Closed,
    };
    if L::REMOTE && link.begin().await.is_closed() {
        let _ = tokio::time::timeout(CLOSE_WITHIN, leases.close()).await;
        return Went::Closed;
    }
    let mut session = Session::new(leases, options.clone(), link.wanted());
    link.established();
    match session.run(link).await {
        Ok(()) => Went::Closed,
        Err(error) => Went::Failed { error, worked: session.fail().await },
    }
}
