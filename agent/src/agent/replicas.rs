//! How good this node's replicas are, as DRBD tells it: who has half a copy or an old one is not fit for the group, so
//! that the one with the data gets it, whatever is preferred.

use std::collections::BTreeMap;

use agent_services::resource::{
    Kind,
    drbd::{
        ResourceState,
        events::{Book, News},
        follow::follow,
        state::Disk,
    },
};
use tokio::{sync::watch, task::JoinHandle};

use crate::config::{Config, Group};

/// What is wrong with replicas here, by DRBD's names.
type Bad = BTreeMap<String, String>;

/// Follows DRBD, if there is a group that needs it.
#[derive(Debug)]
pub struct Replicas {
    task: Option<JoinHandle<()>>,
    send: watch::Sender<Bad>,
    bad: watch::Receiver<Bad>,
}

impl Default for Replicas {
    fn default() -> Self {
        let (send, bad) = watch::channel(Bad::new());
        Replicas {
            task: None,
            send,
            bad,
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// DRBD's resources of a group.
fn names(group: &Group) -> impl Iterator<Item = &str> {
    let resources = group.services.resources.iter();
    resources.filter_map(|r| match &r.kind {
        Kind::Drbd { resource, .. } => Some(resource.as_str()),
        Kind::Systemd { .. } | Kind::Exec { .. } | Kind::Ocf { .. } | Kind::Filesystem { .. } => {
            None
        }
    })
}

impl Replicas {
    /// Takes the groups of a configuration.
    pub fn set(&mut self, config: &Config, me: u8) {
        let mut mine = config.groups.iter().filter(|g| g.prefer.contains(&me));
        let wanted = mine.any(|g| names(g).next().is_some());
        match (wanted, &self.task) {
            (true, None) => {
                let send = self.send.clone();
                self.task = Some(tokio::spawn(async move {
                    let argv = ["drbdsetup", "events2"];
                    let never = follow(&argv, |book, news| {
                        // Before all was told, what is missing is not known to be bad.
                        if book.complete || matches!(news, News::Gone(_)) {
                            send.send_if_modified(|bad| note(bad, book));
                        }
                    });
                    match never.await {}
                }));
            }
            (false, Some(task)) => {
                task.abort();
                self.task = None;
                self.send.send_replace(Bad::new());
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Waits until something is different. Safe to drop while it waits.
    pub async fn changed(&mut self) {
        if self.bad.changed().await.is_err() {
            // Not while `send` is held here.
            std::future::pending::<()>().await;
        }
    }

    /// Why this node's data is no good for a group.
    pub fn bad(&self, group: &Group) -> Option<String> {
        let bad = self.bad.borrow();
        names(group).find_map(|name| bad.get(name).cloned())
    }
}

/// Takes over how things are; true if that is different.
fn note(bad: &mut Bad, book: &Book) -> bool {
    let all = book.resources.iter();
    let new: Bad = all
        .filter_map(|(name, state)| Some((name.clone(), why(name, state)?)))
        .collect();
    let changed = *bad != new;
    *bad = new;
    changed
}

/// What is wrong with it, if it would never be promoted like this. A replica that only waits for its peer may be good.
fn why(name: &str, state: &ResourceState) -> Option<String> {
    let bad = |d: Disk| matches!(d, Disk::Inconsistent | Disk::Outdated);
    let disk = state.worst_disk().filter(|d| bad(*d))?;
    let resync = state.resyncs().iter().any(|r| r.to_here && !r.rests);
    let more = if resync {
        ", and is being brought up to date"
    } else {
        ""
    };
    Some(format!("its replica of {name} is {disk}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_copy_and_an_old_one_are_bad() {
        let told = |disk: &str| {
            let text = format!(
                "exists resource name:r0 role:Secondary suspended:no\nexists device name:r0 volume:0 minor:0 disk:{disk}\nexists -"
            );
            let mut bad = Bad::new();
            let changed = note(&mut bad, &Book::read(text.as_bytes()));
            (changed, bad.remove("r0"))
        };
        for disk in ["Inconsistent", "Outdated"] {
            let text = format!("its replica of r0 is {disk}");
            assert_eq!(told(disk), (true, Some(text)));
        }
        let text = "exists resource name:r0 role:Secondary\nexists device name:r0 volume:0 disk:Inconsistent\n\
                    exists connection name:r0 peer-node-id:0 connection:Connected role:Primary\n\
                    exists peer-device name:r0 peer-node-id:0 volume:0 replication:SyncTarget peer-disk:UpToDate\nexists -";
        let mut bad = Bad::new();
        note(&mut bad, &Book::read(text.as_bytes()));
        let said = bad.remove("r0").unwrap_or_default();
        assert!(said.ends_with("is being brought up to date"), "{said}");
        for disk in ["UpToDate", "Consistent", "Negotiating", "Diskless"] {
            assert_eq!(told(disk), (false, None), "{disk}");
        }
    }
}
