//! Where a reload changes something: gate and keys in the kernel, the address thread, the real-time thread. All or nothing:
//! what can fail comes first, and is taken back if a later step fails.

use std::net::IpAddr;

use agent_common::keys::Keys;
use agent_core::CoreConfig;
use anyhow::{Result, ensure};

use super::{
    rt::{RtCommand, RtHandle},
    setup,
};
use crate::{
    config::Config,
    datapath::{AnyPath, socket::first_of_each},
    net::{ControlSender, NetConfig, NetControl},
};

/// Commands that one change sends to the real-time thread at most.
const COMMANDS: usize = 3;

/// Whom a change reaches.
pub(super) struct Places<'a> {
    pub(super) datapath: &'a mut AnyPath,
    pub(super) rt: &'a mut RtHandle,
    pub(super) net: &'a ControlSender,
    pub(super) serial: &'a mut Serial,
}

/// The configurations that the address thread was sent: VIPs that are none any more keep their gate until it has followed
/// the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Serial(u64);

impl Serial {
    /// Of the one to be sent.
    pub(super) fn next(self) -> u64 {
        self.0 + 1
    }

    /// It was sent.
    pub(super) fn sent(&mut self) {
        self.0 += 1;
    }

    /// Is it the last that was sent?
    pub(super) fn is_newest(self, serial: u64) -> bool {
        self.0 == serial
    }
}

/// VIPs with their groups; true: a gateway.
pub(super) type Gated = Vec<(IpAddr, u8, bool)>;

/// Another configuration, as each place must know it.
pub(super) struct Parts {
    cluster: u32,
    /// VIPs that are gated now,
    before: Gated,
    /// and then: new ones before anybody can put them anywhere, old ones until their addresses are gone.
    after: Gated,
    net: NetConfig,
    core: CoreConfig,
}

impl Parts {
    /// To `new` on node `me`, where `gated` are gated.
    ///
    /// # Errors
    /// The address thread would refuse it.
    pub(super) fn of(gated: &Gated, new: &Config, me: u8) -> Result<Parts> {
        Ok(Parts {
            cluster: new.cluster_id,
            before: gated.clone(),
            after: setup::and_still(gated, new),
            net: setup::net_config(new)?,
            core: setup::core_config(new, me),
        })
    }
}

/// Other keys: those in force, and those to be.
pub(super) struct Rekey {
    pub(super) old: Keys,
    pub(super) new: Box<Keys>,
}

impl Places<'_> {
    /// Makes both changes, or neither. Gives what is gated now, if that has changed.
    ///
    /// # Errors
    /// What refused. Everything is then as it was before.
    pub(super) fn change(
        &mut self,
        parts: Option<Parts>,
        keys: Option<Rekey>,
    ) -> Result<Option<Gated>> {
        // What comes last is sure: the room that is here now stays.
        ensure!(self.rt.has_room(COMMANDS), "the real-time thread is busy");
        let mut commands = Vec::with_capacity(COMMANDS);
        let (mut gate, mut net) = (None, None);
        if let Some(p) = parts {
            if let AnyPath::Socket(_) = self.datapath {
                commands.push(RtCommand::Vips(first_of_each(&p.after)));
            }
            commands.push(RtCommand::Reconfigure(Box::new(p.core)));
            gate = Some((p.cluster, p.before, p.after));
            net = Some(p.net);
        }
        if let Err(mut e) = self.what_may_fail(gate.as_ref(), keys.as_ref(), net) {
            let gate = gate.map(|(cluster, before, _)| self.datapath.set_gated(cluster, &before));
            let keys = keys.map(|k| self.datapath.set_keys(&k.old));
            for undo in [gate, keys].into_iter().flatten() {
                if let Err(again) = undo {
                    e = e.context(format!("and it could not be taken back: {again:#}"));
                }
            }
            return Err(e);
        }
        if let Some(k) = keys {
            commands.push(RtCommand::Rekey(k.new));
        }
        for c in commands {
            let sent = self.rt.send(c).is_ok();
            ensure!(sent, "the real-time thread has only a part of the change");
        }
        Ok(gate.map(|(.., after)| after))
    }

    /// The address thread last: what it was told cannot be taken back.
    fn what_may_fail(
        &mut self,
        gate: Option<&(u32, Gated, Gated)>,
        keys: Option<&Rekey>,
        net: Option<NetConfig>,
    ) -> Result<()> {
        if let Some((cluster, _, after)) = gate {
            self.datapath.set_gated(*cluster, after)?;
        }
        if let Some(k) = keys {
            self.datapath.set_keys(&k.new)?;
        }
        if let Some(mut net) = net {
            net.serial = self.serial.next();
            let told = self.net.send(NetControl::Reconfigure(Box::new(net)));
            ensure!(told.is_ok(), "the address thread is busy");
            self.serial.sent();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
