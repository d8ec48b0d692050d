//! Ending a split brain, and going on without a peer that is lost: the steps that DRBD's documentation names.
//!
//! Nothing here is done by itself: a person says whose data is kept.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    admin, ask, code, refusal, said,
    state::{Connection, ResourceState, Role},
};
use crate::resource::Failure;

/// What this node is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its data is kept.
    Keep,
    /// Its data since the split is thrown away, and taken from the node that is kept.
    Discard,
    /// Its data is kept, and those that are not connected are given up with all that they have.
    KeepAlone,
}

/// A call of drbdadm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Everything between `drbdadm` and the name.
    pub verb: &'static [&'static str],
    /// An error of DRBD's that means that there was nothing to do.
    pub nothing: Option<i32>,
}

const fn call(verb: &'static [&'static str]) -> Call {
    Call {
        verb,
        nothing: None,
    }
}

/// There is no connection to end. Tried with 8.4.
const NO_CONNECTION: i32 = 162;

/// The steps, in order.
///
/// # Errors
/// It cannot be done as things are; a sentence that says why, and what to do first.
pub fn plan(name: &str, s: &ResourceState, part: Part) -> Result<Vec<Call>, String> {
    let connected = s
        .peers
        .values()
        .any(|p| p.connection == Connection::Connected);
    match part {
        Part::Discard if s.role == Role::Primary => Err(format!(
            "{name} is Primary here, so it is in use: move the group to the node that is kept, or stop it, and say this again"
        )),
        Part::Discard if connected => Err(format!(
            "{name} is connected: there is no split brain to end here"
        )),
        Part::Discard => Ok(vec![
            Call {
                verb: &["disconnect"],
                nothing: Some(NO_CONNECTION),
            },
            call(&["connect", "--discard-my-data"]),
        ]),
        Part::Keep => {
            let alone = s
                .peers
                .values()
                .any(|p| p.connection == Connection::StandAlone);
            Ok(if alone {
                vec![call(&["connect"])]
            } else {
                Vec::new()
            })
        }
        Part::KeepAlone if connected => Err(format!(
            "{name}: a peer is connected, so none is lost: leave out --others-lost"
        )),
        Part::KeepAlone if s.role == Role::Primary => {
            Err(format!("{name} is Primary here already"))
        }
        // The one place where --force is right: a person gave the other replicas up. Not left Primary: who owns the
        // group promotes.
        Part::KeepAlone => Ok(vec![call(&["primary", "--force"]), call(&["secondary"])]),
    }
}

/// Looks, plans and carries out. Returns what was called.
///
/// # Errors
/// As [`plan`], or DRBD refused.
pub async fn run(name: &str, part: Part, within: Duration) -> Result<Vec<String>, Failure> {
    let until = Instant::now() + within;
    let state = ask(name, within)
        .await
        .map_err(Failure::Unknown)?
        .ok_or_else(|| Failure::Failed(format!("{name} is not up: `drbdadm up {name}`")))?;
    let mut done = Vec::new();
    for call in plan(name, &state, part).map_err(Failure::Failed)? {
        let ended = admin(call.verb, name, until).await?;
        if !ended.status.success()
            && (call.nothing.is_none() || code(&said(&ended)) != call.nothing)
        {
            return Err(refusal(name, &call.verb.join(" "), &ended));
        }
        done.push(format!("drbdadm {} {name}", call.verb.join(" ")));
    }
    Ok(done)
}

/// Generations of the local replicas, by volume in the order of `drbdadm get-gi`.
///
/// # Errors
/// DRBD could not be asked; a sentence.
pub async fn generations(
    name: &str,
    within: Duration,
) -> Result<Vec<super::gi::Generations>, String> {
    let ended = admin(&["get-gi"], name, Instant::now() + within)
        .await
        .map_err(|e| e.to_string())?;
    if !ended.status.success() {
        return Err(said(&ended));
    }
    let text = String::from_utf8_lossy(&ended.stdout);
    Ok(text
        .lines()
        .filter_map(super::gi::Generations::parse)
        .collect())
}
