//! The agent as a library.

pub mod cli;
pub mod config;
pub mod doctor;
