//! Good frames, spoilt at random: whatever is not authentic moves no promise, no lease and no gate.

use agent_common::{
    Set,
    state::LeaseWord,
    wire::{Kind, LEN, Message},
};
use heartline_bpf_tests::{Action, Rig, boot_ns, consts::*, frame, over_ipv4, over_ipv6};
use smoltcp::wire::ArpOperation;

/// xorshift64*: the same frames each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn spoil(r: &mut Random, f: &mut Vec<u8>) {
    for _ in 0..=r.below(3) {
        let at = r.below(f.len());
        match r.below(7) {
            0 => f[at] ^= 1 << r.below(8),
            1 => f[at] = r.next() as u8,
            2 => f.truncate(at.max(14)),
            3 => f.extend((0..r.below(64)).map(|i| i as u8)),
            4 => {
                let (from, n) = (r.below(f.len()), r.below(16));
                for i in 0..n.min(f.len() - at.max(from)) {
                    f[at + i] = f[from + i];
                }
            }
            5 => f[at..].iter_mut().take(8).for_each(|b| *b = 0xff),
            _ => {
                // A tag in front of the network header, or one taken away.
                f.splice(12..12, [0x81, 0x00, 0, 5]);
            }
        }
    }
}

/// The message of a frame, found as simply as can be: the program's own parser is what is tested.
fn authentic(rig: &Rig, f: &[u8]) -> bool {
    f.windows(LEN).step_by(2).any(|w| {
        let m = Message::from_bytes(w.try_into().expect("LEN bytes"));
        m.magic == agent_common::wire::MAGIC && m.mac == m.expected_mac(rig.key)
    })
}

#[test]
fn nothing_but_authentic_messages_changes_the_table() {
    const FRAMES: usize = 100_000;
    let mut rig = Rig::new();
    let mut r = Random(0x4845_4152_544c_494e);
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.own(OTHER_GROUP, boot_ns() + 3_600_000_000_000);
    let at = boot_ns();
    let slot = rig.table.slot(5);
    slot.sent.store(at);
    slot.lease.store(40_000_000);
    slot.cv.store(CV);
    slot.word.store(5 << 32);
    rig.table
        .lease
        .store(LeaseWord::until(boot_ns() + 3_600_000_000_000, CV).0);
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Tx);

    let client = std::net::Ipv6Addr::LOCALHOST;
    let mut table = rig.snapshot();
    let (mut unauthentic, mut bounced) = (0, 0);
    for i in 0..FRAMES {
        let m = rig.heartbeat();
        let mut f = match r.below(9) {
            0..3 => over_ipv4(&m),
            3..5 => over_ipv6(&m),
            5 => over_ipv4(&rig.ack(PEER, 5, at)),
            6 => {
                let m = Message {
                    from: ME,
                    incarnation: MY_INCARNATION + 1,
                    kind: Kind::Heartbeat as u8,
                    ..m
                };
                // Never signed: the real thing would shut every gate.
                over_ipv4(&m)
            }
            7 => frame::arp(&[], ArpOperation::Request, OTHER_VIP4, VIP4),
            _ => frame::advertise(&[], OTHER_VIP6, client, VIP6),
        };
        spoil(&mut r, &mut f);
        let action = rig.xdp(&f).0;
        if f.len() > 60 {
            rig.egress(&f);
        }
        if authentic(&rig, &f) {
            bounced += usize::from(action == Action::Tx);
            table = rig.snapshot();
        } else {
            unauthentic += 1;
            assert_ne!(action, Action::Tx, "frame {i}: {f:02x?}");
            assert_eq!(rig.snapshot(), table, "frame {i}: {f:02x?}");
        }
    }
    assert_eq!(rig.table.halted.load(), 0);
    assert_eq!(rig.table.gate.load(), Set::of(OTHER_GROUP));
    // The test must have seen both kinds to mean anything.
    assert!(
        unauthentic > FRAMES / 2 && bounced > FRAMES / 100,
        "{unauthentic} {bounced}"
    );
    let reasons = rig.delta();
    for reason in [
        "drop_truncated",
        "drop_oversized",
        "drop_bad_magic",
        "drop_bad_version",
        "drop_other_cluster",
        "drop_forged",
        "drop_bad_sender",
    ] {
        assert!(
            reasons.iter().any(|(n, _)| *n == reason),
            "{reason} was never met: {reasons:?}"
        );
    }
}

#[test]
fn noise_changes_nothing() {
    let mut rig = Rig::new();
    let mut r = Random(7);
    rig.grant(PEER, CV, Set::of(GROUP));
    let before = rig.snapshot();
    for _ in 0..20_000 {
        let len = 14 + r.below(300);
        let mut f: Vec<u8> = (0..len).map(|_| r.next() as u8).collect();
        // Mostly of a type that is looked into.
        match r.below(5) {
            0 => f[12..14].copy_from_slice(&[0x08, 0x00]),
            1 => f[12..14].copy_from_slice(&[0x08, 0x06]),
            2 => f[12..14].copy_from_slice(&[0x86, 0xdd]),
            3 => f[12..14].copy_from_slice(&[0x81, 0x00]),
            _ => {}
        }
        assert_ne!(rig.xdp(&f).0, Action::Tx);
        assert_eq!(rig.snapshot(), before);
    }
    assert!(rig.records().is_empty());
}
