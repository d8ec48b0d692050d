//! The lab: a cluster in network namespaces, with a switch that can cut without a sound, a client,
//! and probers that measure from outside what the agents claim.
//!
//! ```text
//!   Lab (namespaces, switch)  <- fault: cut, mute, partition, heal; signals to agents
//!    |- Agent per node (the real binary), Nginx per node (the real web server)
//!    |- OutageProber  client, echo every 1 ms through its own ARP cache: what a client feels
//!    |- OwnerProber   prober, echo every 2 ms to each node's MAC: who answers for the VIP
//!    `- Fetcher       client, a page every 5 ms
//! ```
//!
//! All times are nanoseconds of `CLOCK_BOOTTIME`, which all namespaces share.
//! Everything needs root, and says so.

pub mod agent;
pub mod bench;
pub mod bench_services;
pub mod cleanup;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod echo;
pub mod exec;
pub mod fetch;
pub mod flood;
pub mod hold;
pub mod interrupt;
pub mod lab;
pub mod load;
pub mod nemesis;
pub mod nested;
pub mod netns;
pub mod ownership;
pub mod paint;
pub mod plug;
pub mod probe_gateway;
pub mod probe_outage;
pub mod probe_owner;
pub mod provider;
pub mod speed;
pub mod spray;
pub mod strace;
pub mod switch;
pub mod trial;
pub mod uplink;
pub mod web;

pub use cluster::Cluster;
pub use lab::{Lab, LabSpec, Link, Station, VIP4, VIP6};
