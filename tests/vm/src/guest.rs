//! One guest: a QEMU process, its monitor, and commands inside.
//!
//! Scheduled like any other program: as a real-time one it would starve all else on a machine of few processors, the
//! labs' own agents too. So what runs in guests is given times that bear a wait ([`crate::cluster::CALM`]).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use heartline_lab::{clock, exec, netns::Ns};

use crate::{control::Control, image::Image, qmp::Qmp, wire::Ran};

const QEMU: &str = "qemu-system-x86_64";
/// QEMU opens its sockets before it starts the machine.
const SOCKETS: Duration = Duration::from_secs(20);
/// A boot takes 3 to 5 s where nothing else runs.
const BOOT: Duration = Duration::from_secs(180);
const END: Duration = Duration::from_secs(10);

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `n1`.
    pub name: String,
    /// Its number, in addresses and hardware addresses.
    pub id: u8,
    /// Memory, in MiB.
    pub memory: u32,
    /// TAP devices in the namespace, one per network device of the guest: `eth0`, `eth1`.
    pub taps: Vec<String>,
    /// Where sockets, disk and console log go.
    pub dir: PathBuf,
    /// The disk with what is tried.
    pub payload: PathBuf,
    /// The guest's own disk, `/dev/vdc`; it outlives the guest's deaths.
    pub disk: PathBuf,
}

impl Spec {
    fn file(&self, end: &str) -> PathBuf {
        self.dir.join(format!("{}.{end}", self.name))
    }

    /// The second monitor, which the fence device uses.
    #[must_use]
    pub fn fence_socket(&self) -> PathBuf {
        self.file("fence")
    }

    /// What the guest wrote to its console, over all its lives.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.file("console")
    }
}

/// A guest, running or not.
#[derive(Debug)]
pub struct Guest {
    /// What it is made of.
    pub spec: Spec,
    image: Image,
    ns: Ns,
    machine: Option<Machine>,
}

#[derive(Debug)]
struct Machine {
    child: Child,
    qmp: Qmp,
    control: Control,
}

impl Guest {
    /// A guest that is off.
    #[must_use]
    pub fn new(spec: Spec, image: &Image, ns: &Ns) -> Self {
        Self {
            spec,
            image: image.clone(),
            ns: ns.clone(),
            machine: None,
        }
    }

    /// Switches it on; its boot is not awaited. To be called by a thread that lives as long as the lab: the guest dies
    /// with it.
    ///
    /// # Errors
    /// It runs, or QEMU does not start.
    pub fn start(&mut self) -> Result<()> {
        if self.running() {
            bail!("{} runs already", self.spec.name);
        }
        self.machine = None;
        for end in ["qmp", "fence", "control"] {
            // A dead QEMU leaves its sockets.
            let _ = fs::remove_file(self.spec.file(end));
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.spec.file("qemu.log"))?;
        let mut command = Command::new(QEMU);
        command
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        exec::tie_to_lab(&mut command);
        self.ns.apply(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {QEMU} (package qemu-system-x86)"))?;
        let open = || -> Result<(Qmp, Control)> {
            Ok((
                Qmp::connect(&self.spec.file("qmp"), SOCKETS)?,
                Control::connect(&self.spec.name, &self.spec.file("control"), SOCKETS)?,
            ))
        };
        match open() {
            Ok((qmp, control)) => {
                self.machine = Some(Machine {
                    child,
                    qmp,
                    control,
                });
                Ok(())
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(self.spec.file("qemu.log")).unwrap_or_default();
                Err(error.context(format!("{}: QEMU said: {}", self.spec.name, said.trim())))
            }
        }
    }

    fn arguments(&self) -> Vec<String> {
        let spec = &self.spec;
        let show = |path: &Path| path.display().to_string();
        let mut all: Vec<String> = Vec::new();
        let mut put = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_owned()));
        put(&[
            "-name",
            &spec.name,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]);
        // Emulated always: hardware help is not everywhere, and its like in nested machines is slower than none.
        put(&["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        put(&["-m", &spec.memory.to_string(), "-smp", "1"]);
        put(&[
            "-kernel",
            &show(&self.image.kernel),
            "-initrd",
            &show(&self.image.initramfs),
        ]);
        // Without no_timer_check a kernel that waits for its processor takes its timer for broken, and panics.
        put(&[
            "-append",
            &format!(
                "console=ttyS0 quiet panic=1 no_timer_check hl.name={}",
                spec.name
            ),
        ]);
        put(&[
            "-chardev",
            &format!("file,id=console,append=on,path={}", show(&spec.console())),
        ]);
        put(&["-serial", "chardev:console"]);
        for end in ["qmp", "fence"] {
            put(&[
                "-qmp",
                &format!("unix:{},server=on,wait=off", show(&spec.file(end))),
            ]);
        }
        let disks = [
            // Only guests die, never the host: what they flushed is safe in the host's cache.
            ("root", &self.image.root, "readonly=on"),
            ("payload", &spec.payload, "readonly=on"),
            ("data", &spec.disk, "cache=unsafe,discard=unmap"),
        ];
        for (name, path, how) in disks {
            put(&[
                "-drive",
                &format!("id={name},if=none,format=raw,{how},file={}", show(path)),
            ]);
            put(&["-device", &format!("virtio-blk-pci,drive={name}")]);
        }
        for (number, tap) in spec.taps.iter().enumerate() {
            put(&[
                "-netdev",
                &format!("tap,id=net{number},ifname={tap},script=no,downscript=no"),
            ]);
            let mac = mac(u8::try_from(number).unwrap_or(u8::MAX), spec.id);
            put(&[
                "-device",
                &format!("virtio-net-pci,netdev=net{number},mac={mac},romfile="),
            ]);
        }
        put(&["-device", "virtio-serial-pci"]);
        put(&[
            "-chardev",
            &format!(
                "socket,id=control,server=on,wait=off,path={}",
                show(&spec.file("control"))
            ),
        ]);
        put(&[
            "-device",
            &format!("virtserialport,chardev=control,name={}", crate::wire::PORT),
        ]);
        all
    }

    /// Waits until it is up.
    ///
    /// # Errors
    /// It is not in time; the error shows the end of its console.
    pub fn booted(&mut self) -> Result<()> {
        self.booted_anew(None).map(drop)
    }

    /// Waits until it has greeted in another life than `before`; returns that life's boot id.
    ///
    /// # Errors
    /// As for [`Guest::booted`].
    pub fn booted_anew(&mut self, before: Option<&str>) -> Result<String> {
        let end = Instant::now() + BOOT;
        loop {
            if !self.running() {
                bail!(
                    "{} ended while it was awaited: {}",
                    self.spec.name,
                    self.console_tail()
                );
            }
            let step = Duration::from_millis(500);
            match self.control()?.greeted(before, step) {
                Ok(boot) => return Ok(boot),
                Err(_) if Instant::now() < end => heartline_lab::interrupt::check()?,
                Err(_) => bail!(
                    "{} is not up after {BOOT:?}; {}",
                    self.spec.name,
                    self.console_tail()
                ),
            }
        }
    }

    /// Whether its QEMU is there (a frozen one is).
    pub fn running(&mut self) -> bool {
        self.machine
            .as_mut()
            .is_some_and(|machine| matches!(machine.child.try_wait(), Ok(None)))
    }

    /// The way into it.
    ///
    /// # Errors
    /// It is off.
    pub fn control(&self) -> Result<Control> {
        let machine = self.machine.as_ref();
        machine
            .map(|machine| machine.control.clone())
            .with_context(|| format!("{} is off", self.spec.name))
    }

    fn qmp(&mut self) -> Result<&mut Qmp> {
        let machine = self.machine.as_mut();
        machine
            .map(|machine| &mut machine.qmp)
            .with_context(|| format!("{} is off", self.spec.name))
    }

    /// Stops the machine between two instructions: its clock and its watchdog stand still.
    ///
    /// # Errors
    /// It is off.
    pub fn freeze(&mut self) -> Result<()> {
        self.qmp()?.call("stop").map(drop)
    }

    /// Lets a frozen machine go on.
    ///
    /// # Errors
    /// It is off.
    pub fn thaw(&mut self) -> Result<()> {
        self.qmp()?.call("cont").map(drop)
    }

    /// "running", "paused", ...
    ///
    /// # Errors
    /// It is off.
    pub fn state(&mut self) -> Result<String> {
        self.qmp()?.status()
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// It is off.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp()?.call("system_reset").map(drop)
    }

    /// Pulls the plug, and waits until it is out.
    ///
    /// # Errors
    /// It is off, or QEMU does not end.
    pub fn kill(&mut self) -> Result<()> {
        let mut machine = self
            .machine
            .take()
            .with_context(|| format!("{} is off", self.spec.name))?;
        machine.child.kill()?;
        if exec::wait(&mut machine.child, END)?.is_none() {
            bail!("{}: QEMU does not die", self.spec.name);
        }
        Ok(())
    }

    /// Waits until something else has ended it.
    ///
    /// # Errors
    /// It still runs after the deadline.
    pub fn ended(&mut self, deadline: Duration) -> Result<()> {
        if let Some(machine) = self.machine.as_mut()
            && exec::wait(&mut machine.child, deadline)?.is_none()
        {
            bail!("{} still runs after {deadline:?}", self.spec.name);
        }
        self.machine = None;
        Ok(())
    }

    /// [`Control::sh`], for a guest that is on.
    ///
    /// # Errors
    /// It is off, or as there.
    pub fn sh(&self, script: &str, limit: Duration) -> Result<String> {
        self.control()?.sh(script, limit)
    }

    /// [`Control::run`], for a guest that is on.
    ///
    /// # Errors
    /// It is off, or as there.
    pub fn run(&self, script: &str, limit: Duration) -> Result<Ran> {
        self.control()?.run(script, limit)
    }

    /// What to add to its boot clock to get the host's, ns, and how far off that may be, ns. Only good until it is frozen
    /// or started again.
    ///
    /// # Errors
    /// No answer.
    pub fn clock(&self) -> Result<(i64, u64)> {
        let control = self.control()?;
        let mut best: Option<(i64, u64)> = None;
        for _ in 0..8 {
            let before = clock::boot_ns();
            let there = control.clock()?;
            let after = clock::boot_ns();
            let half = after.saturating_sub(before) / 2;
            if best.is_none_or(|(_, error)| half < error) {
                let middle = (before + half).cast_signed();
                best = Some((middle - there.cast_signed(), half));
            }
        }
        best.context("no clock")
    }

    /// The end of its console, for errors.
    #[must_use]
    pub fn console_tail(&self) -> String {
        let bytes = fs::read(self.spec.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let tail: Vec<_> = text.lines().rev().take(12).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        format!("end of {}'s console:\n{}", self.spec.name, tail.join("\n"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.as_mut() {
            let _ = machine.child.kill();
            let _ = exec::wait(&mut machine.child, END);
        }
    }
}

/// The hardware address of a guest's network device.
#[must_use]
pub fn mac(net: u8, id: u8) -> String {
    format!("52:54:00:77:{net:02x}:{id:02x}")
}
