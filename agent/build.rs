//! Builds the eBPF programs (package `agent-ebpf`) into `OUT_DIR/heartline-ebpf`, for
//! `aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/heartline-ebpf"))`.
//!
//! The eBPF crate needs a compiler of its own: one with the library source at hand and unstable features open.
//! `build/toolchain.rs` says which. `cargo xtask build` installs one where there is none.

use std::{env, fs, path::Path, process::exit};

#[path = "build/ebpf.rs"]
mod ebpf;
#[path = "build/toolchain.rs"]
mod toolchain;

fn main() {
    // aya-build's own switch. What is built for no kernel (`cargo xtask fuzz`) does not pay for the programs; an agent built
    // like this finds that its object is empty.
    println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
    if env::var("AYA_BUILD_SKIP").is_ok_and(|v| v == "1") {
        let object = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("heartline-ebpf");
        if let Err(error) = fs::write(&object, []) {
            println!("cargo::error={}: {error}", object.display());
            exit(1);
        }
        return;
    }
    if let Err(why) = ebpf::build("..", "agent") {
        for line in why.lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    }
}
