//! What the real-time threads of a new owner ask the kernel for between detection and first announcement: every system
//! call and every use of the heap, of the real agent, against the lists in ARCHITECTURE.md ("A takeover, call by call").
//! Needs root and strace, and fails without.

use std::path::PathBuf;

use agent_common::wire::{Kind, LEN, Message};
use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    strace::{Call, Recording},
    trial::{event, fault, standbys, with_cluster},
};

/// The agent, showing its allocations as system calls that it has no other use for.
const AGENT: &str = env!("CARGO_BIN_EXE_heartline-counted");
const LINKS: u8 = 2;

const CLAIM: &str = "sendmmsg claim";
const WAKE: &str = "write: wake hl-address";
const ANNOUNCE: &str = "sendmmsg announcements";
/// All that the address thread does for a group with one VIP per family: both addresses in one request, one answer, all
/// frames in one call.
const ADDRESS: [&str; 4] = [
    "read: woken",
    "sendto netlink",
    "recvfrom netlink",
    ANNOUNCE,
];
/// Calls of the real-time thread from claim to gain, however busy the machine: it takes 5 when undisturbed.
const MOST: usize = 60;

/// Calls in the words of ARCHITECTURE.md; what has no words there keeps the kernel's name.
fn worded(call: &Call, wake: Option<u32>) -> String {
    let words = match call.name.as_str() {
        "sendmmsg" if call.text.contains("AF_PACKET") => ANNOUNCE,
        "sendmmsg" => return format!("sendmmsg {}", message(call)),
        "write" if call.fd() == wake => WAKE,
        "write" => "write: wake main",
        "read" if call.fd() == wake && call.result().is_some() => "read: woken",
        "read" if call.fd() == wake => "read: not woken",
        "sendto" => "sendto netlink",
        "recvfrom" => "recvfrom netlink",
        "getppid" => "heap: taken",
        "geteuid" => "heap: given back",
        other => other,
    };
    words.to_owned()
}

/// What a message of a link is.
fn message(call: &Call) -> String {
    let mut bytes = call.bytes();
    let full = bytes.len() == LEN;
    bytes.resize(LEN, 0);
    let Ok(bytes) = bytes.as_slice().try_into() else {
        return "of another length".to_owned();
    };
    let message = Message::from_bytes(bytes);
    match Kind::from_u8(message.kind) {
        Some(Kind::Heartbeat) if full && message.ask_cv != 0 => "claim".to_owned(),
        Some(kind) => format!("{kind:?}").to_lowercase(),
        None => "of no known kind".to_owned(),
    }
}

/// Both threads of one node.
struct Recorded {
    realtime: Vec<String>,
    address: Vec<String>,
}

impl Recorded {
    fn of(calls: &[Vec<Call>]) -> Result<Self> {
        let [main, realtime, address] = calls else {
            anyhow::bail!("not three threads");
        };
        // Else the heap would never show.
        ensure!(
            main.iter().any(|call| call.name == "getppid"),
            "the main task allocated nothing: this is not the agent that shows it"
        );
        let wake = address.iter().find(|call| call.name == "read");
        let wake = Some(wake.and_then(Call::fd).context("hl-address never woke")?);
        // A clock source without vDSO makes a call of each reading.
        let called = |call: &&Call| call.name != "clock_gettime";
        let all = |calls: &[Call]| {
            let calls = calls.iter().filter(called);
            calls.map(|call| worded(call, wake)).collect()
        };
        Ok(Self {
            realtime: all(realtime),
            address: all(address),
        })
    }

    /// What the real-time thread did from its first claim to when it woke the address thread for the gain.
    fn claim_to_gain(&self) -> Result<&[String]> {
        let first = |word: &str| self.realtime.iter().position(|call| call == word);
        let from = first(CLAIM).context("no claim was seen")?;
        let to = first(WAKE).context("no gain was seen")?;
        let path = self.realtime.get(from..=to);
        path.with_context(|| format!("gained before it claimed: {:?}", self.realtime))
    }

    /// What the address thread did from there to its first announcement.
    fn gain_to_announcement(&self) -> Result<&[String]> {
        let to = self.address.iter().position(|call| call == ANNOUNCE);
        let to = to.context("no announcement was seen")?;
        let before = self.address.get(..=to).unwrap_or_default();
        let from = before.iter().rposition(|call| call == "read: woken");
        let path = from.and_then(|from| before.get(from..));
        path.with_context(|| format!("announced without being woken: {before:?}"))
    }

    fn judge(&self) -> Result<()> {
        let (realtime, address) = (self.claim_to_gain()?, self.gain_to_announcement()?);
        println!("hl-realtime: {realtime:#?}\nhl-address: {address:#?}");
        // Others' messages and the next heartbeat may fall between, and a voter may want to be asked twice; each message
        // goes out once per link. Nothing else is called.
        let sends = |call: &&String| call.starts_with("sendmmsg ");
        let known = |call: &String| {
            sends(&call) || ["ppoll", "write: wake main", WAKE].contains(&call.as_str())
        };
        ensure!(
            realtime.iter().all(known) && realtime.len() <= MOST,
            "hl-realtime did more than claim and tell: {realtime:#?}"
        );
        let sent: Vec<_> = realtime.iter().filter(sends).collect();
        ensure!(
            sent.chunks(LINKS.into()).all(|copies| {
                copies.len() == usize::from(LINKS) && copies.iter().all(|copy| *copy == copies[0])
            }),
            "not one call per message and link: {sent:?}"
        );
        ensure!(
            address == ADDRESS,
            "hl-address did something else than it should: {address:#?}"
        );
        Ok(())
    }
}

/// Raises a cluster of agents that show their allocations, records all standbys while something is done to the owner,
/// and gives what these threads of the new owner did. `more`: what the configuration has beyond one VIP per family.
fn recorded(
    threads: &[&str],
    more: &str,
    act: impl FnOnce(&mut Rig, &str, &[&str]) -> Result<()>,
    judge: impl FnOnce(&[Vec<Call>]) -> Result<()>,
) -> Result<()> {
    let lab = LabSpec {
        links: LINKS,
        ..LabSpec::default()
    };
    let text = config::text(&lab, &ConfigSpec::default()) + more;
    let lab = Lab::up(&lab)?;
    let cluster = Cluster::start_prepared(usize::MAX, lab, &text, "cluster.key", |agent| {
        agent.set_binary(PathBuf::from(AGENT));
        Ok(())
    })?;
    with_cluster(cluster, |rig| {
        let folder = rig.cluster.lab.dir().to_owned();
        let mut recordings = Vec::new();
        for name in standbys(rig)? {
            let id = rig.cluster.agent(&name)?.pid()?;
            let recording = Recording::start(id, threads, &folder.join(format!("strace-{name}")))?;
            recordings.push((name, recording));
        }
        let from = boot_ns();
        let (_, new) = fault(rig, act)?;
        event(rig, &new, "gained", from, |e| {
            e["phases"]["announced_ns"].as_u64().is_some()
        })?;
        let at = recordings.iter().position(|(name, _)| *name == new);
        let (_, recording) = recordings.swap_remove(at.context("the new owner was not recorded")?);
        judge(&recording.finish()?)
    })
}

fn judged(act: impl FnOnce(&mut Rig, &str, &[&str]) -> Result<()>) -> Result<()> {
    let threads = ["main", "hl-realtime", "hl-address"];
    recorded(&threads, "", act, |calls| Recorded::of(calls)?.judge())
}

/// What the announcing thread does: it is woken, sends, and says so; no heap, nothing else.
#[test]
fn a_large_group_is_announced_by_a_thread_that_does_nothing_else() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        // There is no such thread on one processor.
        return Ok(());
    }
    let mut more = String::new();
    for n in 1..=254 {
        more += &format!("[[group.vip]]\naddress = \"10.78.0.{n}\"\ndevice = \"eth0\"\n");
    }
    let act = |rig: &mut Rig, old: &str, others: &[&str]| {
        let to = others.first().copied().unwrap_or_default();
        rig.cluster
            .agent(old)?
            .cli_ok(&["move", "web", to])
            .map(drop)
    };
    recorded(&["hl-address", "hl-announce"], &more, act, |calls| {
        let [address, announce] = calls else {
            anyhow::bail!("not two threads");
        };
        let all: Vec<_> = announce.iter().map(|call| worded(call, None)).collect();
        println!("hl-announce: {all:#?}");
        let sent = all.iter().filter(|call| *call == ANNOUNCE).count();
        // 256 addresses are four batches, of which hl-address sends the last.
        ensure!((1..=3).contains(&sent), "{sent} batches: {all:#?}");
        ensure!(
            all.iter().zip(all.iter().skip(1)).all(|(call, next)| {
                ["read", "write: wake main", ANNOUNCE].contains(&call.as_str())
                    && (call != ANNOUNCE || next == "write: wake main")
            }),
            "hl-announce did something else than send: {all:#?}"
        );
        let adds = address.iter().filter(|call| call.name == "sendto").count();
        ensure!(adds >= 4, "{adds} batches");
        Ok(())
    })
}

#[test]
fn a_takeover_asks_the_kernel_for_nothing_else() -> Result<()> {
    judged(|rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))
}

#[test]
fn a_move_asks_the_kernel_for_nothing_else() -> Result<()> {
    judged(|rig, old, others| {
        let to = others.first().copied().unwrap_or_default();
        let agent = rig.cluster.agent(old)?;
        agent.cli_ok(&["move", "web", to]).map(drop)
    })
}
