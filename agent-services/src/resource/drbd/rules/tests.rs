use std::collections::BTreeMap;

use super::*;
use crate::resource::drbd::{
    events::Book,
    state::{PeerVolume, Volume},
};

fn state(
    disk: Disk,
    connection: Connection,
    peer_role: Role,
    replication: Replication,
) -> ResourceState {
    let volume = Volume {
        minor: Some(0),
        disk,
        size: Some(100),
        ..Volume::default()
    };
    let far = PeerVolume {
        replication,
        disk: Disk::UpToDate,
        out_of_sync: Some(25),
        ..PeerVolume::default()
    };
    let peer = Peer {
        connection,
        role: peer_role,
        volumes: BTreeMap::from([(0, far)]),
        ..Peer::default()
    };
    ResourceState {
        role: Role::Secondary,
        volumes: BTreeMap::from([(0, volume)]),
        peers: BTreeMap::from([(0, peer)]),
        ..ResourceState::default()
    }
}

fn short(d: &Decision) -> &'static str {
    match d {
        Decision::Already => "already",
        Decision::Promote(p) if *p == PLAIN => "P",
        Decision::Promote(p) if *p == RECONNECT => "PC",
        Decision::Promote(_) => "DPC",
        Decision::Wait(_) => "wait",
        Decision::Refuse(_) => "no",
    }
}

const fn given(others: Others, replica: Replica) -> Given {
    Given { others, replica }
}

const NOTHING: Given = given(Others::Unknown, Replica::Unknown);
const STOPPED: Given = given(Others::Stopped, Replica::Unknown);
const STOPPED_NEWEST: Given = given(Others::Stopped, Replica::Newest);
const GONE: Given = given(Others::Gone, Replica::Unknown);
const GONE_NEWEST: Given = given(Others::Gone, Replica::Newest);
const GONE_BEHIND: Given = given(Others::Gone, Replica::Behind);
const NEWEST: Given = given(Others::Unknown, Replica::Newest);

#[test]
fn the_table() {
    use Connection as C;
    use Disk as D;
    use Role as R;
    //  disk, connection, peer's role: nothing known, newest, stopped, stopped+newest, gone, gone+newest, gone+behind
    #[rustfmt::skip]
    let table = [
        (D::UpToDate,     C::Connected,      R::Secondary, ["P", "P", "P", "P", "DPC", "DPC", "no"]),
        (D::UpToDate,     C::Connected,      R::Primary,   ["wait", "wait", "wait", "wait", "DPC", "DPC", "no"]),
        (D::UpToDate,     C::Connected,      R::Unknown,   ["wait", "wait", "wait", "wait", "DPC", "DPC", "no"]),
        (D::UpToDate,     C::Connecting,     R::Unknown,   ["wait", "wait", "wait", "P", "P", "P", "no"]),
        (D::UpToDate,     C::NetworkFailure, R::Unknown,   ["wait", "wait", "wait", "P", "DPC", "DPC", "no"]),
        (D::UpToDate,     C::Timeout,        R::Unknown,   ["wait", "wait", "wait", "P", "DPC", "DPC", "no"]),
        (D::UpToDate,     C::Other,          R::Unknown,   ["wait", "wait", "wait", "P", "DPC", "DPC", "no"]),
        (D::UpToDate,     C::StandAlone,     R::Unknown,   ["no", "no", "no", "PC", "PC", "PC", "no"]),
        (D::Consistent,   C::Connecting,     R::Unknown,   ["wait", "wait", "wait", "wait", "wait", "P", "no"]),
        (D::Consistent,   C::StandAlone,     R::Unknown,   ["wait", "wait", "wait", "wait", "wait", "PC", "no"]),
        (D::Outdated,     C::Connecting,     R::Unknown,   ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Outdated,     C::Connected,      R::Secondary, ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Inconsistent, C::Connecting,     R::Unknown,   ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Diskless,     C::Connected,      R::Secondary, ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Failed,       C::Connected,      R::Secondary, ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Unknown,      C::Connecting,     R::Unknown,   ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Other,        C::Connected,      R::Secondary, ["no", "no", "no", "no", "no", "no", "no"]),
        (D::Attaching,    C::Connecting,     R::Unknown,   ["wait", "wait", "wait", "wait", "wait", "wait", "no"]),
        (D::Negotiating,  C::Connected,      R::Primary,   ["wait", "wait", "wait", "wait", "wait", "wait", "no"]),
    ];
    let columns = [
        NOTHING,
        NEWEST,
        STOPPED,
        STOPPED_NEWEST,
        GONE,
        GONE_NEWEST,
        GONE_BEHIND,
    ];
    for (disk, connection, role, wanted) in table {
        let s = state(disk, connection, role, Replication::Off);
        for (given, wanted) in columns.into_iter().zip(wanted) {
            let decision = promote("r0", &s, given, false);
            assert_eq!(
                short(&decision),
                wanted,
                "{disk} {connection} {role} {given:?}: {decision:?}"
            );
        }
    }
}

/// Whatever else is so: the two things that must never be.
#[test]
fn never_bad_data_and_never_beside_a_writer() {
    use Connection as C;
    let disks = [
        Disk::Other,
        Disk::Diskless,
        Disk::Attaching,
        Disk::Detaching,
        Disk::Failed,
        Disk::Negotiating,
        Disk::Inconsistent,
        Disk::Outdated,
        Disk::Unknown,
        Disk::Consistent,
        Disk::UpToDate,
    ];
    let connections = [
        C::Other,
        C::StandAlone,
        C::Disconnecting,
        C::Unconnected,
        C::Timeout,
        C::BrokenPipe,
        C::NetworkFailure,
        C::ProtocolError,
        C::TearDown,
        C::Connecting,
        C::Connected,
    ];
    let roles = [Role::Other, Role::Unknown, Role::Secondary, Role::Primary];
    let mut promoted = 0;
    for disk in disks {
        for connection in connections {
            for role in roles {
                for others in [Others::Unknown, Others::Stopped, Others::Gone] {
                    for replica in [Replica::Unknown, Replica::Newest, Replica::Behind] {
                        for dual in [false, true] {
                            let s = state(disk, connection, role, Replication::Off);
                            let g = given(others, replica);
                            let Decision::Promote(steps) = promote("r0", &s, g, dual) else {
                                continue;
                            };
                            promoted += 1;
                            let what = format!("{disk} {connection} {role} {g:?} {dual}");
                            let proof = others == Others::Gone && replica == Replica::Newest;
                            assert!(
                                disk == Disk::UpToDate || disk == Disk::Consistent && proof,
                                "{what}"
                            );
                            assert_ne!(replica, Replica::Behind, "{what}");
                            let connected = connection == C::Connected;
                            assert!(others != Others::Unknown || connected, "{what}");
                            let writer =
                                connected && role == Role::Primary && others != Others::Gone;
                            assert!(!writer || dual, "{what}");
                            assert_eq!(steps.iter().filter(|s| **s == Step::Primary).count(), 1);
                        }
                    }
                }
            }
        }
    }
    assert!(promoted > 50);
}

#[test]
fn dual_primary_only_where_it_is_wanted() {
    let s = state(
        Disk::UpToDate,
        Connection::Connected,
        Role::Primary,
        Replication::Established,
    );
    assert_eq!(short(&promote("r0", &s, NOTHING, true)), "P");
    assert_eq!(short(&promote("r0", &s, NOTHING, false)), "wait");
    // Cut off, it is as dangerous as ever.
    let s = state(
        Disk::UpToDate,
        Connection::NetworkFailure,
        Role::Unknown,
        Replication::Off,
    );
    assert_eq!(short(&promote("r0", &s, NOTHING, true)), "wait");
}

#[test]
fn split_brain_quorum_clients_and_resync() {
    let mut s = state(
        Disk::UpToDate,
        Connection::Connected,
        Role::Secondary,
        Replication::Established,
    );
    assert_eq!(short(&promote("r0", &s, GONE_NEWEST, false)), "DPC");
    s.split_brain = true;
    assert_eq!(short(&promote("r0", &s, GONE_NEWEST, false)), "no");
    let mut s = state(
        Disk::UpToDate,
        Connection::Connected,
        Role::Secondary,
        Replication::Established,
    );
    s.volumes.get_mut(&0).unwrap().quorum = Some(false);
    assert_eq!(short(&promote("r0", &s, GONE_NEWEST, false)), "wait");
    let mut s = state(
        Disk::Diskless,
        Connection::Connected,
        Role::Secondary,
        Replication::Established,
    );
    assert_eq!(short(&promote("r0", &s, NOTHING, false)), "no");
    s.volumes.get_mut(&0).unwrap().client = true;
    assert_eq!(short(&promote("r0", &s, NOTHING, false)), "P");
    let s = state(
        Disk::Inconsistent,
        Connection::Connected,
        Role::Primary,
        Replication::SyncTarget,
    );
    let Decision::Wait(why) = promote("r0", &s, GONE, false) else {
        panic!()
    };
    assert_eq!(
        why,
        "r0 volume 0 is Inconsistent: resync to here, 75.0 % done"
    );
    let Decision::Wait(why) = promote("r0", &ResourceState::default(), GONE, false) else {
        panic!()
    };
    assert!(why.contains("no volume"));
}

#[test]
fn a_second_peer_counts_as_well() {
    let mut s = state(
        Disk::UpToDate,
        Connection::Connected,
        Role::Secondary,
        Replication::Established,
    );
    let far = Peer {
        connection: Connection::Connecting,
        ..Peer::default()
    };
    s.peers.insert(2, far);
    assert_eq!(short(&promote("r0", &s, NOTHING, false)), "wait");
    assert_eq!(short(&promote("r0", &s, GONE, false)), "DPC");
}

#[test]
fn better_data_scores_higher() {
    let text = include_bytes!("../samples/now.txt");
    let text = String::from_utf8_lossy(text);
    let score_of = |name: &str| {
        let part = text.split("## ").find(|p| p.starts_with(name)).unwrap();
        let (_, lines) = part.split_once('\n').unwrap();
        let book = Book::read(lines.as_bytes());
        score(book.resources.get("r0"), NOTHING)
    };
    let order = [
        "connected-secondary n1",
        "cut n2",
        "consistent n2",
        "outdated n2",
        "resync n2",
        "diskless n1",
    ];
    let scores = order.map(score_of);
    assert!(scores.is_sorted_by(|a, b| a > b), "{scores:?}");
    assert_eq!(score(None, NOTHING), 0);
    let best = state(
        Disk::UpToDate,
        Connection::Connected,
        Role::Secondary,
        Replication::Established,
    );
    assert_eq!(score(Some(&best), NEWEST), SCORE_BEST);
    assert_eq!(score(Some(&best), GONE_BEHIND), 0);
}
