//! Fuzz targets: everything that reads outside data, with what must hold whatever it reads.
//!
//! ```text
//! cargo xtask fuzz [--seconds N] [TARGET]     main.rs: libFuzzer, coverage feedback; finds go to target/fuzz/found
//! cargo test -p heartline-fuzz                every seed and every kept find goes once through its target
//! ```
//! A find is mended, and its input kept in `tests/fuzz/found/TARGET/`.

mod config;
mod control;
mod core;
mod frames;
mod input;
mod key;
mod netlink;
mod wire;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Takes one input; panics if something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "wire",
        run: wire::run,
        seeds: wire::seeds,
    },
    Target {
        name: "core",
        run: core::run,
        seeds: core::seeds,
    },
    Target {
        name: "frames",
        run: frames::run,
        seeds: frames::seeds,
    },
    Target {
        name: "config",
        run: config::run,
        seeds: config::seeds,
    },
    Target {
        name: "address",
        run: config::run_address,
        seeds: config::address_seeds,
    },
    Target {
        name: "key",
        run: key::run,
        seeds: key::seeds,
    },
    Target {
        name: "request",
        run: control::run_request,
        seeds: control::request_seeds,
    },
    Target {
        name: "reply",
        run: control::run_reply,
        seeds: control::reply_seeds,
    },
    Target {
        name: "netlink",
        run: netlink::run,
        seeds: netlink::seeds,
    },
    Target {
        name: "planted",
        run: planted,
        seeds: || vec![b"a seed that is far from it".to_vec()],
    },
];

/// Proof that feedback is alive: a bug behind 32 bits, and then another 16, that chance would not find in a year.
/// `cargo xtask fuzz` runs it first, and calls the engine dead if it is not found.
fn planted(data: &[u8]) {
    let Some((magic, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    if u32::from_le_bytes(*magic) == 0x4845_4152
        && let Some(more) = rest.first_chunk::<2>()
        && u16::from_le_bytes(*more) == 0x544c
    {
        panic!("the planted bug");
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
