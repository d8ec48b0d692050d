//! A seeded simulator: N real cores (`agent_core::Core`) and the real kernel logic (`agent_common::kernel`) on virtual time.
//!
//! ```text
//!   faults (mix, script) --> World: event queue on true time
//!                              |-- arrival --> kernel::on_message over the node's Shared --> ack, or record in its ring
//!                              |-- ring, timer, command --> Core --> actions --> Net (cuts, loss, copies, stragglers)
//!                              `-- after every event: Check (two owners, resume, versions, promises)
//! ```
//!
//! One seed derives everything: shape, clocks, weather, faults, latencies. The same seed gives the same hash.

pub mod args;
mod call;
pub mod check;
pub mod clock;
mod deliver;
pub mod directed;
pub mod directed_members;
pub mod fault;
mod heal;
pub mod hunt;
pub mod ledger;
pub mod measure;
pub mod members;
pub mod net;
pub mod node;
pub mod options;
pub mod queue;
pub mod race;
pub mod rng;
pub mod schedule;
pub mod services;
mod upset;
pub mod world;

pub use check::{Broken, Violation};
pub use fault::{Fault, Mix, PlannedEnd};
pub use net::Weather;
pub use options::{FAST, MS, Options, Profile, Shape, Strict, WAN};
pub use schedule::Schedule;
pub use world::{Outcome, World};
