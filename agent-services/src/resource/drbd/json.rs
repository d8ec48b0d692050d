//! `drbdsetup status --json` of drbd-utils with kernel module 9 (8.4 refuses the option: tried). By the source of
//! drbd-utils 9.22, `drbdsetup.c`; not run here, as no machine of ours has the module.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::state::{
    Connection, Disk, MOST, Peer, PeerVolume, Replication, ResourceState, Role, Suspended, Volume,
};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Resource {
    name: String,
    role: String,
    #[serde(default)]
    suspended: bool,
    #[serde(default)]
    suspended_user: bool,
    #[serde(default)]
    suspended_no_data: bool,
    #[serde(default)]
    suspended_fencing: bool,
    #[serde(default)]
    suspended_quorum: bool,
    #[serde(default)]
    force_io_failures: bool,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    connections: Vec<Link>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Device {
    volume: u32,
    minor: Option<u32>,
    disk_state: String,
    #[serde(default)]
    client: bool,
    quorum: Option<bool>,
    size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Link {
    peer_node_id: u32,
    #[serde(default)]
    name: String,
    connection_state: String,
    #[serde(default)]
    peer_role: String,
    // With an underscore, unlike all others.
    #[serde(default, rename = "peer_devices")]
    peer_devices: Vec<PeerDevice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PeerDevice {
    volume: u32,
    replication_state: String,
    peer_disk_state: String,
    #[serde(default)]
    resync_suspended: String,
    out_of_sync: Option<u64>,
    percent_resync_done: Option<f64>,
}

/// Reads it.
///
/// # Errors
/// It is something else; a sentence that says what.
pub fn read(text: &[u8]) -> Result<BTreeMap<String, ResourceState>, String> {
    let list: Vec<Resource> =
        serde_json::from_slice(text).map_err(|e| format!("drbdsetup status --json: {e}"))?;
    Ok(list
        .into_iter()
        .map(|r| (r.name.clone(), state(r)))
        .collect())
}

fn state(r: Resource) -> ResourceState {
    let named =
        r.suspended_user || r.suspended_no_data || r.suspended_fencing || r.suspended_quorum;
    ResourceState {
        role: Role::parse(&r.role),
        suspended: Suspended {
            user: r.suspended_user,
            no_data: r.suspended_no_data,
            fencing: r.suspended_fencing,
            quorum: r.suspended_quorum,
            other: r.suspended && !named,
        },
        io_fails: r.force_io_failures,
        may_promote: None,
        promotion_score: None,
        volumes: r
            .devices
            .into_iter()
            .take(MOST)
            .map(|d| {
                let volume = Volume {
                    minor: d.minor,
                    disk: Disk::parse(&d.disk_state),
                    quorum: d.quorum,
                    client: d.client,
                    size: d.size,
                };
                (d.volume, volume)
            })
            .collect(),
        peers: r
            .connections
            .into_iter()
            .take(MOST)
            .map(|l| (l.peer_node_id, peer(l)))
            .collect(),
        split_brain: false,
    }
}

fn peer(l: Link) -> Peer {
    let volumes = l.peer_devices.into_iter().take(MOST).map(|d| {
        let volume = PeerVolume {
            replication: Replication::parse(&d.replication_state),
            disk: Disk::parse(&d.peer_disk_state),
            resync_rests: !matches!(d.resync_suspended.as_str(), "no" | ""),
            out_of_sync: d.out_of_sync,
            done: d.percent_resync_done.map(|p| p.clamp(0.0, 100.0)),
        };
        (d.volume, volume)
    });
    Peer {
        name: l.name,
        connection: Connection::parse(&l.connection_state),
        role: Role::parse(&l.peer_role),
        volumes: volumes.collect(),
    }
}
