//! What can be measured, and how it is called: on the command line, in `failover.json`, in tables.

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// This.
    Heartline,
    /// What people use today.
    Keepalived,
}

impl System {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heartline => "heartline",
            Self::Keepalived => "keepalived",
        }
    }
}

/// How it is set up: a profile of Heartline, or keepalived's interval between advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Setting {
    /// 12 ms heartbeats; the default.
    Lan,
    /// 1 ms heartbeats.
    Fast,
    /// keepalived's default.
    #[value(name = "1s", alias = "1 s")]
    Second,
    /// A tenth of it.
    #[value(name = "0.1s", alias = "0.1 s")]
    Tenth,
    /// The least it takes.
    #[value(name = "0.01s", alias = "0.01 s")]
    Hundredth,
}

impl Setting {
    /// All of them, in the order of a bench.
    pub const ALL: [Self; 5] = [
        Self::Lan,
        Self::Fast,
        Self::Hundredth,
        Self::Tenth,
        Self::Second,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Fast => "fast",
            Self::Second => "1 s",
            Self::Tenth => "0.1 s",
            Self::Hundredth => "0.01 s",
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn system(self) -> System {
        match self {
            Self::Lan | Self::Fast => System::Heartline,
            Self::Second | Self::Tenth | Self::Hundredth => System::Keepalived,
        }
    }

    /// Clock tick, ms: faults come at a random phase of it.
    #[must_use]
    pub const fn interval_ms(self) -> u64 {
        match self {
            Self::Fast => 1,
            Self::Lan | Self::Hundredth => 10,
            Self::Tenth => 100,
            Self::Second => 1000,
        }
    }

    /// Labs that are measured side by side: a slow setting sleeps nearly all the time.
    #[must_use]
    pub const fn lanes(self) -> usize {
        match self {
            Self::Lan | Self::Fast | Self::Hundredth => 1,
            Self::Tenth => 2,
            Self::Second => 4,
        }
    }
}

/// What is done to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Everything from and to the node is lost; no carrier changes
    #[value(alias = "silent cut")]
    SilentCut,
    /// SIGSTOP to its processes
    Sigstop,
    /// SIGKILL to its processes
    Sigkill,
    /// Owner and standbys do not hear each other; clients hear all
    Partition,
    /// A planned change of owner
    Move,
    /// 60 s of stress-ng, and no fault at all
    Load,
    /// A silent cut is mended
    Heal,
}

impl Fault {
    /// All of them, in the order of a bench.
    pub const ALL: [Self; 7] = [
        Self::SilentCut,
        Self::Heal,
        Self::Sigstop,
        Self::Sigkill,
        Self::Partition,
        Self::Move,
        Self::Load,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SilentCut => "silent cut",
            Self::Sigstop => "sigstop",
            Self::Sigkill => "sigkill",
            Self::Partition => "partition",
            Self::Move => "move",
            Self::Load => "load",
            Self::Heal => "heal",
        }
    }
}

/// What else is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Extra {
    /// Processor time and memory while nothing happens
    Idle,
    /// 1000 addresses in one group: from the first announcement to the last
    Announce,
    /// What the programs at the driver cost for each packet
    Xdp,
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
