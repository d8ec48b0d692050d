//! What the kernel lets this process do.

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, Machine};

/// Capabilities of the agent: number, name, what for.
const CAPABILITIES: [(u32, &str, &str); 6] = [
    (12, "CAP_NET_ADMIN", "addresses and programs on devices"),
    (13, "CAP_NET_RAW", "announcements"),
    (14, "CAP_IPC_LOCK", "locked memory"),
    (23, "CAP_SYS_NICE", "real-time priority"),
    (38, "CAP_PERFMON", "loading programs"),
    (39, "CAP_BPF", "loading programs"),
];

/// `CAP_SYS_ADMIN` stands in for the two newest.
const SYS_ADMIN: u32 = 21;

/// The effective capabilities, as a bit set.
fn effective(machine: &Machine) -> Option<u64> {
    let status = machine.read("proc/self/status")?;
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn has(set: u64, bit: u32) -> bool {
    set >> bit & 1 == 1 || (bit >= 38 && set >> SYS_ADMIN & 1 == 1)
}

pub(super) fn capabilities(machine: &Machine) -> Finding {
    let what = "capabilities";
    let Some(set) = effective(machine) else {
        return Finding::warn(what, "cannot be read", "mount /proc");
    };
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| !has(set, *bit))
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        return Finding::ok(what, "all that the agent needs");
    }
    let found = format!("missing: {}", missing.join(", "));
    if nix::unistd::geteuid().is_root() {
        return Finding::bad(
            what,
            found,
            "give them to this container or unit (AmbientCapabilities=, --cap-add)",
        );
    }
    Finding::warn(
        what,
        found,
        "an ordinary user cannot see what the service may do: run `heartline doctor` as root",
    )
}

/// Tries it, in a thread that ends at once.
pub(super) fn real_time(machine: &Machine) -> Finding {
    let what = "real-time priority";
    let tried = std::thread::Builder::new()
        .name("doctor-rt".into())
        .spawn(|| {
            let param = libc::sched_param { sched_priority: 1 };
            // SAFETY: 0 means the calling thread; `param` is valid for the call.
            let rc = unsafe {
                libc::sched_setscheduler(
                    0,
                    libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
                    &raw const param,
                )
            };
            if rc == 0 {
                Ok(())
            } else {
                Err(nix::errno::Errno::last())
            }
        });
    match tried.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => Finding::ok(what, "SCHED_FIFO can be had"),
        Ok(Ok(Err(errno))) => {
            let found = format!(
                "SCHED_FIFO refused ({errno}): a busy machine may delay heartbeats and cause false takeovers"
            );
            let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
            let nice = effective(machine).is_some_and(|set| has(set, 23));
            if nice || limit > 0 {
                // The right is there, so it is the scheduler's group that says no.
                return Finding::bad(
                    what,
                    found,
                    "real-time group scheduling is on and this group has no budget: write one to cpu.rt_runtime_us of its \
                     cgroup, or boot with `rt_group_sched=0`",
                );
            }
            if nix::unistd::geteuid().is_root() {
                return Finding::bad(what, found, "give the agent CAP_SYS_NICE or LimitRTPRIO=99");
            }
            Finding::warn(
                what,
                found,
                "an ordinary user cannot have it: run `heartline doctor` as root",
            )
        }
        _ => Finding::warn(
            what,
            "could not be tried: no thread",
            "look at the limits of this user (`ulimit -u`)",
        ),
    }
}

pub(super) fn real_time_budget(machine: &Machine) -> Finding {
    let what = "real-time budget";
    let number = |name| {
        machine
            .read(&format!("proc/sys/kernel/{name}"))
            .and_then(|t| t.parse::<i64>().ok())
    };
    let (Some(runtime), Some(period)) =
        (number("sched_rt_runtime_us"), number("sched_rt_period_us"))
    else {
        return Finding::ok(what, "not limited by this kernel");
    };
    match runtime {
        0 => Finding::bad(
            what,
            "none: real-time threads never run",
            "`sysctl -w kernel.sched_rt_runtime_us=950000`",
        ),
        r if r < 0 => Finding::ok(what, "not limited"),
        r => Finding::ok(
            what,
            format!("{r} us of each {period} us; the agent uses far less"),
        ),
    }
}

pub(super) fn locked_memory(machine: &Machine) -> Finding {
    /// The agent's own memory is some 10 MB.
    const ENOUGH: u64 = 64 << 20;
    let what = "locked memory";
    if effective(machine).is_some_and(|set| has(set, 14)) {
        return Finding::ok(what, "not limited (CAP_IPC_LOCK)");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft >= ENOUGH => Finding::ok(what, "the limit is high enough"),
        Ok((soft, _)) => Finding::warn(
            what,
            format!(
                "limited to {} KiB: the agent could be paged out just when it is needed",
                soft >> 10
            ),
            "LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK",
        ),
        Err(errno) => Finding::warn(
            what,
            format!("the limit cannot be read ({errno})"),
            "look with `ulimit -l`",
        ),
    }
}

pub(super) fn group() -> Finding {
    let what = "group heartline";
    match nix::unistd::Group::from_name("heartline") {
        Ok(Some(_)) => Finding::ok(what, "there: its members may use the control socket"),
        Ok(None) => Finding::warn(
            what,
            "not there: only root may use the control socket",
            "`groupadd --system heartline`",
        ),
        Err(errno) => Finding::warn(
            what,
            format!("cannot be looked up ({errno})"),
            "look with `getent group heartline`",
        ),
    }
}
