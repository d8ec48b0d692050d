//! The watchdog in the hands of the real-time thread: petted while this node has a right to what runs here, or while
//! nothing runs that must not run twice. Nothing here waits, and nothing uses the heap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use agent_common::Set;
use agent_services::watchdog::{Beat, Pacer, Sysrq, Watchdog};
use nix::errno::Errno;

/// Groups of which something that must not run twice runs here, or may. The main task adds a group before anything of it
/// is started, and takes it out when nothing of it was seen to run.
#[derive(Debug, Default)]
pub struct AtStake([AtomicU64; 4]);

impl AtStake {
    /// The groups now. Not one instant for all of them: what counts is each group.
    pub fn load(&self) -> Set {
        Set(self.0.each_ref().map(|word| word.load(SeqCst)))
    }

    /// Other groups.
    pub fn store(&self, groups: Set) {
        for (cell, word) in self.0.iter().zip(groups.0) {
            cell.store(word, SeqCst);
        }
    }
}

/// What ends this machine.
#[derive(Debug)]
pub enum Keeper {
    /// A device, armed.
    Device(Watchdog),
    /// This thread does, after so long: the last resort.
    Sysrq(Sysrq, Duration),
}

impl Keeper {
    /// After which it does.
    pub fn timeout(&self) -> Duration {
        match self {
            Keeper::Device(dog) => dog.timeout,
            Keeper::Sysrq(_, timeout) => *timeout,
        }
    }
}

/// What others should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is not petted any more; by this time (boot, ns) the machine is reset, unless all is stopped before.
    Starving(u64),
    /// It is petted again.
    Fed,
    /// The device did not take a sign of life.
    Refused(Errno),
}

/// Pets a watchdog.
#[derive(Debug)]
pub struct Petter {
    keeper: Box<Keeper>,
    at_stake: Arc<AtStake>,
    pacer: Pacer,
    timeout_ns: u64,
    /// Since when it is not petted, and whether that was told.
    starving: Option<(u64, bool)>,
    refused: bool,
}

impl Petter {
    /// Takes an armed one over.
    pub fn new(keeper: Box<Keeper>, at_stake: Arc<AtStake>) -> Petter {
        let timeout = keeper.timeout();
        Petter {
            pacer: Pacer::new(timeout),
            timeout_ns: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            keeper,
            at_stake,
            starving: None,
            refused: false,
        }
    }

    /// What it pets, as it is.
    pub fn into_keeper(self) -> Box<Keeper> {
        self.keeper
    }

    /// [`Petter::beat`] is to be called this often at least, ns.
    pub fn interval(&self) -> u64 {
        self.timeout_ns / Pacer::INTERVALS
    }

    /// `lease_until`: of this node (boot, ns). `owned`: the groups that it has under that lease. What runs here of any other
    /// group runs without a right, however long the lease.
    pub fn beat(&mut self, now: u64, lease_until: u64, owned: Set) -> Option<Told> {
        let at_stake = self.at_stake.load();
        let right = at_stake.minus(owned).is_empty();
        let until = if right { lease_until } else { 0 };
        match self.pacer.beat(now, until, !at_stake.is_empty()) {
            Beat::Rest => self.fed(),
            Beat::Pet => match self.pet() {
                Ok(()) => {
                    self.refused = false;
                    self.fed()
                }
                Err(errno) => {
                    (!std::mem::replace(&mut self.refused, true)).then_some(Told::Refused(errno))
                }
            },
            Beat::Starve { reset_by } => {
                if let Keeper::Sysrq(sysrq, _) = &*self.keeper
                    && now >= reset_by
                {
                    // It returns only if the kernel refuses, and then it is tried again.
                    let _ = sysrq.reset();
                }
                let (since, told) = self.starving.unwrap_or((now, false));
                // What stops at once is no news.
                let tell = !told && now >= since.saturating_add(self.interval());
                self.starving = Some((since, told || tell));
                tell.then_some(Told::Starving(reset_by))
            }
        }
    }

    /// Pets it once more if there is a right to, before nobody does for a while.
    pub fn last(&mut self, now: u64, lease_until: u64, owned: Set) {
        let at_stake = self.at_stake.load();
        if at_stake.is_empty() || at_stake.minus(owned).is_empty() && now < lease_until {
            let _ = self.pet();
        }
    }

    fn pet(&self) -> Result<(), Errno> {
        match &*self.keeper {
            Keeper::Device(dog) => dog.pet(),
            Keeper::Sysrq(..) => Ok(()),
        }
    }

    fn fed(&mut self) -> Option<Told> {
        let (_, told) = self.starving.take()?;
        told.then_some(Told::Fed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::Read as _,
        os::unix::fs::OpenOptionsExt as _,
    };

    use super::*;

    const S: u64 = 1_000_000_000;

    struct Rig {
        _dir: tempfile::TempDir,
        reader: File,
        at_stake: Arc<AtStake>,
        petter: Petter,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dog");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        let dog = Watchdog::arm(&path, Duration::from_secs(8)).unwrap();
        let at_stake = Arc::new(AtStake::default());
        let petter = Petter::new(Box::new(Keeper::Device(dog)), Arc::clone(&at_stake));
        Rig {
            _dir: dir,
            reader,
            at_stake,
            petter,
        }
    }

    impl Rig {
        /// Signs of life since it was asked last.
        fn pets(&mut self) -> usize {
            let mut bytes = [0; 64];
            self.reader.read(&mut bytes).unwrap_or(0)
        }
    }

    #[test]
    fn only_under_a_lease_on_all_that_runs() {
        let mut r = rig();
        let (a, b) = (Set::of(3), Set::of(200));
        r.at_stake.store(a);
        assert_eq!(r.petter.beat(10 * S, 11 * S, a), None);
        assert_eq!(r.pets(), 1);
        // Another group of this node has a lease; what runs is of one that was lost.
        assert_eq!(r.petter.beat(13 * S, 20 * S, b), None, "not told at once");
        assert_eq!(
            r.petter.beat(15 * S, 20 * S, b),
            Some(Told::Starving(18 * S))
        );
        assert_eq!(r.petter.beat(16 * S, 20 * S, b), None, "told once");
        assert_eq!(r.pets(), 0);
        // It has stopped.
        r.at_stake.store(Set::EMPTY);
        assert_eq!(r.petter.beat(17 * S, 20 * S, b), Some(Told::Fed));
        assert_eq!(r.pets(), 1);
        // Both run, and one of them is not this node's.
        r.at_stake.store(a.with(200));
        assert_eq!(r.petter.beat(20 * S, 30 * S, a), None);
        assert_eq!(r.petter.beat(20 * S, 30 * S, a.with(200)), None);
        assert_eq!(r.pets(), 1);
        // The lease is over, as seen by nobody else yet.
        assert_eq!(r.petter.beat(30 * S, 30 * S, a.with(200)), None);
        r.petter.last(30 * S, 30 * S, a.with(200));
        assert_eq!(r.pets(), 0);
        r.petter.last(29 * S, 30 * S, a.with(200));
        assert_eq!(r.pets(), 1);
    }

    #[test]
    fn a_device_that_refuses_is_told_once() {
        let Rig {
            _dir,
            reader,
            at_stake,
            mut petter,
        } = rig();
        at_stake.store(Set::of(1));
        drop(reader);
        let told = petter.beat(S, 2 * S, Set::of(1));
        assert_eq!(told, Some(Told::Refused(Errno::EPIPE)));
        assert_eq!(petter.beat(4 * S, 5 * S, Set::of(1)), None);
    }
}
