//! What stops for good when a configuration takes the place of another: groups that are in it no more.

use serde::Serialize;

use super::types::{Config, Group};

/// A group that is in the new configuration no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Its id.
    pub id: u8,
    /// Its name.
    pub group: String,
    /// What its owner stops, in this order.
    pub stops: Vec<String>,
    /// What goes on without it, because it keeps running on all nodes.
    pub keeps: Vec<String>,
    /// Its addresses.
    pub vips: Vec<String>,
    /// Who may own it.
    pub nodes: Vec<String>,
}

impl Stop {
    /// What happens, as a sentence; with the owner, if it is known.
    #[must_use]
    pub fn sentence(&self, owner: Option<&str>) -> String {
        let place = match owner {
            Some(owner) => owner.to_owned(),
            None => format!("its owner ({})", self.nodes.join(" or ")),
        };
        let mut text = format!("{}: {place} ", self.group);
        if !self.stops.is_empty() {
            text += &format!("stops {}, and ", self.stops.join(", then "));
        }
        text += &format!("no longer serves {}", self.vips.join(", "));
        if !self.keeps.is_empty() {
            text += &format!("; left running on all nodes: {}", self.keeps.join(", "));
        }
        text
    }
}

/// Groups of `old` that are not in `new`.
#[must_use]
pub fn stops(old: &Config, new: &Config) -> Vec<Stop> {
    let gone = |g: &&Group| !new.groups.iter().any(|n| n.id == g.id);
    let stop = |g: &Group| {
        let resources = g.services.resources.iter().rev();
        let (keeps, stops): (Vec<_>, Vec<_>) = resources.partition(|r| r.keep_running);
        let names = |list: Vec<&agent_services::resource::Resource>| {
            // Without the group's name in front, which the sentence begins with.
            let own = |r: &agent_services::resource::Resource| {
                let prefix = format!("{}.", g.name);
                r.name.strip_prefix(&prefix).unwrap_or(&r.name).to_owned()
            };
            list.into_iter().map(own).collect()
        };
        let nodes = g.prefer.iter().filter_map(|id| old.node_by_id(*id));
        Stop {
            id: g.id,
            group: g.name.clone(),
            stops: names(stops),
            keeps: names(keeps),
            vips: g.vips.iter().map(|v| v.address.to_string()).collect(),
            nodes: nodes.map(|n| n.name.clone()).collect(),
        }
    };
    old.groups.iter().filter(gone).map(stop).collect()
}
