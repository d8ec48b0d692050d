//! Two layers of recovery: hosts with a cluster of their own, and guests behind their bridges with another, both with the real
//! agent. They must not get into each other's way. Needs root, and fails without.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::{pass, until},
    nested::{GUEST_VIP, Upper},
    probe_outage::OutageProber,
    probe_owner::OwnerProber,
    trial::with_cluster,
    uplink::Uplink,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const LATE: Duration = Duration::from_secs(30);
const TAKEOVERS: Duration = Duration::from_secs(120);

/// Both clusters have groups and node ids in common: what is their own is name, port and key. Generic, because a veth loses
/// what is bounced natively unless its other end has a program, too; a virtual machine's card does not.
fn upper_config() -> String {
    let mut text = String::from(
        "cluster = \"guests\"\ngeneration = 1\nkey_file = \"guests.key\"\nport = 4848\n\
         datapath = \"generic\"\n\n\
         [timing]\nprofile = \"wan\"\nmax_promise = \"3s\"\n",
    );
    for id in 1..=3 {
        text += &format!(
            "\n[[node]]\nname = \"g{id}\"\nid = {id}\nlink = [{{ device = \"eth0\", address = \"10.78.0.{id}\" }}]\n"
        );
    }
    text + &format!(
        "\n[[group]]\nname = \"app\"\nid = 0\nprefer = [\"g1\", \"g2\", \"g3\"]\n\
         [[group.vip]]\naddress = \"{GUEST_VIP}\"\ndevice = \"eth0\"\n"
    )
}

/// What is measured of the upper layer.
struct Above {
    upper: Upper,
    owners: OwnerProber,
    client: OutageProber,
    from: u64,
}

impl Above {
    /// Who answered for the guests' VIP since then, by name; and that never two did at once.
    fn owners(&self, from: u64) -> Result<Vec<String>> {
        let seen = self.owners.ownership(from, boot_ns());
        ensure!(seen.dual_rounds == 0, "two owners above: {seen:?}");
        let names = seen
            .spans
            .iter()
            .map(|s| self.upper.guests[s.node].name.clone());
        let mut names: Vec<_> = names.collect();
        names.dedup();
        Ok(names)
    }
}

/// As [`Above::owners`], of the hosts' VIP.
fn below(rig: &Rig, from: u64) -> Result<Vec<String>> {
    let seen = rig.owners.ownership(from, boot_ns());
    ensure!(seen.dual_rounds == 0, "two owners below: {seen:?}");
    let nodes = &rig.cluster.lab.nodes;
    let mut names: Vec<_> = seen
        .spans
        .iter()
        .map(|s| nodes[s.node].name.clone())
        .collect();
    names.dedup();
    Ok(names)
}

fn with_layers(test: impl FnOnce(&mut Rig, &mut Above) -> Result<()>) -> Result<()> {
    let spec = LabSpec::default();
    let mut lab = Lab::up(&spec)?;
    lab.uplink(Uplink::Bridge)?;
    let guests = lab.guests()?;
    // Six agents on a busy machine: nothing here is about speed.
    let calm = ConfigSpec {
        timing: "takeover = \"250ms\"",
        ..ConfigSpec::default()
    };
    let text = config::text(&spec, &calm);
    let text = text.replace("\"eth0\"", &format!("\"{}\"", Uplink::Bridge.device()));
    let cluster = Cluster::start(lab, &text, "cluster.key")?;
    with_cluster(cluster, |rig| {
        let lab = &rig.cluster.lab;
        // The client has an address in the guests' network, too.
        lab.client.ns.ip("address add 10.78.0.201/24 dev eth0\n")?;
        let upper = Upper::start(lab, guests, &upper_config(), "guests.key")?;
        let owners = OwnerProber::start_on(
            &lab.prober,
            upper.guests.iter().map(|g| g.eth0().mac).collect(),
            GUEST_VIP,
            Duration::from_millis(2),
            TAKEOVERS,
        )?;
        let client = OutageProber::start(
            &lab.client,
            GUEST_VIP.into(),
            Duration::from_millis(1),
            TAKEOVERS,
        )?;
        let mut above = Above {
            upper,
            owners,
            client,
            from: boot_ns(),
        };
        above.upper.settled("app", &[], LATE)?;
        let served = until(LATE, Duration::from_millis(10), || {
            Ok(above.client.answered_lately(200))
        })?;
        ensure!(served, "the guests' VIP does not answer");
        test(rig, &mut above)?;
        above.owners(above.from).map(drop)
    })
}

/// The n of `n2` and `g2`.
fn number(name: &str) -> &str {
    name.get(1..).unwrap_or_default()
}

/// Brings both VIPs to one host.
fn gather(rig: &mut Rig, above: &mut Above) -> Result<(String, String)> {
    let host = rig.cluster.owner("web").context("an owner")?;
    let guest = format!("g{}", number(&host));
    above.upper.agent("g1")?.cli_ok(&["move", "app", &guest])?;
    ensure!(above.upper.settled("app", &[], LATE)? == guest, "not moved");
    rig.settle()?;
    Ok((host, guest))
}

/// Both layers serve again, with others than these.
fn both_taken_over(
    rig: &mut Rig,
    above: &Above,
    host: &str,
    guest: &str,
    mute: &[&str],
) -> Result<(String, String)> {
    let served = until(LATE, Duration::from_millis(5), || {
        Ok(rig.wire_owner().is_some_and(|o| o != host) && rig.v4.answered_lately(100))
    })?;
    ensure!(served, "the hosts' VIP is not taken over");
    let new_host = rig.wire_owner().context("an owner")?;
    let new_guest = above.upper.settled("app", mute, LATE)?;
    ensure!(new_guest != guest, "the guests' VIP is not taken over");
    let served = until(LATE, Duration::from_millis(5), || {
        Ok(above.client.answered_lately(100))
    })?;
    ensure!(served, "the guests' client is not served");
    Ok((new_host, new_guest))
}

#[test]
fn a_host_that_fails_is_one_takeover_in_each_layer() -> Result<()> {
    with_layers(|rig, above| {
        // Cut off, with its guest.
        let (host, guest) = gather(rig, above)?;
        let from = boot_ns();
        rig.cluster.lab.switch.cut(&host)?;
        let (new_host, new_guest) = both_taken_over(rig, above, &host, &guest, &[&guest])?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        ensure!(
            above.upper.settled("app", &[], LATE)? == new_guest,
            "it moved on healing"
        );
        pass(Duration::from_millis(500))?;
        ensure!(
            below(rig, from)? == [host.clone(), new_host],
            "below: {:?}",
            below(rig, from)?
        );
        ensure!(
            above.owners(from)? == [guest.clone(), new_guest],
            "above: {:?}",
            above.owners(from)?
        );

        // Frozen, with its guest: nothing of its agents runs, its kernel does.
        let (host, guest) = gather(rig, above)?;
        let from = boot_ns();
        rig.cluster.freeze(&host)?;
        above.upper.agent(&guest)?.signal(Signal::SIGSTOP)?;
        let (new_host, new_guest) = both_taken_over(rig, above, &host, &guest, &[&guest])?;
        rig.cluster.thaw(&host)?;
        above.upper.agent(&guest)?.signal(Signal::SIGCONT)?;
        rig.settle()?;
        ensure!(
            above.upper.settled("app", &[], LATE)? == new_guest,
            "it moved on waking"
        );
        pass(Duration::from_millis(500))?;
        ensure!(
            below(rig, from)? == [host, new_host],
            "below: {:?}",
            below(rig, from)?
        );
        ensure!(
            above.owners(from)? == [guest, new_guest],
            "above: {:?}",
            above.owners(from)?
        );
        Ok(())
    })
}

#[test]
fn what_happens_in_one_layer_is_no_matter_to_the_other() -> Result<()> {
    with_layers(|rig, above| {
        let (host, guest) = gather(rig, above)?;
        // The host's agent alone: its guest serves on through the host's kernel.
        let from = boot_ns();
        rig.cluster.freeze(&host)?;
        let gone = until(LATE, Duration::from_millis(5), || {
            Ok(rig.wire_owner().is_some_and(|o| o != host) && rig.v4.answered_lately(100))
        })?;
        ensure!(gone, "the hosts' VIP is not taken over");
        rig.cluster.thaw(&host)?;
        rig.settle()?;
        ensure!(
            below(rig, from)?.len() == 2,
            "below: {:?}",
            below(rig, from)?
        );
        ensure!(
            above.owners(from)? == [guest.clone()],
            "above: {:?}",
            above.owners(from)?
        );

        // Killed, and started again: its gates stay in the kernel, and the guest's frames pass them.
        let owner = rig.cluster.owner("web").context("an owner")?;
        let from = boot_ns();
        rig.cluster.agent(&owner)?.kill()?;
        let gone = until(LATE, Duration::from_millis(5), || {
            Ok(rig.wire_owner().is_some_and(|o| o != owner) && rig.v4.answered_lately(100))
        })?;
        ensure!(gone, "the hosts' VIP is not taken over");
        rig.cluster.agent(&owner)?.start()?;
        rig.settle()?;
        ensure!(
            above.owners(from)? == [guest.clone()],
            "above: {:?}",
            above.owners(from)?
        );

        // The guest's agent alone: the hosts go on.
        let (from, before) = (boot_ns(), rig.cluster.owner("web").context("an owner")?);
        above.upper.agent(&guest)?.signal(Signal::SIGSTOP)?;
        let new = above.upper.settled("app", &[&guest], LATE)?;
        above.upper.agent(&guest)?.signal(Signal::SIGCONT)?;
        above.upper.settled("app", &[], LATE)?;
        ensure!(
            above.owners(from)? == [guest.clone(), new],
            "above: {:?}",
            above.owners(from)?
        );
        ensure!(
            below(rig, from)? == [before.clone()],
            "below: {:?}",
            below(rig, from)?
        );

        // A planned move and a drain below: no business of those above.
        let (host, guest) = gather(rig, above)?;
        let from = boot_ns();
        rig.cluster.agent(&host)?.cli_ok(&["drain", &host])?;
        rig.cluster.agent(&host)?.cli_ok(&["undrain", &host])?;
        rig.settle()?;
        ensure!(
            above.owners(from)? == [guest],
            "above: {:?}",
            above.owners(from)?
        );
        apart(rig, above)
    })
}

/// Ids, keys, ports, pins and sockets are their own; neither takes the other's packets for its own or for forged ones.
fn apart(rig: &mut Rig, above: &mut Above) -> Result<()> {
    let mut said: Vec<(String, Value)> = Vec::new();
    for host in ["n1", "n2", "n3"] {
        said.push((host.into(), rig.cluster.agent(host)?.status()?));
    }
    for guest in ["g1", "g2", "g3"] {
        said.push((guest.into(), above.upper.agent(guest)?.status()?));
    }
    let mut digests: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, status) in &said {
        let layer = if name.starts_with('g') {
            "guests"
        } else {
            "lab"
        };
        ensure!(status["cluster"] == layer, "{name}: {}", status["cluster"]);
        ensure!(status["node"] == **name, "{name}: {}", status["node"]);
        let nodes = status["nodes"].as_array().context("nodes")?;
        let first = name.chars().next().context("a name")?;
        ensure!(
            nodes.len() == 3
                && nodes
                    .iter()
                    .all(|n| n["name"].as_str().is_some_and(|n| n.starts_with(first))),
            "{name}: {nodes:?}"
        );
        let counters = status["counters"].as_object().context("counters")?;
        for wrong in [
            "drop_other_cluster",
            "drop_forged",
            "drop_bad_magic",
            "drop_bad_sender",
        ] {
            let n = counters.get(wrong).and_then(Value::as_u64);
            let n = n.with_context(|| format!("{name} has no counter {wrong}"))?;
            ensure!(n == 0, "{name}: {wrong} {n}");
        }
        digests
            .entry(layer.into())
            .or_default()
            .push(status["digest"].as_str().context("a digest")?);
    }
    for (layer, mut list) in digests {
        list.dedup();
        ensure!(list.len() == 1, "{layer}: {list:?}");
    }
    Ok(())
}
