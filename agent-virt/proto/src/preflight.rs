//! Would a live migration work? Asked before anything moves.
//!
//! What libvirt cannot be asked about another host without starting there (does a file exist, is there a bridge) it finds out
//! itself when it prepares the other side: that is before anything moves, too, and its refusal is the answer then.

use serde::{Deserialize, Serialize};

use crate::{definition::Definition, state::Life};

/// What a host says of itself, and of a domain that may come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// UUID of the machine, as its daemon says it.
    pub uuid: String,
    /// Version of its daemon, as 9000000.
    pub libvirt: u64,
    /// Version of its QEMU, as 7002000.
    pub hypervisor: u64,
    /// Memory that can be had, KiB; `None`: not known.
    pub free_kib: Option<u64>,
    /// Does its processor have what the domain's has?
    pub cpu: Cpu,
    /// Does it know the machine type? `None`: it could not be asked.
    pub machine: Option<bool>,
    /// The domain of the same name there.
    pub same_name: Option<Other>,
    /// Running domains there with one of the same hardware addresses: address and domain.
    pub macs_taken: Vec<(String, String)>,
    /// Networks of libvirt that the domain needs and that are not active there.
    pub networks_missing: Vec<String>,
}

/// See [`Host::cpu`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cpu {
    /// It was not asked, or could not be; why.
    #[default]
    NotAsked,
    /// It has.
    Fits,
    /// It has not; in libvirt's words.
    Lacks(String),
}

/// A domain of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Its UUID.
    pub uuid: String,
    /// How it is.
    pub life: Life,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// It speaks against going at all.
    pub stops: bool,
    /// What was found, and the mend.
    pub text: String,
}

fn stop(text: String) -> Finding {
    Finding { stops: true, text }
}

fn warn(text: String) -> Finding {
    Finding { stops: false, text }
}

/// What speaks against a migration of a domain from one host to another.
#[must_use]
pub fn judge(domain: &Definition, from: &Host, to: &Host) -> Vec<Finding> {
    let (name, host) = (&domain.name, &to.name);
    let mut found = Vec::new();
    if !from.uuid.is_empty() && from.uuid == to.uuid {
        found.push(stop(format!(
            "both daemons call themselves host {}: is it the same one? If not, give each a `host_uuid` of its own in libvirtd.conf",
            to.uuid
        )));
    }
    if domain.passed_through > 0 {
        found.push(stop(format!(
            "{name} has {} devices of the host itself, and those cannot move",
            domain.passed_through
        )));
    }
    match &to.same_name {
        Some(other) if other.life.is_active() => found.push(stop(format!(
            "a domain {name} is there already on {host}, {}",
            other.life.words()
        ))),
        Some(other) if domain.uuid.as_ref().is_some_and(|own| *own != other.uuid) => {
            found.push(stop(format!(
                "{host} knows another domain by the name {name}, with UUID {}: rename or undefine it there",
                other.uuid
            )));
        }
        Some(_) | None => {}
    }
    if let Some(free) = to.free_kib
        && free < domain.memory_kib
    {
        found.push(stop(format!(
            "{name} needs {} MiB of memory, and {host} has {} MiB free",
            domain.memory_kib >> 10,
            free >> 10
        )));
    }
    if let Cpu::Lacks(why) = &to.cpu {
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(": {why}")
        };
        found.push(stop(format!(
            "the processor of {host} lacks what {name} was given here{why}; a `<cpu>` that all hosts have would do"
        )));
    }
    if to.machine == Some(false) {
        found.push(stop(format!(
            "QEMU on {host} does not know the machine type {}",
            domain.machine
        )));
    }
    for (mac, other) in &to.macs_taken {
        found.push(stop(format!(
            "domain {other} on {host} has the hardware address {mac}, too"
        )));
    }
    for network in &to.networks_missing {
        found.push(stop(format!(
            "network {network} is not active on {host}: virsh net-start {network}"
        )));
    }
    for disk in &domain.disks {
        if disk.readonly || disk.source.is_empty() || disk.shareable || disk.kind == "network" {
            continue;
        }
        if !matches!(disk.cache.as_str(), "none" | "directsync") {
            found.push(warn(format!(
                "disk {} ({}) has cache mode {}: libvirt takes only `none` and `directsync` for safe, but on file systems that it \
                 knows to be shared",
                disk.target,
                disk.source,
                if disk.cache.is_empty() { "default" } else { &disk.cache }
            )));
        }
    }
    for (what, here, there) in [
        ("libvirt", from.libvirt, to.libvirt),
        ("QEMU", from.hypervisor, to.hypervisor),
    ] {
        if there != 0 && there < here {
            found.push(warn(format!(
                "{what} on {host} is older ({} here, {} there): going back is easier than going there",
                version(here),
                version(there)
            )));
        }
    }
    found
}

/// 9000000 is 9.0.0.
fn version(number: u64) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1000 % 1000,
        number % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Disk;

    fn domain() -> Definition {
        Definition {
            name: "g1".into(),
            uuid: Some("u1".into()),
            memory_kib: 256 << 10,
            machine: "pc-q35-7.2".into(),
            ..Definition::default()
        }
    }

    fn host(name: &str) -> Host {
        Host {
            name: name.into(),
            uuid: format!("machine-{name}"),
            libvirt: 9_000_000,
            hypervisor: 7_002_000,
            free_kib: Some(4 << 20),
            cpu: Cpu::Fits,
            machine: Some(true),
            ..Host::default()
        }
    }

    fn stops(domain: &Definition, to: &Host) -> Vec<String> {
        let found = judge(domain, &host("n1"), to);
        found
            .into_iter()
            .filter(|f| f.stops)
            .map(|f| f.text)
            .collect()
    }

    #[test]
    fn nothing_speaks_against_two_alike() {
        assert!(judge(&domain(), &host("n1"), &host("n2")).is_empty());
        // What could not be asked speaks neither way.
        let silent = Host {
            free_kib: None,
            cpu: Cpu::NotAsked,
            machine: None,
            libvirt: 0,
            hypervisor: 0,
            ..host("n2")
        };
        assert!(judge(&domain(), &host("n1"), &silent).is_empty());
    }

    #[test]
    fn each_reason_has_its_sentence() {
        let other = |uuid: &str, life| Host {
            same_name: Some(Other {
                uuid: uuid.into(),
                life,
            }),
            ..host("n2")
        };
        let off = Life::Off { crashed: false };
        assert!(stops(&domain(), &other("u1", off)).is_empty());
        for (to, word) in [
            (other("u2", off), "another domain"),
            (other("u1", Life::Running), "there already"),
            (
                Host {
                    free_kib: Some(255 << 10),
                    ..host("n2")
                },
                "has 255 MiB free",
            ),
            (
                Host {
                    cpu: Cpu::Lacks("no avx2".into()),
                    ..host("n2")
                },
                "no avx2",
            ),
            (
                Host {
                    machine: Some(false),
                    ..host("n2")
                },
                "pc-q35-7.2",
            ),
            (
                Host {
                    macs_taken: vec![("52:54:00:00:00:01".into(), "db".into())],
                    ..host("n2")
                },
                "domain db",
            ),
            (
                Host {
                    networks_missing: vec!["default".into()],
                    ..host("n2")
                },
                "net-start default",
            ),
            (
                Host {
                    uuid: "machine-n1".into(),
                    ..host("n2")
                },
                "host_uuid",
            ),
        ] {
            let found = stops(&domain(), &to);
            assert!(
                found.len() == 1 && found[0].contains(word),
                "{word}: {found:?}"
            );
        }
        let given = Definition {
            passed_through: 1,
            ..domain()
        };
        assert_eq!(stops(&given, &host("n2")).len(), 1);
    }

    #[test]
    fn caches_and_older_versions_are_told() {
        let disk = |cache: &str| Disk {
            target: "vda".into(),
            source: "/srv/g1.img".into(),
            kind: "file".into(),
            readonly: false,
            shareable: false,
            cache: cache.into(),
        };
        let with = |cache| Definition {
            disks: vec![disk(cache)],
            ..domain()
        };
        let old = Host {
            libvirt: 8_000_000,
            ..host("n2")
        };
        assert!(judge(&with("none"), &host("n1"), &host("n2")).is_empty());
        let found = judge(&with("writeback"), &host("n1"), &old);
        assert!(found.iter().all(|f| !f.stops));
        assert!(found[0].text.contains("writeback"), "{found:?}");
        assert!(
            found[1].text.contains("9.0.0 here, 8.0.0 there"),
            "{found:?}"
        );
    }
}
