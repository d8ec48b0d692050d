//! The verifier takes every program.
use heartline::datapath::DataPath;

#[test]
fn loads() {
    let dir = std::path::Path::new("/sys/fs/bpf/heartline-test-load");
    let d = match DataPath::load(dir, [7; 16]) { Ok(d) => d, Err(e) => { DataPath::unload(dir); panic!("{e}") } };
    assert!(d.is_fresh());
    drop(d);
    DataPath::unload(dir);
}
