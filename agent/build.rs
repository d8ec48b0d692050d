//! Builds the eBPF programs (package `agent-ebpf`) into `OUT_DIR/heartline-ebpf`, for
//! `aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/heartline-ebpf"))`.
//!
//! The eBPF crate needs a compiler of its own: one with the library source at hand and unstable features open.
//! `build/toolchain.rs` says which. `cargo xtask build` installs one where there is none.

use std::process::exit;

#[path = "build/ebpf.rs"]
mod ebpf;
#[path = "build/toolchain.rs"]
mod toolchain;

fn main() {
    if let Err(why) = ebpf::build("..", "agent") {
        for line in why.lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    }
}
