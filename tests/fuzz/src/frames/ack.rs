//! The ack that a heartbeat is turned into, as its receiver takes it apart.

use agent_common::{
    Set,
    wire::{Form, Kind, Message, flags},
};

use super::{
    CV, GRANTED, INCARNATION, MINE, World, choice,
    look::{self, Seen, be16},
};

pub(super) fn check(world: &World, choice: u8, seen: &Seen, m: &Message, frame: &[u8], out: &[u8]) {
    assert!(choice & choice::GRANT != 0, "nothing was granted");
    assert_eq!((m.kind, m.from), (Kind::Heartbeat as u8, 2));
    assert_eq!(
        (m.incarnation, m.cv, m.set),
        (INCARNATION, CV, Set::of(GRANTED))
    );
    assert_eq!(out.len(), frame.len());
    let (l3, kind) = look::network(frame).expect("a heartbeat has one");
    let l4 = seen.heartbeat.expect("a heartbeat has one");
    let swapped = |a: usize, b: usize, n: usize| {
        assert_eq!(out[a..a + n], frame[b..b + n], "sent back");
        assert_eq!(out[b..b + n], frame[a..a + n], "sent back");
    };
    swapped(0, 6, 6);
    swapped(l4, l4 + 2, 2);
    assert_eq!(out[12..l3], frame[12..l3], "its tags stay");

    let length = usize::from(be16(out, l4 + 4).expect("a UDP header"));
    let old = usize::from(be16(frame, l4 + 4).expect("a UDP header"));
    let form = if m.version < 2 { Form::Full } else { Form::Ack };
    assert_eq!(length, 8 + form.len());
    let (payload, rest) = out[l4 + 8..].split_at(form.len());
    assert!(
        rest[..old - length].iter().all(|b| *b == 0),
        "nothing of the heartbeat is left behind the ack"
    );
    assert_eq!(rest[old - length..], frame[l4 + old..]);
    let ack = Message::open(payload, &world.keys).expect("node 2 can read it");
    assert_eq!(
        ack.key_id,
        world.keys.id(),
        "it is signed with the first key"
    );
    assert_eq!(ack.other_key, world.keys.other_id());
    assert_eq!(ack.kind, Kind::Ack as u8);
    assert_eq!((ack.from, ack.to, ack.version), (1, 2, m.version));
    assert_eq!(ack.incarnation, MINE);
    assert_eq!(
        (ack.re_incarnation, ack.re_seq, ack.re_clock),
        (m.incarnation, m.seq, m.clock)
    );
    assert_eq!((ack.cv, ack.promise_us), (m.cv, m.promise_us));
    assert_eq!(ack.flags, if m.version < 2 { flags::NEXT } else { 0 });

    if kind == 0x0800 {
        swapped(l3 + 12, l3 + 16, 4);
        assert_eq!(be16(out, l3 + 2), Some((20 + length) as u16));
        let right = |f: &[u8]| sum(&f[l3..l3 + 20], 0) == 0xffff;
        assert!(
            !right(frame) || right(out),
            "the header's checksum stays right"
        );
        assert_eq!(be16(out, l4 + 6), Some(0), "none, RFC 768");
    } else {
        swapped(l3 + 8, l3 + 24, 16);
        assert_eq!(be16(out, l3 + 4), Some(length as u16));
        let pseudo = sum(&out[l3 + 8..l3 + 40], length as u64 + 17);
        assert_eq!(sum(&out[l4..l4 + length], pseudo), 0xffff, "RFC 8200, 8.1");
        assert_ne!(be16(out, l4 + 6), Some(0));
    }
}

/// RFC 1071, before it is turned over.
pub(super) fn sum(bytes: &[u8], start: u64) -> u64 {
    let words = bytes
        .chunks(2)
        .map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0)));
    let mut sum = start + words.sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
