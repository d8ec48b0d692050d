//! How a group's services are, for `status`.

use super::{Phase, Role};

/// May something that must not run twice be running here?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stake {
    /// Not asked yet: from before this agent began it may.
    #[default]
    Unknown,
    /// It was seen not to.
    Nothing,
    /// It runs, or may.
    AtStake,
}

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
    /// Of what must not run twice.
    pub stake: Stake,
    /// What was wanted when this was so: the role, and the losses counted until then. What is wanted since may have been
    /// acted on in part.
    pub answers: Option<(Role, u64)>,
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
