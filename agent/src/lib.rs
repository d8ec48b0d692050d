//! The Heartline agent as a library: the daemon and the command line.

pub mod agent;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod doctor;
pub mod events;
pub mod net;
pub mod service;
