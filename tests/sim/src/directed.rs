//! For each rule, faults that reach the narrow history in which it matters.

use agent_common::rules::{Rule, Rules};

use crate::options::Options;

/// Options under which leaving `rule` out is seen soon.
pub fn options(rule: Rule, seed: u64) -> Options {
    let mut o = Options::random(seed, None);
    o.rules = Rules::all().without(rule);
    o
}
