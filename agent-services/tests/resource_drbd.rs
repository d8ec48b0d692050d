//! DRBD where there is none: no kernel module, no tools, or no such resource. With DRBD, see `tests/vm`, and
//! `examples/drbd.rs` by hand.

#[path = "resource_common/mod.rs"]
mod common;

use agent_services::resource::{Failure, Kind, State, drbd};
use common::resource;

#[tokio::test]
async fn what_is_not_there_is_stopped_and_does_not_start() {
    let r = resource(Kind::Drbd {
        resource: "heartline-no-such-resource".into(),
        dual_primary: false,
    });
    assert_eq!(
        drbd::ask("heartline-no-such-resource", r.status_timeout).await,
        Ok(None)
    );
    assert_eq!(r.status().await, State::Stopped);
    assert_eq!(r.stop().await, Ok(()));
    // Without drbd-utils; with them.
    match r.start().await {
        Err(Failure::Misconfigured(why) | Failure::Failed(why)) => {
            assert!(why.contains("drbd"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let wrong = r.check().await.join("\n");
    assert!(
        wrong.contains("install drbd-utils") || wrong.contains("/etc/drbd.d"),
        "{wrong}"
    );
}
