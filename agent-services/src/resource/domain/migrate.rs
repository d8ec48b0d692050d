//! Live migration to another node: asked beforehand whether it would work, and seen afterwards at both ends.

use std::{net::IpAddr, time::Duration};

use agent_virt_proto::{
    definition::Definition,
    job::Progress,
    message::{Answer, Ask, Migrate, Migrated, Place, Seen},
    preflight::{Finding, Host, judge},
    state::{DomainState, Life, Paused},
};
use tokio::time::{Instant, sleep};

use super::{
    Domain, ask,
    helper::{No, alone},
    of,
};
use crate::resource::{Failure, Resource};

/// How long one question to one of the two may take: the first one after a start of a daemon makes it look at QEMU.
const ASK: Duration = Duration::from_secs(30);
/// How long both ends are asked where it is, after the helper was lost on the way.
const SEARCH: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
/// Who does not answer within this is not waited for before a start.
const PEER: Duration = Duration::from_secs(3);

/// How a domain moves alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// How the daemons speak with each other.
    pub transport: Transport,
    /// After half of the time it goes over at once; then it cannot go back.
    pub postcopy: bool,
    /// QEMU slows it down if it writes faster than is sent.
    pub auto_converge: bool,
    /// MiB per second at most.
    pub bandwidth: Option<u64>,
    /// Longest pause at the end that is aimed for.
    pub downtime: Option<Duration>,
    /// When this is over, it is broken off.
    pub timeout: Duration,
    /// Shut down here and started there if it cannot migrate; else it stays.
    pub or_shutdown: bool,
}

/// How the daemons speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Encrypted, with certificates; memory goes encrypted, too.
    Tls,
    /// As it is: for a network that nobody else has access to.
    Tcp,
    /// By ssh, as root; memory goes through it.
    Ssh,
}

/// Another node that may run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Its address, on a network that is good for this.
    pub address: IpAddr,
    /// Its libvirt, if it is to be reached otherwise than by address and transport.
    pub uri: Option<String>,
}

impl Transport {
    const fn word(self) -> &'static str {
        match self {
            Transport::Tls => "tls",
            Transport::Tcp => "tcp",
            Transport::Ssh => "ssh",
        }
    }
}

impl Peer {
    fn host(&self) -> String {
        match self.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    }

    /// Its libvirt, as this node's daemon reaches it: `qemu+tls://10.0.0.2/system`.
    fn libvirt(&self, own: &str, transport: Transport) -> String {
        if let Some(uri) = &self.uri {
            return uri.clone();
        }
        let (driver, path) = own.split_once(":///").unwrap_or(("qemu", "system"));
        let driver = driver.split('+').next().unwrap_or(driver);
        format!("{driver}+{}://{}/{path}", transport.word(), self.host())
    }
}

/// Why a domain did not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stay {
    /// It runs here as before; a sentence.
    Home(String),
    /// Where it runs is not certain; a sentence.
    Unclear(String),
}

/// How a migration went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Went {
    /// From order to end, ms.
    pub took_ms: u64,
    /// The pause at its end as libvirt measured it, ms.
    pub downtime_ms: Option<u64>,
    /// Bytes sent.
    pub bytes: u64,
}

/// Does this resource move alive?
#[must_use]
pub fn is_live(resource: &Resource) -> bool {
    of(resource).is_some_and(|domain| domain.live.is_some())
}

/// How long moving it alive may take at most.
#[must_use]
pub fn longest_move(resource: &Resource) -> Duration {
    let live = of(resource).and_then(|domain| domain.live.as_ref());
    live.map_or(Duration::ZERO, |live| live.timeout + 3 * ASK)
}

/// May it be shut down where it cannot migrate?
#[must_use]
pub fn may_shut_down(resource: &Resource) -> bool {
    let live = of(resource).and_then(|domain| domain.live.as_ref());
    live.is_some_and(|live| live.or_shutdown)
}

/// Breaks a migration off that is under way.
pub(crate) async fn call_off(resource: &Resource, within: Duration) {
    if let Some(domain) = of(resource) {
        let name = domain.name.clone();
        // What it says is seen where the migration is waited for.
        let _ = ask(domain, Ask::Abort { name }, within).await;
    }
}

/// Is it on its way here, from another node?
pub(crate) async fn is_arriving(resource: &Resource) -> bool {
    let Ok((domain, _)) = live(resource) else {
        return false;
    };
    let name = domain.name.clone();
    let state = ask(domain, Ask::Status { name }, resource.status_timeout).await;
    state.is_ok_and(|state| match state.life {
        Life::Paused(Paused::Migration | Paused::Starting | Paused::PostCopy) => true,
        Life::Paused(_)
        | Life::Absent
        | Life::Off { .. }
        | Life::Running
        | Life::ShuttingDown
        | Life::Crashed { .. }
        | Life::Asleep
        | Life::Odd(_) => false,
    })
}

/// Sees that it does not run where it was migrated to.
///
/// # Errors
/// It does, or that cannot be said: it must not be started here.
pub(crate) async fn is_not_at(resource: &Resource, peer: Option<&Peer>) -> Result<(), Failure> {
    let (Some(peer), Ok((domain, live))) = (peer, live(resource)) else {
        return Ok(());
    };
    let (name, node) = (&domain.name, &peer.node);
    let here = ask(domain, Ask::Status { name: name.clone() }, ASK).await;
    if here.is_ok_and(|state| state.life.is_active()) {
        return Ok(());
    }
    let uri = peer.libvirt(&domain.uri, live.transport);
    match state_at(&uri, name.clone(), ASK).await {
        Ok(state) if state.life.is_active() => Err(Failure::Unknown(format!(
            "{name} was migrated to {node} and is there, {}: move the group there, or shut it down there",
            state.life.words()
        ))),
        Ok(_) => Ok(()),
        Err(no) => Err(Failure::Unknown(format!(
            "{name} was migrated to {node}, and whether it is still there cannot be asked: {}",
            words(&no)
        ))),
    }
}

/// What speaks against a migration, by the word of both ends.
///
/// # Errors
/// An end could not be asked; a sentence.
pub async fn preflight(resource: &Resource, peer: &Peer) -> Result<Vec<Finding>, String> {
    let (domain, live) = live(resource)?;
    let sentence = |no: No| words(&no);
    let there = peer.libvirt(&domain.uri, live.transport);
    let name = domain.name.clone();
    let Answer::Xml(xml) = alone(&domain.uri, Ask::Describe { name }, ASK, drop)
        .await
        .map_err(sentence)?
    else {
        return Err("the helper answers something else".into());
    };
    let definition = Definition::read(&xml)?;
    let host = async |uri: &str| -> Result<Host, String> {
        let order = Ask::Host { xml: xml.clone() };
        match alone(uri, order, ASK, drop).await {
            Ok(Answer::Host(host)) => Ok(host),
            Ok(Answer::State(_) | Answer::Xml(_) | Answer::Migrated(_)) => {
                Err("the helper answers something else".into())
            }
            Err(no) => Err(words(&no)),
        }
    };
    let (from, to) = tokio::join!(host(&domain.uri), host(&there));
    Ok(judge(&definition, &from?, &to?))
}

/// Migrates it to a node, where its agent will find it running. What runs here afterwards was seen, as well as what runs there.
///
/// # Errors
/// It did not go, or that is not certain.
pub async fn hand_over(
    resource: &Resource,
    peer: &Peer,
    tell: impl FnMut(Progress),
) -> Result<Went, Stay> {
    let home = |why: String| Stay::Home(format!("no migration to {}: {why}", peer.node));
    let (domain, live) = live(resource).map_err(home)?;
    let there = peer.libvirt(&domain.uri, live.transport);
    let name = || domain.name.clone();
    let here = ask(domain, Ask::Status { name: name() }, ASK).await;
    if here.is_ok_and(|state| !state.life.is_active()) {
        // It has gone before, or has ended: nothing is left to move.
        return match state_at(&there, name(), ASK).await {
            Ok(_) => Ok(Went::default()),
            Err(no) => Err(Stay::Unclear(format!(
                "{} does not run here, and whether it runs on {} cannot be asked: {}",
                domain.name,
                peer.node,
                words(&no)
            ))),
        };
    }
    let found = preflight(resource, peer).await.map_err(home)?;
    let against: Vec<_> = found
        .into_iter()
        .filter(|f| f.stops)
        .map(|f| f.text)
        .collect();
    if !against.is_empty() {
        return Err(home(against.join("; ")));
    }
    let ssh = live.transport == Transport::Ssh;
    let order = Migrate {
        name: domain.name.clone(),
        to: there.clone(),
        data: (!ssh).then(|| format!("tcp://{}", peer.host())),
        tls: live.transport == Transport::Tls,
        tunnelled: ssh,
        auto_converge: live.auto_converge,
        postcopy: live.postcopy,
        bandwidth: live.bandwidth,
        downtime_ms: live
            .downtime
            .and_then(|d| u64::try_from(d.as_millis()).ok()),
    };
    let migrated = match alone(&domain.uri, Ask::Migrate(order), live.timeout, tell).await {
        Ok(Answer::Migrated(migrated)) if migrated.place() != Place::Unclear => migrated,
        Ok(Answer::Migrated(migrated)) => {
            search(domain, &there, migrated.error.unwrap_or_default()).await
        }
        Ok(Answer::State(_) | Answer::Xml(_) | Answer::Host(_)) => {
            return Err(Stay::Unclear("the helper answers something else".into()));
        }
        // The helper or the daemon was lost on the way; the daemons may go on without it.
        Err(no) => search(domain, &there, words(&no)).await,
    };
    let error = migrated.error.clone().unwrap_or_default();
    match migrated.place() {
        Place::There => {
            let sum = migrated.progress.unwrap_or_default();
            Ok(Went {
                took_ms: migrated.took_ms,
                downtime_ms: sum.downtime_ms,
                bytes: sum.done,
            })
        }
        Place::Here => Err(home(error)),
        Place::Unclear => Err(Stay::Unclear(format!(
            "after a migration to {} ({error}): {} is {} here, and {} there",
            peer.node,
            domain.name,
            seen(&migrated.here),
            seen(&migrated.there)
        ))),
    }
}

/// Does it run at one of these? Only who answers counts: whoever does not has been proven to have stopped, or will be, by other
/// means than this.
pub(super) async fn elsewhere(domain: &Domain, peers: &[Peer]) -> Option<String> {
    let live = domain.live.as_ref()?;
    let mut asked = tokio::task::JoinSet::new();
    for peer in peers {
        let uri = peer.libvirt(&domain.uri, live.transport);
        let (name, node) = (domain.name.clone(), peer.node.clone());
        asked.spawn(async move {
            let state = state_at(&uri, name, PEER).await;
            state.is_ok_and(|s| s.life.is_active()).then_some(node)
        });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some(node)) = answer {
            return Some(node);
        }
    }
    None
}

fn live(resource: &Resource) -> Result<(&Domain, &Live), String> {
    let domain = of(resource).ok_or("it is no domain")?;
    let live = domain.live.as_ref();
    Ok((domain, live.ok_or("its configuration does not allow it")?))
}

fn words(no: &No) -> String {
    match no {
        No::Lost(why) | No::NotInstalled(why) => why.clone(),
        No::Refused(refusal) => refusal.text.clone(),
    }
}

fn seen(seen: &Seen) -> String {
    match seen {
        Seen::As(life) => life.words().into(),
        Seen::Unknown(why) => format!("not to be asked ({why})"),
    }
}

async fn state_at(uri: &str, name: String, within: Duration) -> Result<DomainState, No> {
    match alone(uri, Ask::Status { name }, within, drop).await? {
        Answer::State(state) => Ok(state),
        Answer::Xml(_) | Answer::Host(_) | Answer::Migrated(_) => {
            Err(No::Lost("the helper answers something else".into()))
        }
    }
}

/// Asks both ends until it is certain where the domain is, or for as long as that makes sense.
async fn search(domain: &Domain, there: &str, error: String) -> Migrated {
    let begun = Instant::now();
    loop {
        let as_seen = |state: Result<DomainState, No>| match state {
            Ok(state) => Seen::As(state.life),
            Err(no) => Seen::Unknown(words(&no)),
        };
        let name = || domain.name.clone();
        let (here, other) = tokio::join!(
            ask(domain, Ask::Status { name: name() }, ASK),
            state_at(there, name(), ASK)
        );
        let migrated = Migrated {
            error: Some(error.clone()),
            here: as_seen(here),
            there: as_seen(other),
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            progress: None,
        };
        // While it is under way it is paused there, and both are active.
        let certain = match migrated.place() {
            Place::There => true,
            Place::Here => migrated.here == Seen::As(Life::Running),
            Place::Unclear => false,
        };
        if certain || begun.elapsed() >= SEARCH {
            return migrated;
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_libvirt() {
        let mut peer = Peer {
            node: "n2".into(),
            address: "10.0.0.2".parse().unwrap(),
            uri: None,
        };
        let at = |peer: &Peer, own: &str, t| peer.libvirt(own, t);
        assert_eq!(
            at(&peer, "qemu:///system", Transport::Tls),
            "qemu+tls://10.0.0.2/system"
        );
        assert_eq!(
            at(&peer, "lxc+unix:///system", Transport::Ssh),
            "lxc+ssh://10.0.0.2/system"
        );
        peer.address = "fd00::2".parse().unwrap();
        assert_eq!(
            at(&peer, "qemu:///system", Transport::Tcp),
            "qemu+tcp://[fd00::2]/system"
        );
        peer.uri = Some("qemu+tls://n2.example/system".into());
        assert_eq!(
            at(&peer, "qemu:///system", Transport::Tcp),
            "qemu+tls://n2.example/system"
        );
    }
}
