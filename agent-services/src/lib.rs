//! What stands behind a group: the services that its users depend on.
//!
//! * [`resource`]: what is started on the owner and stopped before the group goes away: systemd units, commands, OCF
//!   resource agents, file systems.
//! * [`probe`]: is the service any good, asked as its users would ask.
//! * [`fence`]: ending another node, by any fence agent.
//! * [`watchdog`]: ending this one, if it stands still.
//! * [`command`]: running other programs with a deadline and bounded output; everything here that runs one uses it.
//!
//! Nothing here decides who owns a group, and nothing here may hold a takeover up: all of it runs on the main task's
//! runtime, with a deadline on every call.

pub mod command;
pub mod fence;
pub mod group;
pub mod policy;
pub mod post;
pub mod probe;
pub mod resource;
pub mod watchdog;
