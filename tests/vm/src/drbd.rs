//! DRBD in the guests: its configuration, and bringing a resource up without copying an empty disk.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use heartline_lab::interrupt;

use crate::{control::Control, rows::Store, site::Site};

/// The resource.
pub const RESOURCE: &str = "r0";
/// Its device.
pub const DEVICE: &str = "/dev/drbd0";
/// Where its file system is mounted.
pub const MOUNT: &str = "/srv/data";
const LONG: Duration = Duration::from_secs(60);

/// The guests' own disk, under a device-mapper device that can be made to fail.
const DISK: &str = "/dev/mapper/data";

/// What the configuration says beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines of the `net` section.
    pub net: String,
    /// Lines of the `disk` section, such as `fencing resource-and-stonith;` (in `net` since DRBD 9).
    pub disk: String,
    /// Lines of the `handlers` section.
    pub handlers: String,
}

/// The text of `/etc/drbd.d/r0.res` (drbd.conf-8.4(5)) for the guests of a place. Times are for machines that are
/// emulated and share two processors: a peer is given up after 3 to 4 s without an answer.
#[must_use]
pub fn text(guests: u8, options: &Options) -> String {
    let mut text = format!(
        "resource {RESOURCE} {{\n  protocol C;\n  device {DEVICE};\n  disk {DISK};\n  meta-disk internal;\n\
         \x20 net {{\n    timeout 40; ping-int 2; ping-timeout 30; connect-int 2; max-buffers 2048;\n\
         \x20   after-sb-0pri disconnect; after-sb-1pri disconnect; after-sb-2pri disconnect;\n    {}\n  }}\n\
         \x20 disk {{\n    on-io-error detach; resync-rate 100M; c-plan-ahead 0;\n    {}\n  }}\n\
         \x20 handlers {{\n    {}\n  }}\n",
        options.net, options.disk, options.handlers
    );
    for id in 1..=guests.min(2) {
        text += &format!("  on n{id} {{ address 10.77.1.{id}:7789; }}\n");
    }
    text + "}\n"
}

/// Writes the configuration and loads the module; nothing is up yet.
///
/// # Errors
/// A guest does not do it.
pub fn configure(control: &Control, text: &str) -> Result<()> {
    control.write("/etc/drbd.d/r0.res", text, 0o644)?;
    control.write(
        "/etc/drbd.d/global_common.conf",
        "global { usage-count no; }\n",
        0o644,
    )?;
    control
        .sh(
            &format!(
                "modprobe drbd && modprobe dm_mod && mkdir -p {MOUNT} && \
                 {{ [ -b {DISK} ] || DM_DISABLE_UDEV=1 dmsetup create data --table \"0 $(blockdev --getsz /dev/vdc) linear /dev/vdc 0\"; }}"
            ),
            LONG,
        )
        .map(drop)
}

/// From now on every access to the guest's disk fails.
///
/// # Errors
/// The guest does not do it.
pub fn break_disk(control: &Control) -> Result<()> {
    control
        .sh(
            "export DM_DISABLE_UDEV=1; dmsetup load data --table \"0 $(blockdev --getsz /dev/vdc) error\" && dmsetup suspend --noflush --nolockfs data && \
             dmsetup resume data",
            LONG,
        )
        .map(drop)
}

/// The guest's disk works again, and DRBD has it back.
///
/// # Errors
/// The guest does not do it.
pub fn mend_disk(control: &Control) -> Result<()> {
    control
        .sh(
            &format!(
                "export DM_DISABLE_UDEV=1; dmsetup load data --table \"0 $(blockdev --getsz /dev/vdc) linear /dev/vdc 0\" && \
                 dmsetup suspend --noflush --nolockfs data && dmsetup resume data && drbdadm attach {RESOURCE}"
            ),
            LONG,
        )
        .map(drop)
}

/// The options that go with a proof: with fencing DRBD stops writing until its peer is fenced or outdated, and asks the
/// agent by its handlers.
#[must_use]
pub fn options(fencing: bool) -> Options {
    if !fencing {
        return Options::default();
    }
    Options {
        disk: "fencing resource-and-stonith;".to_owned(),
        handlers: "fence-peer \"/opt/heartline/bin/heartline drbd fence-peer\"; \
                   after-resync-target \"/opt/heartline/bin/heartline drbd unfence-peer\"; \
                   split-brain \"/opt/heartline/bin/heartline drbd split-brain\";"
            .to_owned(),
        ..Options::default()
    }
}

/// Makes the resource on both of the first two guests, up, connected and both sides UpToDate, with a file system and what
/// keeps rows on it.
///
/// # Errors
/// A step fails, or the sides do not connect.
pub fn create(site: &mut Site, options: &Options, filesystem: &str, store: Store) -> Result<()> {
    let text = text(2, options);
    let controls = [site.guest("n1")?.control()?, site.guest("n2")?.control()?];
    for control in &controls {
        configure(control, &text)?;
        control.sh(
            &format!("drbdadm --force create-md {RESOURCE} && drbdadm up {RESOURCE}"),
            LONG,
        )?;
    }
    let [first, _] = &controls;
    until(first, "cs:Connected")?;
    first.sh(
        &format!(
            "drbdadm -- --clear-bitmap new-current-uuid {RESOURCE} && drbdadm primary {RESOURCE} && \
             mkfs.{filesystem} -q {DEVICE} && mount {DEVICE} {MOUNT}"
        ),
        LONG,
    )?;
    store.create(first)?;
    first.sh(
        &format!("umount {MOUNT} && drbdadm secondary {RESOURCE}"),
        LONG,
    )?;
    for control in &controls {
        until(control, "ds:UpToDate/UpToDate")?;
    }
    Ok(())
}

/// Waits until the resource's line in `/proc/drbd` has this word.
///
/// # Errors
/// It has not in time: the error shows the line.
pub fn until(control: &Control, word: &str) -> Result<()> {
    let mut seen = String::new();
    let came = interrupt::until(LONG, Duration::from_millis(50), || {
        seen = line(control)?;
        Ok(seen.contains(word))
    })?;
    if !came {
        bail!("DRBD does not come to {word}: {seen}");
    }
    Ok(())
}

/// The resource's line in `/proc/drbd`.
///
/// # Errors
/// The module is not loaded, or no answer.
pub fn line(control: &Control) -> Result<String> {
    let text = control.read("/proc/drbd", LONG)?;
    text.lines()
        .find(|line| line.trim_start().starts_with("0:"))
        .map(|line| line.trim().to_owned())
        .with_context(|| format!("no device in /proc/drbd: {text}"))
}
