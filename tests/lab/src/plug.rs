//! Cables: pulled out, put back, and carriers that go and come. Unlike a cut, nodes notice these.

use anyhow::{Context as _, Result};

use crate::{
    clock::boot_ns,
    lab::{Lab, Link, Station, addresses, cable, port_name, wait_ready},
};

impl Lab {
    /// Takes a link's device away, as if its card were pulled out. Returns the instant (boot clock, ns).
    ///
    /// # Errors
    /// No such node or link, or it is out already.
    pub fn unplug(&self, node: &str, link: usize) -> Result<u64> {
        let (station, _) = self.link(node, link)?;
        let at = boot_ns();
        self.switch
            .ns
            .ip(&format!("link del {}\n", port_name(station, link)))?;
        Ok(at)
    }

    /// Puts the device back, with its name, addresses and hardware address. Returns the instant.
    ///
    /// # Errors
    /// As [`Lab::unplug`], or it is there.
    pub fn replug(&mut self, node: &str, link: usize) -> Result<u64> {
        let (station, wire) = self.link(node, link)?;
        let (station, wire) = (station.clone(), wire.clone());
        self.switch.ns.ip(&cable(&station, link, &wire))?;
        let port = port_name(&station, link);
        self.switch.ns.tx_checksum_off(&[port])?;
        self.switch.attach_again(node, link)?;
        let prober = self.prober.eth0().clone();
        station.ns.ip(&addresses(&station, &wire, &prober))?;
        station
            .ns
            .tx_checksum_off(std::slice::from_ref(&wire.device))?;
        wait_ready(&station)?;
        Ok(boot_ns())
    }

    /// Takes the carrier from a link, or gives it back. Returns the instant (boot clock, ns).
    ///
    /// # Errors
    /// No such node or link.
    pub fn carrier(&self, node: &str, link: usize, on: bool) -> Result<u64> {
        let (station, _) = self.link(node, link)?;
        let state = if on { "up" } else { "down" };
        let at = boot_ns();
        self.switch
            .ns
            .ip(&format!("link set {} {state}\n", port_name(station, link)))?;
        Ok(at)
    }

    fn link(&self, node: &str, link: usize) -> Result<(&Station, &Link)> {
        let station = self.node(node)?;
        let found = station.links.get(link);
        let found = found.with_context(|| format!("{node} has no link {link}"))?;
        Ok((station, found))
    }
}
