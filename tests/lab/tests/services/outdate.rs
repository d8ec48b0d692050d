//! What DRBD's fence-peer handler is answered by an owner: nothing goes on before the peer has outdated its replica, or
//! was fenced. There is no DRBD here (see `tests/vm` for that): a replica that is down is behind, and that is what the peers
//! say; the handler's questions are put to the control socket as it puts them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{demo::rig::Rig, interrupt::until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{LATE, POLL, Traces, another, fencing, group, resource, second, with_services};

/// A group that is owned and never started, so that nothing needs the DRBD that is not there.
fn sections(dir: &Path) -> String {
    let waits = second("after = [\"web\"]");
    let drbd = "\n[[group.resource]]\nname = \"promotion\"\ndrbd = \"heartline-lab\"\n";
    resource(dir, "app", "") + &waits + drbd + &fencing::devices(dir)
}

fn before(t: &Traces) -> Result<()> {
    t.make("app.hold-start")?;
    fencing::device(t)
}

/// Asks once, as a run of the handler on a Primary does.
fn ask(rig: &mut Rig, owner: &str, peer: &str, run: u64) -> Result<Value> {
    let socket = rig.cluster.agent(owner)?.socket();
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let call = json!({
        "handler": "fence_peer", "group": "late", "resource": "heartline-lab", "peer": peer,
        "role": "Primary", "disk": "UpToDate", "run": run,
    });
    writeln!(
        stream,
        "{}",
        json!({"v": 1, "request": {"drbd_handler": call}})
    )?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let reply: Value = serde_json::from_str(&line)?;
    let found = [reply.pointer("/reply/ok"), reply.pointer("/ok")];
    let answer = found.into_iter().flatten().next();
    answer.cloned().with_context(|| line.clone())
}

/// Asks again and again, as the handler does.
fn until_code(rig: &mut Rig, owner: &str, peer: &str, run: u64, code: u64) -> Result<()> {
    let mut last = Value::Null;
    let came = until(LATE, POLL * 5, || {
        last = ask(rig, owner, peer, run)?;
        Ok(last["code"] == code)
    })?;
    ensure!(came, "never {code}: {last}");
    Ok(())
}

#[test]
fn writes_go_on_when_the_peer_is_outdated_or_fenced() -> Result<()> {
    with_services(sections, before, |rig, t| {
        rig.cluster
            .wait_for("all say the same of who has it", LATE, |said| {
                let owners: Vec<_> = said
                    .iter()
                    .map(|(_, s)| s.as_ref().ok().map(|s| group(s, "late")["owner"].clone()))
                    .collect();
                owners.len() == 3
                    && owners
                        .iter()
                        .all(|o| *o == owners[0] && o.as_ref().is_some_and(Value::is_string))
            })?;
        let owner = rig.cluster.owner("late").context("an owner")?;
        fencing::plug(rig, t)?;
        let peer = another(&owner);

        let first = ask(rig, &owner, peer, 1)?;
        ensure!(first["code"] == 1 && first["again"] == true, "{first}");
        until_code(rig, &owner, peer, 1, 4)?;
        let events = rig.cluster.agent(peer)?.events()?;
        let told = |e: &&Value| {
            e["text"]
                .as_str()
                .is_some_and(|t| t.contains("is outdated"))
        };
        ensure!(events.iter().rfind(told).is_some(), "{peer} says nothing");
        // The connection may have been there since.
        let next = ask(rig, &owner, peer, 2)?;
        ensure!(next["code"] == 1 && next["again"] == true, "{next}");
        until_code(rig, &owner, peer, 2, 4)?;
        // Who does not own it is no Primary.
        let other = ask(rig, peer, &owner, 1)?;
        ensure!(other["code"] != 4 && other["code"] != 7, "{other}");

        ensure!(t.log().iter().all(|l| !l.contains(" fence ")), "fenced");
        rig.cluster.agent(peer)?.signal(Signal::SIGSTOP)?;
        until_code(rig, &owner, peer, 3, 7)?;
        ensure!(t.count(&format!("{peer} fence off")) == 1, "{:?}", t.log());
        let agent = rig.cluster.agent(peer)?;
        agent.ended(LATE).context("the fenced agent lives")?;
        agent.start()?;
        rig.settle()
    })
}
