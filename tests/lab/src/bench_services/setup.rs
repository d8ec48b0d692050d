//! What is on a node's disk: the services, alike for all systems, and the system with its configuration.

use std::fmt::Write as _;

use anyhow::Result;

use super::Setting;
use crate::{
    Lab, agent,
    provider::{
        machine::Machine,
        rig::{AGENT, HANDOVER, Service},
    },
};

const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
/// What ocf:lab:check, keepalived and people call.
const CHECK: &str = "/usr/local/bin/lab-check";

/// The services, and the checks of those systems that have none of their own.
fn services(machine: &Machine) -> Result<()> {
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
            node(include_str!("files/radius.conf")),
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
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost\n127.0.1.1 {}\n", machine.name()),
        ),
        // The folder makes journals outlive a reboot.
        ("/var/log/journal/.keep", String::new()),
    ];
    for (path, text) in files {
        machine.write(path, &text, 0o644)?;
    }
    for service in Service::ALL {
        // What comes after a failure is the business of what is measured, not of systemd.
        let path = format!("/etc/systemd/system/{}.d/lab.conf", service.unit());
        machine.write(&path, "[Service]\nRestart=no\n", 0o644)?;
    }
    machine.write(CHECK, include_str!("files/lab-check.sh"), 0o755)
}

/// What `systemctl enable` does.
fn enable(machine: &Machine, unit: &str) -> Result<()> {
    let path = format!("/usr/lib/systemd/system/{unit}");
    machine.link(&format!("{WANTS}/{unit}"), &path)
}

/// Installs the agent as a user would.
pub(super) fn heartline(lab: &Lab, machine: &Machine, key: &str) -> Result<()> {
    services(machine)?;
    machine.copy(&agent::binary()?, "/usr/bin/heartline")?;
    for (unit, text) in [
        (AGENT, include_str!("../../../../config/heartline.service")),
        (
            HANDOVER,
            include_str!("../../../../config/heartline-handover.service"),
        ),
    ] {
        machine.write(&format!("/usr/lib/systemd/system/{unit}"), text, 0o644)?;
        enable(machine, unit)?;
    }
    let files = [
        ("/etc/heartline/heartline.toml", heartline_toml(lab), 0o644),
        ("/etc/heartline/cluster.key", key.to_owned(), 0o600),
        ("/etc/heartline/radius.secret", "labsecret\n".into(), 0o600),
        // systemd mounts it by itself on machines, but not in containers.
        (
            "/etc/systemd/system/lab-bpf.service",
            include_str!("../provider/files/bpf.service").into(),
            0o644,
        ),
        // The agent's group, as a package would make it.
        (
            "/usr/lib/sysusers.d/heartline.conf",
            "g heartline -\n".into(),
            0o644,
        ),
    ];
    for (path, text, mode) in files {
        machine.write(path, &text, mode)?;
    }
    machine.link(
        "/etc/systemd/system/sysinit.target.wants/lab-bpf.service",
        "../lab-bpf.service",
    )
}

/// A group per service: hot standby, a probe, and on failure another node at once.
fn heartline_toml(lab: &Lab) -> String {
    let mut text = String::from(
        "cluster = \"bench\"\ngeneration = 1\nkey_file = \"/etc/heartline/cluster.key\"\n\n\
         [timing]\nprofile = \"lan\"\n\
         # A node that booted waits this long before it votes.\nmax_promise = \"1s\"\n",
    );
    for node in &lab.nodes {
        let _ = write!(
            text,
            "\n[[node]]\nname = \"{}\"\nid = {}\n[[node.link]]\ndevice = \"eth0\"\naddress = \"{}\"\n",
            node.name,
            node.id,
            node.eth0().v4
        );
    }
    for (id, service) in Service::ALL.into_iter().enumerate() {
        let probe = match service {
            Service::Dns => {
                "dns = { server = \"127.0.0.1:53\", name = \"www.lab\", answers = [\"10.77.0.103\"] }"
            }
            Service::Radius => {
                "radius = { server = \"127.0.0.1:18121\", secret_file = \"/etc/heartline/radius.secret\" }"
            }
            Service::Web => "http = \"http://127.0.0.1/\"",
            Service::Sip => "sip = \"127.0.0.1:5060\"",
        };
        let _ = write!(
            text,
            "\n[[group]]\nname = \"{0}\"\nid = {id}\n\
             [[group.vip]]\naddress = \"{1}\"\ndevice = \"eth0\"\n\
             [[group.resource]]\nname = \"unit\"\nsystemd = \"{2}\"\nkeep_running = true\nstatus_interval = \"200ms\"\n\
             [[group.probe]]\nname = \"answers\"\n{probe}\ninterval = \"200ms\"\ntimeout = \"200ms\"\nfall = 2\n\
             on = \"all\"\n[group.policy]\nrestarts = 0\n",
            service.group(),
            service.target().ip(),
            service.unit(),
        );
    }
    text
}

/// Installs keepalived's configuration.
pub(super) fn keepalived(machine: &Machine, setting: Setting) -> Result<()> {
    services(machine)?;
    machine.write(
        "/etc/keepalived/keepalived.conf",
        &keepalived_conf(machine, setting),
        0o644,
    )?;
    // At shutdown it stops before the services do.
    let units: Vec<_> = Service::ALL.iter().map(|service| service.unit()).collect();
    machine.write(
        "/etc/systemd/system/keepalived.service.d/lab.conf",
        &format!("[Unit]\nAfter={}\n", units.join(" ")),
        0o644,
    )?;
    enable(machine, "keepalived.service")
}

/// As favourable as it gets: who is master stays master, real-time priority with no limit that would kill it, the
/// shortest interval that a script may have, and its first bad answer counts.
fn keepalived_conf(machine: &Machine, setting: Setting) -> String {
    let advert = match setting {
        Setting::Hundredth => "0.01",
        Setting::Second | Setting::Lan | Setting::ShortToken | Setting::LongToken => "1",
    };
    let mut text = format!(
        "global_defs {{\n  router_id {}\n  vrrp_version 3\n  vrrp_rt_priority 50\n  vrrp_rlimit_rttime 1000000\n  \
         script_user root\n  enable_script_security\n}}\n",
        machine.name()
    );
    for (service, router) in Service::ALL.into_iter().zip(51..) {
        let name = service.group();
        let _ = write!(
            text,
            "vrrp_script check_{name} {{\n  script \"{CHECK} {name}\"\n  interval 1\n  timeout 1\n  fall 1\n  rise 1\n}}\n\
             vrrp_instance {name} {{\n  state BACKUP\n  interface eth0\n  virtual_router_id {router}\n  \
             priority {}\n  advert_int {advert}\n  nopreempt\n  \
             virtual_ipaddress {{\n    {}/32 dev eth0\n  }}\n  track_script {{\n    check_{name}\n  }}\n}}\n",
            // The default is 100; its share in the time to take over is 0.6 of an interval then.
            103 - machine.station.id,
            service.target().ip()
        );
    }
    text
}

/// Installs the configuration of Corosync and Pacemaker.
pub(super) fn pacemaker(lab: &Lab, machine: &Machine, setting: Setting) -> Result<()> {
    services(machine)?;
    let files = [
        (
            "/etc/corosync/corosync.conf",
            corosync_conf(lab, setting),
            0o644,
        ),
        ("/var/lib/pacemaker/cib/cib.xml", cib(), 0o600),
        // What was written from outside belongs to root.
        (
            "/etc/systemd/system/pacemaker.service.d/lab.conf",
            "[Service]\nExecStartPre=/bin/chown -R hacluster:haclient /var/lib/pacemaker\n".into(),
            0o644,
        ),
        (
            "/usr/lib/ocf/resource.d/lab/check",
            include_str!("files/ocf-check.sh").into(),
            0o755,
        ),
    ];
    for (path, text, mode) in files {
        machine.write(path, &text, mode)?;
    }
    enable(machine, "corosync.service")?;
    enable(machine, "pacemaker.service")
}

fn corosync_conf(lab: &Lab, setting: Setting) -> String {
    let token = match setting {
        // By default each node beyond two adds 650 ms.
        Setting::ShortToken => "  token: 300\n  token_coefficient: 0\n",
        Setting::LongToken | Setting::Lan | Setting::Hundredth | Setting::Second => "",
    };
    let mut text = format!(
        "totem {{\n  version: 2\n  cluster_name: bench\n  transport: knet\n  crypto_cipher: none\n  crypto_hash: none\n\
         {token}}}\nlogging {{\n  to_stderr: no\n  to_logfile: no\n  to_syslog: yes\n}}\n\
         quorum {{\n  provider: corosync_votequorum\n}}\nnodelist {{\n"
    );
    for node in &lab.nodes {
        let _ = write!(
            text,
            "  node {{\n    name: {}\n    nodeid: {}\n    ring0_addr: {}\n  }}\n",
            node.name,
            node.id,
            node.eth0().v4
        );
    }
    text + "}\n"
}

/// The cluster's configuration: of each service a clone of its unit with its check, and the VIP where these work; the
/// first failure moves it.
fn cib() -> String {
    let mut resources = String::new();
    let mut constraints = String::new();
    for service in Service::ALL {
        let (name, ip) = (service.group(), service.target().ip());
        let unit = service.unit().trim_end_matches(".service");
        let op = |id: &str| {
            format!(
                "<operations><op id=\"{id}-monitor\" name=\"monitor\" interval=\"1s\" timeout=\"10s\"/></operations>"
            )
        };
        let _ = write!(
            resources,
            "<clone id=\"{name}-clone\"><meta_attributes id=\"{name}-clone-meta\">\
             <nvpair id=\"{name}-interleave\" name=\"interleave\" value=\"true\"/></meta_attributes>\
             <group id=\"{name}\">\
             <primitive id=\"{name}-unit\" class=\"systemd\" type=\"{unit}\">{}</primitive>\
             <primitive id=\"{name}-check\" class=\"ocf\" provider=\"lab\" type=\"check\">\
             <instance_attributes id=\"{name}-check-attr\">\
             <nvpair id=\"{name}-check-service\" name=\"service\" value=\"{name}\"/></instance_attributes>{}</primitive>\
             </group></clone>\
             <primitive id=\"{name}-ip\" class=\"ocf\" provider=\"heartbeat\" type=\"IPaddr2\">\
             <instance_attributes id=\"{name}-ip-attr\">\
             <nvpair id=\"{name}-ip-ip\" name=\"ip\" value=\"{ip}\"/>\
             <nvpair id=\"{name}-ip-mask\" name=\"cidr_netmask\" value=\"32\"/>\
             <nvpair id=\"{name}-ip-nic\" name=\"nic\" value=\"eth0\"/></instance_attributes>{}</primitive>",
            op(&format!("{name}-unit")),
            op(&format!("{name}-check")),
            op(&format!("{name}-ip")),
        );
        let _ = write!(
            constraints,
            "<rsc_colocation id=\"{name}-where\" rsc=\"{name}-ip\" with-rsc=\"{name}-clone\" score=\"INFINITY\"/>"
        );
    }
    let set = |id: &str, pairs: &[(&str, &str)]| {
        pairs.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = write!(
                text,
                "<nvpair id=\"{id}-{name}\" name=\"{name}\" value=\"{value}\"/>"
            );
            text
        })
    };
    let options = set(
        "options",
        &[
            ("stonith-enabled", "false"),
            ("cluster-infrastructure", "corosync"),
            // Who starts alone looks for others so long; 20 s by default.
            ("dc-deadtime", "3s"),
        ],
    );
    let defaults = set(
        "defaults",
        &[("resource-stickiness", "100"), ("migration-threshold", "1")],
    );
    format!(
        "<cib validate-with=\"pacemaker-3.9\" admin_epoch=\"1\" epoch=\"1\" num_updates=\"0\"><configuration>\
         <crm_config><cluster_property_set id=\"options\">{options}</cluster_property_set></crm_config><nodes/>\
         <resources>{resources}</resources><constraints>{constraints}</constraints>\
         <rsc_defaults><meta_attributes id=\"defaults\">{defaults}</meta_attributes></rsc_defaults>\
         </configuration><status/></cib>\n"
    )
}
