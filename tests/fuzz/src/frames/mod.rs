//! Frames through the XDP and the TC program (their sources on the host), with a second opinion on what they are.

mod ack;
mod look;
mod seeds;

use std::{cell::OnceCell, net::IpAddr};

use agent_common::{
    Set,
    cell::Cell64,
    kernel,
    keys::{Keys, key_id},
    record::{AddressKey, COUNTERS, Counter, VIP_GATEWAY, address_key, virtual_mac},
    siphash::Key,
    state::{LAYOUT, LeaseWord, Shared},
    wire::{Form, LEN, Message},
};
use heartline_ebpf_host::{Maps, Node};

use look::look;

const NOW: u64 = 1 << 50;
const PORT: u16 = 4747;
const CLUSTER: u32 = 9;
const GENERATION: u32 = 7;
/// Incarnation of node 2, which sends.
const INCARNATION: u64 = 1_000;
/// Incarnation of node 1, which receives.
const MINE: u64 = 500;
/// What node 2 was granted.
const GRANTED: u8 = 7;
const CV: u64 = 77;
/// The heartbeat of node 1 that is in flight.
const SEQ: u64 = 5;
/// Group of the VIPs that are ordinary addresses.
const GROUP: u8 = 3;
/// Group of those that are gateways.
const ROUTER: u8 = 200;
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// What the first byte of an input chooses.
mod choice {
    /// The gate of the ordinary VIPs is open.
    pub const OPEN: u8 = 1;
    /// The message is signed.
    pub const SIGN: u8 = 2;
    /// Node 2 was granted something.
    pub const GRANT: u8 = 4;
    /// There is no table.
    pub const NO_TABLE: u8 = 8;
    /// The gate of the gateway VIPs is open.
    pub const ROUTER_OPEN: u8 = 16;
    /// It is signed with the other key.
    pub const OTHER_KEY: u8 = 32;
    /// It is signed with a key of somebody else.
    pub const FOREIGN_KEY: u8 = 64;
    /// The lease is over.
    pub const LAPSED: u8 = 128;
}

fn ip(text: &str) -> AddressKey {
    address_key(text.parse::<IpAddr>().expect("an address"))
}

/// In the middle of a rotation.
fn keys() -> Keys {
    Keys::new(Key(1, 2), Some(Key(3, 4)))
}

fn vmac() -> [u8; 6] {
    virtual_mac(CLUSTER, ROUTER)
}

/// What a frame is judged by, apart from the table.
struct World {
    node: Node,
    keys: Keys,
    vmac: [u8; 6],
    /// VIP, its group, and is it a gateway?
    vips: [(AddressKey, u8, bool); 4],
    links: [AddressKey; 2],
}

impl World {
    fn new() -> World {
        let vips = [
            (ip("10.0.0.100"), GROUP, false),
            (ip("fd00::100"), GROUP, false),
            (ip("10.0.0.200"), ROUTER, true),
            (ip("fd00::200"), ROUTER, true),
        ];
        let links = [ip("10.0.0.1"), ip("fd00::1")];
        let [a, b, c, d, e, f] = vmac();
        let node = Node::new(Maps {
            keys: keys(),
            vips: vips
                .map(|(v, g, gateway)| (v, u32::from(g) | if gateway { VIP_GATEWAY } else { 0 }))
                .to_vec(),
            vmacs: vec![([a, b, c, d, e, f, 0, 0], u32::from(ROUTER))],
            links: links.iter().copied().zip(0..).collect(),
        });
        World {
            node,
            keys: keys(),
            vmac: vmac(),
            vips,
            links,
        }
    }

    fn vip(&self, a: &AddressKey) -> Option<(u8, bool)> {
        let found = self.vips.iter().find(|(v, ..)| v == a);
        found.map(|(_, group, gateway)| (*group, *gateway))
    }

    /// Is one of these a VIP whose gate is shut?
    fn shut(&self, choice: u8, addresses: &[AddressKey]) -> bool {
        let groups = addresses.iter().filter_map(|a| self.vip(a));
        groups.into_iter().any(|(group, _)| !open(choice, group))
    }
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// Runs one input: a byte of choices, then a frame.
pub fn run(data: &[u8]) {
    let Some((choice, frame)) = data.split_first() else {
        return;
    };
    WORLD.with(|world| {
        let world = world.get_or_init(World::new);
        set_up(world.node.table(), *choice, &world.node);
        let mut frame = frame.to_vec();
        if choice & choice::SIGN != 0 {
            sign(&mut frame, *choice);
        }
        ingress(world, *choice, &frame);
        // A message may have shut gates: a younger claim, or our own id from elsewhere.
        set_up(world.node.table(), *choice, &world.node);
        egress(world, *choice, &frame);
        world.node.counters();
        while world.node.record().is_some() {}
    });
}

/// Frames of each kind that the programs know, in each state of the node.
pub fn seeds() -> Vec<Vec<u8>> {
    seeds::all()
}

/// May the VIPs of the group be used?
fn open(choice: u8, group: u8) -> bool {
    let bit = if group == GROUP {
        choice::OPEN
    } else {
        choice::ROUTER_OPEN
    };
    choice & bit != 0 && choice & (choice::NO_TABLE | choice::LAPSED) == 0
}

fn ingress(world: &World, choice: u8, frame: &[u8]) {
    let node = &world.node;
    let seen = look(world, frame);
    let before = words(node.table());
    let mut out = frame.to_vec();
    let action = node.xdp(&mut out, 1, NOW);
    let counted = node.counters();
    let to_mac = frame.get(..6) == Some(&world.vmac[..]);
    let mac_shut = to_mac && !open(choice, ROUTER);
    let shut = mac_shut || world.shut(choice, &seen.to);
    match action {
        PASS => assert!(!shut, "passes a shut gate: {seen:?}"),
        DROP => assert!(
            shut || seen.heartbeat.is_some() || seen.unread,
            "dropped without a reason: {seen:?}"
        ),
        TX => {}
        other => panic!("XDP action {other}"),
    }
    if action != TX {
        assert!(out == frame, "only an ack changes the frame");
    }
    let after = words(node.table());
    let message = match seen.heartbeat {
        Some(l4) if !mac_shut && !seen.unread && choice & choice::NO_TABLE == 0 => {
            read(world, frame, l4)
        }
        _ => {
            assert!(action != TX, "an ack for no heartbeat");
            assert!(before == after, "no heartbeat changes the table");
            return;
        }
    };
    match message {
        Err(why) => {
            assert_eq!(action, DROP, "{why:?}");
            assert!(before == after, "{why:?} changes the table");
            let name = COUNTERS.iter().find(|(c, _)| *c == why).map(|(_, n)| *n);
            let counted: Vec<_> = counted.iter().filter(|(n, _)| *n != "gate_in").collect();
            assert!(
                matches!(counted[..], [(n, 1)] if Some(*n) == name),
                "{why:?}, and it counted {counted:?}"
            );
        }
        Ok(m) => {
            assert!(
                action != PASS,
                "what is authentic does not reach the stack: {m:?}"
            );
            if action == TX {
                ack::check(world, choice, &seen, &m, frame, &out);
            }
            let sh = node.table();
            if choice & (choice::OPEN | choice::ROUTER_OPEN) == 0 {
                assert!(sh.gate.load().is_empty(), "a message opens no gate");
            }
            if choice & choice::LAPSED != 0 {
                assert!(!sh.lease().holds(NOW), "a lapsed lease is lost");
            }
        }
    }
}

fn egress(world: &World, choice: u8, frame: &[u8]) {
    let seen = look(world, frame);
    let mut out = frame.to_vec();
    let action = world.node.egress(&mut out, NOW);
    let from_mac = frame.get(6..12) == Some(&world.vmac[..]);
    let shut = from_mac && !open(choice, ROUTER) || world.shut(choice, &seen.from);
    // With another MAC than its own a gateway VIP is not to be heard of.
    let lie = seen.claim.filter(|_| !from_mac);
    match action {
        -1 => {
            assert!(!shut, "leaves through a shut gate: {seen:?}");
            let mut want = frame.to_vec();
            if let Some(claim) = lie {
                assert!(claim.question, "an impostor: {seen:?}");
                want[claim.at..claim.at + 4].fill(0);
            }
            assert!(out == want, "changed on its way out: {seen:?}");
        }
        2 => {
            assert!(
                shut || seen.unread || lie.is_some_and(|claim| !claim.question),
                "dropped without a reason: {seen:?}"
            );
        }
        other => panic!("TC action {other}"),
    }
}

/// What user space makes of a datagram to the heartbeat port, which the kernel must make of it as well.
fn read(world: &World, frame: &[u8], l4: usize) -> Result<Message, Counter> {
    let length = look::be16(frame, l4 + 4).ok_or(Counter::Truncated)?;
    let payload = usize::from(length).checked_sub(8);
    let payload = payload.ok_or(Counter::Truncated)?;
    if Form::of_len(payload).is_none() {
        return Err(if payload < LEN {
            Counter::Truncated
        } else {
            Counter::Oversized
        });
    }
    let at = l4 + 8;
    let bytes = frame.get(at..at + payload).ok_or(Counter::Truncated)?;
    let mut whole = [0; LEN];
    whole[..payload].copy_from_slice(bytes);
    kernel::precheck(world.node.table(), &Message::from_bytes(&whole))?;
    Message::open(bytes, &world.keys)
}

/// A node with or without a lease, with or without a grant to node 2.
fn set_up(sh: &Shared, choice: u8, node: &Node) {
    node.copy_table(&Shared::default());
    sh.id.store(1);
    sh.cluster.store(u64::from(CLUSTER));
    sh.generation.store(u64::from(GENERATION));
    sh.port.store(u64::from(PORT));
    sh.max_promise.store(10_000_000_000);
    sh.voters.store(0b111);
    sh.majority.store(2);
    sh.incarnation.store(MINE);
    sh.run_cv.store(SEQ);
    let slot = sh.slot(SEQ);
    slot.word.store(SEQ << 32);
    slot.sent.store(NOW - 1_000_000);
    slot.lease.store(60_000_000);
    slot.cv.store(SEQ);
    let mut gate = Set::EMPTY;
    if choice & choice::OPEN != 0 {
        gate = gate.union(Set::of(GROUP));
    }
    if choice & choice::ROUTER_OPEN != 0 {
        gate = gate.union(Set::of(ROUTER));
    }
    sh.gate.store(gate);
    let end = if choice & choice::LAPSED != 0 {
        NOW - 10_000
    } else {
        NOW + 40_000_000
    };
    sh.lease.store(LeaseWord::until(end, SEQ).0);
    let p = sh.peer(2);
    p.incarnation.store(INCARNATION);
    if choice & choice::GRANT != 0 {
        p.claim[0].set.store(Set::of(GRANTED));
        p.claim[0].cv.store(CV);
        p.word.store(1);
    }
    if choice & choice::NO_TABLE == 0 {
        sh.layout.store(LAYOUT);
    }
}

/// Signs the message of a heartbeat, tags before it or not, in the form that its length says.
fn sign(frame: &mut [u8], choice: u8) {
    let Some((l3, kind)) = look::network(frame) else {
        return;
    };
    let l4 = l3 + if kind == 0x0800 { 20 } else { 40 };
    let Some(payload) = look::be16(frame, l4 + 4).and_then(|n| usize::from(n).checked_sub(8))
    else {
        return;
    };
    let Some(place) = frame.get_mut(l4 + 8..).and_then(|f| f.get_mut(..payload)) else {
        return;
    };
    let (Some(form), Ok(mut m)) = (Form::of_len(payload), Message::read(place)) else {
        return;
    };
    let key = if choice & choice::FOREIGN_KEY != 0 {
        Key(5, 6)
    } else if choice & choice::OTHER_KEY != 0 {
        Key(3, 4)
    } else {
        Key(1, 2)
    };
    m.key_id = key_id(key);
    m.mac = m.mac_of(key, form);
    let mut out = [0; LEN];
    m.write(form, &mut out);
    place.copy_from_slice(&out[..payload]);
}

const WORDS: usize = size_of::<Shared>() / 8;

/// The table as it is now.
fn words(sh: &Shared) -> Vec<u64> {
    // SAFETY: Shared is made of Cell64 alone (repr(C), repr(transparent)).
    let cells = unsafe { &*(sh as *const Shared as *const [Cell64; WORDS]) };
    cells.iter().map(Cell64::load).collect()
}
