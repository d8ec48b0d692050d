//! Tests of the choice of a compiler and of the plan.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::ebpf::Version;

fn chosen(name: &str, llvm: u32) -> Chosen {
    Chosen {
        candidate: Candidate {
            name: Some(name.to_owned()),
            root: PathBuf::from("/t"),
        },
        version: Version {
            release: "1.96.0".to_owned(),
            llvm: Some(llvm),
        },
    }
}

fn refused(name: &str, refusal: Refusal) -> (Candidate, Refusal) {
    let candidate = Candidate {
        name: Some(name.to_owned()),
        root: PathBuf::from("/t"),
    };
    (candidate, refusal)
}

/// Debian 12 with rustup's stable and a nightly without source, root.
fn bare() -> Facts {
    Facts {
        root: true,
        apt: true,
        offer: Offer::Unknown,
        rustup: true,
        binstall: false,
        wanted: None,
        compiler: Err(vec![refused("nightly-x86_64", Refusal::NoSource)]),
        debian_ready: false,
        linker: Linker::Missing,
        llvm_dev: BTreeSet::new(),
        missing_programs: vec!["ethtool", "nginx"],
        missing_bench: vec!["keepalived", "stress-ng", "rsvg-convert"],
        missing_services: vec!["nginx", "unbound"],
        missing_vm: vec!["qemu-system-x86_64"],
        cxx: false,
        missing_lints: Vec::new(),
    }
}

fn complete() -> Facts {
    Facts {
        compiler: Ok(chosen(ebpf::LINKED, 22)),
        linker: Linker::Works {
            version: "0.13.0".to_owned(),
            llvm: Some(22),
        },
        llvm_dev: BTreeSet::from([22]),
        missing_programs: Vec::new(),
        missing_bench: Vec::new(),
        missing_services: Vec::new(),
        missing_vm: Vec::new(),
        cxx: true,
        ..bare()
    }
}

const ALL: Need = Need::BUILD.and(Need::LAB).and(Need::LINTS);

/// What a person would type.
fn by_hand(plan: &Plan, root: bool) -> Vec<String> {
    plan.steps.iter().map(|step| step.by_hand(root)).collect()
}

#[test]
fn a_complete_machine_needs_nothing() {
    assert!(plan(&complete(), ALL).is_empty());
}

#[test]
fn a_bare_debian_gets_everything_in_one_go() {
    assert_eq!(
        by_hand(&plan(&bare(), ALL), true),
        [
            "apt-get update",
            "apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src llvm-22-dev ethtool nginx-light",
            "rustup toolchain link debian-web /usr",
            "PATH=/usr/lib/llvm-22/bin:$PATH cargo install bpf-linker --version 0.13.0 --locked --force \
             --no-default-features --features llvm-22",
        ]
    );
}

#[test]
fn a_task_installs_only_what_it_needs() {
    let plan = plan(&bare(), Need::LAB);
    let packages = vec!["ethtool".to_owned(), "nginx-light".to_owned()];
    assert!(
        matches!(&plan.steps[..], [Step::AptUpdate, Step::Apt { packages: p, .. }] if *p == packages),
        "{plan:?}"
    );
}

#[test]
fn only_the_bench_installs_the_peer() {
    let plan = plan(&bare(), Need::BENCH);
    let packages = [
        "ethtool",
        "nginx-light",
        "keepalived",
        "stress-ng",
        "librsvg2-bin",
    ];
    assert!(
        matches!(&plan.steps[..], [Step::AptUpdate, Step::Apt { packages: p, .. }] if *p == packages),
        "{plan:?}"
    );
    assert!(super::plan(&complete(), Need::BENCH).is_empty());
}

#[test]
fn a_package_is_installed_once() {
    let plan = plan(&bare(), Need::LAB.and(Need::SERVICES));
    let packages = ["ethtool", "nginx-light", "unbound"];
    assert!(
        matches!(&plan.steps[..], [Step::AptUpdate, Step::Apt { packages: p, .. }] if *p == packages),
        "{plan:?}"
    );
    assert!(super::plan(&complete(), Need::SERVICES).is_empty());
}

#[test]
fn debians_compiler_is_linked_when_it_is_there() {
    let facts = Facts {
        debian_ready: true,
        compiler: Err(Vec::new()),
        ..complete()
    };
    assert_eq!(plan(&facts, Need::BUILD).steps, [Step::LinkDebian]);
}

#[test]
fn without_rustup_debians_compiler_is_not_linked() {
    let facts = Facts {
        rustup: false,
        ..bare()
    };
    let plan = plan(&facts, Need::BUILD);
    assert!(!plan.steps.contains(&Step::LinkDebian), "{plan:?}");
    assert!(plan.problems.is_empty());
}

#[test]
fn who_is_not_root_gets_rustups_source_and_sudo_for_the_rest() {
    let facts = Facts {
        root: false,
        ..bare()
    };
    let commands = by_hand(&plan(&facts, Need::BUILD), false);
    assert_eq!(
        commands[..3],
        [
            "sudo apt-get update",
            "sudo apt-get install -y --no-install-recommends llvm-22-dev",
            "rustup component add rust-src --toolchain nightly-x86_64",
        ]
    );
}

#[test]
fn nothing_needs_root_where_rustup_and_binstall_can_do_it() {
    let facts = Facts {
        root: false,
        binstall: true,
        compiler: Err(Vec::new()),
        ..bare()
    };
    let plan = plan(&facts, Need::BUILD);
    assert_eq!(plan.steps, [Step::Nightly, Step::FetchLinker]);
    assert!(!plan.steps.iter().any(Step::needs_root));
}

#[test]
fn a_debian_without_the_packages_falls_back_to_rustup() {
    let facts = Facts {
        offer: Offer::No,
        llvm_dev: BTreeSet::from([22]),
        ..bare()
    };
    let plan = plan(&facts, Need::BUILD);
    assert!(matches!(
        plan.steps[..],
        [Step::Components { .. }, Step::BuildLinker { llvm: 22 }]
    ));
}

#[test]
fn an_older_or_broken_linker_is_built_again() {
    for linker in [
        Linker::Broken("libLLVM.so.22.1: cannot open".to_owned()),
        Linker::Works {
            version: "0.12.0".to_owned(),
            llvm: Some(21),
        },
    ] {
        let facts = Facts {
            linker,
            ..complete()
        };
        assert_eq!(
            plan(&facts, Need::BUILD).steps,
            [Step::BuildLinker { llvm: 22 }]
        );
    }
    for llvm in [None, Some(22), Some(23)] {
        let version = "0.13.0".to_owned();
        let facts = Facts {
            linker: Linker::Works { version, llvm },
            ..complete()
        };
        assert!(plan(&facts, Need::BUILD).is_empty(), "{llvm:?}");
    }
}

#[test]
fn the_linker_follows_the_compilers_llvm() {
    let facts = Facts {
        compiler: Ok(chosen(ebpf::LINKED, 23)),
        ..complete()
    };
    let plan = plan(&facts, Need::BUILD);
    assert!(
        plan.steps.contains(&Step::BuildLinker { llvm: 23 }),
        "{plan:?}"
    );
    assert!(
        matches!(&plan.steps[1], Step::Apt { packages, .. } if *packages == ["llvm-23-dev"]),
        "{plan:?}"
    );
}

#[test]
fn an_llvm_the_linker_does_not_know_is_a_problem_not_a_loop() {
    let facts = Facts {
        compiler: Ok(chosen(ebpf::LINKED, 31)),
        ..complete()
    };
    let plan = plan(&facts, Need::BUILD);
    assert!(plan.steps.is_empty());
    assert_eq!(plan.problems.len(), 1);
}

#[test]
fn the_persons_own_choice_is_not_overruled() {
    let facts = Facts {
        wanted: Some("mine".to_owned()),
        compiler: Err(vec![refused("mine", Refusal::NoSource)]),
        ..complete()
    };
    let plan = plan(&facts, Need::BUILD);
    assert!(plan.steps.is_empty());
    assert_eq!(
        plan.problems[0].what,
        "HEARTLINE_EBPF_TOOLCHAIN=mine: no library source (rust-src)"
    );
}

#[test]
fn no_apt_and_no_rustup_is_said_plainly() {
    let facts = Facts {
        apt: false,
        rustup: false,
        ..bare()
    };
    let plan = plan(&facts, ALL);
    assert!(plan.steps.is_empty());
    let text = format!("{:?}", plan.problems);
    assert!(text.contains("rustup.rs"), "{text}");
    assert!(text.contains("ethtool, nginx"), "{text}");
}

#[test]
fn missing_lints_are_components_of_the_toolchain_in_use() {
    let facts = Facts {
        missing_lints: vec!["clippy"],
        ..complete()
    };
    assert_eq!(
        by_hand(&plan(&facts, Need::LINTS), true),
        ["rustup component add clippy"]
    );
}

#[test]
fn versions_are_read_from_rustc() {
    let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                release: 1.96.0\nLLVM version: 22.1.8\n";
    let version = Version::parse(text).expect("a version");
    assert_eq!(
        (version.release.as_str(), version.llvm),
        ("1.96.0", Some(22))
    );
    let nightly = Version::parse("release: 1.97.0-nightly\n").expect("a version");
    assert_eq!(
        (nightly.release.as_str(), nightly.llvm),
        ("1.97.0-nightly", None)
    );
    assert_eq!(Version::parse("what?"), None);
}

#[test]
fn toolchains_are_ranked() {
    let names = |list: &[&str]| {
        list.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let all = names(&[
        "nightly-2026-01-02-x86_64",
        "stable-x86_64",
        "nightly-x86_64",
        "debian-web",
        "nightly-2026-03-04-x86_64",
        "1.95.0-x86_64",
    ]);
    assert_eq!(
        ebpf::ranked(all.clone(), None),
        [
            "debian-web",
            "nightly-x86_64",
            "nightly-2026-03-04-x86_64",
            "nightly-2026-01-02-x86_64"
        ]
    );
    assert_eq!(ebpf::ranked(all.clone(), Some("stable")), ["stable-x86_64"]);
    assert_eq!(
        ebpf::ranked(all.clone(), Some("nightly")),
        ["nightly-x86_64"]
    );
    assert_eq!(ebpf::ranked(all, Some("mine")), names(&[]));
}

/// A toolchain folder with the given parts.
fn toolchain(folder: &Path, name: &str, source: Option<&str>) -> Candidate {
    let root = folder.join(name);
    fs::create_dir_all(root.join("bin")).expect("bin");
    fs::write(root.join("bin/rustc"), "").expect("rustc");
    if let Some(source) = source {
        let real = folder.join(format!("{name}-src")).join(source);
        fs::create_dir_all(real.join("library/core/src")).expect("source");
        fs::write(real.join("library/core/src/lib.rs"), "").expect("core");
        fs::create_dir_all(root.join("lib/rustlib/src")).expect("lib");
        std::os::unix::fs::symlink(real, root.join("lib/rustlib/src/rust")).expect("link");
    }
    Candidate {
        name: Some(name.to_owned()),
        root,
    }
}

#[test]
fn the_first_usable_toolchain_is_chosen_and_the_others_have_a_reason() {
    let folder = tempfile::tempdir().expect("tempdir");
    let says = |release: &str| {
        let text = format!("release: {release}\nLLVM version: 22.1.8\n");
        move |_: &Path| Ok(text.clone())
    };
    let bare = toolchain(folder.path(), "bare", None);
    let other = toolchain(folder.path(), "other", Some("rustc-1.94.0"));
    let good = toolchain(folder.path(), "good", Some("rustc-1.96.0"));
    let rustups = toolchain(folder.path(), "rustups", Some("rust"));
    let gone = Candidate {
        name: Some("gone".to_owned()),
        root: folder.path().join("gone"),
    };

    let all = [
        gone.clone(),
        bare.clone(),
        other.clone(),
        good.clone(),
        rustups.clone(),
    ];
    let found = ebpf::choose(&all, "1.95", says("1.96.0")).expect("good");
    assert_eq!(found.candidate, good);
    let found = ebpf::choose(&[rustups], "1.95", says("1.97.0-nightly")).expect("rustup's own");
    assert_eq!(found.version.release, "1.97.0-nightly");

    let refusals = ebpf::choose(&[gone, bare, other], "1.95", says("1.96.0")).expect_err("none");
    let reasons: Vec<_> = refusals.into_iter().map(|(_, refusal)| refusal).collect();
    assert!(matches!(reasons[0], Refusal::NoCompiler(_)));
    assert_eq!(
        reasons[1..],
        [Refusal::NoSource, Refusal::OtherSource("1.94.0".to_owned())]
    );

    let old = ebpf::choose(std::slice::from_ref(&good), "1.97", says("1.96.0")).expect_err("old");
    assert_eq!(old[0].1, Refusal::TooOld("1.96.0".to_owned()));
    let mute = ebpf::choose(&[good], "1.95", |_| Err("exit status 127".to_owned()))
        .expect_err("does not run");
    assert_eq!(mute[0].1, Refusal::NoCompiler("exit status 127".to_owned()));
}

#[test]
fn fuzzing_brings_a_cpp_compiler_and_nothing_else_does() {
    let facts = Facts {
        cxx: false,
        ..complete()
    };
    assert!(plan(&facts, ALL).is_empty());
    assert_eq!(
        by_hand(&plan(&facts, Need::FUZZ), true),
        [
            "apt-get update",
            "apt-get install -y --no-install-recommends g++"
        ]
    );
}
