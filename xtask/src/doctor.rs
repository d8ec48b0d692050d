//! `cargo xtask doctor`: can this machine build Heartline and run its lab? Each finding with its mend.
//!
//! It changes nothing that lasts: what it tries, it tries in a network namespace that ends with the try.
//! (A node's own doctor is `heartline doctor`.)

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{
    ebpf, run,
    toolchain::{self, Facts, Linker, Need},
    ui,
};

/// The oldest kernel for the XDP data path.
const KERNEL: (u32, u32) = (5, 15);

/// From here on the egress gate can be a TCX link; before, it is clsact.
const TCX: (u32, u32) = (6, 6);

/// Capabilities that the lab uses, with their bits in `CapEff`.
const CAPABILITIES: [(&str, u32); 7] = [
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("SYS_ADMIN", 21),
    ("SYS_NICE", 23),
    ("PERFMON", 38),
    ("BPF", 39),
];

/// One look at the machine.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Good(String),
    Note(String),
    Bad { what: String, mend: String },
}

fn good(what: impl Into<String>) -> Finding {
    Finding::Good(what.into())
}

fn bad(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding::Bad {
        what: what.into(),
        mend: mend.into(),
    }
}

/// Looks, prints, and fails if something is bad.
pub fn run() -> Result<ExitCode> {
    let facts = Facts::gather();
    ui::title("the build");
    let mut wrong = show(&build(&facts));
    ui::title("the checks and the lab");
    wrong += show(&tools(&facts));
    ui::title("the kernel");
    wrong += show(&kernel());
    ui::title(&if wrong == 0 {
        "this machine can build Heartline and run its lab".to_owned()
    } else {
        format!("{wrong} to mend")
    });
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(findings: &[Finding]) -> usize {
    let mut wrong = 0;
    for finding in findings {
        match finding {
            Finding::Good(what) => ui::good(what),
            Finding::Note(what) => ui::note(what),
            Finding::Bad { what, mend } => {
                wrong += 1;
                ui::bad(what);
                for line in mend.lines() {
                    ui::mend(line);
                }
            }
        }
    }
    wrong
}

/// The commands that a plan would run for a need, for people.
fn commands(facts: &Facts, need: Need) -> String {
    let plan = toolchain::plan(facts, need);
    let steps = plan.steps.iter().map(|step| step.by_hand(facts.root));
    let problems = plan.problems.iter().map(|problem| problem.mend.clone());
    steps.chain(problems).collect::<Vec<_>>().join("\n")
}

fn build(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    match run::ask(crate::cargo::cargo().arg("--version")) {
        Ok(text) => found.push(good(format!(
            "{} (the workspace needs {} or newer)",
            text.trim(),
            toolchain::OLDEST
        ))),
        Err(error) => found.push(bad(
            format!("cargo does not run: {error:#}"),
            "install rustup (https://rustup.rs)",
        )),
    }
    found.push(match ebpf::find_program("cc") {
        Some(path) => good(format!("C linker {}", path.display())),
        None => bad("no C linker (cc)", "apt-get install gcc libc6-dev"),
    });
    let compiler_only = Facts {
        linker: Linker::Works {
            version: String::new(),
            llvm: None,
        },
        ..facts.clone()
    };
    match &facts.compiler {
        Ok(chosen) => found.push(good(format!(
            "eBPF compiler {}: rustc {}, LLVM {}, library source matches",
            chosen.candidate,
            chosen.version.release,
            or_unknown(chosen.version.llvm)
        ))),
        Err(refused) => {
            for (candidate, refusal) in refused {
                found.push(Finding::Note(format!("{candidate}: {refusal}")));
            }
            found.push(bad(
                "no compiler here can build the eBPF programs",
                commands(&compiler_only, Need::BUILD),
            ));
        }
    }
    found.push(linker(facts, &commands(&compiler_only, Need::BUILD)));
    found
}

/// `said`: the commands that the compiler's finding shows already.
fn linker(facts: &Facts, said: &str) -> Finding {
    let what = match &facts.linker {
        Linker::Missing => "bpf-linker is missing".to_owned(),
        Linker::Broken(why) => format!("bpf-linker does not run: {why}"),
        Linker::Works { version, llvm } => {
            format!("bpf-linker {version}, LLVM {}", or_unknown(*llvm))
        }
    };
    let mend = commands(facts, Need::BUILD);
    let mend: Vec<_> = mend
        .lines()
        .filter(|line| !said.lines().any(|other| other == *line))
        .collect();
    let mend = mend.join("\n");
    if mend.is_empty() {
        good(what)
    } else {
        bad(what, mend)
    }
}

fn or_unknown(llvm: Option<u32>) -> String {
    llvm.map_or_else(|| "of its own".to_owned(), |llvm| llvm.to_string())
}

fn tools(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.missing_lints.is_empty() {
        found.push(good("clippy and rustfmt"));
    } else {
        found.push(bad(
            format!("no {}", facts.missing_lints.join(", ")),
            commands(facts, Need::LINTS),
        ));
    }
    if facts.cxx {
        found.push(good("C++ compiler, for cargo xtask fuzz"));
    } else {
        found.push(bad(
            "no C++ compiler (c++), for cargo xtask fuzz".to_owned(),
            commands(facts, Need::FUZZ),
        ));
    }
    if facts.missing_programs.is_empty() {
        found.push(good("programs the lab calls: ip, ethtool, nft, nginx, debootstrap, systemd-nspawn and others"));
    } else {
        found.push(bad(
            format!("the lab calls {}", facts.missing_programs.join(", ")),
            commands(facts, Need::LAB),
        ));
    }
    if facts.missing_services.is_empty() {
        found.push(good(
            "programs the tests of services call: nginx, unbound, freeradius, kamailio, monitoring plugins",
        ));
    } else {
        // Only the tests need them, and they install them themselves.
        found.push(Finding::Note(format!(
            "the tests of services call {}; cargo xtask test installs them",
            facts.missing_services.join(", ")
        )));
    }
    if facts.missing_vm.is_empty() {
        found.push(good(
            "programs the lab of guests calls: QEMU and what makes their image",
        ));
    } else {
        found.push(Finding::Note(format!(
            "the lab of guests (cargo xtask vm, demo drbd) calls {}; it installs them",
            facts.missing_vm.join(", ")
        )));
    }
    if facts.missing_bench.is_empty() {
        found.push(good(
            "programs the bench calls: keepalived, stress-ng, rsvg-convert",
        ));
    } else {
        // Only the bench needs them, and it installs them itself.
        found.push(Finding::Note(format!(
            "the bench calls {}; it installs them",
            facts.missing_bench.join(", ")
        )));
    }
    found
}

fn kernel() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut found = vec![version(&read("/proc/sys/kernel/osrelease"))];
    found.push(capabilities(&read("/proc/self/status")));
    found.push(if Path::new("/sys/kernel/btf/vmlinux").exists() {
        good("BTF")
    } else {
        bad(
            "no BTF (/sys/kernel/btf/vmlinux)",
            "use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build them",
        )
    });
    found.push(bpffs(&read("/proc/filesystems"), &read("/proc/mounts")));
    found.push(match read("/proc/sys/net/core/bpf_jit_enable").trim() {
        "1" | "2" => good("BPF programs are compiled (JIT)"),
        _ => Finding::Note(
            "the BPF JIT is off or unknown: slower, sysctl net.core.bpf_jit_enable=1".to_owned(),
        ),
    });
    found.push(tried(
        "veth pairs in a network namespace",
        &[
            "unshare", "--net", "ip", "link", "add", "hl-a", "type", "veth", "peer", "name", "hl-b",
        ],
        "be root, on a kernel with CONFIG_NET_NS and CONFIG_VETH (modprobe veth)",
    ));
    found.push(tried(
        "real-time scheduling (SCHED_FIFO)",
        &["chrt", "--fifo", "1", "true"],
        "be root, outside a cgroup-v1 cpu group without rt_runtime",
    ));
    found.push(clock(
        read("/sys/devices/system/clocksource/clocksource0/current_clocksource").trim(),
    ));
    found
}

fn version(release: &str) -> Finding {
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Finding::Note(format!("kernel \"{release}\": its version cannot be read"));
    };
    if (major, minor) < KERNEL {
        return bad(
            format!("kernel {release} is too old"),
            format!("use {}.{} or newer", KERNEL.0, KERNEL.1),
        );
    }
    let gate = if (major, minor) < TCX {
        "clsact"
    } else {
        "TCX"
    };
    good(format!("kernel {release} (egress gate by {gate})"))
}

fn capabilities(status: &str) -> Finding {
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = CAPABILITIES
        .into_iter()
        .filter(|(_, bit)| held & (1 << bit) == 0)
        .map(|(name, _)| name)
        .collect();
    if missing.is_empty() {
        good("the rights that the lab needs")
    } else {
        bad(
            format!("missing rights: {}", missing.join(", ")),
            "run the lab as root; in a container, with --privileged",
        )
    }
}

fn bpffs(filesystems: &str, mounts: &str) -> Finding {
    if !filesystems.lines().any(|line| line.ends_with("\tbpf")) {
        return bad(
            "the kernel has no bpf file system",
            "use a kernel with CONFIG_BPF_SYSCALL",
        );
    }
    let mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ');
        words.nth(1) == Some("/sys/fs/bpf") && words.next() == Some("bpf")
    });
    if mounted {
        good("bpf file system on /sys/fs/bpf")
    } else {
        bad(
            "no bpf file system on /sys/fs/bpf",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    }
}

fn clock(source: &str) -> Finding {
    match source {
        "" => Finding::Note("the clock source cannot be read".to_owned()),
        "hpet" | "acpi_pm" | "jiffies" => Finding::Note(format!(
            "clock source {source} is slow to read: the lab's figures will be worse than elsewhere"
        )),
        source => good(format!("clock source {source}")),
    }
}

fn tried(what: &str, words: &[&str], mend: &str) -> Finding {
    let Some((program, arguments)) = words.split_first() else {
        return good(what);
    };
    match run::ask(Command::new(program).args(arguments)) {
        Ok(_) => good(what),
        Err(error) => bad(format!("no {what}: {error:#}"), mend),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_bad(finding: &Finding) -> bool {
        matches!(finding, Finding::Bad { .. })
    }

    #[test]
    fn kernels_are_judged_by_number() {
        assert_eq!(
            version("6.18.44-fc\n"),
            good("kernel 6.18.44-fc (egress gate by TCX)")
        );
        assert_eq!(
            version("6.1.0-18-amd64"),
            good("kernel 6.1.0-18-amd64 (egress gate by clsact)")
        );
        assert_eq!(
            version("5.15-x"),
            good("kernel 5.15-x (egress gate by clsact)")
        );
        assert!(is_bad(&version("5.10.0-9-amd64")));
        assert!(matches!(version("what"), Finding::Note(_)));
    }

    #[test]
    fn missing_rights_are_named() {
        assert!(!is_bad(&capabilities("CapEff:\t000001ffffffffff\n")));
        // Bit 24, CAP_SYS_RESOURCE, is none of ours.
        assert!(!is_bad(&capabilities(
            "Name:\tx\nCapEff:\t000001fffeffffff\n"
        )));
        let Finding::Bad { what, .. } = capabilities("Name:\tx\nCapEff:\t0000000000000000\n")
        else {
            panic!("no rights are fine?");
        };
        assert!(what.contains("NET_ADMIN") && what.contains("BPF"), "{what}");
        assert!(is_bad(&capabilities("")));
    }

    #[test]
    fn the_bpf_file_system_must_be_mounted() {
        let known = "nodev\tbpf\n";
        assert!(!is_bad(&bpffs(known, "bpf /sys/fs/bpf bpf rw 0 0\n")));
        assert!(is_bad(&bpffs(known, "none /sys/fs/bpf tmpfs rw 0 0\n")));
        assert!(is_bad(&bpffs(
            "nodev\tproc\n",
            "bpf /sys/fs/bpf bpf rw 0 0\n"
        )));
    }
}
