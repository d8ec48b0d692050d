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
