//! The kernel side, from user space: loads the programs, pins and adopts them, covers devices, reads the ring buffer.
//! Where BPF is not allowed, `socket` stands in for it; the agent sees an [`AnyPath`].
//!
//! Everything here that outlives the agent is pinned below `<bpf-dir>/v<layout>/`: maps under `maps/`, links as
//! `xdp-<ifindex>` and `egress-<ifindex>`. A killed agent leaves a working gate behind.

mod attach;
mod linkinfo;
mod loader;
mod path;
mod pins;
mod ring;
pub mod socket;
mod table;

pub use attach::{Coverage, EgressKind, XdpKind};
pub use loader::{DataPath, Identity, LoadError, OBJECT};
pub use path::{AnyPath, Records};
pub use pins::has_pins;
pub use ring::{HeldItem, HeldRing, Ring};
pub use table::Table;
