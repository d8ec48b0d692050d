//! The gate of this data path, as the real-time thread keeps it: nftables sets say which VIPs are open, a set element
//! with a timeout says for how long. Nobody needs to run for it to shut.
//!
//! The trap is that a timeout counts from the moment when the kernel enters it. A thread that is stopped between reading
//! the clock and that moment would open the gate for a lease that has long been over. So each renewal takes two
//! transactions: the first lays a *fuse*, an element that lives for two ticks; the second enters the lease and takes the
//! fuse out again, which fails, and with it all of the second, if the fuse has burnt down. So the lease is entered before
//! the fuse's end, and is given what is left from there to the end of the real lease, less a margin:
//!
//! ```text
//!   clock read   fuse laid        latest end of fuse                      gate shuts, latest       lease ends
//!       |------------|---- 2 ticks ------|-------- timeout, whole ticks -------|---- margin ----------|
//!                          ^ lease entered somewhere here, or not at all
//! ```

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use agent_common::{Set, state::Shared};
use nix::{
    errno::Errno,
    time::{ClockId, clock_getres},
};

use super::{kernel::NfTables, message::Batch};

/// Life of the fuse, ticks.
const FUSE: u64 = 2;
/// The kernel looks at timeouts by its tick; this is how late a tick may be, in ticks and at least in ns.
const MARGIN_TICKS: u64 = 2;
const MARGIN: u64 = 5_000_000;

/// ARP, IPv4 and IPv6, as `meta protocol` has them.
const PROTOCOLS: [[u8; 2]; 3] = [[0x08, 0x06], [0x08, 0x00], [0x86, 0xdd]];
const FUSE_KEY: [u8; 4] = [0; 4];

/// The kernel's tick, ns (CONFIG_HZ): what nftables counts timeouts in.
pub fn tick() -> u64 {
    // The coarse clocks advance with the tick (clock_getres(2)).
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .ok()
        .and_then(|t| u64::try_from(t.tv_nsec()).ok())
        .filter(|t| (100_000..=100_000_000).contains(t))
        .unwrap_or(10_000_000)
}

/// How much shorter than the lease the gate stays open without being renewed, ns.
pub fn loss(tick: u64) -> u64 {
    // One more tick: timeouts are rounded down.
    (FUSE + 1) * tick + margin(tick)
}

fn margin(tick: u64) -> u64 {
    (MARGIN_TICKS * tick).max(MARGIN)
}

/// The timeout to enter while the fuse burns until `fuse`, in ticks; 0: too little is left of the lease.
fn timeout(lease: u64, fuse: u64, tick: u64) -> u64 {
    lease.saturating_sub(fuse).saturating_sub(margin(tick)) / tick
}

/// What to tell the kernel, which rounds down to whole ticks: rounded up, it is just this many.
fn millis(ticks: u64, tick: u64) -> u64 {
    (ticks * tick).div_ceil(1_000_000)
}

/// A VIP as the sets have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vip {
    pub group: u8,
    bytes: [u8; 16],
    length: usize,
}

impl Vip {
    pub fn new(address: IpAddr, group: u8) -> Vip {
        let mut bytes = [0; 16];
        let length = match address {
            IpAddr::V4(a) => {
                bytes[..4].copy_from_slice(&a.octets());
                4
            }
            IpAddr::V6(a) => {
                bytes = a.octets();
                16
            }
        };
        Vip {
            group,
            bytes,
            length,
        }
    }
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
    pub fn is_ipv4(&self) -> bool {
        self.length == 4
    }
}

/// What the gate counts.
#[derive(Default, Debug)]
pub struct GateStats {
    /// Transactions that set the gate.
    pub set: AtomicU64,
    /// Renewals that came too late for their fuse, or for the lease.
    pub late: AtomicU64,
    /// Renewals that were entered too late all the same, and were taken back at once.
    pub overshot: AtomicU64,
    /// Transactions that the kernel refused.
    pub refused: AtomicU64,
    /// The longest that setting the gate took, us.
    pub worst_us: AtomicU64,
    /// Messages held back because the gate could not be shut.
    pub held_back: AtomicU64,
}

/// The keeper of the gate.
pub struct Gate {
    kernel: NfTables,
    batch: Batch,
    clock: fn() -> u64,
    tick: u64,
    vips: Vec<Vip>,
    /// Groups whose VIPs are in the open sets; None: not known.
    open: Option<Set>,
    /// The open sets must be written even if they should be right.
    all: bool,
    /// No element of the lease set lives longer, boot ns.
    until: u64,
    /// End of the lease that `until` was made from.
    of_lease: u64,
    lost: bool,
    stats: Arc<GateStats>,
}

/// What one attempt came to.
enum Written {
    Done,
    /// Nothing has changed in the kernel.
    Not(Errno),
    /// Too little is left of the lease.
    Short,
    /// It may have been done.
    Unknown,
}

impl Gate {
    /// A keeper in this network namespace. What an earlier one left in the kernel stays until the first
    /// [`Gate::settle`].
    ///
    /// # Errors
    /// The kernel has no nfnetlink.
    pub fn new(vips: &[(IpAddr, u8)], clock: fn() -> u64) -> std::io::Result<Gate> {
        let mut gate = Gate {
            kernel: NfTables::open()?,
            batch: Batch::default(),
            clock,
            tick: tick(),
            vips: Vec::new(),
            open: None,
            all: true,
            until: u64::MAX,
            of_lease: 0,
            lost: false,
            stats: Arc::default(),
        };
        gate.set_vips(vips);
        Ok(gate)
    }

    /// Takes other VIPs; the next [`Gate::settle`] writes them.
    pub fn set_vips(&mut self, vips: &[(IpAddr, u8)]) {
        self.vips = vips.iter().map(|(a, g)| Vip::new(*a, *g)).collect();
        self.batch = Batch::with_room(self.vips.len());
        self.all = true;
    }

    /// What it counts.
    pub fn stats(&self) -> &Arc<GateStats> {
        &self.stats
    }

    /// Was the ruleset found to be gone? True once.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Makes the kernel's gate what the table says. False: it is wider, and could not be shut. Nothing may be sent then,
    /// for what is sent may give a right to another.
    pub fn settle(&mut self, sh: &Shared) -> bool {
        let now = (self.clock)();
        let lease = sh.lease().expiry_ns();
        let want = if lease > now {
            sh.gate.load()
        } else {
            Set::EMPTY
        };
        let wide = self.is_wide(want, lease);
        let narrow = self.open.is_some_and(|open| !want.minus(open).is_empty());
        let renew = !want.is_empty() && lease >= self.of_lease.saturating_add(self.tick);
        if !(wide || narrow || renew || self.all) {
            return true;
        }
        let written = self.write(want, lease);
        let after = (self.clock)();
        let took = after.saturating_sub(now) / 1000;
        self.stats.worst_us.fetch_max(took, Relaxed);
        match written {
            Written::Done => {
                self.stats.set.fetch_add(1, Relaxed);
                true
            }
            Written::Short => {
                self.stats.late.fetch_add(1, Relaxed);
                !wide || self.shut()
            }
            Written::Not(errno) => {
                self.failed(errno);
                !wide || self.shut()
            }
            Written::Unknown => {
                self.stats.overshot.fetch_add(1, Relaxed);
                self.open = None;
                self.shut()
            }
        }
    }

    /// May something pass in the kernel that the table does not allow?
    fn is_wide(&self, want: Set, lease: u64) -> bool {
        self.open.is_none_or(|open| !open.minus(want).is_empty())
            || !want.is_empty() && self.until > lease
    }

    fn write(&mut self, want: Set, lease: u64) -> Written {
        if want.is_empty() {
            return match self.shut_all() {
                Ok(()) => Written::Done,
                Err(errno) => Written::Not(errno),
            };
        }
        self.batch.begin();
        self.batch.flush("fuse");
        let ms = millis(FUSE, self.tick);
        self.batch.add("fuse", std::iter::once(&FUSE_KEY[..]), ms);
        if let Err(errno) = self.kernel.commit(&mut self.batch) {
            // ENOENT: the ruleset is gone; whoever flushed it must not keep it away.
            self.lost |= errno == Errno::ENOENT;
            self.all |= errno == Errno::ENOENT;
            return Written::Not(errno);
        }
        let fuse = (self.clock)() + FUSE * self.tick;
        let ticks = timeout(lease, fuse, self.tick);
        if ticks == 0 {
            return Written::Short;
        }
        let opens = self.all || self.open != Some(want);
        self.batch.begin();
        if opens {
            flush_open(&mut self.batch);
            let of = |v4: bool| {
                self.vips
                    .iter()
                    .filter(move |v| v.is_ipv4() == v4 && want.has(v.group))
                    .map(Vip::key)
            };
            self.batch.add("open4", of(true), 0);
            self.batch.add("open6", of(false), 0);
            self.batch.add("otarget6", of(false), 0);
        }
        self.batch.flush("lease");
        let ms = millis(ticks, self.tick);
        let protocols = PROTOCOLS.iter().map(|p| &p[..]);
        self.batch.add("lease", protocols, ms);
        // Last, so that everything above was entered before the fuse's end.
        self.batch.remove("fuse", &FUSE_KEY);
        let committed = self.kernel.commit(&mut self.batch);
        let after = (self.clock)();
        match committed {
            Ok(()) => {
                self.open = Some(want);
                self.all = false;
                self.until = fuse + ticks * self.tick;
                self.of_lease = lease;
                // Newer kernels judge the fuse by the beginning of the transaction: look again at its end.
                if after > fuse + margin(self.tick) {
                    return Written::Unknown;
                }
                Written::Done
            }
            Err(Errno::ENOENT) => Written::Not(Errno::ENOENT),
            Err(Errno::ETIMEDOUT | Errno::ENOBUFS) => Written::Unknown,
            Err(errno) => Written::Not(errno),
        }
    }

    /// Shuts everything; true if that is certain.
    fn shut(&mut self) -> bool {
        match self.shut_all() {
            Ok(()) => true,
            Err(errno) => {
                self.failed(errno);
                false
            }
        }
    }

    fn shut_all(&mut self) -> Result<(), Errno> {
        self.batch.begin();
        flush_open(&mut self.batch);
        self.batch.flush("lease");
        let done = self.kernel.commit(&mut self.batch);
        match done {
            Ok(()) => {
                self.open = Some(Set::EMPTY);
                self.all = false;
                self.until = 0;
                self.of_lease = 0;
            }
            Err(errno) => self.lost |= errno == Errno::ENOENT,
        }
        done
    }

    fn failed(&self, errno: Errno) {
        if errno == Errno::ENOENT && !self.lost {
            self.stats.late.fetch_add(1, Relaxed);
        } else {
            self.stats.refused.fetch_add(1, Relaxed);
        }
    }
}

fn flush_open(batch: &mut Batch) {
    for set in ["open4", "open6", "otarget6"] {
        batch.flush(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// However late in the fuse's life the lease is entered, it ends a margin before the real one.
        #[test]
        fn the_gate_shuts_before_the_lease_ends(
            now in 1u64 << 30..1 << 50,
            lease in 0u64..4_000_000_000,
            tick in proptest::sample::select(vec![1_000_000u64, 3_333_333, 4_000_000, 10_000_000]),
            burnt in 0u64..=100,
        ) {
            let (end, fuse) = (now + lease, now + FUSE * tick);
            let ticks = timeout(end, fuse, tick);
            let entered = now + FUSE * tick * burnt / 100;
            proptest::prop_assert!(ticks == 0 || entered + ticks * tick + margin(tick) <= end);
            // The kernel makes of it just as many ticks.
            proptest::prop_assert_eq!(millis(ticks, tick) * 1_000_000 / tick, ticks);
            // And what is lost is no more than promised.
            proptest::prop_assert!(ticks * tick + loss(tick) > lease.saturating_sub(FUSE * tick) || lease < loss(tick));
        }
    }

    #[test]
    fn this_kernel_has_a_tick() {
        assert!((900_000..=10_000_000).contains(&tick()));
    }
}
