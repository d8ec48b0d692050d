//! How a takeover went: its points in time and what each part took.

use serde::{Deserialize, Serialize};

/// Why a group changed its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TakeoverReason {
    /// Nobody owned it before.
    #[default]
    #[serde(rename = "start")]
    Start,
    /// The owner fell silent.
    #[serde(rename = "owner lost")]
    OwnerLost,
    /// On request, or by drain or failback.
    #[serde(rename = "move")]
    Move,
    /// The agent restarted and kept it.
    #[serde(rename = "restart")]
    Restart,
    /// Told by a newer agent.
    #[serde(rename = "unknown", other)]
    Unknown,
}

impl TakeoverReason {
    /// The JSON name.
    pub fn name(self) -> &'static str {
        match self {
            TakeoverReason::Start => "start",
            TakeoverReason::OwnerLost => "owner lost",
            TakeoverReason::Move => "move",
            TakeoverReason::Restart => "restart",
            TakeoverReason::Unknown => "unknown",
        }
    }
}

/// How this node came to own a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Takeover {
    /// Why.
    pub reason: TakeoverReason,
    /// The owner before, if known.
    pub from: Option<String>,
    /// The epoch it began.
    pub epoch: u64,
    /// When it was complete (announced).
    pub at_boot_ns: u64,
    /// The points on the way.
    pub phases: Phases,
    /// What each part took; derived from `phases`.
    pub split: Split,
}

/// Points of a takeover on CLOCK_BOOTTIME of the new owner. Also `phases` of a `gained` event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    /// The old owner was last heard (not known for a start).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard_ns: Option<u64>,
    /// The loss was noticed, or the request arrived.
    pub detected_ns: u64,
    /// The claim left.
    pub claimed_ns: u64,
    /// A majority had granted it; the gate opened.
    pub agreed_ns: u64,
    /// The last address was on its device.
    pub address_ns: u64,
    /// The first announcement had left for each address.
    pub announced_ns: u64,
}

/// What the parts of a takeover took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Split {
    /// From the owner's last sign of life to the claim.
    pub detection_ns: u64,
    /// From the claim to a majority's grants.
    pub agreement_ns: u64,
    /// From the grants to the addresses.
    pub address_ns: u64,
    /// From the addresses to the announcements.
    pub announcement_ns: u64,
    /// All of it.
    pub total_ns: u64,
}

impl Phases {
    /// What each part took. A point that is missing (0) or out of order counts as no time.
    pub fn split(&self) -> Split {
        let begin = match self.last_heard_ns {
            Some(heard) if heard != 0 => heard,
            _ if self.detected_ns != 0 => self.detected_ns,
            _ => self.claimed_ns,
        };
        let mut at = begin;
        let mut part = |point: u64| {
            let took = point.saturating_sub(at);
            at = at.max(point);
            took
        };
        let (detection_ns, agreement_ns) = (part(self.claimed_ns), part(self.agreed_ns));
        let (address_ns, announcement_ns) = (part(self.address_ns), part(self.announced_ns));
        Split {
            detection_ns,
            agreement_ns,
            address_ns,
            announcement_ns,
            total_ns: at - begin,
        }
    }
}

impl Takeover {
    /// A takeover with its split.
    pub fn new(reason: TakeoverReason, from: Option<String>, epoch: u64, phases: Phases) -> Self {
        let at_boot_ns = phases
            .announced_ns
            .max(phases.address_ns)
            .max(phases.agreed_ns);
        Self {
            reason,
            from,
            epoch,
            at_boot_ns,
            phases,
            split: phases.split(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_split_names_each_part() {
        let phases = Phases {
            last_heard_ns: Some(1_000),
            detected_ns: 51_000,
            claimed_ns: 51_200,
            agreed_ns: 52_000,
            address_ns: 52_300,
            announced_ns: 52_350,
        };
        let split = phases.split();
        assert_eq!(
            (
                split.detection_ns,
                split.agreement_ns,
                split.address_ns,
                split.announcement_ns,
                split.total_ns
            ),
            (50_200, 800, 300, 50, 51_350)
        );
    }

    #[test]
    fn reasons_have_their_names() {
        for reason in [
            TakeoverReason::Start,
            TakeoverReason::OwnerLost,
            TakeoverReason::Move,
            TakeoverReason::Restart,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }

    proptest! {
        #[test]
        fn the_parts_of_a_split_are_the_whole(points in proptest::array::uniform6(any::<u64>()), heard in any::<bool>()) {
            let [last, detected_ns, claimed_ns, agreed_ns, address_ns, announced_ns] = points;
            let phases = Phases { last_heard_ns: heard.then_some(last), detected_ns, claimed_ns, agreed_ns, address_ns, announced_ns };
            let split = phases.split();
            prop_assert_eq!(split.detection_ns + split.agreement_ns + split.address_ns + split.announcement_ns, split.total_ns);
        }
    }
}
