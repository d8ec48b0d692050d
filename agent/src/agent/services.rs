//! What stands behind the groups: one [`Group`] each, told who owns it and asked what becomes of it.
//!
//! Nothing here has rights: the core decides, this follows, and says when a node is no good for a group.

use std::{collections::BTreeMap, sync::Arc};

use agent_common::Set;
use agent_services::group::{Group, GroupView, Phase, Report, Role, Services, Stake, Weight, What};
use agent_services::resource::{domain::Peer, drbd::Given};
use tokio::sync::mpsc;

use crate::config::{Config, Group as GroupConfig};

/// News that may wait for the main task; the groups' own tasks wait when this is full.
const REPORTS: usize = 256;

/// What is held of one group.
struct Entry {
    group: Group,
    services: Services,
    /// Why it does not work here.
    broken: Option<String>,
    /// For people, should the configuration know it no more.
    name: String,
    /// Not this node's affair any more: it goes when nothing of it runs here.
    retired: bool,
    /// Something that must not run twice was let start, and was not seen to be stopped since.
    started: bool,
}

impl Entry {
    /// It may start from now on, if it has to wait for nothing.
    fn let_start(&mut self, hold: Option<&String>) {
        self.started |= hold.is_none() && self.services.is_stateful();
    }
}

/// What of that which must not run twice runs here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stakes {
    /// Groups of which something runs here, or may by now, or is to.
    pub at: Set,
    /// Groups that are not this node's, and were not looked at yet since this agent began.
    pub unknown: Set,
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
        for (id, entry) in &mut self.entries {
            if mine(*id).is_none() && !entry.retired {
                entry.retired = true;
                // One that only goes elsewhere is stopped before it is let go, as in every move.
                let stays = config.groups.iter().any(|g| g.id == *id) && owned(*id).is_some();
                if !stays {
                    entry.group.want(|w| w.role = Role::Standby);
                }
            }
        }
        for group in config.groups.iter().filter_map(|g| mine(g.id)) {
            match self.entries.get_mut(&group.id) {
                Some(entry) => {
                    // What was being stopped for good is wanted again: by the same task, not by a second one beside it.
                    if std::mem::take(&mut entry.retired)
                        && let Some(epoch) = owned(group.id)
                    {
                        entry.group.want(|w| w.role = Role::Owner { epoch });
                        entry.let_start(entry.group.wanted().hold.as_ref());
                    }
                    entry.name.clone_from(&group.name);
                    let peers = peers(config, group, me);
                    entry.group.want(|w| w.peers = peers);
                    if entry.services != group.services {
                        entry.services = group.services.clone();
                        // It may have become so while it runs.
                        entry.started |= owned(group.id).is_some() && group.services.is_stateful();
                        let services = Arc::new(group.services.clone());
                        entry.group.want(|w| w.services = services);
                    }
                }
                None => {
                    let peers = peers(config, group, me);
                    let handle = Group::spawn(group.id, group.services.clone(), self.send.clone());
                    let role = match owned(group.id) {
                        Some(epoch) => Role::Owner { epoch },
                        None => Role::Standby,
                    };
                    let paused = self.paused;
                    handle.want(|w| {
                        w.role = role;
                        w.paused = paused;
                        w.peers = peers;
                    });
                    let entry = Entry {
                        group: handle,
                        services: group.services.clone(),
                        broken: None,
                        name: group.name.clone(),
                        retired: false,
                        started: owned(group.id).is_some() && group.services.is_stateful(),
                    };
                    self.entries.insert(group.id, entry);
                }
            }
        }
    }

    /// Ends what is not this node's affair any more, where nothing of it runs here.
    pub fn reap(&mut self) {
        self.entries.retain(|_, e| {
            !e.retired
                || e.group.wanted().role != Role::Standby
                || e.group.view().phase != Phase::Idle
        });
    }

    /// Groups that are not this node's affair any more and not stopped yet.
    pub fn retiring(&self) -> impl Iterator<Item = String> + '_ {
        let retired = self.entries.values().filter(|e| e.retired);
        retired.map(|e| e.name.clone())
    }

    /// The name of a group that only this still knows.
    pub fn name(&self, group: u8) -> Option<&str> {
        let entry = self.entries.get(&group).filter(|e| e.retired)?;
        Some(&entry.name)
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
    pub fn own(&mut self, group: u8, epoch: u64, hold: Option<String>) {
        if let Some(entry) = self.entries.get_mut(&group) {
            entry.let_start(hold.as_ref());
        }
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

    /// What is certain about the other nodes, for what asks for that before it starts.
    pub fn give(&self, group: u8, given: Given) {
        self.want(group, |w| w.given = given);
    }

    /// It is to be stopped, so that another can have it: what moves alive, by moving. False if nothing here has to be stopped.
    pub fn leave(&self, group: u8, epoch: u64, heir: Option<String>) -> bool {
        let Some(entry) = self.entries.get(&group) else {
            return false;
        };
        entry.group.want(|w| {
            w.role = Role::Leaving { epoch };
            w.heir = heir;
        });
        true
    }

    /// Does all of it run on every node?
    pub fn is_hot_standby(&self, group: u8) -> bool {
        let entry = self.entries.get(&group);
        entry.is_some_and(|e| e.services.is_hot_standby())
    }

    /// Does nothing run here of a group that is not this node's? It was looked at once, at least, and since it was lost.
    pub fn is_swept(&self, group: u8) -> bool {
        let Some(entry) = self.entries.get(&group) else {
            return true;
        };
        if !entry.services.has_to_stop() {
            return true;
        }
        let (view, wanted) = (entry.group.view(), entry.group.wanted());
        let looked = view.answers == Some((wanted.role, wanted.losses));
        looked && view.phase == Phase::Idle && wanted.role == Role::Standby
    }

    /// What of that which must not run twice runs here, or may.
    pub fn stakes(&mut self) -> Stakes {
        let mut all = Stakes::default();
        for (id, entry) in &mut self.entries {
            let (stake, answers) = entry.group.stake();
            let wanted = entry.group.wanted();
            let (stateful, role) = (entry.services.is_stateful(), wanted.role);
            let owned = matches!(role, Role::Owner { .. } | Role::Leaving { .. });
            // What was said before the group was lost, or was to be stopped, does not count.
            let starts = matches!(role, Role::Owner { .. });
            if stake == Stake::Nothing && answers == Some((role, wanted.losses)) && !starts {
                entry.started = false;
            }
            if stateful && owned || stake == Stake::AtStake || entry.started {
                all.at = all.at.with(*id);
            } else if stateful && stake == Stake::Unknown {
                all.unknown = all.unknown.with(*id);
            }
        }
        all
    }

    /// Is something still to be stopped of what is not this node's any more, and can be?
    pub fn is_stopping(&self) -> bool {
        let mut entries = self.entries.values();
        entries.any(|e| {
            let phase = e.group.view().phase;
            let lost = e.group.wanted().role == Role::Standby;
            e.services.has_to_stop() && lost && !matches!(phase, Phase::Idle | Phase::Stuck)
        })
    }

    /// What would be left running if the agent ended now: groups by name, with what is said of them.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        let entries = self.entries.values();
        let left =
            entries.filter(|e| e.services.has_to_stop() && e.group.view().phase != Phase::Idle);
        left.map(|e| (e.name.clone(), e.group.view().text))
            .collect()
    }

    /// What it has to wait for before it starts, if anything.
    pub fn hold(&mut self, group: u8, why: Option<String>) {
        if let Some(entry) = self.entries.get_mut(&group) {
            entry.let_start(why.as_ref());
        }
        self.want(group, |w| w.hold = why);
    }

    /// What each group that is owned waits for.
    pub fn held(&self) -> impl Iterator<Item = (u8, Option<String>)> + '_ {
        let owned = self.entries.iter().filter(|(_, e)| {
            matches!(
                e.group.wanted().role,
                Role::Owner { .. } | Role::Leaving { .. }
            )
        });
        owned.map(|(id, e)| (*id, e.group.wanted().hold))
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

/// The other nodes that may own a group, if something in it moves alive.
fn peers(config: &Config, group: &GroupConfig, me: u8) -> Arc<Vec<Peer>> {
    if !group.services.is_live() {
        return Arc::default();
    }
    let nodes = group.prefer.iter().filter(|id| **id != me);
    let peer = |id: &u8| {
        let node = config.node_by_id(*id)?;
        Some(Peer {
            node: node.name.clone(),
            address: node.links.first()?.address,
            uri: node.libvirt_uri.clone(),
        })
    };
    Arc::new(nodes.filter_map(peer).collect())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config(dir: &std::path::Path) -> Config {
        let up = dir.join("up");
        let sh = |script: String| format!("[\"sh\", \"-c\", \"{script}\"]");
        let text = format!(
            "cluster = \"c\"\n[[node]]\nname = \"n1\"\nid = 1\nlink = [{{ device = \"eth0\", address = \"10.77.0.1\" }}]\n\
             [[node]]\nname = \"n2\"\nid = 2\nlink = [{{ device = \"eth0\", address = \"10.77.0.2\" }}]\n\
             [[node]]\nname = \"n3\"\nid = 3\nlink = [{{ device = \"eth0\", address = \"10.77.0.3\" }}]\n\
             [[group]]\nname = \"db\"\nid = 7\n[[group.vip]]\naddress = \"10.77.0.100\"\ndevice = \"eth0\"\n\
             [[group.resource]]\nname = \"disk\"\nstateful = true\nexec = {{ start = {}, stop = {}, status = {} }}\n",
            sh(format!("touch {}", up.display())),
            sh(format!("rm -f {}", up.display())),
            sh(format!("test -e {} || exit 3", up.display())),
        );
        match Config::from_str(&text, "t.toml") {
            Ok(loaded) => loaded.config,
            Err(error) => panic!("{error}"),
        }
    }

    async fn until(book: &mut ServicesBook, what: Stakes) {
        let wait = async {
            while book.stakes() != what {
                // News would wait for ever, as nobody takes it here.
                while book.reports.try_recv().is_ok() {}
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(came.is_ok(), "{:?} instead of {what:?}", book.stakes());
    }

    #[tokio::test]
    async fn what_was_let_start_is_at_stake_until_it_was_seen_to_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, nothing) = (ServicesBook::default(), Stakes::default());
        book.set(&config(dir.path()), 1, |_| None);
        let seven = Set::of(7);
        let unknown = Stakes {
            unknown: seven,
            ..nothing
        };
        assert_eq!(book.stakes(), unknown);
        assert!(!book.is_swept(7), "nobody has looked");
        until(&mut book, nothing).await;
        assert!(book.is_swept(7));
        let at = Stakes {
            at: seven,
            ..nothing
        };
        // Owned, and not let start: so it is armed for what comes, and nothing is left if that does not come.
        book.own(7, 5, Some("wait".into()));
        assert_eq!(book.stakes(), at);
        book.lose(7);
        assert_eq!(book.stakes(), nothing);
        assert!(!book.is_swept(7), "the task has not seen the loss yet");
        // Let start and lost before the task has run: what it last said is of before.
        book.own(7, 6, None);
        book.lose(7);
        assert_eq!(book.stakes(), at);
        until(&mut book, nothing).await;
        assert!(book.is_swept(7) && !dir.path().join("up").exists());
        // It runs, and is seen to run after the loss.
        book.own(7, 8, None);
        let wait = async {
            while !dir.path().join("up").exists() {
                while book.reports.try_recv().is_ok() {}
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("it starts");
        assert_eq!(book.stakes(), at);
        book.lose(7);
        assert_eq!(book.stakes(), at);
        until(&mut book, nothing).await;
        assert!(!dir.path().join("up").exists());
    }
}
