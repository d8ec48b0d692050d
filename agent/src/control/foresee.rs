//! What would become of the groups without a node: the answer to `node_down`.

use serde::{Deserialize, Serialize};

/// Answer to `node_down`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDown {
    /// The node that is thought away.
    pub node: String,
    /// Voters that are left.
    pub voters_left: u32,
    /// A majority of all.
    pub voters_needed: u32,
    /// They are a majority; if not, nothing runs anywhere.
    pub quorum: bool,
    /// The groups that would not stay as they are.
    pub groups: Vec<NodeDownGroup>,
}

/// A group that would not stay as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDownGroup {
    /// The group.
    pub group: String,
    /// Its owner now.
    pub from: String,
    /// Its owner then; null: nobody.
    pub to: Option<String>,
    /// Why there, or why nowhere.
    pub why: String,
    /// How long its addresses are without owner, at most about, ns; null: for good.
    pub outage_ns: Option<u64>,
    /// Resources that start there then: their time comes on top.
    pub starts: u32,
    /// Resources that run there already.
    pub runs_there: u32,
    /// If the node falls silent, somebody must say that the group is stopped there before it starts.
    pub waits_for_word: bool,
}

/// How a node does as the place of a group, by the order in which it counts: what excludes it, groups that could not follow,
/// groups to be kept from, place in `prefer`, groups there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeScore {
    /// The node.
    pub node: String,
    /// Placement wants the group there.
    pub target: bool,
    /// Why it cannot have the group; nothing if it can.
    pub excluded: Option<String>,
    /// So many of the groups that follow this one cannot run there.
    pub unable: u32,
    /// So many groups are there that this one should be kept from.
    pub apart: u32,
    /// Place in the order of preference, from 1; 0: not in it.
    pub preference: u32,
    /// Groups that it owns.
    pub load: u32,
}
