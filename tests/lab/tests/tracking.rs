//! Targets: a node that does not reach what it should gives its group to one that does; where none does, nothing moves.
//! (Carriers are in `bad_luck/devices.rs`.) Needs root.

use anyhow::{Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    trial::{event, fault, owner, says, taken_over, undisturbed, with_cluster},
};
use serde_json::Value;

/// An address that the client has, and may lose.
const TARGET: &str = "10.77.0.240";

/// A cluster whose group must reach [`TARGET`], asked often.
fn tracked(failback: &str, test: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
    let lab = Lab::up(&LabSpec::default())?;
    target(&lab, true)?;
    let text = config::text(&LabSpec::default(), &ConfigSpec::default());
    let text = text.replace("id = 0\n", &format!("id = 0\nfailback = \"{failback}\"\n"));
    let text = format!(
        "{text}\n[[group.track]]\nping = \"{TARGET}\"\ndevice = \"eth0\"\ninterval = \"100ms\"\nfall = 2\nrise = 2\n"
    );
    with_cluster(Cluster::start(lab, &text, "cluster.key")?, test)
}

fn target(lab: &Lab, there: bool) -> Result<()> {
    let verb = if there { "add" } else { "del" };
    lab.client
        .ns
        .ip(&format!("address {verb} {TARGET}/32 dev eth0\n"))
}

/// So many nodes are unfit, as this status says.
fn unfit(status: &Value) -> usize {
    status["groups"][0]["unfit"]
        .as_array()
        .map_or(usize::MAX, Vec::len)
}

#[test]
fn a_target_that_the_owner_alone_does_not_reach_moves_the_group() -> Result<()> {
    tracked("manual", |rig| {
        let from = boot_ns();
        let (old, new) = fault(rig, |rig, old, _| {
            rig.cluster
                .lab
                .switch
                .partition(&[old], &["client"])
                .map(drop)
        })?;
        event(rig, &old, "unfit", from, |e| {
            e["text"]
                .as_str()
                .is_some_and(|t| t.contains("10.77.0.240 does not answer on eth0"))
        })?;
        says(rig, &new, "the old owner is unfit, and alive", |status| {
            heartline_lab::cluster::alive(status) == 3
                && status["groups"][0]["unfit"][0]["node"] == *old
                && unfit(status) == 1
        })?;
        says(rig, &old, "it says why", |status| {
            let warnings = status["warnings"].as_array().into_iter().flatten();
            warnings.into_iter().any(|w| w["code"] == "doubtful")
        })?;
        let explained = rig.cluster.agent(&old)?.cli_ok(&["explain", "web"])?;
        ensure!(
            explained.contains("10.77.0.240 does not answer"),
            "{explained}"
        );
        let healed = rig.cluster.lab.switch.heal()?;
        event(rig, &old, "fit", from, |_| true)?;
        says(rig, &new, "nobody is unfit", |status| unfit(status) == 0)?;
        undisturbed(rig, healed, &new)
    })
}

#[test]
fn a_group_goes_back_by_itself_if_it_may() -> Result<()> {
    tracked("auto", |rig| {
        // Whoever came up first may have had it for a moment.
        says(rig, "n1", "the first in line has it", |status| {
            status["groups"][0]["owner"] == "n1"
        })?;
        let (old, new) = fault(rig, |rig, old, _| {
            rig.cluster
                .lab
                .switch
                .partition(&[old], &["client"])
                .map(drop)
        })?;
        rig.cluster.lab.switch.heal()?;
        ensure!(taken_over(rig, &new)? == old, "not back");
        rig.settle()
    })
}

#[test]
fn a_target_that_answers_nobody_moves_nothing_and_stops_no_takeover() -> Result<()> {
    tracked("manual", |rig| {
        let old = owner(rig)?;
        let from = boot_ns();
        target(&rig.cluster.lab, false)?;
        says(rig, &old, "all are unfit", |status| unfit(status) == 3)?;
        undisturbed(rig, from, &old)?;
        // By hand it moves all the same: nobody is worse off.
        let (_, new) = fault(rig, |rig, old, others| {
            let to = others.first().copied().unwrap_or_default();
            rig.cluster
                .agent(old)?
                .cli_ok(&["move", "web", to])
                .map(drop)
        })?;
        rig.settle()?;
        // And it survives its owner.
        let (killed, third) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
        ensure!(killed == new, "killed another one");
        target(&rig.cluster.lab, true)?;
        rig.cluster.agent(&killed)?.start()?;
        rig.settle()?;
        says(rig, &third, "nobody is unfit", |status| unfit(status) == 0)
    })
}
