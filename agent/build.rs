//! Builds the eBPF programs (temporary: helper XTASK brings the real one).
use aya_build::{Package, Toolchain};
fn main() -> anyhow::Result<()> {
    // SAFETY: single-threaded at this point.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    aya_build::build_ebpf([Package { name: "agent-ebpf", root_dir: "../agent-ebpf", ..Default::default() }], Toolchain::Custom("debian-web"))
}
