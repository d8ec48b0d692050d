//! What a domain's XML asks of a host (<https://libvirt.org/formatdomain.html>). Reads what matters here and leaves the rest to
//! libvirt, which judges all of it.

use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Serialize};

/// Longest XML that is read, in bytes.
pub const LONGEST: usize = 1 << 20;
/// Most nodes in it.
const NODES: u32 = 100_000;

/// A domain, as far as it matters for where it may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its UUID, in lower case; libvirt makes one up if there is none.
    pub uuid: Option<String>,
    /// `kvm`, `qemu`, `xen`, `lxc`.
    pub kind: String,
    /// Its memory at most, KiB.
    pub memory_kib: u64,
    /// Its processors.
    pub vcpus: u32,
    /// `x86_64`.
    pub arch: String,
    /// `pc-q35-7.2`; empty: what libvirt takes.
    pub machine: String,
    /// QEMU's program; empty: what libvirt takes.
    pub emulator: String,
    /// Its processor as it stands there, `<cpu …>…</cpu>`; empty if there is none.
    pub cpu: String,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub nics: Vec<Nic>,
    /// Devices of the host that were given to it: it cannot migrate with them.
    pub passed_through: usize,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `vda`.
    pub target: String,
    /// File, device or name of a network volume; empty: no medium.
    pub source: String,
    /// `file`, `block`, `network`, `volume`.
    pub kind: String,
    /// It cannot be written.
    pub readonly: bool,
    /// Several guests may write it.
    pub shareable: bool,
    /// QEMU's cache mode; empty: the default.
    pub cache: String,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// In lower case; empty: libvirt makes one up.
    pub mac: String,
    /// `network`, `bridge`, `direct`, …
    pub kind: String,
    /// Name of the network, bridge or device.
    pub source: String,
}

impl Definition {
    /// Reads XML.
    ///
    /// # Errors
    /// It is not the XML of a domain; a sentence.
    pub fn read(xml: &str) -> Result<Definition, String> {
        if xml.len() > LONGEST {
            return Err(format!("it is longer than {} KiB", LONGEST >> 10));
        }
        if xml.contains('\0') {
            return Err("there is a zero byte in it".into());
        }
        let options = ParsingOptions {
            nodes_limit: NODES,
            ..ParsingOptions::default()
        };
        let document = Document::parse_with_options(xml, options).map_err(|e| e.to_string())?;
        let root = document.root_element();
        if root.tag_name().name() != "domain" {
            return Err(format!(
                "its root is <{}>, not <domain>",
                root.tag_name().name()
            ));
        }
        let name = text(root, "name");
        if name.is_empty() {
            return Err("it has no <name>".into());
        }
        let os = child(root, "os").and_then(|os| child(os, "type"));
        let attribute = |node: Option<Node<'_, '_>>, key: &str| -> String {
            node.and_then(|n| n.attribute(key))
                .unwrap_or_default()
                .to_owned()
        };
        let devices = child(root, "devices");
        let of = |tag: &'static str| devices.into_iter().flat_map(move |d| children(d, tag));
        let cpu = child(root, "cpu").map(|cpu| xml.get(cpu.range()).unwrap_or_default());
        Ok(Definition {
            name,
            uuid: Some(text(root, "uuid").to_lowercase()).filter(|u| !u.is_empty()),
            kind: attribute(Some(root), "type"),
            memory_kib: child(root, "memory").map_or(Ok(0), memory)?,
            vcpus: text(root, "vcpu").parse().unwrap_or(1),
            arch: attribute(os, "arch"),
            machine: attribute(os, "machine"),
            emulator: devices.map(|d| text(d, "emulator")).unwrap_or_default(),
            cpu: cpu.unwrap_or_default().to_owned(),
            disks: of("disk").map(disk).collect(),
            nics: of("interface").map(nic).collect(),
            passed_through: of("hostdev").count()
                + of("interface")
                    .filter(|n| n.attribute("type") == Some("hostdev"))
                    .count(),
        })
    }
}

fn children<'a, 'i>(
    node: Node<'a, 'i>,
    tag: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    node.children()
        .filter(move |n| n.is_element() && n.tag_name().name() == tag)
}

fn child<'a, 'i>(node: Node<'a, 'i>, tag: &'static str) -> Option<Node<'a, 'i>> {
    children(node, tag).next()
}

fn text(node: Node<'_, '_>, tag: &'static str) -> String {
    let text = child(node, tag).and_then(|n| n.text()).unwrap_or_default();
    text.trim().to_owned()
}

/// `<memory unit='GiB'>2</memory>`; KiB without a unit.
fn memory(node: Node<'_, '_>) -> Result<u64, String> {
    let number: u64 = node
        .text()
        .and_then(|t| t.trim().parse().ok())
        .ok_or("its <memory> is no number")?;
    let unit = node.attribute("unit").unwrap_or("KiB");
    let bytes: u64 = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        other => return Err(format!("its <memory> has the unit {other:?}")),
    };
    Ok(number.saturating_mul(bytes).div_ceil(1024))
}

fn disk(node: Node<'_, '_>) -> Disk {
    let source = child(node, "source");
    let name = source.and_then(|s| {
        ["file", "dev", "name", "volume", "dir"]
            .iter()
            .find_map(|k| s.attribute(*k))
    });
    let driver = child(node, "driver");
    let target = child(node, "target").and_then(|t| t.attribute("dev"));
    Disk {
        target: target.unwrap_or_default().to_owned(),
        source: name.unwrap_or_default().to_owned(),
        kind: node.attribute("type").unwrap_or_default().to_owned(),
        readonly: child(node, "readonly").is_some() || node.attribute("device") == Some("cdrom"),
        shareable: child(node, "shareable").is_some(),
        cache: driver
            .and_then(|d| d.attribute("cache"))
            .unwrap_or_default()
            .to_owned(),
    }
}

fn nic(node: Node<'_, '_>) -> Nic {
    let source = child(node, "source");
    let name = source.and_then(|s| {
        ["network", "bridge", "dev"]
            .iter()
            .find_map(|k| s.attribute(*k))
    });
    let mac = child(node, "mac").and_then(|m| m.attribute("address"));
    Nic {
        mac: mac.unwrap_or_default().to_lowercase(),
        kind: node.attribute("type").unwrap_or_default().to_owned(),
        source: name.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<domain type='kvm'>
  <name>g1</name><uuid>AAAAAAAA-0000-4000-8000-000000000001</uuid>
  <memory unit='MiB'>256</memory><vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='block' device='disk'><driver name='qemu' cache='none'/><source dev='/dev/drbd0'/><target dev='vda'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <interface type='bridge'><source bridge='br0'/><mac address='52:54:00:AB:00:50'/></interface>
    <hostdev mode='subsystem' type='pci'/>
  </devices>
</domain>"#;

    #[test]
    fn what_matters_is_read() {
        let d = Definition::read(XML).expect("a domain");
        assert_eq!(
            (d.name.as_str(), d.kind.as_str(), d.memory_kib, d.vcpus),
            ("g1", "kvm", 256 * 1024, 2)
        );
        assert_eq!(
            d.uuid.as_deref(),
            Some("aaaaaaaa-0000-4000-8000-000000000001")
        );
        assert_eq!(
            (d.arch.as_str(), d.machine.as_str()),
            ("x86_64", "pc-q35-7.2")
        );
        assert_eq!(d.cpu, "<cpu mode='custom'><model>qemu64</model></cpu>");
        let disks: Vec<_> = d
            .disks
            .iter()
            .map(|d| {
                (
                    d.target.as_str(),
                    d.source.as_str(),
                    d.readonly,
                    d.cache.as_str(),
                )
            })
            .collect();
        assert_eq!(
            disks,
            [("vda", "/dev/drbd0", false, "none"), ("sda", "", true, "")]
        );
        assert_eq!(
            d.nics,
            [Nic {
                mac: "52:54:00:ab:00:50".into(),
                kind: "bridge".into(),
                source: "br0".into()
            }]
        );
        assert_eq!(d.passed_through, 1);
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for (xml, word) in [
            ("", "root"),
            ("<network/>", "<network>"),
            ("<domain/>", "<name>"),
            (
                "<domain><name>a</name><memory unit='x'>1</memory></domain>",
                "unit",
            ),
            (
                "<domain><name>a</name><memory>many</memory></domain>",
                "number",
            ),
            ("<domain><name>a\0</name></domain>", "zero"),
        ] {
            let why = Definition::read(xml).expect_err(xml);
            assert!(why.contains(word), "{why}");
        }
        let long = format!("<domain><name>a</name>{}</domain>", " ".repeat(LONGEST));
        assert!(Definition::read(&long).is_err());
    }
}
