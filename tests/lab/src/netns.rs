//! Network namespaces: made by `ip netns`, entered by `setns` alone. (`ip netns exec` would
//! remount /sys and hide the BPF file system from the agent.)

use std::{
    fs::File,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::exec::run_ok;

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";

const IP_DEADLINE: Duration = Duration::from_secs(10);

/// A named network namespace, held open.
#[derive(Clone, Debug)]
pub struct Ns {
    name: String,
    file: Arc<File>,
}

impl Ns {
    /// Makes all these namespaces with one call of `ip`.
    ///
    /// # Errors
    /// Not root, or a name is taken.
    pub fn create_all(names: &[String]) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab makes network namespaces and loads BPF programs: it needs root");
        }
        let batch: String = names
            .iter()
            .map(|name| format!("netns add {name}\n"))
            .collect();
        ip_batch(None, &batch)
    }

    /// Opens a namespace by name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("no namespace {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            file: Arc::new(file),
        })
    }

    /// Its name under /run/netns.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// Not permitted.
    pub fn enter(&self) -> Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter namespace {}", self.name))
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// What `work` returns, or entering fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Lets a command start inside the namespace.
    pub fn apply(&self, command: &mut Command) {
        let file = Arc::clone(&self.file);
        // SAFETY: the closure makes one system call on a descriptor that it holds open.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
    }

    /// Runs lines of `ip -batch` inside the namespace.
    ///
    /// # Errors
    /// A line is refused.
    pub fn ip(&self, batch: &str) -> Result<()> {
        ip_batch(Some(&self.name), batch)
    }

    /// Sets kernel parameters of this namespace (paths below /proc/sys).
    ///
    /// # Errors
    /// A parameter does not exist or refuses its value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                std::fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("sysctl {key} = {value} in {}", self.name))?;
            }
            Ok(())
        })
    }

    /// Turns transmit checksum offload of a device off: a frame bounced by XDP would keep its
    /// unfinished checksum. (`ethtool -K DEVICE tx off`, without needing ethtool.)
    ///
    /// # Errors
    /// The device is missing or refuses.
    pub fn tx_checksum_off(&self, devices: &[String]) -> Result<()> {
        self.run(|| {
            devices
                .iter()
                .try_for_each(|device| tx_checksum_off(device))
        })
    }
}

fn ip_batch(netns: Option<&str>, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]);
    run_ok(command, batch, IP_DEADLINE)
        .with_context(|| format!("ip -batch:\n{batch}"))
        .map(drop)
}

fn tx_checksum_off(device: &str) -> Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    #[repr(C)]
    struct Value {
        cmd: u32,
        data: u32,
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut value = Value {
        cmd: ETHTOOL_STXCSUM,
        data: 0,
    };
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        bail!("device name {device:?} is too long");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request points to a value that outlives the call, of the size this command reads.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("transmit checksum offload of {device}"));
    }
    Ok(())
}

/// Removes a namespace name; the kernel frees it when its last process is gone.
///
/// # Errors
/// It does not exist or `ip` fails.
pub fn delete(names: &[String]) -> Result<()> {
    let batch: String = names
        .iter()
        .map(|name| format!("netns del {name}\n"))
        .collect();
    let mut command = Command::new("ip");
    // -force goes on after a line that fails, so that one bad name does not keep the others.
    command.args(["-force", "-batch", "-"]);
    run_ok(command, &batch, IP_DEADLINE).map(drop)
}
