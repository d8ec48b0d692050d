//! Every example in `config/` is a good configuration, and says what its comments claim.

use std::path::{Path, PathBuf};

use heartline::config::{Config, Profile, Role};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn read(name: &str) -> Config {
    let text = std::fs::read_to_string(folder().join(name)).expect("the example is there");
    match Config::from_str(&text, name) {
        Ok(loaded) => {
            assert!(
                loaded.report.diagnostics().is_empty(),
                "{}",
                loaded.report.render(false)
            );
            loaded.config
        }
        Err(heartline::config::LoadError::Refused(report)) => panic!("{}", report.render(false)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_example_is_good() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).expect("config/ is there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|e| e == "toml") {
            read(
                path.file_name()
                    .and_then(|n| n.to_str())
                    .expect("a plain name"),
            );
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} examples found");
}

#[test]
fn demo_is_what_the_lab_expects() {
    let config = read("demo.toml");
    assert_eq!(config.nodes.len(), 3);
    assert!(
        config
            .nodes
            .iter()
            .all(|n| n.role == Role::Member && n.links.len() == 2)
    );
    assert_eq!(config.timing.profile, Profile::Lan);
    assert_eq!(config.timing.max_promise_ns, 1_000_000_000);
    assert_eq!(config.key_file, Path::new("demo.key"));
    assert_eq!(config.groups.len(), 1);
    assert_eq!(config.groups[0].prefer, [1, 2, 3]);
    let vips: Vec<_> = config.groups[0]
        .vips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(vips, ["10.77.0.100/32 on eth0", "fd77::100/128 on eth0"]);
}

/// The commented-out keys of the full example are defaults: uncommenting them changes nothing.
#[test]
fn commented_defaults_are_the_defaults() {
    let text = std::fs::read_to_string(folder().join("heartline.toml")).expect("there");
    let with: String = text
        .lines()
        .map(|l| {
            if l.starts_with("#tie_break") {
                l
            } else {
                l.strip_prefix('#')
                    .filter(|r| r.starts_with(|c: char| c.is_ascii_lowercase()))
                    .unwrap_or(l)
            }
        })
        .flat_map(|l| [l, "\n"])
        .collect();
    assert!(
        with.contains("\nmax_promise = \"10s\""),
        "the test no longer uncomments anything"
    );
    let with = Config::from_str(&with, "with").expect("good").config;
    assert_eq!(with, read("heartline.toml"));
}
