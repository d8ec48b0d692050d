//! Probes against the real servers of Debian, and against servers that behave as none should.
//!
//! Each test has a network namespace of its own, with nothing but loopback: ports are free, and nothing gets out. It
//! needs root, and the servers (`cargo xtask test` installs them); without them it fails.

mod dns;
mod exec;
mod http;
mod icmp;
mod post;
mod radius;
mod rig;
mod sip;
mod tcp;
