//! Reading the configuration again: what differs is changed, all or nothing.

use anyhow::Result;

use super::{
    apply::{Gated, Parts, Places, Rekey},
    rotation,
    rt::{self, RtCommand},
    setup::{self, Names},
    supervise::Supervisor,
};
use crate::{
    config::{Change, Config, Datapath, KeyFile, Refusal as What, diff, key_change, stops},
    control::proto::{Code, Refusal, ReloadReply},
    datapath::{AnyPath, socket::first_of_each},
    events::{Draft, EventKind},
};

impl Supervisor {
    /// Takes what differs in the file; all or nothing. `stop`: also if a group that runs is in it no more.
    pub(super) fn reload(&mut self, stop: bool) -> Result<ReloadReply, Refusal> {
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
            self.may_stop(&new, stop)?;
            let mut changed: Vec<String> = changes.iter().map(ToString::to_string).collect();
            let mut entering = None;
            if new.generation > self.config.generation {
                if self.key != key {
                    return Err(bad(
                        "a key rotation and a later generation are two steps: reload the one, then the other".into(),
                    ));
                }
                self.may_enter(&new).map_err(&bad)?;
                entering = Some(u64::from(new.generation));
                self.stage(new).map_err(|e| bad(format!("{e:#}")))?;
            } else if let Some(staged) = self.staged.as_ref().map(|s| s.config.generation) {
                if !changed.is_empty() {
                    let text = format!(
                        "generation {staged} is on its way; to take it back, reload the file of generation {} as it was",
                        self.config.generation
                    );
                    return Err(bad(text));
                }
                if self.unstage() {
                    changed.push(format!("generation {staged} is taken back"));
                }
            } else if !changed.is_empty() {
                self.apply((!same_text).then_some(new), key)
                    .map_err(|e| bad(format!("{e:#}")))?;
            }
            Ok(ReloadReply {
                generation: u64::from(self.config.generation),
                changed,
                entering,
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

    /// May the groups that run and are in the new configuration no more be stopped? Only if somebody said so; and the
    /// owner is the last to hear of it, because whoever still has the group in its configuration would take it over.
    fn may_stop(&mut self, new: &Config, said: bool) -> Result<(), Refusal> {
        let owners = *self.rt.snapshot.read().owner;
        let running: Vec<_> = stops(&self.config, new)
            .into_iter()
            .filter_map(|s| Some((owners[usize::from(s.id)], s)).filter(|(owner, _)| *owner != 0))
            .collect();
        if !said && !running.is_empty() {
            let lines = running.iter().map(|(owner, s)| {
                let text = s.sentence(Some(&self.narrator.names.node(*owner)));
                format!("  {text}")
            });
            let lines: Vec<_> = lines.collect();
            let text = format!("this stops groups that run:\n{}", lines.join("\n"));
            return Err(Refusal::new(Code::Refused, text)
                .help("if that is meant: `heartline reload --yes`, on the owner last; the old configuration stays in force"));
        }
        for (owner, s) in running {
            // A later generation is entered by all at once.
            if owner != self.me || new.generation > self.config.generation {
                continue;
            }
            let late: Vec<_> = self.still_have(s.id);
            if !late.is_empty() {
                let text = format!(
                    "{} still have {} in their configuration and would start it",
                    late.join(" and "),
                    s.group
                );
                return Err(Refusal::new(Code::Refused, text)
                    .help("`heartline reload --yes` there first, and here, on its owner, last; the old configuration stays in force"));
            }
        }
        Ok(())
    }

    /// Other nodes that live, may own a group, and have the configuration that is in force here.
    fn still_have(&mut self, group: u8) -> Vec<String> {
        let nodes = self.rt.snapshot.read().nodes;
        let digest = self.config.digest();
        let of = self.config.groups.iter().find(|g| g.id == group);
        let others = of.into_iter().flat_map(|g| &g.prefer);
        let late = others.filter(|id| {
            let alive = nodes.get(usize::from(**id).wrapping_sub(1));
            let seen = self.table.peer(**id).seen_config.load();
            **id != self.me && alive.is_some_and(|n| n.alive) && (seen >> 32) as u32 == digest
        });
        late.map(|id| self.narrator.names.node(*id)).collect()
    }

    /// Makes both changes, or neither.
    fn apply(&mut self, new: Option<Config>, key: KeyFile) -> Result<()> {
        let parts = match &new {
            Some(new) => Some(Parts::of(&self.gated, new, self.me)?),
            None => None,
        };
        let keys = (self.key != key).then(|| Rekey {
            old: self.key.keys(),
            new: Box::new(key.keys()),
        });
        let gated = Places {
            datapath: &mut self.datapath,
            rt: &mut self.rt,
            net: &self.net.control,
            serial: &mut self.net_serial,
        }
        .change(parts, keys)?;
        // From here on nothing can fail.
        self.key = key;
        self.gated = gated.unwrap_or_else(|| std::mem::take(&mut self.gated));
        if let Some(new) = new {
            self.table.digest.store(u64::from(new.digest()));
            self.set_log_level(&new.log);
            self.narrator.names = Names::of(&new);
            self.config = new;
            self.set_targets();
            self.set_services(false);
        }
        Ok(())
    }

    /// The configuration's own check has read the level already; a subscriber that is gone is no reason to refuse a file.
    pub(super) fn set_log_level(&mut self, level: &str) {
        if let Err(e) = crate::cli::logging::apply_config_level(level) {
            self.record(vec![Draft::new(
                EventKind::Note,
                format!("log level: {e:#}"),
            )]);
        }
    }

    /// May a later generation be staged here? What makes it unsafe the core refuses; this is what people get wrong.
    fn may_enter(&mut self, new: &Config) -> Result<(), String> {
        let (from, to) = (self.config.generation, new.generation);
        if new.node_by_id(self.me).is_none() {
            return Err(format!(
                "{} is no member of generation {to}: reload the other nodes; when they have entered it, stop the agent here \
                 (systemctl disable --now heartline)",
                self.narrator.names.node(self.me)
            ));
        }
        let newest = self.rt.snapshot.read().progress.newest;
        if to > from + 1 && newest < to {
            return Err(format!(
                "the generation jumps from {from} to {to}, and no node was heard in {to}: one generation after the other \
                 (`heartline plan` shows the steps)"
            ));
        }
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

    /// May a new process start from the file as it is now? One that changes what all nodes must change together may not:
    /// two nodes with different members could each have a majority.
    pub(super) fn may_restart(&self) -> Result<(), Refusal> {
        let bad = |text: String| Refusal::new(Code::BadConfig, text).help("nothing was restarted");
        let new = setup::load(&self.args.config).map_err(|e| bad(format!("{e:#}")))?;
        let key = KeyFile::load(&new.key_file).map_err(|e| bad(e.to_string()))?;
        // To and from sockets the state would be a fresh one: that is no planned restart.
        let sockets = [&self.config, &new].map(|c| c.datapath == Datapath::Socket);
        let harmless = |c: &Change| {
            sockets[0] == sockets[1]
                && matches!(
                    c,
                    Change::Refused {
                        what: What::Datapath,
                        ..
                    }
                )
        };
        if new.generation != self.config.generation {
            return Err(bad(format!(
                "the file is of generation {}, this node is in {}: `heartline reload` first, and wait until it is entered",
                new.generation, self.config.generation
            )));
        }
        let refused: Vec<String> = diff(&self.config, &new)
            .into_iter()
            .chain(self.key_step(&key))
            .filter(|c| c.is_refused() && !harmless(c))
            .map(|c| c.to_string())
            .collect();
        if !refused.is_empty() {
            return Err(bad(refused.join("\n")));
        }
        // The new process knows nothing of what is in its file no more, and would leave it running.
        let held = self.table.run_set.load();
        let gone = stops(&self.config, &new).into_iter();
        let gone = gone.filter(|s| held.has(s.id)).map(|s| s.group);
        let left: Vec<_> = gone.chain(self.services.retiring()).collect();
        if left.is_empty() {
            return self.guard_may_restart();
        }
        let text = format!("{} must be stopped first", left.join(", "));
        Err(Refusal::new(Code::Refused, text)
            .help("`heartline reload --yes` stops what is in the file no more, `heartline events` says when it has stopped; \
                   nothing was restarted"))
    }

    /// Tells the gate its VIPs: the rules, and who opens and shuts them.
    pub(super) fn gate_vips(&mut self, cluster: u32, vips: Gated) -> Result<()> {
        self.datapath.set_gated(cluster, &vips)?;
        if let AnyPath::Socket(_) = self.datapath {
            self.rt
                .send(RtCommand::Vips(first_of_each(&vips)))
                .map_err(|_| anyhow::anyhow!("the real-time thread is busy"))?;
        }
        self.gated = vips;
        Ok(())
    }

    /// The address thread has taken the new configuration: what is no VIP any more needs no gate.
    pub(super) fn ungate_removed(&mut self) {
        let vips = setup::vips(&self.config);
        if let Err(e) = self.gate_vips(self.config.cluster_id, vips) {
            self.record(vec![Draft::new(EventKind::Note, e.to_string())]);
        }
    }
}
