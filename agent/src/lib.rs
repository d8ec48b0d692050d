//! The Heartline agent: loads the data path, runs the core, talks to people.

pub mod datapath;
