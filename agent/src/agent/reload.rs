//! Reading the configuration again: what differs is changed, all or nothing.

use anyhow::Result;

use super::{
    rotation,
    rt::{self, RtCommand},
    setup::{self, Names},
    supervise::Supervisor,
};
use crate::{
    config::{Change, Config, KeyFile, Refusal as What, diff, key_change},
    control::proto::{Code, Refusal, ReloadReply},
    events::{Draft, EventKind},
    net::NetControl,
};

impl Supervisor {
    /// Takes what differs in the file; all or nothing.
    pub(super) fn reload(&mut self) -> Result<ReloadReply, Refusal> {
        let bad = |text: String| {
            Refusal::new(Code::BadConfig, text).help("the old configuration stays in force")
        };
        let answer = (|| {
            let new = setup::load(&self.args.config).map_err(|e| bad(format!("{e:#}")))?;
            let key = KeyFile::load(&new.key_file).map_err(|e| bad(e.to_string()))?;
            let mut changes = diff(&self.config, &new);
            let same_text = changes.is_empty();
            changes.extend(self.key_step(&key));
            let refused: Vec<String> = changes
                .iter()
                .filter(|c| c.is_refused())
                .map(ToString::to_string)
                .collect();
            if !refused.is_empty() {
                return Err(bad(refused.join("\n")));
            }
            let changed: Vec<String> = changes.iter().map(ToString::to_string).collect();
            if !changed.is_empty() {
                if !same_text {
                    self.apply(new).map_err(|e| bad(format!("{e:#}")))?;
                }
                self.rekey(key).map_err(|e| bad(format!("{e:#}")))?;
            }
            Ok(ReloadReply {
                generation: u64::from(self.config.generation),
                changed,
                needs_restart: Vec::new(),
            })
        })();
        let draft = match &answer {
            Ok(r) if r.changed.is_empty() => Draft::new(
                EventKind::Reload,
                "configuration read again: nothing differs",
            ),
            Ok(r) => Draft::new(
                EventKind::Reload,
                format!("configuration read again: {}", r.changed.join("; ")),
            )
            .with("changed", &r.changed),
            Err(e) => Draft::new(
                EventKind::Reload,
                format!("the new configuration is refused: {}", e.message),
            ),
        };
        self.record(vec![draft]);
        answer
    }

    fn apply(&mut self, new: Config) -> Result<()> {
        // New VIPs are gated before anybody can put them anywhere; old ones until their addresses are gone.
        let mut both = setup::vips(&self.config);
        both.extend(
            setup::vips(&new)
                .into_iter()
                .filter(|e| !both.contains(e))
                .collect::<Vec<_>>(),
        );
        self.datapath.set_gated(new.cluster_id, &both)?;
        let net = setup::net_config(&new)?;
        let core = setup::core_config(&new, self.me);
        self.net
            .control
            .send(NetControl::Reconfigure(Box::new(net)))
            .map_err(|_| anyhow::anyhow!("the address thread is busy"))?;
        self.rt
            .send(RtCommand::Reconfigure(Box::new(core)))
            .map_err(|_| anyhow::anyhow!("the real-time thread is busy"))?;
        self.table.digest.store(u64::from(new.digest()));
        crate::cli::logging::apply_config_level(&new.log)?;
        self.narrator.names = Names::of(&new);
        self.config = new;
        Ok(())
    }

    /// The change to these keys; refused if it would part this node from one that is heard.
    fn key_step(&self, new: &KeyFile) -> Option<Change> {
        let change = key_change(&self.key, new)?;
        let (old, keys) = (self.key.keys(), new.keys());
        let now = rt::now().boot;
        let cut = rotation::cut_off(&self.config, self.me, &self.table, now, &old, &keys);
        if change.is_refused() || cut.is_empty() {
            return Some(change);
        }
        Some(Change::Refused {
            what: What::Key,
            why: format!("this step of the key rotation comes too early: {}", cut.join(", ")),
            mend: "bring the step before to those nodes first (copy the key file, `heartline reload`); `heartline status` \
                   says where each node is"
                .into(),
        })
    }

    /// What is accepted first, then what signs.
    fn rekey(&mut self, key: KeyFile) -> Result<()> {
        if self.key == key {
            return Ok(());
        }
        self.datapath.set_keys(&key.keys())?;
        self.rt
            .send(RtCommand::Rekey(Box::new(key.keys())))
            .map_err(|_| anyhow::anyhow!("the real-time thread is busy"))?;
        self.key = key;
        Ok(())
    }

    /// May a new process start from the file as it is now? One that changes what all nodes must change together may not:
    /// two nodes with different members could each have a majority.
    pub(super) fn may_restart(&self) -> Result<(), Refusal> {
        let bad = |text: String| Refusal::new(Code::BadConfig, text).help("nothing was restarted");
        let new = setup::load(&self.args.config).map_err(|e| bad(format!("{e:#}")))?;
        let key = KeyFile::load(&new.key_file).map_err(|e| bad(e.to_string()))?;
        let harmless = |c: &Change| {
            matches!(
                c,
                Change::Refused {
                    what: What::Datapath,
                    ..
                }
            )
        };
        let refused: Vec<String> = diff(&self.config, &new)
            .into_iter()
            .chain(self.key_step(&key))
            .filter(|c| c.is_refused() && !harmless(c))
            .map(|c| c.to_string())
            .collect();
        if refused.is_empty() {
            Ok(())
        } else {
            Err(bad(refused.join("\n")))
        }
    }

    /// The address thread has taken the new configuration: what is no VIP any more needs no gate.
    pub(super) fn ungate_removed(&mut self) {
        let vips = setup::vips(&self.config);
        if let Err(e) = self.datapath.set_gated(self.config.cluster_id, &vips) {
            self.record(vec![Draft::new(EventKind::Note, e.to_string())]);
        }
    }
}
