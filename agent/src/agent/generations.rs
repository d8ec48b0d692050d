//! The generations on disk, and the change from one to the next (rule 10).
//!
//! What may be entered is written down before the core learns of it: a node that comes up without memory must not go back.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use agent_core::{History, Next, StartError, Waits};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    link::peers,
    rt::RtCommand,
    setup::{self, Names},
    supervise::Supervisor,
};
use crate::{
    config::{Config, moved_vips, show_ns},
    control::proto::ChangeStatus,
    datapath::Table,
    events::{Draft, EventKind},
    net::{NetControl, rt::boottime_ns},
};

/// The file as it is written; the meaning is [`History`]'s.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    generation: u32,
    voters: u32,
    proven: bool,
    settled: bool,
    next: u32,
}

/// The file of generations.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("generation.json")
}

/// What an earlier run wrote; nothing, if there is no file.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn read(state_dir: &Path) -> Result<History> {
    let path = file(state_dir);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(History::default()),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    let s: Saved = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is damaged: remove it; this node then votes when it hears a member that does (mend: rm {0})",
            path.display()
        )
    })?;
    Ok(History {
        generation: s.generation,
        voters: s.voters,
        proven: s.proven,
        settled: s.settled,
        next: s.next,
    })
}

/// Writes it so that it is there after a loss of power, whole or as it was.
///
/// # Errors
/// The folder cannot be made, or the file not written.
pub fn write(state_dir: &Path, h: History) -> Result<()> {
    let path = file(state_dir);
    let saved = Saved {
        generation: h.generation,
        voters: h.voters,
        proven: h.proven,
        settled: h.settled,
        next: h.next,
    };
    let go = || -> std::io::Result<()> {
        fs::create_dir_all(state_dir)?;
        let new = path.with_extension("new");
        let mut f = File::create(&new)?;
        f.write_all(&serde_json::to_vec(&saved)?)?;
        f.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(state_dir)?.sync_all()
    };
    go().with_context(|| format!("writing {}", path.display()))
}

/// What a start with this configuration makes of the past.
///
/// # Errors
/// The node must not start so; the error says why and what to do.
pub fn start(
    state_dir: &Path,
    config: &Config,
    file: &Path,
    table: Option<Table>,
) -> Result<History> {
    let known = read(state_dir)?;
    let in_table = table.map(|t| History {
        generation: t.generation.load() as u32,
        voters: t.voters.load() as u32,
        proven: t.vote_after.load() != agent_common::state::UNPROVEN,
        ..History::default()
    });
    let (file, generation) = (file.display(), config.generation);
    let voters = setup::voters(config);
    match known.start(in_table, generation, voters) {
        Ok(h) => Ok(h),
        Err(StartError::Older(least)) => bail!(
            "{file}: generation {generation} is older than the {least} that this node has been in, and a generation never \
             goes back (mend: copy the file of generation {least} or later from another node)"
        ),
        Err(StartError::OtherMembers) => bail!(
            "{file}: the members differ from those that generation {generation} had on this node: two lists of members \
             can have two majorities (mend: count generation up, one member at a time; `heartline plan` shows the steps)"
        ),
        Err(StartError::Several) => bail!(
            "{file}: more than one member differs from generation {} (mend: one file after the other, one member at a \
             time; `heartline plan` shows the steps)",
            generation - 1
        ),
    }
}

/// A change that is staged.
pub(super) struct Staged {
    pub(super) config: Config,
    /// The last thing that it was said to wait for.
    said: String,
}

impl Supervisor {
    /// Stages a configuration of a later generation.
    pub(super) fn stage(&mut self, new: Config) -> Result<()> {
        ensure!(self.rt.has_room(2), "the real-time thread is busy");
        let before = self.history;
        self.history.next = self.history.next.max(new.generation);
        write(&self.args.state_dir, self.history)?;
        let moved = moved_vips(&self.config, &new)
            .into_iter()
            .map(|(_, from, to)| (from, to))
            .collect();
        let next = Box::new(Next::new(setup::core_config(&new, self.me), moved));
        // A new member must hear this node before it can do its part.
        let to = peers(&[&self.config, &new], self.me);
        let sent = self.rt.send(RtCommand::Peers(to)).is_ok()
            && self.rt.send(RtCommand::Stage(next)).is_ok();
        if !sent {
            self.history = before;
            write(&self.args.state_dir, self.history)?;
            bail!("the real-time thread is busy");
        }
        self.staged = Some(Staged {
            config: new,
            said: String::new(),
        });
        Ok(())
    }

    /// Takes a staged configuration back; the answer comes as a report.
    pub(super) fn unstage(&mut self) -> bool {
        self.staged.is_some() && self.rt.send(RtCommand::Unstage).is_ok()
    }

    /// The core gave a staged configuration back before it was entered.
    pub(super) fn unstaged(&mut self) {
        let Some(staged) = self.staged.take() else {
            return;
        };
        self.history.next = 0;
        self.write_history();
        let _ = self
            .rt
            .send(RtCommand::Peers(peers(&[&self.config], self.me)));
        let text = format!("generation {} is taken back", staged.config.generation);
        self.record(vec![Draft::new(EventKind::GenerationChange, text)]);
    }

    /// The core has entered the staged generation: everything else follows.
    pub(super) fn entered(&mut self, generation: u32) {
        let Some(staged) = self.staged.take() else {
            return;
        };
        if staged.config.generation != generation {
            return;
        }
        self.history = History {
            generation,
            voters: setup::voters(&staged.config),
            proven: true,
            settled: false,
            next: 0,
        };
        self.write_history();
        if let Err(e) = self.follow(staged.config) {
            let text = format!("after entering generation {generation}: {e:#}");
            self.record(vec![Draft::new(EventKind::Note, text)]);
        }
    }

    fn follow(&mut self, new: Config) -> Result<()> {
        let both = setup::and_still(&self.gated, &new);
        self.gate_vips(new.cluster_id, both)?;
        let mut net = setup::net_config(&new)?;
        net.serial = self.net_serial.next();
        self.net
            .control
            .send(NetControl::Reconfigure(Box::new(net)))
            .map_err(|_| anyhow::anyhow!("the address thread is busy"))?;
        self.net_serial.sent();
        self.set_log_level(&new.log);
        self.narrator.names = Names::of(&new);
        self.config = new;
        self.set_targets();
        self.set_services(false);
        self.mapping = true;
        self.shrink_peers_at = boottime_ns() + 5_000_000_000;
        Ok(())
    }

    /// The address thread follows, too: groups whose VIPs changed may be asked for again.
    pub(super) fn mapped(&mut self) {
        if self.mapping && self.rt.send(RtCommand::Mapped).is_ok() {
            self.mapping = false;
        }
    }

    pub(super) fn write_history(&mut self) {
        if let Err(e) = write(&self.args.state_dir, self.history) {
            self.record(vec![Draft::new(EventKind::Note, format!("{e:#}"))]);
        }
    }

    /// Each second: what the core has come to is written down, and what a change waits for is told.
    pub(super) fn check_generations(&mut self) {
        let snapshot = self.rt.snapshot.read();
        let (progress, settled, at) = (snapshot.progress, snapshot.settled, snapshot.generation);
        if at == self.history.generation
            && (progress.proven, settled) != (self.history.proven, self.history.settled)
        {
            self.history.proven = progress.proven;
            self.history.settled |= settled;
            self.write_history();
        }
        if self.shrink_peers_at != 0
            && boottime_ns() > self.shrink_peers_at
            && self.staged.is_none()
        {
            self.shrink_peers_at = 0;
            let _ = self
                .rt
                .send(RtCommand::Peers(peers(&[&self.config], self.me)));
        }
        self.mapped();
        let names = self.all_names();
        let Some(staged) = &mut self.staged else {
            return;
        };
        if progress.next != Some(staged.config.generation) {
            return;
        }
        let (kind, text) = waits(&progress.waits, &names, boottime_ns());
        if kind != staged.said {
            staged.said = kind;
            let text = format!("generation {} {text}", staged.config.generation);
            self.record(vec![Draft::new(EventKind::GenerationChange, text)]);
        }
    }

    /// Names of all nodes that there are or will be.
    fn all_names(&self) -> Names {
        match &self.staged {
            Some(s) => self.narrator.names.with(&s.config),
            None => self.narrator.names.clone(),
        }
    }

    /// The change under way, for the status.
    pub(super) fn change_status(&mut self) -> Option<ChangeStatus> {
        let names = self.all_names();
        let staged = self.staged.as_ref()?;
        let progress = self.rt.snapshot.read().progress;
        let (code, waits) = if progress.next == Some(staged.config.generation) {
            waits(&progress.waits, &names, boottime_ns())
        } else {
            ("staging".into(), "is being staged".into())
        };
        Some(ChangeStatus {
            from: u64::from(self.config.generation),
            to: u64::from(staged.config.generation),
            changes: crate::config::diff(&self.config, &staged.config)
                .iter()
                .map(ToString::to_string)
                .collect(),
            code,
            waits,
        })
    }
}

/// A word for scripts and a sentence for people: what a change waits for.
fn waits(w: &Waits, names: &Names, now: u64) -> (String, String) {
    let list = |mask: &u32| {
        let all: Vec<String> = (1..=32u8)
            .filter(|id| mask & agent_common::node_bit(*id) != 0)
            .map(|id| names.node(id))
            .collect();
        all.join(", ")
    };
    let (code, text) = match w {
        Waits::Nothing => ("nothing", "is entered now".into()),
        Waits::Heard(mask) => (
            "majority_heard",
            format!(
                "waits until a majority of the present generation is heard in it; heard: {}",
                list(mask)
            ),
        ),
        Waits::Settling(at) => {
            // Whole seconds: a sentence that changes each moment would be an event each moment.
            let left = at.saturating_sub(now).div_ceil(1_000_000_000) * 1_000_000_000;
            (
                "settling",
                format!(
                    "waits {}: older promises run out before a generation may be left",
                    show_ns(left)
                ),
            )
        }
        Waits::Ready(id) => (
            "node_not_ready",
            format!(
                "waits for {0}: copy the new file there and `heartline reload`, or stop {0}'s agent",
                names.node(*id)
            ),
        ),
        Waits::Differs(id) => (
            "file_differs",
            format!(
                "waits: {} is in it already, with another file; copy the same file to all nodes and reload",
                names.node(*id)
            ),
        ),
        Waits::HandsOver(id, groups) => {
            let all: Vec<String> = groups.iter().map(|g| names.group(g)).collect();
            (
                "hands_over",
                format!(
                    "waits until {} has handed over {}",
                    names.node(*id),
                    all.join(", ")
                ),
            )
        }
        Waits::Majority(mask) => (
            "too_few",
            format!(
                "waits: it would have no majority; ready are {} (a new node is, max_promise after its start)",
                list(mask)
            ),
        ),
        Waits::Proof => (
            "proof",
            "waits until a node that is in it and votes is heard".into(),
        ),
    };
    (code.into(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        assert_eq!(read(&path).unwrap(), History::default());
        let h = History {
            generation: 7,
            voters: 0b111,
            proven: true,
            settled: true,
            next: 8,
        };
        write(&path, h).unwrap();
        assert_eq!(read(&path).unwrap(), h);
        fs::write(file(&path), "{\"generation\":").unwrap();
        let e = format!("{:#}", read(&path).unwrap_err());
        assert!(e.contains("damaged") && e.contains("rm "), "{e}");
    }
}
