//! How a DRBD resource is: what `drbdsetup events2` and `drbdsetup status --json` say, by type.
//!
//! The words are those of the kernel modules 8.4 and 9 (drbd-utils, `drbd_strings.c`). A word that is none of them is
//! kept as `Other`, which no rule takes for anything good.

use std::collections::BTreeMap;

/// Volumes or peers of a resource that are kept; DRBD 9 has at most 31 peers, and nobody has so many volumes.
pub const MOST: usize = 256;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            /// A word that is not known here.
            #[default]
            Other,
            $($(#[$of])* $variant,)+
        }

        impl $name {
            /// By DRBD's word for it.
            #[must_use]
            pub fn parse(word: &str) -> $name {
                match word {
                    $($word => $name::$variant,)+
                    _ => $name::Other,
                }
            }

            /// DRBD's word for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $name::Other => "?",
                    $($name::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

words! {
    /// Who may write.
    Role {
        /// Not known: the peer is not connected.
        Unknown = "Unknown",
        /// Keeps the data, and lets nobody at it.
        Secondary = "Secondary",
        /// May be read and written here.
        Primary = "Primary",
    }
}

words! {
    /// How good a replica is, from bad to good.
    Disk {
        /// There is none.
        Diskless = "Diskless",
        /// Being attached.
        Attaching = "Attaching",
        /// Being detached.
        Detaching = "Detaching",
        /// An I/O error took it away.
        Failed = "Failed",
        /// Being compared with the peer's.
        Negotiating = "Negotiating",
        /// Half new, half old.
        Inconsistent = "Inconsistent",
        /// Of one moment, but the peer has newer data.
        Outdated = "Outdated",
        /// Not known: the peer is not connected.
        Unknown = "DUnknown",
        /// Of one moment; whether the peer has newer data is not known.
        Consistent = "Consistent",
        /// The newest there is, as far as DRBD knows.
        UpToDate = "UpToDate",
    }
}

words! {
    /// The connection to a peer.
    Connection {
        /// Not tried: after a split brain, or `drbdadm disconnect`.
        StandAlone = "StandAlone",
        /// Being ended.
        Disconnecting = "Disconnecting",
        /// About to be tried.
        Unconnected = "Unconnected",
        /// The peer did not answer in time.
        Timeout = "Timeout",
        /// Lost.
        BrokenPipe = "BrokenPipe",
        /// Lost.
        NetworkFailure = "NetworkFailure",
        /// Lost: the peer said something wrong.
        ProtocolError = "ProtocolError",
        /// Being ended by the peer.
        TearDown = "TearDown",
        /// Being tried.
        Connecting = "Connecting",
        /// Up.
        Connected = "Connected",
    }
}

words! {
    /// What goes over a connection.
    Replication {
        /// Nothing.
        Off = "Off",
        /// Each write, as it should be.
        Established = "Established",
        /// A full resync begins, from here.
        StartingSyncS = "StartingSyncS",
        /// A full resync begins, to here.
        StartingSyncT = "StartingSyncT",
        /// A resync is about to begin, from here.
        WfBitmapS = "WFBitMapS",
        /// A resync is about to begin, to here.
        WfBitmapT = "WFBitMapT",
        /// A resync is about to begin, to here.
        WfSyncUuid = "WFSyncUUID",
        /// Resync, from here.
        SyncSource = "SyncSource",
        /// Resync, to here.
        SyncTarget = "SyncTarget",
        /// The replicas are being compared.
        VerifyS = "VerifyS",
        /// The replicas are being compared.
        VerifyT = "VerifyT",
        /// A resync from here rests.
        PausedSyncS = "PausedSyncS",
        /// A resync to here rests.
        PausedSyncT = "PausedSyncT",
        /// Congested: writes are noted, not sent.
        Ahead = "Ahead",
        /// Congested: the peer is ahead.
        Behind = "Behind",
    }
}

impl Replication {
    /// A resync is under way or about to begin, and towards here.
    #[must_use]
    pub const fn is_target(self) -> bool {
        matches!(
            self,
            Replication::StartingSyncT
                | Replication::WfBitmapT
                | Replication::WfSyncUuid
                | Replication::SyncTarget
                | Replication::PausedSyncT
                | Replication::Behind
        )
    }

    /// The same, from here.
    #[must_use]
    pub const fn is_source(self) -> bool {
        matches!(
            self,
            Replication::StartingSyncS
                | Replication::WfBitmapS
                | Replication::SyncSource
                | Replication::PausedSyncS
                | Replication::Ahead
        )
    }
}

/// Why writes do not go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspended {
    /// `drbdadm suspend-io`.
    pub user: bool,
    /// There is no disk to write to.
    pub no_data: bool,
    /// The peer is to be fenced first (`fencing resource-and-stonith`).
    pub fencing: bool,
    /// Too few nodes (DRBD 9).
    pub quorum: bool,
    /// Something else.
    pub other: bool,
}

impl Suspended {
    /// As `events2` has it: `no`, or words with commas between them.
    #[must_use]
    pub fn parse(text: &str) -> Suspended {
        let mut s = Suspended::default();
        for word in text.split(',') {
            match word {
                "no" | "" => {}
                "user" => s.user = true,
                "no-data" => s.no_data = true,
                "fencing" => s.fencing = true,
                "quorum" => s.quorum = true,
                _ => s.other = true,
            }
        }
        s
    }

    /// Is anything suspended?
    #[must_use]
    pub fn any(self) -> bool {
        self != Suspended::default()
    }

    /// "fencing, quorum"; empty if nothing is.
    #[must_use]
    pub fn why(self) -> String {
        let all = [
            (self.user, "by hand"),
            (self.no_data, "no disk"),
            (self.fencing, "waits for fencing"),
            (self.quorum, "no quorum"),
            (self.other, "unknown reason"),
        ];
        let there: Vec<_> = all.iter().filter(|(on, _)| *on).map(|(_, w)| *w).collect();
        there.join(", ")
    }
}

/// One resource on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceState {
    /// Of this node.
    pub role: Role,
    /// Writes do not go on.
    pub suspended: Suspended,
    /// DRBD 9: writes fail instead (`on-suspended-primary-outdated force-secondary`).
    pub io_fails: bool,
    /// DRBD 9's own opinion.
    pub may_promote: Option<bool>,
    /// DRBD 9's own score.
    pub promotion_score: Option<u32>,
    /// By number.
    pub volumes: BTreeMap<u32, Volume>,
    /// By node id. DRBD 8.4 has one peer, with the id 0.
    pub peers: BTreeMap<u32, Peer>,
    /// A split brain was seen and not resolved since: by a stream, or by DRBD's handler (see [`super::split`]).
    pub split_brain: bool,
}

/// The local replica of a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    /// Of its device: 0 is `/dev/drbd0`.
    pub minor: Option<u32>,
    /// How good it is.
    pub disk: Disk,
    /// DRBD 9: enough nodes are there.
    pub quorum: Option<bool>,
    /// DRBD 9: it has no disk here on purpose.
    pub client: bool,
    /// KiB.
    pub size: Option<u64>,
}

/// Another node that has the resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peer {
    /// DRBD 9: its name. 8.4 says "peer", or nothing.
    pub name: String,
    /// To it.
    pub connection: Connection,
    /// Its role, while connected.
    pub role: Role,
    /// By number.
    pub volumes: BTreeMap<u32, PeerVolume>,
}

/// A peer's replica of a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerVolume {
    /// What goes there.
    pub replication: Replication,
    /// How good it is.
    pub disk: Disk,
    /// Somebody or something lets the resync rest.
    pub resync_rests: bool,
    /// KiB that differ.
    pub out_of_sync: Option<u64>,
    /// DRBD 9: percent of the resync that are done.
    pub done: Option<f64>,
}

/// A resync.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resync {
    /// The volume.
    pub volume: u32,
    /// The peer's node id.
    pub peer: u32,
    /// Towards here.
    pub to_here: bool,
    /// It rests.
    pub rests: bool,
    /// 0 to 100. From DRBD 8.4, the part of the whole volume that is alike.
    pub percent: Option<f64>,
    /// KiB left.
    pub left: Option<u64>,
}

impl ResourceState {
    /// The worst local replica; `None` without volumes.
    #[must_use]
    pub fn worst_disk(&self) -> Option<Disk> {
        self.volumes.values().map(|v| v.disk).min()
    }

    /// Connected to all peers that are known.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.peers
            .values()
            .all(|p| p.connection == Connection::Connected)
    }

    /// All resyncs.
    #[must_use]
    pub fn resyncs(&self) -> Vec<Resync> {
        let mut list = Vec::new();
        for (peer, p) in &self.peers {
            for (volume, v) in &p.volumes {
                if !v.replication.is_target() && !v.replication.is_source() {
                    continue;
                }
                let size = self.volumes.get(volume).and_then(|v| v.size);
                list.push(Resync {
                    volume: *volume,
                    peer: *peer,
                    to_here: v.replication.is_target(),
                    rests: v.resync_rests
                        || matches!(
                            v.replication,
                            Replication::PausedSyncS | Replication::PausedSyncT
                        ),
                    percent: v.done.or_else(|| alike(v.out_of_sync?, size?)),
                    left: v.out_of_sync,
                });
            }
        }
        list
    }

    /// In one line, for people: `Primary, UpToDate, peer n2 Connected Secondary UpToDate`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.role.to_string();
        match self.worst_disk() {
            Some(disk) => text += &format!(", {disk}"),
            None => text += ", no volume",
        }
        if self.split_brain {
            text += ", SPLIT BRAIN";
        }
        if self.suspended.any() {
            text += &format!(", I/O suspended ({})", self.suspended.why());
        }
        if self.volumes.values().any(|v| v.quorum == Some(false)) {
            text += ", no quorum";
        }
        for (id, peer) in &self.peers {
            text += &format!(", {} {}", peer.title(*id), peer.connection);
            if peer.connection == Connection::Connected {
                text += &format!(" {}", peer.role);
            }
            if let Some(disk) = peer.volumes.values().map(|v| v.disk).min() {
                text += &format!(" {disk}");
            }
        }
        for r in self.resyncs() {
            let way = if r.to_here { "to here" } else { "from here" };
            text += &format!(", resync {way}");
            if let Some(percent) = r.percent {
                text += &format!(" {percent:.1} %");
            }
            if r.rests {
                text += " (rests)";
            }
        }
        text
    }
}

impl Peer {
    /// "peer n2"; of DRBD 8.4, which has one and does not name it, "peer".
    #[must_use]
    pub fn title(&self, id: u32) -> String {
        match self.name.as_str() {
            "" | "peer" if id == 0 => "peer".into(),
            "" => format!("peer {id}"),
            name => format!("peer {name}"),
        }
    }
}

/// Percent of a volume that are alike.
fn alike(out_of_sync: u64, size: u64) -> Option<f64> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "percent, for people; exact up to 8 EiB"
    )]
    (size > 0).then(|| 100.0 * (1.0 - out_of_sync.min(size) as f64 / size as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_nothing_unknown_is_good() {
        for (disk, word) in [
            (Disk::UpToDate, "UpToDate"),
            (Disk::Unknown, "DUnknown"),
            (Disk::Other, "?"),
            (Disk::Other, "Perfect"),
        ] {
            assert_eq!(Disk::parse(word), disk, "{word}");
        }
        assert_eq!(
            Replication::parse(Replication::WfSyncUuid.name()),
            Replication::WfSyncUuid
        );
        assert!(Disk::Other < Disk::Diskless && Disk::Consistent < Disk::UpToDate);
        assert!(Disk::Outdated < Disk::Consistent && Disk::Inconsistent < Disk::Outdated);
        assert!(Suspended::parse("no,fencing,new-reason").other);
        assert!(!Suspended::parse("no").any());
        assert_eq!(
            Suspended::parse("quorum,fencing").why(),
            "waits for fencing, no quorum"
        );
    }
}
