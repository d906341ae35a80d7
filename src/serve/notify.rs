//! What systemd is told: ready, alive, status, stopping. Without systemd nobody listens, and nothing is sent.

use sd_notify::NotifyState;
use std::time::Duration;

/// The status line is told so often where no watchdog asks for more.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The way to systemd.
pub(super) struct Notify {
    every: Duration,
}

impl Notify {
    pub(super) fn new() -> Notify {
        // Twice within the watchdog's time, as sd_watchdog_enabled(3) recommends.
        let every = sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |limit| (limit / 2).min(STATUS_EVERY));
        Notify { every }
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    pub(super) fn alive(&self, status: &str) {
        tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
    }

    /// Comes back when the next word is due.
    pub(super) async fn due(&self) {
        tokio::time::sleep(self.every).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
