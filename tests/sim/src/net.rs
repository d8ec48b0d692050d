//! The network between the nodes: cuts per direction and link, loss, copies, delay, stragglers.

use agent_common::{MAX_NODES, wire::Kind};

use crate::rng::Rng;

const N: usize = MAX_NODES;

/// How messages travel when nothing is cut.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Shortest delay, ns.
    pub delay_min: u64,
    /// Longest ordinary delay, ns.
    pub delay_max: u64,
    /// How many of 1000 take up to twenty times as long.
    pub spikes: u32,
    /// How many of 1000 arrive twice.
    pub copies: u32,
    /// How many of 1000 are held back by up to `straggle`.
    pub stragglers: u32,
    /// Longest hold, ns.
    pub straggle: u64,
    /// How many of 1000 are lost.
    pub loss: u32,
}

impl Weather {
    /// A quiet LAN.
    pub const CALM: Weather = Weather {
        delay_min: 40_000,
        delay_max: 150_000,
        spikes: 0,
        copies: 0,
        stragglers: 0,
        straggle: 0,
        loss: 0,
    };
    /// The reference model's network.
    pub const ROUGH: Weather = Weather {
        delay_min: 50_000,
        delay_max: 3_000_000,
        spikes: 30,
        copies: 20,
        stragglers: 20,
        straggle: 500_000_000,
        loss: 20,
    };
    /// Long holds of many messages.
    pub const STALE: Weather = Weather {
        stragglers: 100,
        straggle: 2_000_000_000,
        ..Weather::ROUGH
    };
}

/// The network.
#[derive(Debug)]
pub struct Net {
    /// The weather now.
    pub weather: Weather,
    /// Links of each node.
    pub links: u8,
    cut: [[u8; N]; N],
    /// Directed loss of one kind: from, to (0: any), kind, of 1000.
    pub aimed: Option<(u8, u8, Kind, u32)>,
    /// Directed hold of one kind: from, to (0: any), kind, for so long.
    pub held: Option<(u8, u8, Kind, u64)>,
}

impl Net {
    /// A whole network.
    pub fn new(weather: Weather, links: u8) -> Net {
        Net {
            weather,
            links,
            cut: [[0; N]; N],
            aimed: None,
            held: None,
        }
    }
    /// Cuts (or mends) links from one node to another, one way.
    pub fn cut(&mut self, from: u8, to: u8, links: u8) {
        self.cut[from as usize - 1][to as usize - 1] = links;
    }
    /// Nodes in `side` hear nobody outside it, and the other way round.
    pub fn partition(&mut self, side: u32) {
        for a in 0..N {
            for b in 0..N {
                self.cut[a][b] = if (side >> a ^ side >> b) & 1 == 1 {
                    u8::MAX
                } else {
                    0
                };
            }
        }
    }
    /// All links work again.
    pub fn mend(&mut self) {
        self.cut = [[0; N]; N];
        self.aimed = None;
        self.held = None;
    }
    /// Delays of the copies of a message; nothing if it is lost.
    #[inline]
    pub fn delays(&self, from: u8, to: u8, link: u8, kind: u8, rng: &mut Rng) -> [Option<u64>; 2] {
        let w = &self.weather;
        if self.cut[from as usize - 1][to as usize - 1] >> link & 1 == 1 || rng.chance(w.loss) {
            return [None; 2];
        }
        let aims =
            |f: u8, t: u8, k: Kind| (f == 0 || f == from) && (t == 0 || t == to) && k as u8 == kind;
        if let Some((f, t, k, permille)) = self.aimed
            && aims(f, t, k)
            && rng.chance(permille)
        {
            return [None; 2];
        }
        let hold = match self.held {
            Some((f, t, k, hold)) if aims(f, t, k) => hold,
            _ => 0,
        };
        let mut one = || {
            let mut d = rng.between(w.delay_min, w.delay_max) + hold;
            if rng.chance(w.spikes) {
                d *= 20;
            }
            if rng.chance(w.stragglers) {
                d += rng.between(0, w.straggle);
            }
            Some(d)
        };
        let first = one();
        let second = if w.copies > 0 && rng.chance(w.copies) {
            let mut d = rng.between(w.delay_min, w.delay_max);
            if rng.chance(w.stragglers) {
                d += rng.between(0, w.straggle);
            }
            Some(d)
        } else {
            None
        };
        [first, second]
    }
}
