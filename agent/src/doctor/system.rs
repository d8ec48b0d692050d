//! Kernel, BPF, clock, and the assumptions that nothing on this machine can prove.

use std::path::Path;

use super::{Finding, Machine, is_below};

/// Oldest kernel with all that the programs need (ring buffer, mmapped arrays, BPF links for XDP).
const KERNEL_FLOOR: (u32, u32) = (5, 15);
/// First kernel with TCX links.
const KERNEL_TCX: (u32, u32) = (6, 6);

pub(super) fn kernel(machine: &Machine) -> Finding {
    let what = "kernel";
    let Some(release) = machine.read("proc/sys/kernel/osrelease") else {
        return Finding::warn(what, "its version cannot be read", "mount /proc");
    };
    let Some(version) = version(&release) else {
        return Finding::warn(
            what,
            format!("{release:?} is no version that we know"),
            "Linux 5.15 or newer is needed",
        );
    };
    if version < KERNEL_FLOOR {
        return Finding::bad(
            what,
            format!("{release} is too old for the programs"),
            "use Linux 5.15 or newer",
        );
    }
    let egress = if version < KERNEL_TCX {
        "egress gate by clsact (TCX from 6.6)"
    } else {
        "egress gate by TCX"
    };
    Finding::ok(what, format!("{release}, {egress}"))
}

/// Major and minor number of a kernel release.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn bpf_file_system(machine: &Machine, dir: &Path) -> Finding {
    let what = "bpf file system";
    let mounts = machine.read("proc/self/mounts").unwrap_or_default();
    let here = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let writable = fields
            .next()
            .is_some_and(|o| o.split(',').any(|o| o == "rw"));
        (kind == "bpf" && is_below(dir, place)).then_some((place, writable))
    });
    match here {
        Some((place, true)) => Finding::ok(what, format!("mounted at {place}")),
        Some((place, false)) => Finding::bad(
            what,
            format!("{place} is mounted read-only"),
            format!(
                "`mount -o remount,rw {place}`; in a systemd unit ProtectKernelTunables=yes does this: list the folder in ReadWritePaths="
            ),
        ),
        None => Finding::bad(
            what,
            format!(
                "none is mounted where {} is: programs and maps cannot outlive the agent",
                dir.display()
            ),
            "`mount -t bpf bpf /sys/fs/bpf` (systemd does it at boot)",
        ),
    }
}

pub(super) fn btf(machine: &Machine) -> Finding {
    if machine.exists("sys/kernel/btf/vmlinux") {
        return Finding::ok("btf", "the kernel describes its types");
    }
    Finding::warn(
        "btf",
        "the kernel does not describe its types",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    )
}

pub(super) fn jit(machine: &Machine) -> Finding {
    match machine.read("proc/sys/net/core/bpf_jit_enable").as_deref() {
        Some("0") => Finding::warn(
            "bpf jit",
            "off: the kernel interprets the programs, several times slower",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        ),
        Some(_) => Finding::ok("bpf jit", "on"),
        // The setting belongs to the machine, and is shown in its first network namespace alone.
        None => Finding::ok("bpf jit", "not to be seen in this network namespace"),
    }
}

pub(super) fn clock_source(machine: &Machine) -> Finding {
    let what = "clock source";
    let folder = "sys/devices/system/clocksource/clocksource0";
    let Some(current) = machine.read(&format!("{folder}/current_clocksource")) else {
        return Finding::warn(what, "cannot be read", "mount /sys");
    };
    if !matches!(
        current.as_str(),
        "hpet" | "acpi_pm" | "pit" | "jiffies" | "refined-jiffies"
    ) {
        return Finding::ok(what, current);
    }
    let better = machine
        .read(&format!("{folder}/available_clocksource"))
        .unwrap_or_default();
    let mend = match better
        .split_whitespace()
        .find(|c| matches!(*c, "tsc" | "kvm-clock"))
    {
        Some(better) => format!("`echo {better} > /{folder}/current_clocksource`"),
        None => "`dmesg | grep -i clocksource` tells why the better one was dropped".into(),
    };
    Finding::warn(
        what,
        format!(
            "{current}: slow to read, once per packet; the kernel may not trust this machine's TSC"
        ),
        mend,
    )
}

/// Tools that also put virtual addresses on interfaces.
pub(super) fn other_tools(machine: &Machine) -> Finding {
    const TOOLS: [&str; 6] = [
        "keepalived",
        "ucarp",
        "vrrpd",
        "carp",
        "pacemakerd",
        "wackamole",
    ];
    let what = "other failover tools";
    let mut running: Vec<String> = std::fs::read_dir(machine.root.join("proc"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            e.file_name()
                .to_str()
                .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
                .map(str::to_owned)
        })
        .filter_map(|pid| machine.read(&format!("proc/{pid}/comm")))
        .filter(|comm| TOOLS.contains(&comm.as_str()))
        .collect();
    running.sort();
    running.dedup();
    if running.is_empty() {
        return Finding::ok(what, "none runs here");
    }
    Finding::warn(
        what,
        format!(
            "{} runs here, and does not know of our leases",
            running.join(", ")
        ),
        "no VIP may be in both: remove it there, or stop that service",
    )
}

/// What the lease takes for granted (ARCHITECTURE.md), said aloud.
pub(super) fn assumptions(machine: &Machine) -> Vec<Finding> {
    let boot_clock = match hypervisor(machine) {
        Some(host) => Finding::warn(
            "assumed: boot clock",
            format!(
                "this is a virtual machine ({host}): a host that stops it stops its boot clock too, and until it has heard \
                 the others again it may pass VIP traffic, for one lease at most"
            ),
            "keep the host from pausing it (no suspend, no snapshot with memory), or announce a planned pause first",
        ),
        None => Finding::ok(
            "assumed: boot clock",
            "it runs whenever this machine can run; no hypervisor was found",
        ),
    };
    vec![
        boot_clock,
        Finding::ok(
            "assumed: no rollback",
            "nobody puts this machine back to an older snapshot while the cluster runs",
        ),
        Finding::ok(
            "assumed: own id",
            "no other machine runs with this node's id",
        ),
        Finding::ok(
            "assumed: no way around",
            "VIP traffic comes through gated devices; a tunnel, or this machine's own loopback, goes around the gate",
        ),
    ]
}

/// What the machine runs on, if it is not the bare metal.
pub(super) fn hypervisor(machine: &Machine) -> Option<String> {
    if let Some(kind) = machine
        .read("sys/hypervisor/type")
        .filter(|k| !k.is_empty())
    {
        return Some(kind);
    }
    let dmi = |name: &str| {
        machine
            .read(&format!("sys/class/dmi/id/{name}"))
            .unwrap_or_default()
    };
    let (vendor, product) = (dmi("sys_vendor"), dmi("product_name"));
    let known = [
        "QEMU",
        "KVM",
        "VMware",
        "VirtualBox",
        "innotek",
        "Xen",
        "Bochs",
        "OpenStack",
        "Parallels",
        "Virtual Machine",
        "BHYVE",
    ];
    if known
        .iter()
        .any(|k| vendor.contains(k) || product.contains(k))
    {
        return Some(format!("{vendor} {product}").trim().to_owned());
    }
    let cpuinfo = machine.read("proc/cpuinfo").unwrap_or_default();
    let flagged = cpuinfo
        .lines()
        .filter(|l| l.starts_with("flags"))
        .any(|l| l.split_whitespace().any(|f| f == "hypervisor"));
    flagged.then(|| "the CPU says so".into())
}
