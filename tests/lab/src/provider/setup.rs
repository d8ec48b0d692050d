//! What is on a node's disk: the agent as a user would install it, the cluster's configuration, the services'.

use anyhow::Result;

use super::{
    machine::Machine,
    rig::{AGENT, HANDOVER, Service},
};
use crate::{Lab, agent};

/// How often systemd is asked whether a unit runs.
const STATUS: &str = "200ms";
/// So often a service is started again where it is before its group moves.
pub const RESTARTS: u32 = 1;

/// The cluster's configuration: a group per service.
pub(super) fn config(lab: &Lab) -> String {
    let mut text = String::from(
        "cluster = \"provider\"\ngeneration = 1\nkey_file = \"/etc/heartline/cluster.key\"\n\n\
         [timing]\nprofile = \"lan\"\n\
         # A node that booted waits this long before it votes.\nmax_promise = \"1s\"\n",
    );
    for node in &lab.nodes {
        let (name, id, address) = (&node.name, node.id, node.eth0().v4);
        text += &format!(
            "\n[[node]]\nname = \"{name}\"\nid = {id}\n[[node.link]]\ndevice = \"eth0\"\naddress = \"{address}\"\n"
        );
    }
    for (id, service) in Service::ALL.into_iter().enumerate() {
        text += &format!(
            "\n[[group]]\nname = \"{}\"\nid = {id}\n[[group.vip]]\naddress = \"{}\"\ndevice = \"eth0\"\n",
            service.group(),
            service.target().ip()
        );
        text += &behind(service);
    }
    text
}

/// What stands behind a group: its unit, a probe that asks as a client would, and what to do when it fails.
fn behind(service: Service) -> String {
    let (unit, kept) = (service.unit(), service.hot_standby());
    let name = unit.trim_end_matches(".service");
    let first = match service {
        // What acts on the machine itself needs `config/heartline-services.conf`.
        Service::Web => {
            "[[group.resource]]\nname = \"pages\"\nkeep_running = true\n\
             exec = { start = [\"/usr/local/sbin/pages\", \"start\"], stop = [\"/usr/local/sbin/pages\", \"stop\"], \
             status = [\"/usr/local/sbin/pages\", \"status\"] }\n"
        }
        Service::Dns | Service::Radius | Service::Sip => "",
    };
    let probe = match service {
        Service::Dns => {
            "dns = { server = \"127.0.0.1:53\", name = \"www.lab\", answers = [\"10.77.0.103\"] }"
        }
        Service::Radius => {
            "radius = { server = \"127.0.0.1:18121\", secret_file = \"/etc/heartline/radius.secret\" }"
        }
        Service::Web => "http = \"http://127.0.0.1/\"",
        // It is bound to the VIP.
        Service::Sip => "sip = \"10.77.0.104:5060\"",
    };
    // Whoever may have to serve at once is asked before.
    let on = if kept { "all" } else { "owner" };
    format!(
        "{first}[[group.resource]]\nname = \"{name}\"\nsystemd = \"{unit}\"\nkeep_running = {kept}\n\
         status_interval = \"{STATUS}\"\n\
         [[group.probe]]\nname = \"answers\"\n{probe}\n\
         interval = \"200ms\"\ntimeout = \"500ms\"\nfall = 2\non = \"{on}\"\n\
         [group.policy]\nrestarts = {RESTARTS}\nwindow = \"1min\"\nfailure_memory = \"1h\"\n"
    )
}

/// Installs the agent as a user would, and the services' configuration.
pub(super) fn install(machine: &Machine, lab: &Lab, config: &str, key: &str) -> Result<()> {
    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
    machine.copy(&agent::binary()?, "/usr/bin/heartline")?;
    for (unit, text) in [
        (AGENT, include_str!("../../../../config/heartline.service")),
        (
            HANDOVER,
            include_str!("../../../../config/heartline-handover.service"),
        ),
    ] {
        let path = format!("/usr/lib/systemd/system/{unit}");
        machine.write(&path, text, 0o644)?;
        // What `systemctl enable heartline` does.
        machine.link(&format!("{WANTS}/{unit}"), &path)?;
    }
    machine.write(
        "/etc/systemd/system/heartline.service.d/services.conf",
        include_str!("../../../../config/heartline-services.conf"),
        0o644,
    )?;
    for service in Service::ALL.into_iter().filter(|s| !s.hot_standby()) {
        // What `systemctl disable` does: Heartline starts it where it is needed.
        machine.remove(&format!("{WANTS}/{}", service.unit()))?;
    }
    // The folder makes journals outlive a reboot.
    machine.write("/var/log/journal/.keep", "", 0o644)?;
    machine.write("/etc/heartline/heartline.toml", config, 0o644)?;
    machine.write("/etc/heartline/cluster.key", key, 0o600)?;
    machine.write("/etc/heartline/radius.secret", "labsecret\n", 0o600)?;
    machine.write(
        "/usr/local/sbin/pages",
        include_str!("files/pages.sh"),
        0o755,
    )?;
    // systemd mounts it by itself on machines, but not in containers, where it refuses such a mount unit, too.
    machine.write(
        "/etc/systemd/system/lab-bpf.service",
        include_str!("files/bpf.service"),
        0o644,
    )?;
    machine.link(
        "/etc/systemd/system/sysinit.target.wants/lab-bpf.service",
        "../lab-bpf.service",
    )?;
    // The agent's group, as a package would make it.
    machine.write(
        "/usr/lib/sysusers.d/heartline.conf",
        "g heartline -\n",
        0o644,
    )?;

    let node = |text: &str| text.replace("@NODE@", machine.name());
    let files = [
        (
            "/etc/unbound/unbound.conf.d/lab.conf",
            node(include_str!("files/unbound.conf")),
        ),
        // Debian's asks for a key that only a network brings.
        (
            "/etc/unbound/unbound.conf.d/root-auto-trust-anchor-file.conf",
            String::new(),
        ),
        (
            "/etc/freeradius/3.0/sites-enabled/lab",
            node(include_str!("files/radius-status.conf")),
        ),
        (
            "/etc/nginx/sites-available/default",
            node(include_str!("files/nginx.conf")),
        ),
        (
            "/etc/kamailio/kamailio.cfg",
            node(include_str!("files/kamailio.cfg")),
        ),
        ("/etc/hostname", format!("{}\n", machine.name())),
        ("/etc/hosts", hosts(lab)),
    ];
    for (path, text) in files {
        machine.write(path, &text, 0o644)?;
    }
    ssh(machine, lab)
}

/// The addresses of all nodes, as an administrator would list them.
fn hosts(lab: &Lab) -> String {
    let mut text = String::from("127.0.0.1 localhost\n");
    for node in &lab.nodes {
        text += &format!("{} {}\n", node.eth0().v4, node.name);
    }
    text
}

/// Lets root of each node reach every other, as `heartline maintain` does. All nodes are of one image, and so have one
/// host key, which is the user's as well here.
fn ssh(machine: &Machine, lab: &Lab) -> Result<()> {
    const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
    let private = machine.from_image(KEY)?;
    let public = machine.from_image(&format!("{KEY}.pub"))?;
    let names: Vec<_> = lab.nodes.iter().map(|node| node.name.as_str()).collect();
    machine.write("/root/.ssh/id_ed25519", &private, 0o600)?;
    machine.write("/root/.ssh/authorized_keys", &public, 0o600)?;
    machine.write(
        "/root/.ssh/known_hosts",
        &format!("{} {public}", names.join(",")),
        0o644,
    )
}
