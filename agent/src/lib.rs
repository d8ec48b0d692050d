//! The Heartline agent as a library.

pub mod net;
