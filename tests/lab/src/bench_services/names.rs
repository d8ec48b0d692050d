//! What can be measured, and how it is called: on the command line, in `services.json`, in tables.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// This.
    Heartline,
    /// VRRP with check scripts.
    Keepalived,
    /// Pacemaker on Corosync, without fencing.
    Pacemaker,
}

impl System {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heartline => "heartline",
            Self::Keepalived => "keepalived",
            Self::Pacemaker => "pacemaker",
        }
    }
}

/// How it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Setting {
    /// Heartline as it comes.
    Lan,
    /// keepalived with the shortest interval it takes, and real-time priority.
    #[value(name = "0.01s", alias = "0.01 s")]
    Hundredth,
    /// keepalived as it comes: an advertisement per second.
    #[value(name = "1s", alias = "1 s")]
    Second,
    /// Corosync's token at 0.3 s.
    #[value(name = "token-0.3s", alias = "token 0.3 s")]
    ShortToken,
    /// Corosync's default: 3 s and 0.65 s more for the third node.
    #[value(name = "token-3s", alias = "token 3 s")]
    LongToken,
}

impl Setting {
    /// All of them, in the order of a bench.
    pub const ALL: [Self; 5] = [
        Self::Lan,
        Self::Hundredth,
        Self::Second,
        Self::ShortToken,
        Self::LongToken,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Hundredth => "0.01 s",
            Self::Second => "1 s",
            Self::ShortToken => "token 0.3 s",
            Self::LongToken => "token 3 s",
        }
    }

    /// For people: which tool, which setting.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lan => "Heartline lan",
            Self::Hundredth => "keepalived 0.01 s",
            Self::Second => "keepalived 1 s",
            Self::ShortToken => "Pacemaker 0.3 s",
            Self::LongToken => "Pacemaker 3 s",
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn system(self) -> System {
        match self {
            Self::Lan => System::Heartline,
            Self::Hundredth | Self::Second => System::Keepalived,
            Self::ShortToken | Self::LongToken => System::Pacemaker,
        }
    }

    /// Faults come at a random phase of this: of the checks, or of the messages where these are rarer.
    #[must_use]
    pub const fn phase(self) -> Duration {
        match self.system() {
            System::Heartline => Duration::from_millis(200),
            System::Keepalived | System::Pacemaker => Duration::from_secs(1),
        }
    }

    /// After this a takeover is not waited for any more. A manager that was killed may be back before anybody has
    /// missed it: then there is nothing to wait for.
    #[must_use]
    pub const fn give_up(self, fault: Fault) -> Duration {
        match self {
            Self::Hundredth if matches!(fault, Fault::KillAgent) => Duration::from_secs(5),
            Self::Second | Self::ShortToken if matches!(fault, Fault::KillAgent) => {
                Duration::from_secs(8)
            }
            Self::LongToken if matches!(fault, Fault::KillAgent) => Duration::from_secs(15),
            Self::Lan | Self::Hundredth => Duration::from_secs(15),
            Self::Second => Duration::from_secs(20),
            Self::ShortToken => Duration::from_secs(25),
            Self::LongToken => Duration::from_secs(40),
        }
    }

    /// Labs that are measured side by side: a slow setting sleeps nearly all the time.
    #[must_use]
    pub const fn lanes(self) -> usize {
        match self {
            Self::Lan | Self::Hundredth => 1,
            Self::Second | Self::ShortToken | Self::LongToken => 2,
        }
    }

    /// Roughly, s: one run of a fault, with all that comes before and after it.
    #[must_use]
    pub const fn estimate(self, fault: Fault) -> f64 {
        let reboot = match fault {
            Fault::Reboot => 6.0,
            Fault::Cut
            | Fault::Freeze
            | Fault::KillAgent
            | Fault::KillUnit
            | Fault::Hang
            | Fault::Move => 0.0,
        };
        reboot
            + match self {
                Self::Lan => 6.0,
                Self::Hundredth => 8.0,
                Self::Second => 12.0,
                Self::ShortToken => 12.0,
                Self::LongToken => 18.0,
            }
    }
}

/// What is done to the node that has the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Everything from and to the node is lost; no carrier changes
    Cut,
    /// Every process of the node stands still (cgroup freezer)
    Freeze,
    /// SIGKILL to all processes of the cluster manager
    #[value(name = "agent")]
    KillAgent,
    /// SIGKILL to all processes of the services
    #[value(name = "unit")]
    KillUnit,
    /// SIGSTOP to all processes of the services: they live and answer nobody
    Hang,
    /// A planned change of owner
    Move,
    /// `systemctl reboot`
    Reboot,
}

impl Fault {
    /// All of them, in the order of a bench.
    pub const ALL: [Self; 7] = [
        Self::Cut,
        Self::Freeze,
        Self::KillAgent,
        Self::KillUnit,
        Self::Hang,
        Self::Move,
        Self::Reboot,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "node cut off",
            Self::Freeze => "node frozen",
            Self::KillAgent => "agent killed",
            Self::KillUnit => "unit killed",
            Self::Hang => "service hangs",
            Self::Move => "planned move",
            Self::Reboot => "node rebooted",
        }
    }
}

macro_rules! by_name {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        }
    )*};
}
by_name!(System, Setting, Fault);
