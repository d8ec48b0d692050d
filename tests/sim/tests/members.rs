//! Rule 10 in the simulator.
use heartline_sim::{Options, World};

#[test]
fn random() {
    let mut gens = std::collections::BTreeMap::new();
    let n: u64 = std::env::var("N")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(300);
    let from: u64 = std::env::var("FROM")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let mut bad = 0;
    for seed in from..from + n {
        let mut o = Options::members(seed);
        o.trace = std::env::var_os("TRACE").is_some();
        let mut w = World::new(o);
        w.run_until(u64::MAX);
        let g = w
            .nodes
            .iter()
            .map(|n| n.disk.history.generation)
            .max()
            .unwrap();
        *gens.entry(g).or_insert(0) += 1;
        if let Some(v) = w.outcome().violation {
            println!("seed {seed}: {v:?}");
            bad += 1;
        }
    }
    println!("{gens:?}");
    assert_eq!(bad, 0);
}
