//! Covering devices: XDP native or generic, egress by TCX or clsact, all links pinned.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    xdp::XdpLink,
};

use super::{
    DataPath,
    linkinfo::{ifindex_of, program_of},
    pins,
};

/// How XDP runs on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpKind {
    /// In the driver.
    Native,
    /// In the stack, behind the driver.
    Generic,
}

/// How the egress gate runs on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EgressKind {
    /// A TCX link (kernel 6.6).
    Tcx,
    /// A filter on the clsact qdisc; it cannot be pinned, but stays by itself.
    Clsact,
    /// A chain of nftables: the data path of sockets.
    Nft,
}

/// What covers a device.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// The device.
    pub ifindex: u32,
    /// How XDP runs; None: ingress, too, is gated by nftables.
    pub xdp: Option<XdpKind>,
    /// How the egress gate runs.
    pub egress: EgressKind,
    /// The kernel's id of the XDP program (as `bpftool prog` shows it).
    pub xdp_prog_id: Option<u32>,
}

#[derive(Default)]
pub(super) struct Links(BTreeMap<u32, Held>);

struct Held {
    xdp: PathBuf,
    egress: Option<PathBuf>,
    coverage: Coverage,
}

impl DataPath {
    /// Covers a device, adopting what is pinned for it. `modes` are tried in turn.
    ///
    /// # Errors
    /// Neither mode could be attached, or a pin could not be made: the device has no gate then.
    pub fn cover(&mut self, name: &str, ifindex: u32, modes: &[XdpKind]) -> Result<Coverage> {
        let egress_pin = self.dir.join(format!("egress-{ifindex}"));
        // Egress first: a node that can be heard as a VIP without a gate is worse than one that cannot hear.
        let egress = self.cover_egress(name, ifindex, &egress_pin)?;
        let (xdp, xdp_pin) = self.cover_ingress(ifindex, modes)?;
        let coverage = Coverage {
            ifindex,
            xdp: Some(xdp),
            egress,
            xdp_prog_id: program_of(&xdp_pin).ok(),
        };
        let egress = (egress == EgressKind::Tcx).then_some(egress_pin);
        self.links.0.insert(
            ifindex,
            Held {
                xdp: xdp_pin,
                egress,
                coverage: coverage.clone(),
            },
        );
        Ok(coverage)
    }

    /// Is the device still covered? Looks at the kernel, not at our own books.
    pub fn is_covered(&self, ifindex: u32) -> Option<Coverage> {
        let held = self.links.0.get(&ifindex)?;
        let alive = |p: &Path| ifindex_of(p).is_ok_and(|found| found == ifindex);
        let ok = alive(&held.xdp) && held.egress.as_deref().is_none_or(alive);
        ok.then(|| held.coverage.clone())
    }

    /// Forgets a device that is gone, with its pins.
    pub fn forget(&mut self, ifindex: u32) {
        if let Some(held) = self.links.0.remove(&ifindex) {
            let _ = fs::remove_file(held.xdp);
            if let Some(p) = held.egress {
                let _ = fs::remove_file(p);
            }
        }
    }

    /// Takes every program off every device and removes all pins: after this nothing of the agent is left in the kernel.
    pub fn unload(bpf_dir: &Path) {
        if let Ok(entries) = fs::read_dir(bpf_dir) {
            // Only what the loader made: the directory may hold others' pins, too.
            for e in entries
                .filter_map(Result::ok)
                .filter(|e| pins::is_layout(&e.file_name()))
            {
                let _ = fs::remove_dir_all(e.path());
            }
        }
        let _ = fs::remove_dir(bpf_dir);
    }

    fn cover_ingress(&mut self, ifindex: u32, modes: &[XdpKind]) -> Result<(XdpKind, PathBuf)> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut("heartline_xdp")
            .context("no program heartline_xdp")?
            .try_into()?;
        // The kernel does not say in which mode a link runs, so its pin's name does.
        let pin_of = |kind: XdpKind| match kind {
            XdpKind::Native => self.dir.join(format!("xdp-native-{ifindex}")),
            XdpKind::Generic => self.dir.join(format!("xdp-generic-{ifindex}")),
        };
        for kind in [XdpKind::Native, XdpKind::Generic] {
            let pin = pin_of(kind);
            let Some(link) = adopt(&pin, ifindex) else {
                continue;
            };
            if !modes.contains(&kind) {
                // Configured away; the other mode is attached below, once this link is closed.
                let _ = fs::remove_file(&pin);
                continue;
            }
            let id = program
                .attach_to_link(XdpLink::try_from(link)?)
                .context("updating the pinned XDP link")?;
            repin(FdLink::try_from(program.take_link(id)?)?, &pin)?;
            return Ok((kind, pin));
        }
        let mut errors = Vec::new();
        for kind in modes {
            let mode = match kind {
                XdpKind::Native => XdpMode::Driver,
                XdpKind::Generic => XdpMode::Skb,
            };
            match program.attach_to_if_index(ifindex, mode) {
                Ok(id) => {
                    // aya falls back to netlink in silence; such an attachment cannot be pinned.
                    let link = FdLink::try_from(program.take_link(id)?)
                        .context("the kernel gave no BPF link for XDP")?;
                    let pin = pin_of(*kind);
                    repin(link, &pin)?;
                    return Ok((*kind, pin));
                }
                Err(e) => errors.push(format!("{kind:?}: {:#}", anyhow::Error::from(e))),
            }
        }
        bail!("XDP cannot be attached ({})", errors.join("; "))
    }

    fn cover_egress(&mut self, name: &str, ifindex: u32, pin: &Path) -> Result<EgressKind> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut("heartline_egress")
            .context("no program heartline_egress")?
            .try_into()?;
        if let Some(link) = adopt(pin, ifindex) {
            let id = program
                .attach_to_link(SchedClassifierLink::try_from(link)?)
                .context("updating the pinned egress link")?;
            repin(FdLink::try_from(program.take_link(id)?)?, pin)?;
            return Ok(EgressKind::Tcx);
        }
        let tcx = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(name, TcAttachType::Egress, tcx) {
            Ok(id) => {
                repin(FdLink::try_from(program.take_link(id)?)?, pin)?;
                Ok(EgressKind::Tcx)
            }
            Err(tcx_error) => {
                // Before kernel 6.6. The qdisc may be there already.
                let _ = tc::qdisc_add_clsact(name);
                let _ = tc::qdisc_detach_program(name, TcAttachType::Egress, "heartline_egress");
                let id = program
                    .attach_with_options(
                        name,
                        TcAttachType::Egress,
                        TcAttachOptions::Netlink(NlOptions::default()),
                    )
                    .with_context(|| format!("egress gate: TCX: {tcx_error}; clsact"))?;
                // Dropping the link would detach the filter; it must outlive us.
                std::mem::forget(program.take_link(id)?);
                Ok(EgressKind::Clsact)
            }
        }
    }
}

/// Removes pins of links whose device is gone: it vanished while no agent ran.
pub(super) fn remove_dead_links(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for path in entries.filter_map(Result::ok).map(|e| e.path()) {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if (name.starts_with("xdp-") || name.starts_with("egress-"))
            && ifindex_of(&path).is_ok_and(|i| i == 0)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

/// The pinned link of this device, if it still belongs to it.
fn adopt(pin: &Path, ifindex: u32) -> Option<FdLink> {
    match ifindex_of(pin) {
        Ok(found) if found == ifindex => Some(FdLink::from(PinnedLink::from_pin(pin).ok()?)),
        Ok(_) => {
            let _ = fs::remove_file(pin);
            None
        }
        Err(_) => None,
    }
}

fn repin(link: FdLink, pin: &Path) -> Result<()> {
    let _ = fs::remove_file(pin);
    // A PinnedLink closes its descriptor when dropped; the pin keeps the link.
    drop(
        link.pin(pin)
            .with_context(|| format!("pinning {}", pin.display()))?,
    );
    Ok(())
}
