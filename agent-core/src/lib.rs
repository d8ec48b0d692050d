//! The brain of Heartline: who may own what, decided without a clock, I/O, threads or allocation.
//!
//! ```text
//!   messages (handle_message)  --\
//!   commands (handle_command)  ---+--> Core --> poll_action(): heartbeats, replies, gain, lose, events
//!   time     (handle_timeout)  --/      |
//!                                       +--> Shared: promises, lease, gate bits (written at once, gate first)
//! ```
//!
//! # Calling contract
//! * One thread calls a [`Core`]. Every call passes [`Now`]; boot time never goes back between calls.
//! * After each `handle_*`, call [`Core::poll_action`] until it gives `None`, then arm a timer for [`Core::deadline`].
//! * The kernel (or the simulator) runs `agent_common::kernel::on_message` on every authentic message first, over the same
//!   [`Shared`](agent_common::state::Shared), concurrently; only what it delivers comes here.
//! * Rights are withdrawn in the shared table before `handle_*` returns; actions only tell others about it.
//!
//! Same inputs, same outputs: the only randomness is a generator seeded by [`CoreConfig::seed`].

pub mod action;
pub mod claimant;
mod clean;
pub mod command;
mod commands;
pub mod config;
pub mod core;
pub mod detector;
pub mod generation;
pub mod history;
mod intent;
pub mod links;
mod orderly;
pub mod placement;
mod rng;
#[cfg(feature = "broken-rules")]
pub mod saved;
pub mod soft;
mod stamp;
mod upkeep;
pub mod view;
mod voter;
mod withdraw;

pub use action::{Action, Event, GainReason, Phases};
pub use command::{Behind, Command, CommandError, Fitness, Phase};
pub use config::{CoreConfig, Failback, GroupConfig, NodeConfig, Timing};
pub use core::{Core, Now};
pub use detector::Health;
pub use generation::{Next, Progress, StageError, Waits};
pub use history::{History, StartError};
