//! Building the eBPF programs from a build script: of the agent, and of the lab.

use std::{env, path::Path, process::Command};

use aya_build::{Package, Toolchain};

use crate::toolchain;

/// Builds the binaries of `agent-ebpf` that need `feature`. To be called by a build script of a package
/// that lies `root` away from the workspace's root.
pub fn build(root: &str, feature: &str) -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={}", toolchain::OVERRIDE);
    // aya-build itself watches the eBPF package.
    println!("cargo::rerun-if-changed=build.rs");
    for path in [
        "agent/build",
        "agent-common/src",
        "agent-common/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={root}/{path}");
    }

    let chosen = choose()?;
    println!(
        "cargo::rerun-if-changed={}",
        chosen.candidate.rustc().display()
    );
    let linker = toolchain::find_program("bpf-linker").ok_or(
        "bpf-linker was not found, and the eBPF programs cannot be linked without it.\n\
         Run `cargo xtask build`: it installs what is missing and says so.",
    )?;
    println!("cargo::rerun-if-changed={}", linker.display());

    let mut path = env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = linker.parent()
        && !env::split_paths(&path).any(|known| known == folder)
    {
        let folders = env::split_paths(&path).chain([folder.to_owned()]);
        path = env::join_paths(folders).map_err(|error| format!("PATH: {error}"))?;
    }
    // SAFETY: a build script has one thread, and aya-build's have not been started yet.
    unsafe {
        env::set_var("PATH", path);
        // Opens build-std and the like on a released compiler. Set for this build alone: in .cargo/config.toml
        // it would open them for every crate.
        if !chosen.version.release.ends_with("-nightly") {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
        // aya-build turns every line of the inner cargo into a warning; "Compiling core" is none.
        env::set_var("CARGO_TERM_QUIET", "true");
    }

    let manifest_dir = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    let ebpf = Path::new(&manifest_dir).join(root).join("agent-ebpf");
    let ebpf = ebpf
        .canonicalize()
        .map_err(|error| format!("the eBPF package is not at {}: {error}", ebpf.display()))?;
    let package = Package {
        name: "agent-ebpf",
        root_dir: ebpf.to_str().ok_or("the path of agent-ebpf is not UTF-8")?,
        no_default_features: true,
        features: &[feature],
    };
    let name = chosen.candidate.name.as_deref().unwrap_or_default();
    aya_build::build_ebpf([package], Toolchain::Custom(name)).map_err(|error| {
        format!(
            "the eBPF programs did not build with {} (rustc {}): {error:#}",
            chosen.candidate, chosen.version.release
        )
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "a build that hangs is seen and ended by the person in front of it; \
              `allow`, because not every package that includes this file forbids the method"
)]
fn choose() -> Result<toolchain::Chosen, String> {
    let wanted = env::var(toolchain::OVERRIDE).ok();
    let candidates = toolchain::candidates(wanted.as_deref());
    let oldest = env::var("CARGO_PKG_RUST_VERSION").unwrap_or_default();
    toolchain::choose(&candidates, &oldest, |rustc| {
        let output = Command::new(rustc)
            .arg("-vV")
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(output.status.to_string());
        }
        String::from_utf8(output.stdout).map_err(|error| error.to_string())
    })
    .map_err(|refused| {
        let mut text = match &wanted {
            Some(name) => format!(
                "{}={name} does not name a compiler that can build the eBPF programs.",
                toolchain::OVERRIDE
            ),
            None => "no compiler here can build the eBPF programs.".to_owned(),
        };
        for (candidate, refusal) in refused {
            text.push_str(&format!("\n  {candidate}: {refusal}"));
        }
        text.push_str(
            "\nRun `cargo xtask build`: it installs what is missing and says so. \
             (By hand: a rustup nightly with rust-src.)",
        );
        text
    })
}
