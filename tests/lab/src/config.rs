//! Config files for labs that do not use `config/demo.toml`.

use std::fmt::Write as _;

use crate::lab::{LabSpec, VIP4, VIP6};

/// What a lab's config says beyond the lab itself.
#[derive(Clone, Debug)]
pub struct ConfigSpec {
    /// Timing profile.
    pub profile: &'static str,
    /// Lines put into `[timing]`, such as `takeover = "250ms"`.
    pub timing: &'static str,
    /// An IPv6 VIP beside the IPv4 one.
    pub vip6: bool,
    /// Heartbeats over IPv6 instead of IPv4.
    pub link6: bool,
    /// So many of the last nodes vote and own nothing.
    pub witnesses: u8,
    /// Lines put into the top of the file, such as `announce_interval = "30s"`.
    pub extra: String,
}

impl Default for ConfigSpec {
    fn default() -> Self {
        Self {
            profile: "lan",
            timing: "",
            vip6: true,
            link6: false,
            witnesses: 0,
            extra: String::new(),
        }
    }
}

/// The text of a config for a lab, with one group `web`.
#[must_use]
pub fn text(lab: &LabSpec, spec: &ConfigSpec) -> String {
    let mut text = format!(
        "cluster = \"lab\"\ngeneration = 1\nkey_file = \"cluster.key\"\n{}\n\n\
         [timing]\nprofile = \"{}\"\n# Nodes in namespaces always wait this long before they vote.\n\
         max_promise = \"1s\"\n{}\n",
        spec.extra, spec.profile, spec.timing
    );
    let members = lab.nodes.saturating_sub(spec.witnesses);
    for id in 1..=lab.nodes {
        let _ = write!(text, "\n[[node]]\nname = \"n{id}\"\nid = {id}\n");
        if id > members {
            text += "role = \"witness\"\n";
        }
        for net in 0..lab.links {
            let address = match (spec.link6, net) {
                (false, net) => format!("10.77.{net}.{id}"),
                (true, 0) => format!("fd77::{id:x}"),
                (true, net) => format!("fd77:{net:x}::{id:x}"),
            };
            let _ = write!(
                text,
                "[[node.link]]\ndevice = \"eth{net}\"\naddress = \"{address}\"\n"
            );
        }
    }
    let prefer: Vec<String> = (1..=members).map(|id| format!("\"n{id}\"")).collect();
    let _ = write!(
        text,
        "\n[[group]]\nname = \"web\"\nid = 0\nprefer = [{}]\n\
         [[group.vip]]\naddress = \"{VIP4}\"\ndevice = \"eth0\"\n",
        prefer.join(", ")
    );
    if spec.vip6 {
        let _ = write!(
            text,
            "[[group.vip]]\naddress = \"{VIP6}\"\ndevice = \"eth0\"\n"
        );
    }
    text
}
