//! The eBPF programs of `agent-ebpf`, the same source files, compiled for the host.
//!
//! ```text
//! agent-ebpf/src/{ingress,heartbeat,hold,egress,packet,maps}.rs     by #[path], unchanged
//!        | use aya_ebpf::...                                   aya/: contexts, maps and clock of this thread
//! Node::xdp / Node::egress                                     what tests and fuzz targets call
//! ```
//! What it is for: coverage of these files can be measured, and they can be fuzzed with feedback; the kernel offers
//! neither for a BPF program. What it is not: proof. `tests/bpf` runs its frames through the kernel, and compares.

#[path = "../../../../agent-ebpf/src/egress.rs"]
mod egress;
#[path = "../../../../agent-ebpf/src/heartbeat.rs"]
mod heartbeat;
#[path = "../../../../agent-ebpf/src/hold.rs"]
mod hold;
#[path = "../../../../agent-ebpf/src/ingress.rs"]
mod ingress;
#[path = "../../../../agent-ebpf/src/maps.rs"]
mod maps;
mod node;
#[path = "../../../../agent-ebpf/src/packet.rs"]
#[expect(
    clippy::manual_swap,
    reason = "the verifier refused the memcpy of a swap"
)]
mod packet;

pub use node::{Maps, Node};
