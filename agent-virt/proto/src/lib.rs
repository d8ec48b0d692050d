//! What the agent and `heartline-libvirt` say to each other, and what can be concluded from it.
//!
//! The agent links no libvirt: its helper does, in a process of its own, so that a call that blocks or crashes ends the
//! helper and not the agent. Both share these types. Pure: no I/O, no clock.
//!
//! * [`message`]: the lines on the helper's standard input and output.
//! * [`state`]: how a domain is, by libvirt's words.
//! * [`definition`]: what a domain's XML asks of a host.
//! * [`preflight`]: would a live migration to a host work?
//! * [`job`]: how far a migration is.

pub mod definition;
pub mod job;
pub mod message;
pub mod preflight;
pub mod state;
