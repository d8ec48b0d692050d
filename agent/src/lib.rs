//! The Heartline agent: daemon and command line.

pub mod cli;
pub mod control;
pub mod events;
pub mod service;
