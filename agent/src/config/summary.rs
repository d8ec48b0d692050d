//! What a good configuration means, in a few lines for people.

use std::fmt::Write;

use super::types::{Config, Role, show_ns};

impl Config {
    /// Nodes, groups, VIPs, how fast a takeover is and which losses the cluster survives.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let t = &self.timing;
        let witnesses = self
            .nodes
            .iter()
            .filter(|n| n.role == Role::Witness)
            .count();
        let vips: usize = self.groups.iter().map(|g| g.vips.len()).sum();
        let names = |ids: &[u8]| {
            let names: Vec<_> = ids
                .iter()
                .filter_map(|id| self.node_by_id(*id))
                .map(|n| n.name.as_str())
                .collect();
            names.join(", ")
        };
        let all: Vec<u8> = self.nodes.iter().map(|n| n.id).collect();
        let first = t.takeover_ns.saturating_sub(t.heartbeat_ns);

        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "cluster   {} (generation {}, digest {:08x})",
            self.cluster,
            self.generation,
            self.digest()
        );
        let _ = write!(out, "nodes     {}: {}", self.nodes.len(), names(&all));
        let _ = writeln!(
            out,
            "{}",
            if witnesses > 0 {
                format!(" ({})", counted(witnesses, "witness", "witnesses"))
            } else {
                String::new()
            }
        );
        let _ = writeln!(
            out,
            "groups    {}, {}",
            counted(self.groups.len(), "group", "groups"),
            counted(vips, "VIP", "VIPs")
        );
        for group in &self.groups {
            let addresses: Vec<_> = group.vips.iter().map(|v| v.address.to_string()).collect();
            let shown = if addresses.len() > 4 {
                format!(
                    "{}, ... {} more",
                    addresses[..3].join(", "),
                    addresses.len() - 3
                )
            } else {
                addresses.join(", ")
            };
            let _ = writeln!(
                out,
                "          {}: {shown} on {}",
                group.name,
                names(&group.prefer)
            );
        }
        let _ = writeln!(
            out,
            "timing    {}: heartbeat {}, lease {}, takeover {}",
            t.profile.name(),
            show_ns(t.heartbeat_ns),
            show_ns(t.lease_ns),
            show_ns(t.takeover_ns)
        );
        let _ = writeln!(
            out,
            "takeover  {} to {} after a failure, and one round trip; after a reboot a node votes again in {} at most",
            show_ns(first),
            show_ns(t.takeover_ns),
            show_ns(t.max_promise_ns)
        );
        if let Some(dog) = &self.watchdog {
            let waits = dog.fires_within().as_nanos();
            let then = if dog.proof {
                let waits = show_ns(u64::try_from(waits).unwrap_or(u64::MAX));
                format!(
                    "what is stateful starts elsewhere {waits} after its owner was last heard, if nothing proves it before"
                )
            } else {
                "proves nothing to others (`proof`)".into()
            };
            let _ = writeln!(
                out,
                "watchdog  {}, {} s: {then}",
                dog.device.display(),
                dog.timeout.as_secs()
            );
        }
        let _ = writeln!(
            out,
            "survives  the loss of {} of {} nodes",
            self.survives(),
            self.nodes.len()
        );
        out
    }
}

fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
