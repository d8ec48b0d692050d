//! Builds the eBPF object of the lab's switch ports into `OUT_DIR/heartline-lab-ebpf`.

use std::process::Command;

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=HEARTLINE_EBPF_TOOLCHAIN");
    let toolchain = toolchain();
    if toolchain != "nightly" {
        // SAFETY: the build script has one thread here. The variable unlocks `-Z build-std` in a
        // stable compiler, for the eBPF build alone.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    let root_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../agent-ebpf");
    aya_build::build_ebpf(
        [Package {
            name: "agent-ebpf",
            root_dir,
            no_default_features: true,
            features: &["lab"],
        }],
        Toolchain::Custom(&toolchain),
    )
    .with_context(|| {
        format!(
            "building the lab's eBPF program with toolchain {toolchain:?}; \
             `cargo xtask doctor` says what is missing"
        )
    })
}

/// The compiler for eBPF: what the environment says, else Debian's (its library source matches),
/// else nightly.
fn toolchain() -> String {
    if let Ok(name) = std::env::var("HEARTLINE_EBPF_TOOLCHAIN") {
        return name;
    }
    let known = Command::new("rustup").args(["toolchain", "list"]).output();
    let known = known
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default();
    let debian = known
        .lines()
        .any(|line| line.split_whitespace().next() == Some("debian-web"));
    if debian {
        "debian-web".into()
    } else {
        "nightly".into()
    }
}
