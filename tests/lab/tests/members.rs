//! Members and VIPs' groups change on a running cluster (rule 10): nothing that need not stop stops, and no two nodes ever
//! answer for a VIP. Real agents, looked at from outside.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    trial::{SOON, cli, fault, owner, says, standbys, undisturbed, with, with_cluster},
};

fn spec(nodes: u8) -> LabSpec {
    LabSpec { nodes, links: 1 }
}

fn text(nodes: u8, generation: u32) -> String {
    config::text(&spec(nodes), &ConfigSpec::default())
        .replace("generation = 1", &format!("generation = {generation}"))
}

/// The lab's nodes share one file.
fn write(rig: &Rig, text: &str) -> Result<()> {
    Ok(fs::write(rig.cluster.config(), text)?)
}

fn in_generation(rig: &mut Rig, nodes: &[&str], generation: u64) -> Result<()> {
    for node in nodes {
        says(rig, node, &format!("generation {generation}"), |status| {
            status["generation"] == generation && status["voting"]["active"] == true
        })?;
    }
    Ok(())
}

/// `reload` on all of these, which must be taken.
fn reload(rig: &mut Rig, nodes: &[&str]) -> Result<()> {
    for node in nodes {
        let said = cli(rig, node, &["reload"])?;
        ensure!(said.contains("staged"), "{node}: {said}");
    }
    Ok(())
}

/// `reload` on a node must be refused with these words.
fn refused(rig: &mut Rig, node: &str, words: &str) -> Result<()> {
    let out = rig.cluster.agent(node)?.cli(&["reload"])?;
    let said = format!("{}{}", out.stdout, out.stderr);
    ensure!(
        out.code == Some(1) && said.contains(words),
        "{node}: {:?} {said}",
        out.code
    );
    Ok(())
}

#[test]
fn a_fourth_node_joins_and_leaves_and_no_echo_is_lost() -> Result<()> {
    let cluster = Cluster::start_first(3, Lab::up(&spec(4))?, &text(3, 1), "cluster.key")?;
    with_cluster(cluster, |rig| {
        let old = owner(rig)?;
        let from = boot_ns();
        // Refused: two at once, a step back, a jump, no step at all.
        for (file, words) in [
            (text(5, 2), "members change at once"),
            (
                text(3, 0).replace("generation = 0", "generation = 9"),
                "jumps from 1 to 9",
            ),
            (text(4, 1), "the generation does not"),
        ] {
            write(rig, &file)?;
            refused(rig, "n1", words)?;
        }
        // The new node first; it waits for somebody who votes in its generation.
        write(rig, &text(4, 2))?;
        rig.cluster.join("n4")?;
        says(rig, "n4", "it does not vote by itself", |status| {
            status["voting"]["active"] == false && status["generation"] == 2
        })?;
        reload(rig, &["n1", "n2"])?;
        says(rig, "n1", "it waits for n3", |status| {
            status["generation"] == 1
                && status["change"]["to"] == 2
                && (status["change"]["code"] == "node_not_ready"
                    || status["change"]["code"] == "settling")
        })?;
        reload(rig, &["n3"])?;
        in_generation(rig, &["n1", "n2", "n3", "n4"], 2)?;
        undisturbed(rig, from, &old)?;
        // A step back, by reload and by a start.
        write(rig, &text(3, 1))?;
        refused(rig, "n2", "goes back")?;
        write(rig, &text(4, 1))?;
        rig.cluster.agent("n4")?.kill()?;
        rig.cluster.agent("n4")?.start()?;
        rig.cluster.agent("n4")?.ended(SOON)?;
        ensure!(
            rig.cluster.agent("n4")?.log_tail().contains("older than"),
            "a start with an older generation is refused"
        );
        write(rig, &text(4, 2))?;
        rig.cluster.agent("n4")?.start()?;
        in_generation(rig, &["n4"], 2)?;
        // And out again.
        let from = boot_ns();
        write(rig, &text(3, 3))?;
        refused(rig, "n4", "no member of generation 3")?;
        reload(rig, &["n1", "n2", "n3"])?;
        in_generation(rig, &["n1", "n2", "n3"], 3)?;
        rig.cluster.agent("n4")?.stop(SOON)?;
        undisturbed(rig, from, &old)
    })
}

/// A node that owns the VIP is removed: it hands over first.
#[test]
fn an_owner_that_is_removed_hands_over() -> Result<()> {
    with(spec(4), ConfigSpec::default(), |rig| {
        cli(rig, "n1", &["move", "web", "n4"])?;
        in_generation(rig, &["n1", "n2", "n3"], 1)?;
        write(rig, &text(3, 2))?;
        reload(rig, &["n1", "n2", "n3"])?;
        in_generation(rig, &["n1", "n2", "n3"], 2)?;
        let new = owner(rig)?;
        ensure!(new != "n4", "{new} owns it");
        let lapsed = heartline_lab::trial::events(rig, "n4", "lease_lapsed", 0)?;
        ensure!(lapsed.is_empty(), "it was handed over: {lapsed:?}");
        rig.cluster.agent("n4")?.stop(SOON).map(drop)
    })
}

/// A group `more` that takes the VIPs of `web`.
fn with_more(text: &str, moved: bool) -> String {
    let more = "\n[[group]]\nname = \"more\"\nid = 7\nprefer = [\"n3\", \"n2\", \"n1\"]\n\
                [[group.vip]]\naddress = \"10.77.0.107\"\ndevice = \"eth0\"\n";
    if !moved {
        return format!("{text}{more}");
    }
    // The VIPs are the last lines of `web`, which gets another one instead.
    let at = text.find("[[group.vip]]").unwrap_or(text.len());
    let (head, vips) = text.split_at(at);
    format!("{head}[[group.vip]]\naddress = \"10.77.0.108\"\ndevice = \"eth0\"\n{more}{vips}")
}

#[test]
fn a_vip_changes_its_group_and_never_has_two_owners() -> Result<()> {
    let text1 = with_more(&text(3, 1), false);
    let cluster = Cluster::start(Lab::up(&spec(3))?, &text1, "cluster.key")?;
    with_cluster(cluster, |rig| {
        let old = owner(rig)?;
        write(rig, &with_more(&text(3, 1), true))?;
        refused(rig, "n1", "both could be granted at once")?;
        write(rig, &with_more(&text(3, 2), true))?;
        // The owner of `web` is frozen in the old generation, its kernel goes on.
        let others = standbys(rig)?;
        let others: Vec<_> = others.iter().map(String::as_str).collect();
        reload(rig, &others)?;
        let (_, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        ensure!(new != old, "it went to another node");
        in_generation(rig, &others, 2)?;
        rig.cluster.thaw(&old)?;
        reload(rig, &[old.as_str()])?;
        in_generation(rig, &[old.as_str()], 2)?;
        rig.settle()?;
        // Served by whoever has `more`.
        let status = rig.cluster.agent("n1")?.status()?;
        let more = heartline_lab::cluster::owner(&status, "more").context("more has an owner")?;
        ensure!(
            owner(rig)? == more,
            "the VIP is with the owner of its new group"
        );
        Ok(())
    })
}
