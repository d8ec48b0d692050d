//! Many nodes, many groups, many addresses. Needs root, and fails without. HEARTLINE_TEST_ALL=1: 32 nodes instead of 8.
//!
//! All nodes share this machine: 32 of them send 100,000 heartbeats a second with the profile `lan`, and get as many acks.
//! HEARTLINE_LAB_NODES and HEARTLINE_LAB_PROFILE choose others. The simulator carries 32 nodes and 256 groups.

use std::{fmt::Write as _, net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec, VIP4,
    clock::boot_ns,
    cluster,
    config::{self, ConfigSpec},
    exec::run_ok,
    interrupt::until,
    nemesis::usage,
    probe_owner::OwnerProber,
};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const PROBE: Duration = Duration::from_millis(5);

fn all() -> bool {
    std::env::var_os("HEARTLINE_TEST_ALL").is_some_and(|value| value == "1")
}

/// Address `nth` of a thousand.
fn vip(nth: u16) -> Ipv4Addr {
    let [high, low] = (nth + 1).to_be_bytes();
    Ipv4Addr::new(10, 88, high, low)
}

/// A config with so many groups, `g0` and on, that share so many addresses; preferred in turn by all nodes.
fn text(spec: &LabSpec, profile: &'static str, groups: u16, vips: u16) -> String {
    let base = ConfigSpec {
        profile,
        vip6: false,
        ..ConfigSpec::default()
    };
    let base = config::text(spec, &base).replace("max_promise = \"1s\"", "max_promise = \"3s\"");
    let end = base.find("\n[[group]]").unwrap_or(base.len());
    let mut text = base[..end].to_owned();
    let mut prefer: Vec<String> = (1..=spec.nodes).map(|id| format!("\"n{id}\"")).collect();
    for id in 0..groups {
        let _ = write!(
            text,
            "\n[[group]]\nname = \"g{id}\"\nid = {id}\nprefer = [{}]\n",
            prefer.join(", ")
        );
        prefer.rotate_left(1);
        for nth in (0..vips).filter(|nth| nth % groups == id) {
            let address = if nth == 0 { VIP4 } else { vip(nth) };
            let _ = write!(
                text,
                "[[group.vip]]\naddress = \"{address}\"\ndevice = \"eth0\"\n"
            );
        }
    }
    text
}

/// How many of our addresses a node has on its card.
fn addresses(cluster: &Cluster, node: &str) -> Result<usize> {
    let mut command = Command::new("ip");
    let name = cluster.lab.node(node)?.ns.name();
    command.args(["-n", name, "-4", "-o", "address", "show", "dev", "eth0"]);
    let text = run_ok(command, "", LONG)?;
    let ours = |word: &str| word.ends_with("/32");
    Ok(text.split_whitespace().filter(|word| ours(word)).count())
}

/// Waits until these nodes have so many addresses together.
fn wait_addresses(cluster: &Cluster, nodes: &[&str], count: usize) -> Result<()> {
    let mut last = 0;
    let came = until(LONG, POLL, || {
        last = 0;
        for node in nodes {
            last += addresses(cluster, node)?;
        }
        Ok(last == count)
    })?;
    ensure!(came, "{last} of {count} addresses on {nodes:?}");
    Ok(())
}

fn groups(status: &Value) -> Vec<(String, Option<String>, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = status["groups"].as_array().into_iter().flatten();
    list.map(|g| {
        (
            text(&g["name"]).unwrap_or_default(),
            text(&g["owner"]),
            text(&g["desired"]),
        )
    })
    .collect()
}

/// Waits until every group has an owner that is none of `not`, as all who are asked see it.
fn all_owned(cluster: &mut Cluster, count: usize, not: &str) -> Result<()> {
    let what = format!("{count} groups owned, none by {not:?}");
    cluster.wait_for(&what, LONG, |said| {
        let mut fine = said.iter().filter(|(name, _)| name != not);
        fine.all(|(_, said)| {
            said.as_ref().is_ok_and(|status| {
                let list = groups(status);
                list.len() == count
                    && list.iter().all(|(_, owner, desired)| {
                        owner.as_deref().is_some_and(|o| o != not) && owner == desired
                    })
            })
        })
    })
}

/// Moves a group, and waits until all agree.
fn moved(cluster: &mut Cluster, group: &str, to: &str) -> Result<()> {
    cluster.agent(to)?.cli_ok(&["move", group, to])?;
    let what = format!("{group} is on {to}");
    cluster.wait_for(&what, LONG, |said| {
        said.iter().all(|(_, said)| {
            said.as_ref()
                .is_ok_and(|status| cluster::owner(status, group).as_deref() == Some(to))
        })
    })
}

/// Runs a test on a cluster; keeps its logs if it fails.
fn with(mut cluster: Cluster, test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    test(&mut cluster).map_err(|error| {
        let kept = cluster.keep_dir().unwrap_or_default();
        error.context(format!("logs and config are kept in {}", kept.display()))
    })
}

fn raise(spec: &LabSpec, profile: &'static str, groups: u16, vips: u16) -> Result<Cluster> {
    let text = text(spec, profile, groups, vips);
    Cluster::start_bare(usize::MAX, Lab::up(spec)?, &text, "cluster.key")
}

/// Memory stays small, and status can be read by a person and by a program.
fn bounded(cluster: &mut Cluster, node: &str, group: &str, lines: usize) -> Result<()> {
    let agent = cluster.agent(node)?;
    let used = usage(agent.pid()?)?;
    let shown = agent.cli_ok(&["status"])?;
    let json = agent.cli_ok(&["status", "--json"])?;
    let longest = shown
        .lines()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    println!(
        "{node}: {used:?}; status: {} lines of at most {longest} columns, {} KiB of JSON",
        shown.lines().count(),
        json.len() / 1024
    );
    ensure!(used.rss_kib < 64 << 10, "{node} uses {used:?}");
    ensure!(
        shown.lines().count() < lines && longest < 200,
        "nobody reads {} lines of {longest} columns:\n{shown}",
        shown.lines().count()
    );
    agent.cli_ok(&["explain", group])?;
    Ok(())
}

#[test]
fn two_hundred_and_fifty_six_groups_with_a_thousand_addresses() -> Result<()> {
    let spec = LabSpec::default();
    with(raise(&spec, "lan", 256, 1000)?, |cluster| {
        all_owned(cluster, 256, "")?;
        cluster.settled(LONG)?;
        wait_addresses(cluster, &["n1", "n2", "n3"], 1000)?;
        let probed = [0_u16, 77, 255];
        let probers = probed.map(|nth| {
            let vip = if nth == 0 { VIP4 } else { vip(nth) };
            OwnerProber::start(&cluster.lab, vip, PROBE, LONG * 2)
        });
        let probers = probers.into_iter().collect::<Result<Vec<_>>>()?;
        let from = boot_ns();
        bounded(cluster, "n1", "g255", 700)?;
        moved(cluster, "g77", "n1")?;
        moved(cluster, "g77", "n3")?;
        wait_addresses(cluster, &["n1", "n2", "n3"], 1000)?;

        cluster.lab.switch.cut("n1")?;
        all_owned(cluster, 256, "n1")?;
        wait_addresses(cluster, &["n2", "n3"], 1000)?;
        // Its own lease is over: nothing stays at the node that was cut off.
        wait_addresses(cluster, &["n1"], 0)?;
        cluster.lab.switch.heal()?;
        cluster.settled(LONG)?;
        // All on one node, which is more than any placement would do.
        cluster.agent("n3")?.cli_ok(&["drain", "n2"])?;
        cluster.agent("n3")?.cli_ok(&["drain", "n1"])?;
        wait_addresses(cluster, &["n3"], 1000)?;
        bounded(cluster, "n3", "g0", 1300)?;
        cluster.freeze("n3")?;
        cluster.agent("n2")?.cli_ok(&["undrain", "n2"])?;
        wait_addresses(cluster, &["n2"], 1000)?;
        cluster.thaw("n3")?;
        wait_addresses(cluster, &["n3"], 0)?;
        cluster.agent("n2")?.cli_ok(&["undrain", "n1"])?;
        cluster.settled(LONG)?;
        for (prober, nth) in probers.iter().zip(probed) {
            let seen = prober.ownership(from, boot_ns());
            ensure!(seen.dual_rounds == 0, "address {nth}: two owners: {seen:?}");
            ensure!(seen.changes() > 0, "address {nth}: never moved: {seen:?}");
        }
        Ok(())
    })
}

#[test]
fn a_thousand_addresses_in_one_group() -> Result<()> {
    let spec = LabSpec::default();
    with(raise(&spec, "lan", 1, 1000)?, |cluster| {
        all_owned(cluster, 1, "")?;
        cluster.settled(LONG)?;
        let old = cluster.owner("g0").context("an owner")?;
        wait_addresses(cluster, &[&old], 1000)?;
        let last = OwnerProber::start(&cluster.lab, vip(999), PROBE, LONG * 2)?;
        let from = boot_ns();
        bounded(cluster, &old, "g0", 60)?;
        let next = if old == "n2" { "n3" } else { "n2" };
        moved(cluster, "g0", next)?;
        wait_addresses(cluster, &[next], 1000)?;
        wait_addresses(cluster, &[&old], 0)?;
        cluster.freeze(next)?;
        all_owned(cluster, 1, next)?;
        let heir = cluster.owner("g0").context("an owner")?;
        wait_addresses(cluster, &[&heir], 1000)?;
        let answers = until(LONG, POLL, || {
            let node = last.owner(Duration::from_millis(50));
            Ok(node.is_some_and(|n| cluster.lab.nodes[n].name == heir))
        })?;
        ensure!(answers, "{heir} does not answer for the last address");
        cluster.thaw(next)?;
        wait_addresses(cluster, &[next], 0)?;
        cluster.settled(LONG)?;
        let seen = last.ownership(from, boot_ns());
        ensure!(seen.dual_rounds == 0, "two owners: {seen:?}");
        Ok(())
    })
}

/// Takeover, move and healing with many nodes.
#[test]
fn many_nodes() -> Result<()> {
    let (nodes, profile) = if all() { (32, "lan") } else { (8, "lan") };
    let nodes = std::env::var("HEARTLINE_LAB_NODES").map_or(nodes, |n| n.parse().unwrap_or(nodes));
    let profile = match std::env::var("HEARTLINE_LAB_PROFILE").as_deref() {
        Ok("lan") => "lan",
        Ok("wan") => "wan",
        _ => profile,
    };
    let spec = LabSpec { nodes, links: 1 };
    with(raise(&spec, profile, 16, 64)?, |cluster| {
        cluster.settled(LONG)?;
        all_owned(cluster, 16, "")?;
        let prober = OwnerProber::start(&cluster.lab, VIP4, 2 * PROBE, LONG * 3)?;
        let from = boot_ns();
        let machine = Machine::now()?;
        std::thread::sleep(Duration::from_secs(3));
        println!(
            "{nodes} nodes, {profile}: {:.0} % of the machine",
            machine.busy()?
        );
        let old = cluster.owner("g0").context("an owner")?;
        cluster.lab.switch.cut(&old)?;
        all_owned(cluster, 16, &old)?;
        cluster.lab.switch.heal()?;
        cluster.settled(LONG)?;
        let last = format!("n{nodes}");
        moved(cluster, "g0", &last)?;
        cluster.agent(&last)?.kill()?;
        all_owned(cluster, 16, &last)?;
        cluster.agent(&last)?.start()?;
        cluster.settled(LONG)?;
        bounded(cluster, "n1", "g0", 160)?;
        let seen = prober.ownership(from, boot_ns());
        ensure!(seen.dual_rounds == 0, "two owners: {seen:?}");
        ensure!(seen.changes() >= 2, "{seen:?}");
        Ok(())
    })
}

/// Processor time of the machine.
struct Machine(u64, u64);

impl Machine {
    fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let words = stat.lines().next().unwrap_or_default().split_whitespace();
        let list: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        Ok(Self(
            list.iter().take(8).sum(),
            list.iter().skip(3).take(2).sum(),
        ))
    }

    fn busy(&self) -> Result<f64> {
        let now = Self::now()?;
        let all = now.0.saturating_sub(self.0).max(1) as f64;
        Ok(100.0 - now.1.saturating_sub(self.1) as f64 / all * 100.0)
    }
}
