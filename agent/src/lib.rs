//! The Heartline agent as a library: the daemon and the command line.

pub mod cli;
pub mod config;
pub mod datapath;
pub mod doctor;
pub mod net;
