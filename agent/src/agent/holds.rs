//! What groups wait for before their services start: certainty, the watchdog, other groups.

use agent_services::group::Phase;

use super::supervise::Supervisor;

impl Supervisor {
    /// Why a group's services may not be started yet.
    pub(super) fn hold_for(&mut self, group: u8) -> Option<String> {
        if let Some(doubt) = self.unproven.get(&group) {
            return Some(self.doubt_text(group, doubt));
        }
        if let Some(why) = self.unguarded(group) {
            return Some(why);
        }
        let after = self
            .config
            .groups
            .iter()
            .find(|g| g.id == group)?
            .near
            .after
            .clone();
        let waits = |other: &u8| {
            let (_, phase) = self.rt.snapshot.read().phases[usize::from(*other)];
            // A group without services has no phase: its owner is enough.
            let services = self
                .config
                .groups
                .iter()
                .any(|g| g.id == *other && !g.services.is_empty());
            let owned = self.rt.snapshot.read().owner[usize::from(*other)] != 0;
            (!(owned && (!services || phase == agent_core::Phase::Running))).then_some(*other)
        };
        let other = after.iter().find_map(waits)?;
        Some(format!(
            "waits for group {}",
            self.narrator.names.group(other)
        ))
    }

    /// What groups wait for may have come, or gone: what runs already goes on.
    pub(super) fn review_holds(&mut self) {
        self.review_guard();
        self.review_doubts();
        self.sweep();
        self.services.reap();
        let held: Vec<_> = self.services.held().collect();
        for (group, before) in held {
            let now = self.hold_for(group);
            let runs = matches!(
                self.services.phase(group),
                Some(Phase::Running | Phase::Starting | Phase::Failed)
            );
            // Nothing that must not run twice is added to what runs before the watchdog is armed.
            let guarded = self.unguarded(group).is_none();
            if now != before && !(now.is_some() && runs && guarded) {
                self.services.hold(group, now);
            }
        }
    }
}
