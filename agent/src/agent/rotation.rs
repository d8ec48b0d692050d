//! Rotating the key and upgrading node by node: what the others' heartbeats say of their keys and version, and whether a
//! step would cut one of them off.

use agent_common::{
    keys::Keys,
    state::{PeerCell, Shared},
    wire,
};
use agent_core::detector;

use crate::{
    config::{Config, KeyFile},
    control::proto::{KeyStatus, Level, NodeState, NodeStatus, Warning},
};

/// What the last heartbeat of a node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says {
    /// Its wire version; 0 if it was never heard.
    pub version: u8,
    /// Does it understand the next one, too?
    pub next: bool,
    /// Id of the key that signed it; 0 if it named none.
    pub key: u16,
    /// Id of the other key that it accepts; 0 if there is none.
    pub other: u16,
}

/// What the last heartbeat of this node said.
pub fn says(p: &PeerCell) -> Says {
    let word = p.seen_flags.load();
    Says {
        version: (word >> 8) as u8,
        next: word as u8 & wire::flags::NEXT != 0,
        key: (word >> 16) as u16,
        other: (word >> 32) as u16,
    }
}

/// The newest version that this node can be spoken to in.
pub fn speaks(table: &Shared, id: u8) -> u8 {
    let said = says(table.peer(id));
    wire::version_for(said.version, if said.next { wire::flags::NEXT } else { 0 })
}

/// A key's id for people.
pub fn show(id: u16) -> String {
    format!("{id:04x}")
}

/// Ids of the keys for `status`.
pub fn status_of(key: u16, other: u16) -> KeyStatus {
    KeyStatus {
        signs: show(key),
        accepts: (other != 0).then(|| show(other)),
    }
}

/// The nodes that are heard now and that a change from `old` to `new` keys would part from this one, a sentence each.
pub fn cut_off(c: &Config, me: u8, t: &Shared, now: u64, old: &Keys, new: &Keys) -> Vec<String> {
    let mut out = Vec::new();
    for n in c.nodes.iter().filter(|n| n.id != me) {
        let p = t.peer(n.id);
        let heard = detector::last_heard(p);
        // Longer than any takeover time makes sense for: a node that just restarts is not gone.
        if heard == 0 || now.saturating_sub(heard) > c.timing.max_promise_ns {
            continue;
        }
        let said = says(p);
        // One that names no key has one: that by which we understood it.
        let (key, other) = match said.key {
            0 => (old.id(), 0),
            key => (key, said.other),
        };
        if new.id() != key && new.id() != other {
            out.push(format!(
                "{} does not accept key {}, which this node would sign with",
                n.name,
                show(new.id())
            ));
        } else if key != new.id() && key != new.other_id() {
            out.push(format!(
                "{} still signs with key {}, which this node would not accept any more",
                n.name,
                show(key)
            ));
        }
    }
    out
}

/// Where the cluster stands in a rotation and in an upgrade, for `status`.
pub fn warnings(file: &KeyFile, nodes: &[NodeStatus], refused: u64, out: &mut Vec<Warning>) {
    let mut add = |level, code: &str, text: String, help: Option<String>| {
        out.push(Warning {
            level,
            code: code.into(),
            text,
            help,
        });
    };
    let others = || nodes.iter().filter(|n| n.state != NodeState::Me);
    let alive = || others().filter(|n| n.state == NodeState::Alive);
    let names = |list: Vec<&NodeStatus>| {
        list.iter()
            .map(|n| n.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let keys = file.keys();
    if keys.other_id() != 0 {
        let (signs, accepts) = (show(keys.id()), show(keys.other_id()));
        let knows = |n: &&NodeStatus, id: &str| {
            n.key
                .as_ref()
                .is_some_and(|k| k.signs == id || k.accepts.as_deref() == Some(id))
        };
        let lacking: Vec<_> = others().filter(|n| !knows(n, &accepts)).collect();
        let differing: Vec<_> = others()
            .filter(|n| n.key.as_ref().is_none_or(|k| k.signs != signs))
            .collect();
        let help = if !lacking.is_empty() {
            format!(
                "if {accepts} is the new key: copy the key file to {} and reload there; if it is the old one and all \
                 sign with {signs}: `heartline keygen --rotate drop`",
                names(lacking.clone())
            )
        } else if differing.is_empty() {
            format!(
                "all nodes know both keys and sign with {signs}: `heartline keygen --rotate use` if {accepts} is the new \
                 one, else `--rotate drop`; then reload"
            )
        } else {
            format!(
                "{} signs with the other key: bring the same key file to it and reload",
                names(differing)
            )
        };
        add(
            Level::Note,
            "key_rotation",
            format!("the key is being rotated: this node signs with {signs} and accepts {accepts}"),
            Some(help),
        );
    }
    let silent: Vec<_> = others().filter(|n| n.state != NodeState::Alive).collect();
    if refused > 0 && !silent.is_empty() {
        add(
            Level::Warning,
            "unknown_key",
            format!(
                "{refused} messages were refused that are signed with a key unknown here, and {} is not heard",
                names(silent)
            ),
            Some("bring the same key file to all nodes, and `heartline reload`".into()),
        );
    }
    let old: Vec<_> = alive()
        .filter(|n| n.wire_version.is_some_and(|v| v < u32::from(wire::VERSION)))
        .collect();
    if !old.is_empty() {
        add(
            Level::Note,
            "mixed_versions",
            format!(
                "{} speaks wire version {}, this node {}: it is spoken to in its own",
                names(old),
                wire::VERSION - 1,
                wire::VERSION
            ),
            Some("upgrade it when you like; a key rotation has to wait for that".into()),
        );
    }
}
