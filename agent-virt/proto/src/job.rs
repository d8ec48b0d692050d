//! How far a migration is (virDomainGetJobStats).

use serde::{Deserialize, Serialize};

/// Of a migration under way, or the sum of one that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Since its begin, ms.
    pub elapsed_ms: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes sent.
    pub done: u64,
    /// Bytes to be sent yet; grows while the guest writes.
    pub left: u64,
    /// Bytes sent per second; 0: not known.
    pub rate: u64,
    /// Bytes that the guest writes per second; 0: none, or not known.
    pub dirty: u64,
    /// Rounds over the memory.
    pub rounds: u64,
    /// Pause at the end, ms: expected, or measured if it has ended.
    pub downtime_ms: Option<u64>,
    /// How much QEMU slows the guest down, in percent.
    pub throttle: u32,
}

impl Progress {
    /// How long it may take yet, ms; `None`: it is not known, or the guest writes as fast as is sent.
    #[must_use]
    pub fn left_ms(&self) -> Option<u64> {
        let gain = self.rate.checked_sub(self.dirty).filter(|gain| *gain > 0)?;
        let ms = u128::from(self.left) * 1000 / u128::from(gain);
        u64::try_from(ms).ok()
    }

    /// For people: "120 of 256 MiB sent, 80 MiB left at 32 MiB/s, the guest writes 4 MiB/s: about 3 s".
    #[must_use]
    pub fn sentence(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let mut text = format!(
            "{} of {} MiB sent, {} MiB left",
            mib(self.done),
            mib(self.total),
            mib(self.left)
        );
        if self.rate > 0 {
            text += &format!(" at {} MiB/s", mib(self.rate));
        }
        if self.dirty > 0 {
            text += &format!(", the guest writes {} MiB/s", mib(self.dirty));
        }
        match self.left_ms() {
            Some(ms) => text += &format!(": about {} s", ms.div_ceil(1000)),
            None if self.rate > 0 => text += ": it does not get smaller",
            None => {}
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_only_where_it_gets_smaller() {
        let mut p = Progress {
            total: 256 << 20,
            done: 120 << 20,
            left: 80 << 20,
            rate: 32 << 20,
            dirty: 4 << 20,
            ..Progress::default()
        };
        assert_eq!(p.left_ms(), Some(2857));
        assert_eq!(
            p.sentence(),
            "120 of 256 MiB sent, 80 MiB left at 32 MiB/s, the guest writes 4 MiB/s: about 3 s"
        );
        p.dirty = p.rate;
        assert_eq!(p.left_ms(), None);
        assert!(p.sentence().ends_with("it does not get smaller"));
        (p.left, p.rate, p.dirty) = (u64::MAX, 1, 0);
        assert_eq!(p.left_ms(), None);
        assert_eq!(Progress::default().left_ms(), None);
    }
}
