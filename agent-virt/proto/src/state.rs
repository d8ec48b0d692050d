//! How a domain is, by libvirt's words (virDomainGetState).

use serde::{Deserialize, Serialize};

/// What libvirt says of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainState {
    /// Does it run?
    pub life: Life,
    /// Its UUID, if libvirt knows it.
    pub uuid: Option<String>,
    /// It is still known when it has ended.
    pub persistent: bool,
    /// The daemon starts it by itself.
    pub autostart: bool,
}

impl DomainState {
    /// Libvirt does not know it.
    #[must_use]
    pub const fn absent() -> DomainState {
        DomainState {
            life: Life::Absent,
            uuid: None,
            persistent: false,
            autostart: false,
        }
    }
}

/// virDomainState, with the reasons that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Libvirt does not know it.
    Absent,
    /// Known, and does not run.
    Off {
        /// The last run ended by a crash of QEMU or failed to start.
        crashed: bool,
    },
    /// Runs (or waits for I/O, which is the same for others).
    Running,
    /// There, and its processors stand still.
    Paused(Paused),
    /// The guest is shutting down.
    ShuttingDown,
    /// The guest has crashed and is kept to be looked at.
    Crashed {
        /// It said so itself, through pvpanic.
        panicked: bool,
    },
    /// Sleeps, by its own wish.
    Asleep,
    /// A state that this version does not know; the number.
    Odd(i32),
}

/// virDomainPausedReason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paused {
    /// No reason is known.
    Unknown,
    /// Somebody asked for it.
    User,
    /// The last moments of a migration, here or there.
    Migration,
    /// Saved, dumped or a snapshot taken: it ends by itself.
    Saving,
    /// A disk has failed it.
    IoError,
    /// Its watchdog has fired.
    Watchdog,
    /// Not begun yet.
    Starting,
    /// Ending.
    Ending,
    /// The guest has crashed.
    Crashed,
    /// Gone over, its memory is being fetched from here.
    PostCopy,
    /// Part of its memory is lost with the other host, for as long as that does not come back.
    PostCopyFailed,
    /// A call of the API failed halfway.
    ApiError,
}

impl Life {
    /// From the two numbers of virDomainGetState.
    #[must_use]
    pub const fn from_libvirt(state: i32, reason: i32) -> Life {
        match state {
            // Blocked is Xen's word for waiting.
            1 | 2 => Life::Running,
            3 => Life::Paused(Paused::from_libvirt(reason)),
            4 => Life::ShuttingDown,
            5 => Life::Off {
                crashed: matches!(reason, 3 | 6),
            },
            6 => Life::Crashed {
                panicked: reason == 1,
            },
            7 => Life::Asleep,
            other => Life::Odd(other),
        }
    }

    /// Is there something that holds memory and disks?
    #[must_use]
    pub const fn is_active(self) -> bool {
        match self {
            Life::Absent | Life::Off { .. } => false,
            Life::Running
            | Life::Paused(_)
            | Life::ShuttingDown
            | Life::Crashed { .. }
            | Life::Asleep
            | Life::Odd(_) => true,
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Life::Absent => "not defined",
            Life::Off { crashed: false } => "off",
            Life::Off { crashed: true } => "off after a crash",
            Life::Running => "running",
            Life::Paused(why) => why.words(),
            Life::ShuttingDown => "shutting down",
            Life::Crashed { panicked: true } => "panicked",
            Life::Crashed { panicked: false } => "crashed",
            Life::Asleep => "asleep by its own wish",
            Life::Odd(_) => "in a state that Heartline does not know",
        }
    }
}

impl Paused {
    const fn from_libvirt(reason: i32) -> Paused {
        match reason {
            1 => Paused::User,
            2 => Paused::Migration,
            // Save, dump, from snapshot, snapshot.
            3 | 4 | 7 | 9 => Paused::Saving,
            5 => Paused::IoError,
            6 => Paused::Watchdog,
            8 => Paused::Ending,
            10 => Paused::Crashed,
            11 => Paused::Starting,
            12 => Paused::PostCopy,
            13 => Paused::PostCopyFailed,
            14 => Paused::ApiError,
            _ => Paused::Unknown,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Paused::Unknown => "paused, nobody says why",
            Paused::User => "paused by somebody",
            Paused::Migration => "paused for a migration",
            Paused::Saving => "paused while it is saved",
            Paused::IoError => "paused on an I/O error",
            Paused::Watchdog => "paused by its watchdog",
            Paused::Starting => "starting",
            Paused::Ending => "ending",
            Paused::Crashed => "paused after a crash of the guest",
            Paused::PostCopy => "migrating, post-copy",
            Paused::PostCopyFailed => "paused: its post-copy migration has failed",
            Paused::ApiError => "paused: a call of libvirt failed halfway",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_libvirt() {
        assert_eq!(Life::from_libvirt(1, 1), Life::Running);
        assert_eq!(Life::from_libvirt(3, 5), Life::Paused(Paused::IoError));
        assert_eq!(Life::from_libvirt(3, 77), Life::Paused(Paused::Unknown));
        assert_eq!(Life::from_libvirt(5, 1), Life::Off { crashed: false });
        assert_eq!(Life::from_libvirt(5, 6), Life::Off { crashed: true });
        assert_eq!(Life::from_libvirt(6, 1), Life::Crashed { panicked: true });
        assert_eq!(Life::from_libvirt(0, 0), Life::Odd(0));
        assert_eq!(Life::from_libvirt(99, 0), Life::Odd(99));
    }

    #[test]
    fn what_is_not_certainly_off_is_active() {
        for state in -1..20 {
            for reason in -1..20 {
                let active = Life::from_libvirt(state, reason).is_active();
                assert_eq!(active, state != 5, "{state} {reason}");
            }
        }
        assert!(!Life::Absent.is_active());
    }
}
