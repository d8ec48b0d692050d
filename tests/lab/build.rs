//! Builds the eBPF programs of the lab's switch into `OUT_DIR/heartline-lab-ebpf`, the way the agent
//! builds its own.

use std::process::exit;

#[path = "../../agent/build/ebpf.rs"]
mod ebpf;
#[path = "../../agent/build/toolchain.rs"]
mod toolchain;

fn main() {
    if let Err(why) = ebpf::build("../..", "lab") {
        for line in why.lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    }
}
