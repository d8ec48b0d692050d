//! What the monitors have seen, and what follows from failures.

use tokio::time::Instant;

use super::{
    Role, Wanted, Weight,
    monitor::Seen,
    runner::{Mark, Runner},
};
use crate::{
    policy::Next,
    probe::{On, Standing, Verdict},
    resource::State,
};

impl Runner {
    /// A failure of the whole group here.
    pub(super) async fn failed(&mut self, why: String, hopeless: bool) {
        let policy = self.services.policy;
        let next = self.failures.failed(&policy, self.now(), hopeless);
        let n = self.failures.count(&policy, self.now());
        self.unwatch();
        match next {
            Next::Restart(wait) => {
                self.start_at = Some(Instant::now() + wait);
                let text = format!(
                    "{why}; started again here, failure {n} of at most {}",
                    policy.restarts
                );
                self.note(Weight::Warn, text).await;
            }
            Next::GiveUp(wait) => {
                self.start_at = Some(Instant::now() + wait);
                let first = self.broken.replace(why.clone()).is_none();
                if first {
                    let text = format!(
                        "{why}; given up here after {n} failures, and avoided for {:?}",
                        policy.failure_memory
                    );
                    self.note(Weight::Bad, text).await;
                }
            }
        }
    }

    pub(super) async fn saw(&mut self, what: Seen, w: &Wanted) {
        match what {
            Seen::Resource(i, state) if w.paused => self.show_resource(i, &state),
            Seen::Probe(..) if w.paused => {}
            Seen::Resource(i, state) => {
                self.show_resource(i, &state);
                let why = match state {
                    State::Running => return self.is_it_well(),
                    // Not known is not failed.
                    State::Unknown(_) => return,
                    State::Stopped => "has stopped".to_owned(),
                    State::Failed(why) => format!("has failed: {why}"),
                };
                let Some(r) = self.services.resources.get(i) else {
                    return;
                };
                let text = format!("{} {why}", r.name);
                self.bounce_from(i, r.keep_running);
                self.failed(text, false).await;
            }
            Seen::Probe(i, verdict) => {
                let (Some(judge), Some(p)) = (self.judges.get_mut(i), self.services.probes.get(i))
                else {
                    return;
                };
                let before = judge.standing();
                let standing = judge.hear(verdict.clone(), 0);
                if let Some(v) = self.shown.probes.get_mut(i) {
                    v.standing = match standing {
                        Standing::Good => "good",
                        Standing::Bad => "bad",
                        Standing::Unknown => "unknown",
                    };
                    match &verdict {
                        Verdict::Good(a) => {
                            v.text.clone_from(&a.text);
                            v.performance.clone_from(&a.performance);
                            v.took_ms = a.took.as_secs_f64() * 1000.0;
                        }
                        Verdict::Bad(why) | Verdict::Unknown(why) => v.text.clone_from(why),
                    }
                }
                if standing == before {
                    return;
                }
                let (name, text) = (p.name.clone(), self.shown.probes[i].text.clone());
                match standing {
                    Standing::Unknown => {}
                    Standing::Good => {
                        self.note(Weight::Good, format!("probe {name} is good: {text}"))
                            .await;
                        self.is_it_well();
                    }
                    Standing::Bad => {
                        let why = format!("probe {name} is bad: {text}");
                        let owner = matches!(w.role, Role::Owner { .. });
                        if !owner {
                            // A standby that would not serve is not fit; nothing is served here that a restart could mend.
                            if self.broken.replace(why.clone()).is_none() {
                                self.note(Weight::Warn, why).await;
                            }
                            return;
                        }
                        let hopeless = self.services.resources.is_empty();
                        if !hopeless {
                            self.bounce_from(0, true);
                        }
                        self.failed(why, hopeless).await;
                        if hopeless {
                            // Nothing can be started again; it goes on being asked.
                            self.start_at = None;
                        }
                    }
                }
            }
        }
    }

    /// All probes that are asked are good: what was said against this node is over, unless it is remembered.
    pub(super) fn is_it_well(&mut self) {
        let owner = self.watching == Some(true);
        let well = self
            .judges
            .iter()
            .zip(&self.services.probes)
            .all(|(j, p)| j.standing() == Standing::Good || !(owner || p.on == On::All));
        let remembered = self.failures.is_given_up(&self.services.policy, self.now());
        if well && self.broken.is_some() && (owner || !remembered) {
            // What failed lately still counts: who fails again at once is given up at once.
            self.failures.recovered();
            self.broken = None;
        }
    }

    /// To be stopped and started: a resource and those that came after it, which may rest on it.
    pub(super) fn bounce_from(&mut self, first: usize, kept: bool) {
        for (i, r) in self.services.resources.iter().enumerate().skip(first) {
            let up = self.marks[i] != Mark::Down;
            if i == first || up && (kept || !r.keep_running) {
                self.bounce[i] = true;
            }
        }
    }

    /// The first bad one of the probes that are asked.
    pub(super) fn bad_probe(&self, owner: bool) -> Option<String> {
        let list = self
            .judges
            .iter()
            .zip(&self.services.probes)
            .zip(&self.shown.probes);
        let mut bad =
            list.filter(|((j, p), _)| j.standing() == Standing::Bad && (owner || p.on == On::All));
        bad.next()
            .map(|((_, p), v)| format!("probe {} is bad: {}", p.name, v.text))
    }
}
