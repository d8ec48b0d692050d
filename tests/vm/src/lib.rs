//! The lab of guests: machines of their own kernel, whose disk, watchdog and death are real.
//!
//! ```text
//!   Site (one network namespace: client, two bridges)
//!    |- Guest per node (QEMU, emulated): Debian's kernel and packages, the real agent, DRBD
//!    |    |- Control  commands inside, by virtio-serial      <- shell, clock, files
//!    |    `- Qmp      the machine itself                      <- stop, cont, reset, quit
//!    |- the witness: an agent in a namespace beside it
//!    |- Device        the fence device that fence_heartline_qmp asks
//!    |- Writer        the client: numbered rows through the VIP, each acknowledged one remembered
//!    `- Roles         who is primary, when
//! ```
//!
//! All times are nanoseconds of the host's `CLOCK_BOOTTIME`; a guest's clock is translated ([`guest::Guest::clock`]).
//! Everything needs root, and says so.

pub mod cluster;
pub mod control;
pub mod demo;
pub mod device;
pub mod drbd;
pub mod guest;
pub mod image;
pub mod payload;
pub mod qmp;
pub mod roles;
pub mod rows;
pub mod site;
pub mod wire;
