//! Bad input and bad luck (issue 2), with real agents in the lab: safety kept, a clear event or
//! error, and service back by itself when the cause is gone. Each test ends with a look at the whole
//! time on the wire: never two owners. Needs root, and fails without.

mod addresses;
mod config;
mod devices;
mod identity;
mod operator;
mod packets;
mod pins;
