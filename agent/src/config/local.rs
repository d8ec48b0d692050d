//! Rules about this machine: the interfaces that the configuration gives it must be here.

use super::check::Local;
use super::check_groups::vip_devices;
use super::raw::{At, RawConfig};
use super::render::Diagnostic;
use super::table::{did_you_mean, nearest};
use super::types::{Role, short_hostname};

/// Looks for the devices of the local node in the network namespace of the caller.
pub(super) fn check_interfaces(raw: &RawConfig, local: &Local, out: &mut Vec<Diagnostic>) {
    let find = |name: &str| {
        raw.nodes
            .iter()
            .find(|n| n.name.as_ref().is_some_and(|at| at.value == name))
    };
    let node = match local {
        Local::Named(name) => find(name),
        Local::Hostname(name) => find(name).or_else(|| find(short_hostname(name))),
    };
    let Some(node) = node else {
        if let Local::Named(name) = local {
            let names = raw
                .nodes
                .iter()
                .filter_map(|n| n.name.as_ref())
                .map(|n| n.value.as_str());
            out.push(
                Diagnostic::error("unknown-node", None, format!("there is no node \"{name}\""))
                    .help(did_you_mean(name, names)),
            );
        }
        return;
    };
    let name = node.name.as_ref().map_or("?", |n| n.value.as_str());
    let mut devices: Vec<&At<String>> = node
        .links
        .iter()
        .filter_map(|l| l.device.as_ref())
        .collect();
    if node.role == Role::Member {
        devices.extend(vip_devices(raw, name));
    }
    let here = interface_names();
    let mut asked = std::collections::HashSet::new();
    for device in devices {
        if !asked.insert(device.value.as_str())
            || nix::net::if_::if_nametoindex(device.value.as_str()).is_ok()
        {
            continue;
        }
        let known = here.iter().map(String::as_str).filter(|n| *n != "lo");
        let near = nearest(&device.value, known)
            .map_or_else(String::new, |n| format!("did you mean `{n}`? "));
        out.push(
            Diagnostic::error(
                "no-interface",
                device.span.clone(),
                format!(
                    "node {name} is this machine, and it has no interface \"{}\"",
                    device.value
                ),
            )
            .help(format!(
                "{near}`ip -brief link` shows what is there; `--node NAME` if this machine is another node"
            )),
        );
    }
}

fn interface_names() -> Vec<String> {
    let Ok(list) = nix::net::if_::if_nameindex() else {
        return Vec::new();
    };
    list.iter()
        .map(|i| i.name().to_string_lossy().into_owned())
        .collect()
}
