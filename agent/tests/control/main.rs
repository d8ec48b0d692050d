//! The control socket and the command line, end to end over a real Unix socket, against a fake agent.

mod commands;
mod fake;
mod follow;
mod golden;
mod sample;
mod socket;
mod terminal;
