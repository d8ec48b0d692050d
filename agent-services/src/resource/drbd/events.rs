//! `drbdsetup events2`: a line for each object at first, `exists -` when that is all, then one for each change.
//!
//! ```text
//! exists device name:r0 volume:0 minor:0 disk:UpToDate size:65496 …
//! change connection name:r0 peer-node-id:0 conn-name:peer connection:Connected
//! call helper name:r0 peer-node-id:0 conn-name:peer helper:fence-peer
//! ```
//!
//! Written for drbd-utils 9.22 with kernel module 8.4 (tried, see `samples`) and 9 (by its source,
//! `drbdsetup_events2.c`). Any bytes are taken: what is not understood is skipped and counted, what is too much too.

use std::collections::BTreeMap;

use super::state::{
    Connection, Disk, MOST, Peer, PeerVolume, Replication, ResourceState, Role, Suspended, Volume,
};

/// A longer line is not looked at; real ones have some 300 bytes.
pub const LINE: usize = 4096;
/// Resources that are kept.
const RESOURCES: usize = 4096;

/// What a line said besides how things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something of the resource is different now.
    Changed(String),
    /// The resource is gone.
    Gone(String),
    /// All that is there has been said.
    Complete,
    /// So many messages were lost: ask anew.
    Skipped,
    /// The kernel calls a handler.
    Call {
        /// The resource.
        name: String,
        /// The handler: `fence-peer`.
        helper: String,
    },
    /// A handler ended.
    Response {
        /// The resource.
        name: String,
        /// The handler.
        helper: String,
        /// Its exit code; `None` if it was killed, or this could not be read.
        code: Option<u8>,
    },
}

/// All resources, as far as they were told of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book {
    /// By name.
    pub resources: BTreeMap<String, ResourceState>,
    /// All that was there has been told.
    pub complete: bool,
    /// Lines that were not understood.
    pub strange: u64,
}

/// The parts of a line.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }
}

impl Book {
    /// From all lines of `events2 --now`. Without the closing `exists -` it is not complete.
    #[must_use]
    pub fn read(text: &[u8]) -> Book {
        let mut book = Book::default();
        for line in text.split(|b| *b == b'\n') {
            book.apply(line);
        }
        book
    }

    /// Takes one line, without its end.
    pub fn apply(&mut self, line: &[u8]) -> Option<News> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        let news = (line.len() <= LINE)
            .then(|| std::str::from_utf8(line).ok())
            .flatten()
            .and_then(|text| self.take(text));
        if news.is_none() {
            self.strange = self.strange.saturating_add(1);
        }
        news
    }

    /// `None`: not understood.
    fn take(&mut self, line: &str) -> Option<News> {
        let mut words = line.split_ascii_whitespace().peekable();
        // With --timestamps.
        if words
            .peek()
            .is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit()))
        {
            words.next();
        }
        let action = words.next()?;
        let object = words.next()?;
        if (action, object) == ("exists", "-") {
            self.complete = true;
            return Some(News::Complete);
        }
        if (action, object) == ("-", "skipped") {
            self.complete = false;
            return Some(News::Skipped);
        }
        let fields = Fields(words.filter_map(|w| w.split_once(':')).collect());
        let name = fields.get("name").filter(|n| !n.is_empty())?;
        match action {
            "exists" | "create" | "change" => self.set(object, name, &fields),
            "destroy" => self.remove(object, name, &fields),
            "rename" => {
                let state = self.resources.remove(name)?;
                let new = fields.get("new_name")?;
                self.resources.insert(new.to_owned(), state);
                Some(News::Changed(new.to_owned()))
            }
            "call" if object == "helper" => {
                let helper = fields.get("helper")?;
                // Not resolved by DRBD's own policies: both sides keep what they have.
                if helper == "split-brain" {
                    self.resources.get_mut(name)?.split_brain = true;
                }
                Some(News::Call {
                    name: name.into(),
                    helper: helper.into(),
                })
            }
            "response" if object == "helper" => {
                let status: Option<u32> = fields.number("status");
                Some(News::Response {
                    name: name.into(),
                    helper: fields.get("helper")?.into(),
                    // As wait(2) has it: the code above, the signal below.
                    code: status
                        .filter(|s| s & 0xff == 0)
                        .and_then(|s| u8::try_from(s >> 8).ok()),
                })
            }
            _ => None,
        }
    }

    fn resource(&mut self, name: &str) -> Option<&mut ResourceState> {
        if self.resources.len() >= RESOURCES && !self.resources.contains_key(name) {
            return None;
        }
        Some(self.resources.entry(name.to_owned()).or_default())
    }

    fn set(&mut self, object: &str, name: &str, fields: &Fields<'_>) -> Option<News> {
        // Paths come and go below a connection, which says whether one of them works.
        if object == "path" {
            return Some(News::Changed(name.into()));
        }
        let resource = self.resource(name)?;
        match object {
            "resource" => set_resource(resource, fields),
            "device" => set_volume(
                bounded(&mut resource.volumes, fields.number("volume")?)?,
                fields,
            ),
            "connection" => {
                let peer = bounded(&mut resource.peers, fields.number("peer-node-id")?)?;
                set_peer(peer, fields);
                if peer.connection == Connection::Connected && peer.role != Role::Unknown {
                    resource.split_brain = false;
                }
            }
            "peer-device" => {
                let peer = bounded(&mut resource.peers, fields.number("peer-node-id")?)?;
                set_peer_volume(
                    bounded(&mut peer.volumes, fields.number("volume")?)?,
                    fields,
                );
            }
            _ => return None,
        }
        Some(News::Changed(name.into()))
    }

    fn remove(&mut self, object: &str, name: &str, fields: &Fields<'_>) -> Option<News> {
        match object {
            "resource" => {
                self.resources.remove(name);
                return Some(News::Gone(name.into()));
            }
            "path" => {}
            "device" => {
                let volume = fields.number("volume")?;
                self.resources.get_mut(name)?.volumes.remove(&volume);
            }
            // With the key that it has while it is StandAlone, 8.4 creates it again before it destroys the old one, or
            // after: its end says nothing that the other line does not. DRBD 9 says `del-peer` so.
            "connection" => {
                let id: u32 = fields.number("peer-node-id")?;
                self.resources.get_mut(name)?.peers.remove(&id);
            }
            "peer-device" => {
                let id: u32 = fields.number("peer-node-id")?;
                let volume: u32 = fields.number("volume")?;
                if let Some(peer) = self.resources.get_mut(name)?.peers.get_mut(&id) {
                    peer.volumes.remove(&volume);
                }
            }
            _ => return None,
        }
        Some(News::Changed(name.into()))
    }
}

fn bounded<T: Default>(map: &mut BTreeMap<u32, T>, key: u32) -> Option<&mut T> {
    if map.len() >= MOST && !map.contains_key(&key) {
        return None;
    }
    Some(map.entry(key).or_default())
}

fn set_resource(r: &mut ResourceState, f: &Fields<'_>) {
    if let Some(role) = f.get("role") {
        r.role = Role::parse(role);
    }
    if let Some(text) = f.get("suspended") {
        r.suspended = Suspended::parse(text);
    }
    if let Some(text) = f.get("force-io-failures") {
        r.io_fails = text != "no";
    }
    if let Some(text) = f.get("may_promote") {
        r.may_promote = Some(text == "yes");
    }
    if let Some(score) = f.number("promotion_score") {
        r.promotion_score = Some(score);
    }
}

fn set_volume(v: &mut Volume, f: &Fields<'_>) {
    if let Some(disk) = f.get("disk") {
        v.disk = Disk::parse(disk);
    }
    if let Some(minor) = f.number("minor") {
        v.minor = Some(minor);
    }
    if let Some(text) = f.get("quorum") {
        v.quorum = Some(text == "yes");
    }
    if let Some(text) = f.get("client") {
        v.client = text == "yes";
    }
    if let Some(size) = f.number("size") {
        v.size = Some(size);
    }
}

fn set_peer(p: &mut Peer, f: &Fields<'_>) {
    if let Some(name) = f.get("conn-name") {
        name.clone_into(&mut p.name);
    }
    if let Some(connection) = f.get("connection") {
        p.connection = Connection::parse(connection);
    }
    if let Some(role) = f.get("role") {
        p.role = Role::parse(role);
    }
}

fn set_peer_volume(v: &mut PeerVolume, f: &Fields<'_>) {
    if let Some(replication) = f.get("replication") {
        v.replication = Replication::parse(replication);
        if !v.replication.is_source() && !v.replication.is_target() {
            v.done = None;
        }
    }
    if let Some(disk) = f.get("peer-disk") {
        v.disk = Disk::parse(disk);
    }
    if let Some(text) = f.get("resync-suspended") {
        v.resync_rests = text != "no";
    }
    if let Some(kib) = f.number("out-of-sync") {
        v.out_of_sync = Some(kib);
    }
    if let Some(done) = f.number::<f64>("done") {
        v.done = done.is_finite().then(|| done.clamp(0.0, 100.0));
    }
}
