//! Talking to systemd: READY, STOPPING, RELOADING, STATUS and the watchdog.
//!
//! Messages go through a short queue to a thread of their own, because the socket blocks when systemd is slow
//! and nothing in the agent may wait for that. Without a service manager all of this does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// Messages that may wait.
const QUEUE: usize = 16;

/// A line to the service manager. Cheap to clone; no method blocks (but [`Notifier::flush`], by its limit).
#[derive(Clone, Debug)]
pub struct Notifier {
    queue: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Ready(String),
    Reloading,
    Stopping(String),
    Status(String),
    Watchdog,
    ExtendTimeout(Duration),
    Flush(SyncSender<()>),
}

impl Notifier {
    /// Connects to the service manager named by `NOTIFY_SOCKET`, if there is one.
    pub fn start() -> Self {
        let dropped = Arc::new(AtomicU64::new(0));
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self {
                queue: None,
                dropped,
            };
        }
        let (queue, messages) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sd-notify".to_owned())
            .spawn(move || deliver(&messages));
        match thread {
            Ok(_) => Self {
                queue: Some(queue),
                dropped,
            },
            Err(error) => {
                warn!(%error, "no thread for messages to systemd");
                Self {
                    queue: None,
                    dropped,
                }
            }
        }
    }

    /// The agent takes part, and the text says how (also at the end of a reload).
    pub fn ready(&self, status: impl Into<String>) {
        self.send(Message::Ready(status.into()));
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        self.send(Message::Reloading);
    }

    /// The agent hands over and ends.
    pub fn stopping(&self, status: impl Into<String>) {
        self.send(Message::Stopping(status.into()));
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: impl Into<String>) {
        self.send(Message::Status(status.into()));
    }

    /// A sign of life. To be called only when the real-time thread has just shown one.
    pub fn watchdog(&self) {
        self.send(Message::Watchdog);
    }

    /// Starting, reloading or stopping goes on: the service manager shall wait so much longer.
    pub fn extend_timeout(&self, by: Duration) {
        self.send(Message::ExtendTimeout(by));
    }

    /// Waits until all messages are delivered, at most so long. Returns whether they are.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = &self.queue else {
            return true;
        };
        let (done, wait) = sync_channel(1);
        queue.try_send(Message::Flush(done)).is_ok()
            && wait.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
    }

    /// How many messages were dropped because systemd did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How often [`Notifier::watchdog`] is to be called: half of what systemd demands. `None` without watchdog.
    pub fn watchdog_interval() -> Option<Duration> {
        let mut usec = 0;
        // The environment stays as it is: a restarted agent in the same process needs it.
        let enabled = sd_notify::watchdog_enabled(false, &mut usec);
        (enabled && usec > 1).then(|| Duration::from_micros(usec / 2))
    }

    fn send(&self, message: Message) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn deliver(messages: &Receiver<Message>) {
    while let Ok(message) = messages.recv() {
        let sent = match &message {
            Message::Ready(status) => sd_notify::notify(
                false,
                &[NotifyState::Ready, NotifyState::Status(&one_line(status))],
            ),
            Message::Reloading => NotifyState::monotonic_usec_now()
                .and_then(|now| sd_notify::notify(false, &[NotifyState::Reloading, now])),
            Message::Stopping(status) => sd_notify::notify(
                false,
                &[
                    NotifyState::Stopping,
                    NotifyState::Status(&one_line(status)),
                ],
            ),
            Message::Status(status) => {
                sd_notify::notify(false, &[NotifyState::Status(&one_line(status))])
            }
            Message::Watchdog => sd_notify::notify(false, &[NotifyState::Watchdog]),
            Message::ExtendTimeout(by) => {
                let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
                sd_notify::notify(false, &[NotifyState::ExtendTimeoutUsec(usec)])
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
                Ok(())
            }
        };
        if let Err(error) = sent {
            debug!(%error, "systemd did not take a message");
        }
    }
}

/// A newline would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_service_manager_nothing_happens() {
        let notifier = Notifier {
            queue: None,
            dropped: Arc::default(),
        };
        notifier.ready("up");
        notifier.watchdog();
        assert!(notifier.flush(Duration::ZERO));
        assert_eq!(notifier.dropped(), 0);
    }

    #[test]
    fn a_manager_that_takes_nothing_blocks_nobody() {
        let (queue, _kept) = sync_channel(2);
        let notifier = Notifier {
            queue: Some(queue),
            dropped: Arc::default(),
        };
        for _ in 0..5 {
            notifier.watchdog();
        }
        assert_eq!(notifier.dropped(), 3);
        assert!(!notifier.flush(Duration::ZERO));
    }

    #[test]
    fn a_status_cannot_carry_another_assignment() {
        assert_eq!(one_line("a\nMAINPID=1\r"), "a MAINPID=1 ");
    }

    /// Speaks to the socket named by the environment, which a test must not change in its own process.
    #[test]
    #[ignore = "run in a child process by `systemd_hears_everything_in_order`"]
    fn speaks() {
        let notifier = Notifier::start();
        assert_eq!(Notifier::watchdog_interval(), Some(Duration::from_secs(1)));
        notifier.ready("three nodes");
        notifier.watchdog();
        notifier.extend_timeout(Duration::from_secs(2));
        notifier.stopping("handing over");
        assert!(notifier.flush(Duration::from_secs(30)));
        assert_eq!(notifier.dropped(), 0);
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test has its runner's deadline"
    )]
    #[test]
    fn systemd_hears_everything_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        // As systemd does, name the process that shall feed the watchdog.
        let child = std::process::Command::new("sh")
            .args([
                "-c",
                r#"WATCHDOG_PID=$$ exec "$0" --exact service::tests::speaks --ignored"#,
            ])
            .arg(std::env::current_exe().unwrap())
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000")
            .output()
            .unwrap();
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stdout)
        );
        systemd.set_nonblocking(true).unwrap();
        let mut heard = String::new();
        let mut message = [0; 256];
        while let Ok(length) = systemd.recv(&mut message) {
            heard.push_str(std::str::from_utf8(&message[..length]).unwrap());
        }
        assert_eq!(
            heard,
            "READY=1\nSTATUS=three nodes\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=2000000\nSTOPPING=1\nSTATUS=handing over\n"
        );
    }
}
