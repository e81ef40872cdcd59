//! From signals to phases: the first one drains, a second one (or the end of the grace period) aborts.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What the worker should be doing. Only ever goes down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Take nothing more, let the guests finish.
    Draining(Signal),
    /// Stop the guests and give their messages back.
    Aborting(Signal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// What a shell reports for a process that this signal ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// The first signal, when it comes.
pub async fn requested(phases: &mut watch::Receiver<Phase>) -> Signal {
    loop {
        if let Phase::Draining(signal) | Phase::Aborting(signal) = *phases.borrow_and_update() {
            return signal;
        }
        if phases.changed().await.is_err() {
            // Nobody watches for signals any more, so none will come.
            std::future::pending().await
        }
    }
}

/// Installs the handlers and starts watching. Also as PID 1, where a signal without a handler does nothing.
///
/// # Errors
/// When the handlers can't be installed.
pub fn watch(grace: Duration) -> std::io::Result<watch::Receiver<Phase>> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminates = signal(SignalKind::terminate())?;
    let (phase_tx, phase_rx) = watch::channel(Phase::Running);
    tokio::spawn(async move {
        let mut next = async move || {
            tokio::select! {
                _ = interrupts.recv() => Signal::Interrupt,
                _ = terminates.recv() => Signal::Terminate,
            }
        };
        let first = next().await;
        tracing::info!(
            "{} received: finishing what runs, for at most {}",
            first.name(),
            humantime::format_duration(grace)
        );
        let _ = phase_tx.send(Phase::Draining(first));
        let last = tokio::select! {
            second = next() => {
                tracing::warn!("{} received again: stopping what runs", second.name());
                second
            }
            () = tokio::time::sleep(grace) => {
                tracing::warn!("guests are still running after {} (--shutdown-timeout): stopping them",
                    humantime::format_duration(grace));
                first
            }
        };
        let _ = phase_tx.send(Phase::Aborting(last));
        // Keeps the channel open: a closed one would look like a change to those who watch it.
        std::future::pending::<()>().await;
    });
    Ok(phase_rx)
}
