//! Branches that nothing else reached, found by coverage (README).

use std::net::Ipv6Addr;

use agent_common::{
    Set,
    record::RecordKind,
    wire::{Kind, Message},
};
use heartline_bpf_tests::{
    Action, NOT_TAGGED, Rig, Tagger, boot_ns,
    consts::*,
    frame::{self, Datagram, QINQ, VLAN},
    over_ipv4, over_ipv6, run, run_with,
};
use smoltcp::wire::{ArpOperation, IpProtocol};

const MINUTE: u64 = 60_000_000_000;

fn granted() -> Rig {
    let rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    rig
}

/// The wall clock of a node was set back by its reboot: it comes with an older incarnation, and must hear that.
#[test]
fn a_node_that_was_set_back_is_told_once_it_is_silent() {
    let mut rig = granted();
    let table = rig.table;
    let p = table.peer(PEER);
    let older = |rig: &mut Rig, kind| {
        let m = Message {
            kind: kind as u8,
            incarnation: PEER_INCARNATION - 1,
            ..rig.heartbeat()
        };
        rig.sign(m)
    };
    // Its newer incarnation was heard lately: this one is a recording.
    p.heard[0].store(boot_ns());
    rig.delta();
    let m = older(&mut rig, Kind::Heartbeat);
    let before = rig.snapshot();
    assert_eq!(rig.xdp(&over_ipv4(&m)).0, Action::Drop);
    assert_eq!(rig.delta(), [("drop_old_incarnation", 1)]);
    assert!(rig.records().is_empty());
    assert_eq!(rig.snapshot(), before);
    // Not for `max_promise`: user space tells it.
    let silent = boot_ns() - MAX_PROMISE - 1;
    p.heard[0].store(silent);
    let m = older(&mut rig, Kind::Heartbeat);
    assert_eq!(rig.xdp(&over_ipv4(&m)).0, Action::Drop);
    assert_eq!(rig.delta(), [("drop_regressed", 1), ("to_user", 1)]);
    let records = rig.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (RecordKind::from_u32(records[0].kind), records[0].message),
        (Some(RecordKind::Regression), m)
    );
    // Only a heartbeat shows that it lives.
    for kind in [Kind::Ack, Kind::Grant, Kind::Refuse, Kind::Nack] {
        let m = older(&mut rig, kind);
        assert_eq!(rig.xdp(&over_ipv4(&m)).0, Action::Drop);
        assert_eq!(rig.delta(), [("drop_old_incarnation", 1)], "{kind:?}");
    }
}

/// Two nodes that were both set back tell each other; what is not about this incarnation is not believed.
#[test]
fn being_told_so_by_an_older_incarnation_counts_for_ours_only() {
    let mut rig = granted();
    for (re_incarnation, counted) in [
        (MY_INCARNATION, "to_user"),
        (MY_INCARNATION - 1, "drop_old_incarnation"),
        (MY_INCARNATION + 1, "drop_old_incarnation"),
    ] {
        let m = Message {
            kind: Kind::Regressed as u8,
            to: ME,
            incarnation: PEER_INCARNATION - 1,
            re_incarnation,
            ..rig.heartbeat()
        };
        let m = rig.sign(m);
        rig.delta();
        let before = rig.snapshot();
        assert_eq!(rig.xdp(&over_ipv4(&m)).0, Action::Drop);
        assert_eq!(rig.delta(), [(counted, 1)], "{re_incarnation}");
        let records = rig.records();
        assert_eq!(records.len(), usize::from(counted == "to_user"));
        assert!(records.iter().all(|r| r.message == m));
        assert_eq!(rig.snapshot(), before, "the kernel changes nothing");
    }
}

/// A twin that goes on sending is told to user space ten times a second at most.
#[test]
fn a_twin_is_reported_seldom() {
    let mut rig = granted();
    let began = boot_ns();
    let mut told = 0;
    for _ in 0..200 {
        let m = Message {
            from: ME,
            incarnation: MY_INCARNATION + 1,
            ..rig.heartbeat()
        };
        assert_eq!(rig.xdp(&over_ipv4(&rig.sign(m))).0, Action::Drop);
        let records = rig.records();
        assert!(
            records
                .iter()
                .all(|r| RecordKind::from_u32(r.kind) == Some(RecordKind::DuplicateId))
        );
        told += records.len() as u64;
    }
    let most = 1 + (boot_ns() - began) / 100_000_000;
    assert!((1..=most).contains(&told), "{told} times, {most} at most");
    assert_eq!(rig.table.halted.load(), 1);
}

/// A checksum that comes out as 0 is sent as 0xffff (RFC 8200 section 8.1): in IPv6, 0 says that there is none. The ack's
/// clock and MAC make it 0 for one ack in 65536, so this goes on until one was seen.
#[test]
fn a_checksum_of_zero_is_sent_as_all_ones() {
    let mut rig = granted();
    for _ in 0..4_000_000 {
        let f = over_ipv6(&rig.heartbeat());
        let r = rig.run_xdp(&f, 1);
        assert_eq!(r.retval, 3, "sent back");
        match r.data[60..62] {
            [0, 0] => panic!("an ack without checksum"),
            [0xff, 0xff] => {
                Datagram::parse(&r.data, 0);
                return;
            }
            _ => {}
        }
    }
    panic!("no checksum was 0 in four million");
}

/// A tag out of band (`skb->vlan_tci`) does not shift what is read, and counts for none of the four that are looked behind.
/// A test run takes no such frame (see below), so a program before ours puts the tag there.
#[test]
fn a_tag_beside_the_frame_changes_nothing() {
    let mut rig = Rig::new();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let client = "10.0.0.9".parse().unwrap();
    for (tpid, tci) in [(VLAN, 9), (VLAN, 0), (QINQ, 0xe009)] {
        let tagger = Tagger::new(rig.egress_fd(), tpid, tci).expect("a program before ours");
        let egress = |f: &[u8]| {
            let r = tagger.run(f).expect("a run");
            assert_ne!(r.retval, NOT_TAGGED);
            assert_eq!(r.data, f, "the tag is not in the frame");
            match r.retval as i32 {
                -1 => Action::Pass,
                2 => Action::Drop,
                other => panic!("TC action {other}"),
            }
        };
        for tags in 0..=5 {
            let tags = vec![(VLAN, 7u16); tags];
            let ours = [
                frame::arp(&tags, ArpOperation::Reply, VIP4, client),
                frame::ip(&tags, VIP4.into(), client.into(), IpProtocol::Tcp, &[0; 20]),
                frame::advertise(&tags, LINK6, all_nodes, VIP6),
            ];
            let others = [
                frame::arp(&tags, ArpOperation::Request, LINK4, VIP4),
                frame::ip(&tags, LINK4.into(), VIP4.into(), IpProtocol::Tcp, &[0; 20]),
            ];
            let readable = tags.len() <= 4;
            let passes = |yes| if yes { Action::Pass } else { Action::Drop };
            for open in [false, true] {
                rig.own(
                    GROUP,
                    if open {
                        boot_ns() + MINUTE
                    } else {
                        boot_ns() - 1
                    },
                );
                for f in &ours {
                    assert_eq!(egress(f), passes(open && readable), "{} tags", tags.len());
                }
                for f in &others {
                    assert_eq!(egress(f), passes(readable), "{} tags", tags.len());
                }
            }
        }
    }
    assert!(
        rig.delta()
            .iter()
            .all(|(name, _)| name.starts_with("gate_out"))
    );
}

/// Why the test above needs a program of its own. A kernel that takes the fields must come to the same answer.
#[test]
fn a_test_run_takes_no_tag_beside_the_frame() {
    let rig = Rig::new();
    let f = frame::arp(&[], ArpOperation::Reply, VIP4, LINK4);
    const MARK: usize = 2;
    const VLAN_PRESENT: usize = 5;
    const VLAN_TCI: usize = 6;
    const VLAN_PROTO: usize = 7;
    const DROP: u32 = 2;
    let with = |fields: &[(usize, u32)]| {
        let mut skb = [0; 9];
        for (at, value) in fields {
            skb[*at] = *value;
        }
        run_with(rig.egress_fd(), &f, &skb).map_err(|e| e.raw_os_error())
    };
    assert_eq!(with(&[(MARK, 1)]), Ok(DROP), "other fields are taken");
    let tag = [
        (VLAN_PRESENT, 1),
        (VLAN_TCI, 9),
        (VLAN_PROTO, u32::from(VLAN.to_be())),
    ];
    for fields in [&tag[..], &tag[..1], &tag[1..2], &tag[2..]] {
        let got = with(fields);
        assert!(got == Err(Some(22)) || got == Ok(DROP), "{got:?}");
    }
}

/// The kernel runs no TC or XDP program on less than an Ethernet header: the reads of the MACs and of the first type cannot
/// fail.
#[test]
fn nothing_shorter_than_an_ethernet_header_is_run() {
    let rig = Rig::new();
    let f = frame::arp(&[], ArpOperation::Request, LINK4, VIP4);
    for (program, ifindex) in [(rig.xdp_fd(), Some(1)), (rig.egress_fd(), None)] {
        for len in 0..14 {
            let e = run(program, &f[..len], ifindex, 1).expect_err("too short");
            assert_eq!(e.raw_os_error(), Some(22), "{len} bytes");
        }
        run(program, &f, ifindex, 1).expect("long enough");
    }
}
