//! How a group's services are, for `status`.

use super::Phase;

/// A group on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupView {
    /// What it is doing.
    pub phase: Phase,
    /// What it waits for, or why it does not work; empty if there is nothing to say.
    pub text: String,
    /// Its resources, in order.
    pub resources: Vec<ResourceView>,
    /// Its probes, in order.
    pub probes: Vec<ProbeView>,
    /// Failures on this node within the window of its policy.
    pub failures: u32,
    /// This node has given up on it.
    pub given_up: bool,
}

/// One resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceView {
    /// Its name.
    pub name: String,
    /// `running`, `stopped`, `failed` or `unknown`; empty before it was asked.
    pub state: &'static str,
    /// What was seen.
    pub text: String,
}

/// One probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeView {
    /// Its name.
    pub name: String,
    /// `good`, `bad` or `unknown`; empty while it is not asked.
    pub standing: &'static str,
    /// What the last answer said.
    pub text: String,
    /// Performance data of the last answer.
    pub performance: String,
    /// How long the last good answer took, ms.
    pub took_ms: f64,
}
