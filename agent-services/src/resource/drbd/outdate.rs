//! Outdating this node's replica: its owner has lost it, and is about to write without it.
//!
//! DRBD keeps that in its metadata until a resync has made the replica good again, so no later takeover uses it, whoever
//! remembers what. It refuses while it is connected: this end of a dead connection notices some seconds later.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    ASK, admin, ask, said,
    state::{Disk, ResourceState, Role},
};
use crate::resource::Failure;

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(300);

/// Outdates it, and sees that it is so.
///
/// # Errors
/// It is not, by then: it may be good, and may be promoted.
pub async fn outdate(name: &str, within: Duration) -> Result<(), Failure> {
    let until = Instant::now() + within;
    let mut last: Option<String> = None;
    loop {
        let state = ask(name, ASK).await.map_err(Failure::Unknown)?;
        match state.as_ref().map(standing) {
            // Down: under a fencing policy it comes up as Consistent, which is not promoted alone.
            None | Some(Standing::Behind) => return Ok(()),
            Some(Standing::Writes) => {
                return Err(Failure::Failed(format!(
                    "{name} is Primary here: it is not outdated"
                )));
            }
            Some(Standing::Good) => {}
        }
        if let Some(last) = &last {
            if Instant::now() + AGAIN >= until {
                return Err(Failure::Failed(format!(
                    "{name} is not outdated after {within:?} (is it connected?): {last}"
                )));
            }
            sleep(AGAIN).await;
        }
        // While it is connected DRBD says that there is nothing to do, or refuses, and drbdadm hides why: what counts is
        // what becomes of it.
        let ended = admin(&["outdate"], name, until).await?;
        last = Some(said(&ended));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// No replica here would be promoted.
    Behind,
    /// One of them may be.
    Good,
    /// It is in use.
    Writes,
}

fn standing(s: &ResourceState) -> Standing {
    if s.role != Role::Secondary {
        return Standing::Writes;
    }
    let behind = |d: Disk| matches!(d, Disk::Outdated | Disk::Inconsistent);
    if !s.volumes.is_empty() && s.volumes.values().all(|v| behind(v.disk)) {
        Standing::Behind
    } else {
        Standing::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::drbd::events::Book;

    #[test]
    fn only_a_replica_that_nobody_would_promote_is_behind() {
        let standing = |role: &str, disks: &[&str]| {
            let mut text = format!("exists resource name:r0 role:{role} suspended:no\n");
            for (volume, disk) in disks.iter().enumerate() {
                text +=
                    &format!("exists device name:r0 volume:{volume} minor:{volume} disk:{disk}\n");
            }
            text += "exists -";
            let mut book = Book::read(text.as_bytes());
            standing(&book.resources.remove("r0").unwrap())
        };
        assert_eq!(standing("Secondary", &["Outdated"]), Standing::Behind);
        assert_eq!(standing("Secondary", &["Inconsistent"]), Standing::Behind);
        for good in ["UpToDate", "Consistent", "Diskless", "Attaching", "Strange"] {
            assert_eq!(standing("Secondary", &[good]), Standing::Good, "{good}");
        }
        assert_eq!(
            standing("Secondary", &["Outdated", "UpToDate"]),
            Standing::Good
        );
        assert_eq!(standing("Secondary", &[]), Standing::Good);
        assert_eq!(standing("Primary", &["Outdated"]), Standing::Writes);
        assert_eq!(standing("Unknown", &["Outdated"]), Standing::Writes);
    }
}
