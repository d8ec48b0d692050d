//! Pins of other versions, and pins that are something else.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    LabSpec, agent,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    switch::pin_foreign_map,
    trial::{SOON, event, owner, standbys, undisturbed, with},
};

/// The folders of pins of a node that are of its version.
fn layouts(rig: &Rig, node: &str) -> Result<Vec<PathBuf>> {
    let own = agent::bpf_dir(rig.cluster.lab.prefix()).join(node);
    Ok(fs::read_dir(own)?
        .flatten()
        .map(|entry| entry.path())
        .collect())
}

#[test]
fn pins_of_another_version_are_removed() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        let from = boot_ns();
        rig.cluster.agent(&standby)?.kill()?;
        let stale = agent::bpf_dir(rig.cluster.lab.prefix())
            .join(&standby)
            .join("v0bad/maps");
        fs::create_dir_all(&stale)?;
        pin_foreign_map(&stale.join("STATE"))?;
        rig.cluster.agent(&standby)?.start()?;
        undisturbed(rig, from, &old)?;
        event(rig, &standby, "stale_pins", from, |_| true)?;
        ensure!(!stale.exists(), "{} is still there", stale.display());
        ensure!(
            layouts(rig, &standby)?.len() == 1,
            "one version's pins are left"
        );
        Ok(())
    })
}

/// A map of another shape where ours belongs: a clear error, and all is well once it is gone.
#[test]
fn a_pin_that_is_something_else_is_named() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        let from = boot_ns();
        rig.cluster.agent(&standby)?.kill()?;
        let layout = layouts(rig, &standby)?;
        let pin = layout.first().context("pins")?.join("maps/STATE");
        fs::remove_file(&pin)?;
        pin_foreign_map(&pin)?;
        let agent = rig.cluster.agent(&standby)?;
        agent.start()?;
        let code = agent.ended(SOON)?;
        ensure!(code.is_some_and(|code| code != 0), "it ended with {code:?}");
        let said = agent.log_tail();
        let name = pin.to_string_lossy();
        ensure!(said.contains(&*name), "{name} is not named: {said}");
        ensure!(pin.exists(), "somebody else's map was removed");
        fs::remove_file(&pin)?;
        agent.start()?;
        undisturbed(rig, from, &old)
    })
}
