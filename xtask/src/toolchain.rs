//! What the build needs, what is here, and the steps from one to the other.
//!
//! ```text
//! machine -> Facts::gather -> plan(facts, need) -> steps -> install.rs
//! ```
//!
//! `plan` is a pure function, so that its choices can be tested without a bare machine. After each step the
//! facts are gathered and the plan is made anew, so a step may open the way for others (the LLVM that Debian's
//! compiler asks for is known once it is there).

use std::collections::BTreeSet;

use crate::ebpf::{self, Candidate, Chosen, Refusal};

mod look;
mod programs;

use programs::{BENCH_PROGRAMS, CXX, LAB_PROGRAMS, SERVICE_PROGRAMS, VM_PROGRAMS};

pub use look::{OLDEST, llvm_bin};

/// The bpf-linker that the project is built with.
pub const LINKER_VERSION: &str = "0.13.0";

/// The LLVM versions that this bpf-linker knows.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// The LLVM of Debian's rustc-web, as long as it is not there to be asked.
const DEBIAN_LLVM: u32 = 22;

/// Debian's compiler, with the library source that matches it.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What a task needs beyond a Rust compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// A compiler and a linker for eBPF.
    pub ebpf: bool,
    /// What the lab calls.
    pub lab: bool,
    /// What the bench compares with, and loads the machine with.
    pub bench: bool,
    /// The servers that the services' tests ask.
    pub services: bool,
    /// What the lab of guests calls.
    pub vm: bool,
    /// clippy and rustfmt.
    pub lints: bool,
    /// A C++ compiler, for libFuzzer.
    pub cxx: bool,
}

impl Need {
    /// Building the agent.
    pub const BUILD: Self = Self {
        ebpf: true,
        lab: false,
        bench: false,
        services: false,
        vm: false,
        lints: false,
        cxx: false,
    };
    /// Running the lab.
    pub const LAB: Self = Self {
        ebpf: false,
        lab: true,
        bench: false,
        services: false,
        vm: false,
        lints: false,
        cxx: false,
    };
    /// Running the bench in the lab.
    pub const BENCH: Self = Self {
        ebpf: false,
        lab: true,
        bench: true,
        services: false,
        vm: false,
        lints: false,
        cxx: false,
    };
    /// Running the checks.
    pub const LINTS: Self = Self {
        ebpf: false,
        lab: false,
        bench: false,
        services: false,
        vm: false,
        lints: true,
        cxx: false,
    };
    /// Fuzzing.
    pub const FUZZ: Self = Self {
        ebpf: true,
        lab: false,
        bench: false,
        services: false,
        vm: false,
        lints: false,
        cxx: true,
    };

    /// Running the lab of guests.
    pub const VM: Self = Self {
        ebpf: false,
        lab: true,
        bench: false,
        services: false,
        vm: true,
        lints: false,
        cxx: false,
    };

    /// Running the services' tests.
    pub const SERVICES: Self = Self {
        ebpf: false,
        lab: false,
        bench: false,
        services: true,
        vm: false,
        lints: false,
        cxx: false,
    };

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self {
            ebpf: self.ebpf || other.ebpf,
            lab: self.lab || other.lab,
            bench: self.bench || other.bench,
            services: self.services || other.services,
            vm: self.vm || other.vm,
            lints: self.lints || other.lints,
            cxx: self.cxx || other.cxx,
        }
    }
}

/// The state of bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linker {
    /// Not in PATH nor in cargo's folder.
    Missing,
    /// There, but it does not run: its LLVM was removed, say.
    Broken(String),
    /// There. The LLVM is unknown when it is linked in.
    Works {
        /// For example `0.13.0`.
        version: String,
        /// Major version of the libLLVM it loads.
        llvm: Option<u32>,
    },
}

/// Whether Debian's compiler can be had with apt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The package lists do not say; they may be old or empty.
    Unknown,
    /// Yes.
    Yes,
    /// The lists are new and do not have it.
    No,
}

/// What is here.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Are we root?
    pub root: bool,
    /// Is there apt-get?
    pub apt: bool,
    /// Does apt offer Debian's compiler?
    pub offer: Offer,
    /// Is there rustup?
    pub rustup: bool,
    /// Is there cargo-binstall?
    pub binstall: bool,
    /// The toolchain the person asks for.
    pub wanted: Option<String>,
    /// The compiler for eBPF, or why none of those that are here can do it.
    pub compiler: Result<Chosen, Vec<(Candidate, Refusal)>>,
    /// Debian's compiler is installed and would do, linked or not.
    pub debian_ready: bool,
    /// bpf-linker.
    pub linker: Linker,
    /// LLVM versions whose development files are here.
    pub llvm_dev: BTreeSet<u32>,
    /// Programs of the lab that are not here.
    pub missing_programs: Vec<&'static str>,
    /// Programs of the bench that are not here.
    pub missing_bench: Vec<&'static str>,
    /// Programs of the services' tests that are not here.
    pub missing_services: Vec<&'static str>,
    /// Programs of the lab of guests that are not here.
    pub missing_vm: Vec<&'static str>,
    /// Is there a C++ compiler?
    pub cxx: bool,
    /// cargo-clippy, cargo-fmt: those that are not here.
    pub missing_lints: Vec<&'static str>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Renew apt's package lists.
    AptUpdate,
    /// Install Debian packages.
    Apt {
        /// The packages.
        packages: Vec<String>,
        /// What for.
        why: String,
    },
    /// Make Debian's compiler known to rustup.
    LinkDebian,
    /// Add components to a rustup toolchain (`None`: the one in use).
    Components {
        /// The toolchain.
        toolchain: Option<String>,
        /// The components.
        components: Vec<&'static str>,
    },
    /// Install rustup's nightly with its library source.
    Nightly,
    /// Build bpf-linker against an LLVM that is here.
    BuildLinker {
        /// Which LLVM.
        llvm: u32,
    },
    /// Fetch a ready-made bpf-linker.
    FetchLinker,
}

impl Step {
    /// Does it change the system, so that only root can?
    pub fn needs_root(&self) -> bool {
        matches!(self, Self::AptUpdate | Self::Apt { .. })
    }

    /// In a few words, for a line that is renewed.
    pub fn brief(&self) -> String {
        match self {
            Self::AptUpdate => "package lists".to_owned(),
            Self::Apt { packages, .. } => match &packages[..] {
                [one] => one.clone(),
                many => format!("{} Debian packages", many.len()),
            },
            Self::LinkDebian => format!("toolchain {}", ebpf::LINKED),
            Self::Components { components, .. } => components.join(" "),
            Self::Nightly => "nightly compiler".to_owned(),
            Self::BuildLinker { .. } | Self::FetchLinker => {
                format!("bpf-linker {LINKER_VERSION}")
            }
        }
    }

    /// What is done and why, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::AptUpdate => "apt-get update: package lists, to install from".to_owned(),
            Self::Apt { packages, why } => format!("apt-get install {}: {why}", packages.join(" ")),
            Self::LinkDebian => format!(
                "rustup toolchain link {}: cargo reaches Debian's compiler by this name",
                ebpf::LINKED
            ),
            Self::Components {
                toolchain,
                components,
            } => format!(
                "rustup component add {}{}: {}",
                components.join(" "),
                on(toolchain.as_deref()),
                if components.contains(&"rust-src") {
                    "library source, from which core for BPF is built"
                } else {
                    "the checks need them"
                }
            ),
            Self::Nightly => {
                "rustup nightly with rust-src: the compiler for the eBPF programs".to_owned()
            }
            Self::BuildLinker { llvm } => format!(
                "bpf-linker {LINKER_VERSION} against LLVM {llvm}: it links the eBPF programs (about a minute)"
            ),
            Self::FetchLinker => {
                format!("bpf-linker {LINKER_VERSION}, ready-made: it links the eBPF programs")
            }
        }
    }

    /// The same by hand.
    pub fn by_hand(&self, root: bool) -> String {
        let sudo = if root { "" } else { "sudo " };
        match self {
            Self::AptUpdate => format!("{sudo}apt-get update"),
            Self::Apt { packages, .. } => format!(
                "{sudo}apt-get install -y --no-install-recommends {}",
                packages.join(" ")
            ),
            Self::LinkDebian => format!("rustup toolchain link {} /usr", ebpf::LINKED),
            Self::Components {
                toolchain,
                components,
            } => format!(
                "rustup component add {}{}",
                components.join(" "),
                on(toolchain.as_deref())
            ),
            Self::Nightly => {
                "rustup toolchain install nightly --profile minimal --component rust-src".to_owned()
            }
            Self::BuildLinker { llvm } => format!(
                "PATH=/usr/lib/llvm-{llvm}/bin:$PATH cargo {}",
                linker_arguments(*llvm).join(" ")
            ),
            Self::FetchLinker => {
                format!("cargo binstall --no-confirm bpf-linker@{LINKER_VERSION}")
            }
        }
    }
}

fn on(toolchain: Option<&str>) -> String {
    toolchain.map_or_else(String::new, |name| format!(" --toolchain {name}"))
}

/// The arguments for cargo that build bpf-linker. `--force`: one of another LLVM may be in the way.
pub fn linker_arguments(llvm: u32) -> Vec<String> {
    [
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--force",
        "--no-default-features",
        "--features",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("llvm-{llvm}")])
    .collect()
}

/// Something that no step of ours mends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is missing.
    pub what: String,
    /// What the person can do.
    pub mend: String,
}

/// What to do, in order, and what cannot be done for the person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Any of these stops the run.
    pub problems: Vec<Problem>,
}

impl Plan {
    /// Nothing to do?
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.problems.is_empty()
    }

    fn problem(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.problems.push(Problem {
            what: what.into(),
            mend: mend.into(),
        });
    }
}

/// From what is here to what is needed. All of Debian's packages go into one step.
pub fn plan(facts: &Facts, need: Need) -> Plan {
    let mut plan = Plan::default();
    let mut packages: Vec<String> = Vec::new();
    let mut whys: Vec<&str> = Vec::new();
    let mut after: Vec<Step> = Vec::new();

    if need.ebpf {
        plan_compiler(facts, &mut plan, &mut packages, &mut whys, &mut after);
        plan_linker(facts, &mut plan, &mut packages, &mut whys, &mut after);
    }
    let programs = [
        (need.lab, LAB_PROGRAMS, &facts.missing_programs, "the lab"),
        (
            need.bench,
            BENCH_PROGRAMS,
            &facts.missing_bench,
            "the bench",
        ),
        (
            need.services,
            SERVICE_PROGRAMS,
            &facts.missing_services,
            "the tests of services",
        ),
        (need.vm, VM_PROGRAMS, &facts.missing_vm, "the lab of guests"),
    ];
    for (needed, known, missing, who) in programs {
        if !needed || missing.is_empty() {
            continue;
        }
        let (names, debs): (Vec<&str>, Vec<&str>) = known
            .iter()
            .filter(|(program, _)| missing.contains(program))
            .copied()
            .unzip();
        if facts.apt {
            for deb in debs {
                // Two of these lists may name the same one.
                if !packages.iter().any(|p| p == deb) {
                    packages.push(deb.to_owned());
                }
            }
            whys.push(match who {
                "the lab" => "the lab calls them",
                "the bench" => "the bench compares, loads and draws with them",
                "the lab of guests" => "guests are made of them and run in them",
                _ => "the tests of services ask them",
            });
        } else {
            plan.problem(
                format!("{who} needs {}", names.join(", ")),
                format!(
                    "install them with this system's package manager (Debian: {})",
                    debs.join(" ")
                ),
            );
        }
    }
    if need.cxx && !facts.cxx {
        if facts.apt {
            packages.push(CXX.1.to_owned());
            whys.push("C++ compiler, for libFuzzer");
        } else {
            plan.problem(
                "fuzzing needs a C++ compiler",
                "install one that is called c++",
            );
        }
    }
    if need.lints && !facts.missing_lints.is_empty() {
        if facts.rustup {
            after.push(Step::Components {
                toolchain: None,
                components: facts.missing_lints.clone(),
            });
        } else {
            plan.problem(
                format!("the checks need {}", facts.missing_lints.join(" and ")),
                "install them where cargo came from",
            );
        }
    }

    if !packages.is_empty() {
        plan.steps.push(Step::AptUpdate);
        plan.steps.push(Step::Apt {
            packages,
            why: whys.join("; "),
        });
    }
    plan.steps.append(&mut after);
    plan
}

fn plan_compiler(
    facts: &Facts,
    plan: &mut Plan,
    packages: &mut Vec<String>,
    whys: &mut Vec<&str>,
    after: &mut Vec<Step>,
) {
    let Err(refused) = &facts.compiler else {
        return;
    };
    if let Some(name) = &facts.wanted {
        let why = refused.first().map_or_else(
            || "rustup does not know it".to_owned(),
            |(_, refusal)| refusal.to_string(),
        );
        plan.problem(
            format!("{}={name}: {why}", ebpf::OVERRIDE),
            format!("unset it, or: rustup toolchain install {name} --component rust-src"),
        );
        return;
    }
    if facts.debian_ready && facts.rustup {
        after.push(Step::LinkDebian);
        return;
    }
    // Root on Debian takes Debian's: no download from elsewhere. Others take rustup's: it needs no root.
    let debian = facts.apt && facts.offer != Offer::No;
    if debian && (facts.root || !facts.rustup) {
        packages.extend(DEBIAN_COMPILER.map(str::to_owned));
        whys.push("compiler for the eBPF programs, with the library source that matches it");
        if facts.rustup {
            after.push(Step::LinkDebian);
        }
        return;
    }
    if !facts.rustup {
        plan.problem(
            "no compiler here can build the eBPF programs",
            "install rustup (https://rustup.rs), then run this again",
        );
        return;
    }
    let lacks_source = refused.iter().find_map(|(candidate, refusal)| {
        let name = candidate.name.as_deref()?;
        (name.starts_with("nightly") && *refusal == Refusal::NoSource).then_some(name)
    });
    after.push(match lacks_source {
        Some(name) => Step::Components {
            toolchain: Some(name.to_owned()),
            components: vec!["rust-src"],
        },
        None => Step::Nightly,
    });
}

fn plan_linker(
    facts: &Facts,
    plan: &mut Plan,
    packages: &mut Vec<String>,
    whys: &mut Vec<&str>,
    after: &mut Vec<Step>,
) {
    let wanted = match &facts.compiler {
        Ok(chosen) => chosen.version.llvm.unwrap_or(DEBIAN_LLVM),
        Err(_) => DEBIAN_LLVM,
    };
    // Bitcode of a newer LLVM cannot be read by an older one; the other way round is fine.
    if let Linker::Works { llvm, .. } = &facts.linker
        && llvm.is_none_or(|llvm| llvm >= wanted)
    {
        return;
    }
    let here = facts
        .llvm_dev
        .iter()
        .copied()
        .find(|llvm| *llvm >= wanted && LINKER_LLVM.contains(llvm));
    if let Some(llvm) = here {
        after.push(Step::BuildLinker { llvm });
        return;
    }
    let debian = facts.apt && facts.offer != Offer::No && LINKER_LLVM.contains(&wanted);
    if facts.binstall && !(debian && facts.root) {
        after.push(Step::FetchLinker);
    } else if debian {
        packages.push(format!("llvm-{wanted}-dev"));
        whys.push("LLVM, which bpf-linker is built against");
        after.push(Step::BuildLinker { llvm: wanted });
    } else {
        plan.problem(
            format!("no bpf-linker for LLVM {wanted}"),
            "install a ready-made one: cargo install cargo-binstall && cargo binstall bpf-linker",
        );
    }
}

#[cfg(test)]
mod tests;
