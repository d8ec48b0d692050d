//! The lab measures right: it is tried without any agent, the VIP moved by hand. Needs root.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use heartline_lab::{
    Lab, LabSpec, VIP4, VIP6,
    clock::{boot_ns, ms},
    probe_outage::OutageProber,
    probe_owner::OwnerProber,
};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        if Instant::now() > end {
            bail!("not within 10 s: {what}");
        }
        std::thread::sleep(MS);
    }
    Ok(())
}

fn vip(lab: &Lab, node: usize, verb: &str) -> Result<()> {
    let nodad = if verb == "add" { " nodad" } else { "" };
    lab.nodes[node].ns.ip(&format!(
        "address {verb} {VIP4}/32 dev eth0\naddress {verb} {VIP6}/128 dev eth0{nodad}\n"
    ))
}

#[test]
fn a_cut_is_silent_for_the_client_and_visible_to_the_watcher() -> Result<()> {
    let begin = Instant::now();
    let mut lab = Lab::up(&LabSpec { nodes: 3, links: 2 })?;
    println!("lab up in {:?}", begin.elapsed());
    vip(&lab, 0, "add")?;
    let v4 = OutageProber::start(&lab.client, IpAddr::V4(VIP4), MS, LONG)?;
    let v6 = OutageProber::start(&lab.client, IpAddr::V6(VIP6), MS, LONG)?;
    let owner = OwnerProber::start(&lab, VIP4, 2 * MS, LONG)?;
    until("both answered", || {
        v4.answered_lately(50) && v6.answered_lately(50)
    })?;
    until("the owner is seen", || owner.owner(20 * MS) == Some(0))?;
    let carriers = carrier_changes(&lab)?;
    let calm = boot_ns();
    std::thread::sleep(500 * MS);

    let cut = lab.switch.cut("n1")?;
    println!("calm: {:?}", v4.outage(calm, cut));
    until("the client loses 100 probes", || {
        v4.outage(cut, boot_ns()).lost >= 100
    })?;
    let healed = lab.switch.heal()?;
    until("the client is back", || {
        v4.answered_lately(50) && v6.answered_lately(50)
    })?;
    let now = boot_ns();
    for (name, prober) in [("v4", &v4), ("v6", &v6)] {
        let outage = prober.outage(cut - 20_000_000, now);
        println!(
            "{name}: cut for {:.1} ms, outage {:.2} ms, {outage:?}",
            ms(healed - cut),
            ms(outage.ns())
        );
        assert!(outage.lost > 50, "the cut loses probes: {outage:?}");
        let through = outage
            .gaps
            .iter()
            .find(|gap| gap.to > cut && gap.to < healed);
        assert_eq!(
            through, None,
            "an answer came through the cut (healed {healed})"
        );
    }
    let seen = owner.ownership(cut, now);
    println!("wire: {seen:?}");
    assert_eq!(
        seen.spans.len(),
        1,
        "the watcher sees the cut node all the time: {seen:?}"
    );
    assert_eq!(seen.dual_rounds, 0);
    assert_eq!(
        carrier_changes(&lab)?,
        carriers,
        "a cut must not be seen as a lost carrier"
    );
    Ok(())
}

fn carrier_changes(lab: &Lab) -> Result<String> {
    let mut command = std::process::Command::new("ip");
    command.args([
        "-n",
        lab.nodes[0].ns.name(),
        "-s",
        "-s",
        "-o",
        "link",
        "show",
        "eth0",
    ]);
    let text = heartline_lab::exec::run_ok(command, "", Duration::from_secs(5))?;
    // The last number of the transmit counters is the number of carrier changes.
    let after = text.split("transns").nth(1).unwrap_or(&text);
    match after.split_whitespace().last() {
        Some(count) if text.contains("transns") => Ok(count.to_owned()),
        _ => bail!("no count of carrier changes in {text}"),
    }
}

#[test]
fn two_owners_are_noticed() -> Result<()> {
    let lab = Lab::up(&LabSpec::default())?;
    let owner = OwnerProber::start(&lab, VIP4, 2 * MS, LONG)?;
    let begin = boot_ns();
    vip(&lab, 0, "add")?;
    until("the first owner is seen", || {
        owner.owner(20 * MS) == Some(0)
    })?;
    assert_eq!(owner.ownership(begin, boot_ns()).dual_rounds, 0);
    vip(&lab, 1, "add")?;
    until("two owners are seen", || {
        owner.ownership(begin, boot_ns()).dual_ns >= 20_000_000
    })?;
    vip(&lab, 0, "del")?;
    until("one owner is left", || {
        let now = boot_ns();
        let late = owner.ownership(now - 50_000_000, now);
        late.dual_rounds == 0 && late.spans.last().is_some_and(|span| span.node == 1)
    })
}

/// Whether a datagram from one node to another is lost; then heals and sends one that must
/// arrive. Datagrams keep their order, so that no wait for "nothing" is needed.
fn lost(lab: &mut Lab, from: usize, to: usize) -> Result<bool> {
    let bind = |node: usize| {
        let address = SocketAddr::new(IpAddr::V4(lab.nodes[node].eth0().v4), 0);
        lab.nodes[node]
            .ns
            .run(move || Ok(UdpSocket::bind(address)?))
    };
    let (sender, receiver) = (bind(from)?, bind(to)?);
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    sender.send_to(b"during", receiver.local_addr()?)?;
    lab.switch.heal()?;
    sender.send_to(b"after", receiver.local_addr()?)?;
    let mut buffer = [0; 16];
    let (length, _) = receiver.recv_from(&mut buffer)?;
    Ok(&buffer[..length] == b"after")
}

type Cut = fn(&mut Lab) -> Result<u64>;
/// From, to, lost.
type Expected = &'static [(usize, usize, bool)];

#[test]
fn each_cut_cuts_what_it_says() -> Result<()> {
    let mut lab = Lab::up(&LabSpec::default())?;
    // Everyone knows everyone first: a lost ARP reply is not what is tried here.
    for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2)] {
        assert!(!lost(&mut lab, a, b)?, "{a} to {b} before any cut");
    }
    let cases: [(&str, Cut, Expected); 4] = [
        (
            "cut n1",
            |lab| lab.switch.cut("n1"),
            &[(0, 1, true), (1, 0, true), (1, 2, false)],
        ),
        (
            "mute n1",
            |lab| lab.switch.mute("n1"),
            &[(0, 1, true), (1, 0, false), (1, 2, false)],
        ),
        (
            "n1 to n2 one way",
            |lab| lab.switch.cut_one_way("n1", "n2"),
            &[(0, 1, true), (1, 0, false), (0, 2, false)],
        ),
        (
            "n1 apart from n2",
            |lab| lab.switch.partition(&["n1"], &["n2"]),
            &[
                (0, 1, true),
                (1, 0, true),
                (0, 2, false),
                (2, 0, false),
                (1, 2, false),
            ],
        ),
    ];
    for (name, cut, expected) in cases {
        for &(from, to, gone) in expected {
            cut(&mut lab)?;
            assert_eq!(lost(&mut lab, from, to)?, gone, "{name}: {from} to {to}");
        }
    }
    Ok(())
}
