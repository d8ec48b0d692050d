//! The Heartline agent as a library: the daemon and the command line.
//!
//! ```text
//! agent     the daemon: real-time thread, main task, supervision   (the only user of all the others)
//! datapath  eBPF programs and maps: load, pin, adopt, attach
//! net       addresses and announcements, on a thread of their own
//! config    TOML to a Config that cannot be wrong
//! control   the control socket: protocol, server, client
//! events    what happened, for people and programs
//! service   systemd: READY, RELOADING, STOPPING, watchdog
//! cli       one file per command; rendering
//! doctor    what this machine has and lacks
//! ```
//!
//! Who may own what is decided in `agent-core` and in the kernel (`agent-common::kernel`), not here.

pub mod agent;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod doctor;
pub mod events;
pub mod net;
pub mod service;
