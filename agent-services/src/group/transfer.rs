//! A machine that is migrated to the next owner instead of being stopped.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    GroupView, Role, Wanted, Weight, What,
    runner::{Mark, Runner},
};
use crate::{
    policy::SLOW,
    resource::{
        Failure, Resource,
        domain::{self, Peer, Stay},
    },
};

/// How long breaking a migration off may take to be told to libvirt.
const ABORT: Duration = Duration::from_secs(5);

/// What became of a stop.
pub(super) enum Left {
    /// As any stop ends.
    Ended(Result<(), Failure>),
    /// It stays, running, and that was told; or nobody wants it to go any more.
    Stays,
}

impl Runner {
    /// Who takes a resource over alive.
    pub(super) fn heir<'a>(&self, w: &'a Wanted, resource: &Resource) -> Option<&'a Peer> {
        let Role::Leaving { .. } = w.role else {
            return None;
        };
        let name = w.heir.as_ref().filter(|_| domain::is_live(resource))?;
        w.peers.iter().find(|p| p.node == *name)
    }

    /// Migrates a resource; where that does not work, what its configuration says.
    pub(super) async fn transfer(
        &mut self,
        i: usize,
        peer: &Peer,
        w: &Wanted,
        wanted: &mut watch::Receiver<Wanted>,
        view: &watch::Sender<GroupView>,
    ) -> Left {
        let Some(resource) = self.services.resources.get(i).cloned() else {
            return Left::Stays;
        };
        let name = resource.name.clone();
        self.stays = None;
        match self.migrate(i, &resource, peer, w, wanted, view).await {
            Ok(went) => {
                self.gone_to = Some(peer.clone());
                let paused = went
                    .downtime_ms
                    .map_or_else(String::new, |ms| format!(", paused for {ms} ms of it"));
                let text = format!(
                    "{name} migrated to {} in {:.1} s ({} MiB){paused}",
                    peer.node,
                    Duration::from_millis(went.took_ms).as_secs_f64(),
                    went.bytes >> 20
                );
                if went.took_ms > 0 {
                    self.note(Weight::Good, text).await;
                }
                Left::Ended(Ok(()))
            }
            // Called off on the way.
            Err(Stay::Home(_)) if wanted.borrow().role != w.role => Left::Stays,
            Err(Stay::Home(why)) if domain::may_shut_down(&resource) => {
                let text = format!("{name}: {why}; shut down instead, as its configuration says");
                self.note(Weight::Warn, text).await;
                Left::Ended(resource.stop().await)
            }
            Err(stay) => {
                let why = match stay {
                    Stay::Home(why) => why,
                    // As after a start that was broken off: it is looked for here before it is started, and there first.
                    Stay::Unclear(why) => {
                        self.gone_to = Some(peer.clone());
                        self.marks[i] = Mark::Perhaps;
                        why
                    }
                };
                self.stop_at = Some(Instant::now() + SLOW);
                self.moves_at = self.stop_at;
                if let Role::Leaving { epoch } = w.role {
                    let why = format!("{name}: {why}");
                    self.stays = Some(why.clone());
                    self.send(What::MoveFailed { epoch, why }).await;
                }
                Left::Stays
            }
        }
    }

    /// Shows how far it is, and breaks it off when the group is not to go any more, or is lost.
    async fn migrate(
        &mut self,
        i: usize,
        resource: &Resource,
        peer: &Peer,
        w: &Wanted,
        wanted: &mut watch::Receiver<Wanted>,
        view: &watch::Sender<GroupView>,
    ) -> Result<domain::Went, Stay> {
        let (tell, mut told) = watch::channel(String::from("asking whether it would work"));
        told.mark_changed();
        let work = domain::hand_over(resource, peer, move |p| {
            tell.send_replace(p.sentence());
        });
        tokio::pin!(work);
        let mut called_off = false;
        loop {
            tokio::select! {
                done = &mut work => return done,
                Ok(()) = told.changed() => {
                    let text = format!("migrating to {}: {}", peer.node, *told.borrow_and_update());
                    if let Some(shown) = self.shown.resources.get_mut(i) {
                        (shown.state, shown.text) = ("running", text);
                    }
                    view.send_replace(self.shown.clone());
                }
                Ok(()) = wanted.changed(), if !called_off => {
                    called_off = {
                        let now = wanted.borrow_and_update();
                        now.role != w.role || now.losses != w.losses
                    };
                    if called_off {
                        wanted.mark_changed();
                        let abort = domain::call_off(resource, ABORT);
                        // The migration ends by it, or goes through all the same.
                        let _ = timeout(ABORT, abort).await;
                    }
                }
            }
        }
    }
}
