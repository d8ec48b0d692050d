//! The kernel side, from user space: loads the programs, pins and adopts them, covers devices, reads the ring buffer.
//!
//! Everything here that outlives the agent is pinned below `<bpf-dir>/v<layout>/`: maps under `maps/`, links as
//! `xdp-<ifindex>` and `egress-<ifindex>`. A killed agent leaves a working gate behind.

mod attach;
mod linkinfo;
mod loader;
mod pins;
mod ring;
mod table;

pub use attach::{Coverage, EgressKind, XdpKind};
pub use loader::{DataPath, Identity, LoadError, OBJECT};
pub use ring::Ring;
pub use table::Table;
