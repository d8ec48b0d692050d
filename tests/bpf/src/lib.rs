//! Runs the eBPF programs on made-up frames (BPF_PROG_TEST_RUN), with the real loader, maps and shared table.
//!
//! ```text
//! frame.rs: bytes of a frame --> Rig::xdp / Rig::egress --> action, frame that came out
//!                                        |
//!                Rig::delta (counters), Rig::records (ring buffer), Rig::table (promises, lease, gate)
//! ```
//! Every [`Rig`] has maps of its own, so tests may run side by side. All of it needs root, and fails without.

mod bpf;
mod dump;
pub mod frame;
mod pins;
mod rig;

pub use bpf::{
    NOT_TAGGED, ProgramStats, Run, StatsGuard, Tagger, pin, pin_array, program_stats, run, run_with,
};
pub use pins::PinDir;
pub use rig::{Action, KEY, Rig, Snapshot, boot_ns, consts, datagram, over_ipv4, over_ipv6};
