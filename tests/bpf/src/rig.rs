//! One loaded data path with a known node in it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use agent_common::{
    Set,
    keys::{Keys, key_id},
    record::Record,
    siphash::Key,
    state::{LeaseWord, PromiseWord, Shared},
    wire::{Kind, LEN, MAGIC, Message, VERSION},
};
use heartline::datapath::{DataPath, Identity, Ring, Table};

use crate::{
    bpf::{self, Run},
    dump, frame,
    pins::PinDir,
};

/// What every rig is set to.
pub mod consts {
    use super::{Ipv4Addr, Ipv6Addr};

    /// The node under test.
    pub const ME: u8 = 1;
    /// The node that most frames come from.
    pub const PEER: u8 = 2;
    /// The voters: nodes 1 to 5, so a majority is three.
    pub const VOTERS: u32 = 0b1_1111;
    /// Incarnation of the peer.
    pub const PEER_INCARNATION: u64 = 1_000;
    /// Incarnation of the node under test.
    pub const MY_INCARNATION: u64 = 500;
    /// Cluster hash.
    pub const CLUSTER: u32 = 0xc1_0576;
    /// Configuration generation.
    pub const GENERATION: u32 = 7;
    /// Configuration digest of the node under test.
    pub const DIGEST: u32 = 0xd16;
    /// UDP port.
    pub const PORT: u16 = 4747;
    /// `max_promise`, ns.
    pub const MAX_PROMISE: u64 = 10_000_000_000;
    /// The promise that the peer asks for, ns.
    pub const PROMISE: u64 = 50_000_000;
    /// The claim version that was granted to the peer.
    pub const CV: u64 = 77;
    /// Group of `VIP4` and `VIP6`.
    pub const GROUP: u8 = 3;
    /// Group of `OTHER_VIP4` and `OTHER_VIP6`; in another word of the set.
    pub const OTHER_GROUP: u8 = 200;
    /// Link address.
    pub const LINK4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    /// Link address.
    pub const LINK6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    /// The peer's.
    pub const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    /// The peer's.
    pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    /// A VIP.
    pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
    /// A VIP.
    pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
    /// Another group's VIP.
    pub const OTHER_VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
    /// Another group's VIP.
    pub const OTHER_VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x200);
}
use consts::*;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// On to the stack (or out of the device).
    Pass,
    /// Gone.
    Drop,
    /// Back to where it came from.
    Tx,
}

/// The boot clock, ns: the one that the programs use.
pub fn boot_ns() -> u64 {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("the boot clock");
    t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
}

/// Programs, maps and table of one node, with pins of its own.
pub struct Rig {
    /// The loader under test.
    pub datapath: DataPath,
    /// Its ring buffer.
    pub ring: Ring,
    /// The table.
    pub table: Table,
    /// The cluster key.
    pub key: Key,
    xdp: i32,
    egress: i32,
    seq: u64,
    counted: BTreeMap<&'static str, u64>,
    // Last, so that it is dropped last.
    pins: PinDir,
}

/// The cluster key of all rigs.
pub const KEY: [u8; 16] = *b"0123456789abcdef";

impl Rig {
    /// A node that has waited out rule 1, runs nothing and has granted nothing.
    ///
    /// # Panics
    /// Without root or BPF.
    pub fn new() -> Rig {
        let rig = Rig::unidentified();
        rig.identify();
        rig.table.vote_after.store(0);
        rig
    }

    /// As the loader leaves it: no identity, so no table that the programs may use; VIPs and links are known.
    ///
    /// # Panics
    /// As [`Rig::new`].
    pub fn unidentified() -> Rig {
        let pins = PinDir::new();
        let mut datapath = DataPath::load(pins.path(), KEY).unwrap_or_else(|e| panic!("{e}"));
        datapath
            .set_vips(&[
                (VIP4.into(), GROUP),
                (VIP6.into(), GROUP),
                (OTHER_VIP4.into(), OTHER_GROUP),
                (OTHER_VIP6.into(), OTHER_GROUP),
            ])
            .expect("the VIP map");
        datapath
            .set_links(&[LINK4.into(), LINK6.into()])
            .expect("the link map");
        let word = |i: usize| u64::from_le_bytes(KEY[i..i + 8].try_into().unwrap());
        Rig {
            ring: datapath.take_ring().expect("the ring buffer"),
            table: datapath.table(),
            key: Key(word(0), word(8)),
            xdp: datapath.program_fd("heartline_xdp").expect("heartline_xdp"),
            egress: datapath
                .program_fd("heartline_egress")
                .expect("heartline_egress"),
            seq: 1_000,
            counted: BTreeMap::new(),
            datapath,
            pins,
        }
    }

    /// Gives the node its identity, as the agent does at its start.
    pub fn identify(&self) {
        let id = Identity {
            id: ME,
            cluster: CLUSTER,
            generation: GENERATION,
            digest: DIGEST,
            port: PORT,
            max_promise_ns: MAX_PROMISE,
            voters: VOTERS,
        };
        self.datapath.identify(&id, boot_ns(), MY_INCARNATION);
    }

    /// Enters a claim of `PEER_INCARNATION` for a node as the voter's user space does, with nothing promised yet.
    pub fn grant(&self, node: u8, cv: u64, set: Set) {
        let p = self.table.peer(node);
        p.incarnation.store(PEER_INCARNATION);
        p.claim[0].set.store(set);
        p.claim[0].cv.store(cv);
        p.word.store(1);
    }

    /// Where its pins are.
    pub fn pins(&self) -> &Path {
        self.pins.path()
    }

    /// The promise to the peer.
    pub fn promise(&self) -> PromiseWord {
        PromiseWord(self.table.peer(PEER).word.load())
    }

    /// Opens the gate for a group, with a lease until `ns`.
    pub fn own(&self, group: u8, until_ns: u64) {
        self.table.run_cv.store(CV);
        self.table.gate.insert(Set::of(group));
        self.table.lease.store(LeaseWord::until(until_ns, CV).0);
    }

    /// A good heartbeat of the peer for the claim (`CV`, `GROUP`), signed, with a new sequence.
    pub fn heartbeat(&mut self) -> Message {
        self.seq += 1;
        self.sign(Message {
            magic: MAGIC,
            version: VERSION,
            kind: Kind::Heartbeat as u8,
            from: PEER,
            cluster: CLUSTER,
            generation: GENERATION,
            digest: 0xabc,
            max_promise_ms: (MAX_PROMISE / 1_000_000) as u32,
            incarnation: PEER_INCARNATION,
            clock: 70_000_000_000 + self.seq * 10_000_000,
            seq: self.seq,
            promise_us: (PROMISE / 1_000) as u32,
            cv: CV,
            set: Set::of(GROUP),
            epoch: 9,
            soft: 0xaa,
            soft_version: 0xbb,
            ..Message::default()
        })
    }

    /// Its good ack of a heartbeat of ours.
    pub fn ack(&mut self, from: u8, re_seq: u64, re_clock: u64) -> Message {
        let m = Message {
            kind: Kind::Ack as u8,
            from,
            to: ME,
            re_incarnation: MY_INCARNATION,
            re_seq,
            re_clock,
            ..self.heartbeat()
        };
        self.sign(m)
    }

    /// Signs with the cluster key, in the full form.
    pub fn sign(&self, mut m: Message) -> Message {
        m.key_id = key_id(self.key);
        m.sign(self.key);
        m
    }

    /// Seals as an agent does: the payload in its shortest form.
    pub fn seal(&self, mut m: Message, keys: &Keys) -> Vec<u8> {
        let mut out = [0; LEN];
        let len = m.seal(keys, &mut out);
        out[..len].to_vec()
    }

    /// Runs the XDP program on a frame.
    ///
    /// # Panics
    /// If the kernel refuses to run it.
    pub fn xdp(&self, frame: &[u8]) -> (Action, Vec<u8>) {
        let before = dump::before(self, 'x', frame);
        let r = self.run_xdp(frame, 1);
        dump::after(before, r.retval);
        let action = action(r.retval);
        if action != Action::Tx {
            assert_eq!(
                r.data, frame,
                "a frame that is not sent back is not changed"
            );
        }
        (action, r.data)
    }

    /// The same `repeat` times, on the loopback device.
    ///
    /// # Panics
    /// As [`Rig::xdp`].
    pub fn run_xdp(&self, frame: &[u8], repeat: u32) -> Run {
        bpf::run(self.xdp, frame, Some(1), repeat)
            .unwrap_or_else(|e| panic!("{} bytes: {e}", frame.len()))
    }

    /// As [`Rig::xdp`] for a frame longer than a page, which comes back in part.
    ///
    /// # Panics
    /// As [`Rig::xdp`].
    pub fn xdp_head(&self, frame: &[u8]) -> Action {
        action(self.run_xdp(frame, 1).retval)
    }

    /// Mean time of one run of the egress program, ns.
    ///
    /// # Panics
    /// If the kernel refuses to run it.
    pub fn time_egress(&self, frame: &[u8], repeat: u32) -> u32 {
        bpf::run(self.egress, frame, None, repeat)
            .unwrap_or_else(|e| panic!("{} bytes: {e}", frame.len()))
            .duration_ns
    }

    /// Runs the egress program on a frame.
    ///
    /// # Panics
    /// If the kernel refuses to run it, or if the program changes the frame.
    pub fn egress(&self, frame: &[u8]) -> Action {
        let (action, data) = self.egress_out(frame);
        assert_eq!(data, frame);
        action
    }

    /// As [`Rig::egress`], with the frame as it leaves.
    ///
    /// # Panics
    /// If the kernel refuses to run it.
    pub fn egress_out(&self, frame: &[u8]) -> (Action, Vec<u8>) {
        let before = dump::before(self, 't', frame);
        let r = bpf::run(self.egress, frame, None, 1)
            .unwrap_or_else(|e| panic!("{} bytes: {e}", frame.len()));
        dump::after(before, r.retval);
        let action = match r.retval as i32 {
            -1 => Action::Pass,
            2 => Action::Drop,
            other => panic!("TC action {other}"),
        };
        (action, r.data)
    }

    /// The XDP program.
    pub fn xdp_fd(&self) -> i32 {
        self.xdp
    }

    /// The TC program.
    pub fn egress_fd(&self) -> i32 {
        self.egress
    }

    /// The XDP program, to run on other threads meanwhile: true if it sent the frame back.
    pub fn hammer(&self) -> impl Fn(&[u8]) -> bool + Send + Sync + use<> {
        let xdp = self.xdp;
        move |frame| bpf::run(xdp, frame, Some(1), 1).expect("a run").retval == 3
    }

    /// The descriptors of the XDP and the egress program.
    pub fn programs(&self) -> (i32, i32) {
        (self.xdp, self.egress)
    }

    /// Sends a message as an IPv4 heartbeat.
    pub fn send(&self, m: &Message) -> (Action, Vec<u8>) {
        self.xdp(&over_ipv4(m))
    }

    /// What was counted since the last call, without the zeros.
    pub fn delta(&mut self) -> Vec<(&'static str, u64)> {
        let now: BTreeMap<_, _> = self.datapath.counters().into_iter().collect();
        let delta = now
            .iter()
            .map(|(name, n)| (*name, n - self.counted.get(name).copied().unwrap_or(0)))
            .filter(|(_, n)| *n != 0)
            .collect();
        self.counted = now;
        delta
    }

    /// All records that wait in the ring buffer.
    pub fn records(&mut self) -> Vec<Record> {
        std::iter::from_fn(|| self.ring.pop()).collect()
    }

    /// The whole table.
    pub fn snapshot(&self) -> Snapshot {
        const WORDS: usize = size_of::<Shared>() / 8;
        // SAFETY: Shared is made of Cell64 alone, and nothing runs the programs meanwhile.
        let words = unsafe { &*(self.table.shared() as *const Shared as *const [u64; WORDS]) };
        Snapshot(words.to_vec())
    }
}

impl Default for Rig {
    fn default() -> Rig {
        Rig::new()
    }
}

fn action(retval: u32) -> Action {
    match retval {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Tx,
        other => panic!("XDP action {other}"),
    }
}

/// A copy of the table, to see that nothing changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<u64>);

impl Snapshot {
    /// The words that are not zero, with their places.
    pub fn words(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().copied().enumerate().filter(|(_, w)| *w != 0)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.0.iter().enumerate().filter(|(_, w)| **w != 0))
            .finish()
    }
}

/// A payload in a good frame from the peer to our link.
pub fn datagram(payload: &[u8], v6: bool) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        (PEER6.into(), LINK6.into())
    } else {
        (PEER4.into(), LINK4.into())
    };
    frame::udp(&[], (src, 40_000), (dst, PORT), payload)
}

/// A message in a good IPv4 frame from the peer to our link.
pub fn over_ipv4(m: &Message) -> Vec<u8> {
    frame::udp(
        &[],
        (IpAddr::V4(PEER4), 40_000),
        (IpAddr::V4(LINK4), PORT),
        &m.to_bytes(),
    )
}

/// The same over IPv6.
pub fn over_ipv6(m: &Message) -> Vec<u8> {
    frame::udp(
        &[],
        (IpAddr::V6(PEER6), 40_000),
        (IpAddr::V6(LINK6), PORT),
        &m.to_bytes(),
    )
}
