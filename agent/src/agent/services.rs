//! What stands behind the groups: one [`Group`] each, told who owns it and asked what becomes of it.
//!
//! Nothing here has rights: the core decides, this follows, and says when a node is no good for a group.

use std::{collections::BTreeMap, sync::Arc};

use agent_services::group::{Group, GroupView, Phase, Report, Role, Services, Weight, What};
use tokio::sync::mpsc;

use crate::config::Config;

/// News that may wait for the main task; the groups' own tasks wait when this is full.
const REPORTS: usize = 256;

/// What is held of one group.
struct Entry {
    group: Group,
    services: Services,
    /// Why it does not work here.
    broken: Option<String>,
}

/// All groups with services on this node.
pub struct ServicesBook {
    entries: BTreeMap<u8, Entry>,
    send: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    paused: bool,
}

impl Default for ServicesBook {
    fn default() -> Self {
        let (send, reports) = mpsc::channel(REPORTS);
        ServicesBook {
            entries: BTreeMap::new(),
            send,
            reports,
            paused: false,
        }
    }
}

impl ServicesBook {
    /// Takes the groups of a configuration. `owned` says of which this node is the owner, and of which epoch.
    pub fn set(&mut self, config: &Config, me: u8, owned: impl Fn(u8) -> Option<u64>) {
        let mine = |id: u8| {
            let group = config.groups.iter().find(|g| g.id == id)?;
            (group.prefer.contains(&me) && !group.services.is_empty()).then_some(group)
        };
        let gone: Vec<u8> = self
            .entries
            .keys()
            .copied()
            .filter(|id| mine(*id).is_none())
            .collect();
        for id in gone {
            if let Some(entry) = self.entries.remove(&id) {
                retire(entry.group);
            }
        }
        for group in config.groups.iter().filter_map(|g| mine(g.id)) {
            match self.entries.get_mut(&group.id) {
                Some(entry) if entry.services == group.services => {}
                Some(entry) => {
                    entry.services = group.services.clone();
                    let services = Arc::new(group.services.clone());
                    entry.group.want(|w| w.services = services);
                }
                None => {
                    let handle = Group::spawn(group.id, group.services.clone(), self.send.clone());
                    let role = match owned(group.id) {
                        Some(epoch) => Role::Owner { epoch },
                        None => Role::Standby,
                    };
                    let paused = self.paused;
                    handle.want(|w| {
                        w.role = role;
                        w.paused = paused;
                    });
                    let entry = Entry {
                        group: handle,
                        services: group.services.clone(),
                        broken: None,
                    };
                    self.entries.insert(group.id, entry);
                }
            }
        }
    }

    /// Waits for news. Safe to drop while it waits.
    pub async fn news(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            // Not while `send` is held here.
            None => std::future::pending().await,
        }
    }

    /// Takes what concerns this node's fitness from news.
    pub fn note(&mut self, report: &Report) {
        if let What::Broken(why) = &report.what
            && let Some(entry) = self.entries.get_mut(&report.group)
        {
            entry.broken.clone_from(why);
        }
    }

    fn want(&self, group: u8, change: impl FnOnce(&mut agent_services::group::Wanted)) {
        if let Some(entry) = self.entries.get(&group) {
            entry.group.want(change);
        }
    }

    /// This node owns the group.
    pub fn own(&self, group: u8, epoch: u64, hold: Option<String>) {
        self.want(group, |w| {
            w.role = Role::Owner { epoch };
            w.hold = hold;
        });
    }

    /// This node no longer owns it.
    pub fn lose(&self, group: u8) {
        self.want(group, |w| {
            w.role = Role::Standby;
            w.losses += 1;
            w.hold = None;
        });
    }

    /// It is to be stopped, so that another can have it. False if nothing here has to be stopped.
    pub fn leave(&self, group: u8, epoch: u64) -> bool {
        let Some(entry) = self.entries.get(&group) else {
            return false;
        };
        entry.group.want(|w| w.role = Role::Leaving { epoch });
        true
    }

    /// What it has to wait for before it starts, if anything.
    pub fn hold(&self, group: u8, why: Option<String>) {
        self.want(group, |w| w.hold = why);
    }

    /// What each group waits for.
    pub fn held(&self) -> impl Iterator<Item = (u8, Option<String>)> + '_ {
        self.entries
            .iter()
            .map(|(id, e)| (*id, e.group.wanted().hold))
    }

    /// Forgets the failures of a group. False if there is no such group here.
    pub fn clear(&self, group: u8) -> bool {
        self.want(group, |w| w.clears += 1);
        self.entries.contains_key(&group)
    }

    /// Hands off, or on again.
    pub fn pause(&mut self, on: bool) {
        if self.paused == on {
            return;
        }
        self.paused = on;
        for entry in self.entries.values() {
            entry.group.want(|w| w.paused = on);
        }
    }

    /// How long stopping may take at most; groups stop side by side.
    pub fn longest_stop(&self) -> std::time::Duration {
        self.entries
            .values()
            .map(|e| e.services.stop_timeout())
            .max()
            .unwrap_or_default()
    }

    /// How long stopping one group may take at most, ms.
    pub fn stop_timeout_ms(&self, group: u8) -> u64 {
        let timeout = self.entries.get(&group).map(|e| e.services.stop_timeout());
        timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
    }

    /// Why a group does not work on this node.
    pub fn broken(&self, group: u8) -> Option<&str> {
        self.entries.get(&group)?.broken.as_deref()
    }

    /// How a group's services are, for status.
    pub fn view(&self, group: u8) -> Option<GroupView> {
        Some(self.entries.get(&group)?.group.view())
    }

    /// The phase of a group's services here.
    pub fn phase(&self, group: u8) -> Option<Phase> {
        Some(self.view(group)?.phase)
    }

    /// Is there something that must not run twice?
    pub fn is_stateful(&self, group: u8) -> bool {
        self.entries
            .get(&group)
            .is_some_and(|e| e.services.is_stateful())
    }
}

/// A group that is no longer this node's affair: what it runs here is stopped, then its task ends.
fn retire(group: Group) {
    group.want(|w| w.role = Role::Standby);
    tokio::spawn(async move { group.settled_idle().await });
}

/// The kind of event for a piece of news.
pub fn kind(weight: Weight) -> crate::events::EventKind {
    use crate::events::EventKind;
    match weight {
        Weight::Good => EventKind::ServiceRecovered,
        Weight::Plain => EventKind::Service,
        Weight::Warn => EventKind::ServiceTrouble,
        Weight::Bad => EventKind::ServiceFailed,
    }
}
