//! The rules of the lease by name, so that a test can leave one out and must then see two owners.
//!
//! In the agent and in eBPF every rule holds: [`Rules`] is then a unit whose answers are constants.

/// A rule that a test may leave out. The numbers are those of the table in ARCHITECTURE.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// 1: fresh state waits `max_promise` before it votes.
    FreshWaits,
    /// 2: promises only grow.
    PromisesGrow,
    /// 2: no promise is longer than `max_promise`.
    PromiseBounded,
    /// 3: a claim version names one set for ever.
    VersionOnce,
    /// 3: XDP compares the set, too.
    CompareSet,
    /// 4: an older incarnation's promise is waited out.
    IncarnationWaits,
    /// 4: a node that went back is told, and starts afresh.
    RegressedTold,
    /// 5: while asking for a group a node grants it to nobody.
    OwnVotePending,
    /// 5: giving away a held group takes it from the own set first.
    OwnVoteGiven,
    /// 6: the union of running and asked set stands.
    Union,
    /// 6: a running version below the kept one is ignored.
    OldRunningIgnored,
    /// 6: a lost attempt costs no group held.
    FailureKeeps,
    /// 7: a lapsed lease is lost.
    LapsedIsLost,
    /// 7: a closed entry reopens only by a higher version.
    ClosedStays,
    /// Claims: taking a group from an expired holder closes its entry.
    TakeCloses,
    /// 8: acks are counted per heartbeat.
    AckPerHeartbeat,
    /// 8: only acks of the running version extend the lease.
    AckRunningVersion,
    /// 8: on growth the lease starts at the claim.
    GrowthRestarts,
    /// The lease is shorter than the promise.
    LeaseShorter,
    /// The gate opens only at a majority.
    Majority,
    /// 2/promise: acks only for the version granted.
    AckGrantedVersion,
    /// 9: the word is read before what it stands for.
    WordFirst,
    /// 11: a later epoch that is heard shuts the gate.
    LaterEpochShuts,
    /// 11: the own id from a newer incarnation halts the node.
    TwinHalts,
    /// 14: what was seen before, or long ago, is not taken again.
    ReplayWindow,
    /// 10: acks and grants count only within one generation.
    GenerationsApart,
    /// 10: one member is added, or one removed, per generation.
    OneMember,
    /// 10: a node leaves a generation only after a majority of its voters was heard in it or later.
    LeaveHeard,
    /// 10: and only when every promise that these gave before has run out.
    LeaveWaits,
    /// 10: who does not come from the generation before votes only after somebody who does.
    JoinerProven,
    /// 10: a promise to a node that is removed stands to its end.
    RemovedStands,
    /// 10: a group that gets another's VIP is granted when the promises for the other have run out.
    MovedVipWaits,
}

/// The parts of rule 10, which matter only while members change.
pub const GENERATIONS: [Rule; 7] = [
    Rule::GenerationsApart,
    Rule::OneMember,
    Rule::LeaveHeard,
    Rule::LeaveWaits,
    Rule::JoinerProven,
    Rule::RemovedStands,
    Rule::MovedVipWaits,
];

/// All other rules, for tests that walk through them.
pub const ALL: [Rule; 25] = [
    Rule::FreshWaits,
    Rule::PromisesGrow,
    Rule::PromiseBounded,
    Rule::VersionOnce,
    Rule::CompareSet,
    Rule::IncarnationWaits,
    Rule::RegressedTold,
    Rule::OwnVotePending,
    Rule::OwnVoteGiven,
    Rule::Union,
    Rule::OldRunningIgnored,
    Rule::FailureKeeps,
    Rule::LapsedIsLost,
    Rule::ClosedStays,
    Rule::TakeCloses,
    Rule::AckPerHeartbeat,
    Rule::AckRunningVersion,
    Rule::GrowthRestarts,
    Rule::LeaseShorter,
    Rule::Majority,
    Rule::AckGrantedVersion,
    Rule::WordFirst,
    Rule::LaterEpochShuts,
    Rule::TwinHalts,
    Rule::ReplayWindow,
];

/// Which rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    #[cfg(feature = "broken-rules")]
    broken: u64,
}

impl Rules {
    /// Every rule holds.
    pub const fn all() -> Rules {
        Rules {
            #[cfg(feature = "broken-rules")]
            broken: 0,
        }
    }

    /// Every rule but one.
    #[cfg(feature = "broken-rules")]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules {
            broken: self.broken | 1 << rule as u64,
        }
    }

    /// Does the rule hold?
    #[inline(always)]
    pub const fn hold(self, rule: Rule) -> bool {
        #[cfg(feature = "broken-rules")]
        return self.broken >> rule as u32 & 1 == 0;
        #[cfg(not(feature = "broken-rules"))]
        {
            let _ = rule;
            true
        }
    }
}
