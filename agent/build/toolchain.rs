//! Which compiler builds the eBPF programs.
//!
//! One definition for two users: `agent/build.rs`, which builds with the choice, and `xtask`, which makes sure
//! that there is one (and holds the tests: a build script has none). It starts no process: callers pass in how
//! to ask a compiler for its version, so that each can bring its own deadline.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

/// Environment variable that names the rustup toolchain to use, before all others.
pub const OVERRIDE: &str = "HEARTLINE_EBPF_TOOLCHAIN";

/// Name under which Debian's compiler (`rustc-web` with its matching `rust-web-src`) is linked into rustup.
pub const LINKED: &str = "debian-web";

/// A toolchain that might build eBPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name for `rustup run`; `None` when there is no rustup and the compiler in PATH is used.
    pub name: Option<String>,
    /// Its folder, the one that holds `bin` and `lib`.
    pub root: PathBuf,
}

impl Candidate {
    /// The compiler itself, not rustup's stand-in (which costs a start more).
    pub fn rustc(&self) -> PathBuf {
        self.root.join("bin/rustc")
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "the compiler in {}", self.root.display()),
        }
    }
}

/// What `rustc -vV` says of a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For example `1.96.0` or `1.97.0-nightly`.
    pub release: String,
    /// Major version of its LLVM; bpf-linker needs the same or a newer one.
    pub llvm: Option<u32>,
}

impl Version {
    /// Reads the output of `rustc -vV`.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        Some(Self {
            release: field("release")?.to_owned(),
            llvm: field("LLVM version").and_then(|version| version.split('.').next()?.parse().ok()),
        })
    }
}

/// Major and minor number of a version.
pub fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A toolchain that can build eBPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Where it is.
    pub candidate: Candidate,
    /// What it is.
    pub version: Version,
}

/// Why a toolchain cannot build eBPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its compiler is not there or does not run.
    NoCompiler(String),
    /// The library source is not there: the BPF target has no ready-made `core`.
    NoSource,
    /// The library source belongs to another compiler; together they do not build.
    OtherSource(String),
    /// Older than the workspace needs.
    TooOld(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCompiler(why) => write!(f, "no compiler that runs ({why})"),
            Self::NoSource => f.write_str("no library source (rust-src)"),
            Self::OtherSource(version) => {
                write!(f, "its library source is of {version}, another compiler's")
            }
            Self::TooOld(release) => write!(f, "rustc {release} is too old"),
        }
    }
}

/// The toolchains that may serve, best first: the one asked for alone if there is one; else Debian's, if linked;
/// else the nightlies, the undated one first. Without rustup it is the compiler in PATH.
pub fn candidates(wanted: Option<&str>) -> Vec<Candidate> {
    if find_program("rustup").is_none() {
        return find_program("rustc")
            .and_then(|rustc| fs::canonicalize(rustc).ok())
            .and_then(|rustc| Some(rustc.parent()?.parent()?.to_owned()))
            .map(|root| Candidate { name: None, root })
            .into_iter()
            .collect();
    }
    let Some(home) = home_of("RUSTUP_HOME", ".rustup") else {
        return Vec::new();
    };
    let folder = home.join("toolchains");
    let names = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    ranked(names, wanted)
        .into_iter()
        .map(|name| Candidate {
            root: folder.join(&name),
            name: Some(name),
        })
        .collect()
}

/// The names that may serve, best first.
pub fn ranked(mut names: Vec<String>, wanted: Option<&str>) -> Vec<String> {
    if let Some(wanted) = wanted {
        // `nightly` stands for `nightly-x86_64-unknown-linux-gnu`, as it does for rustup.
        names.retain(|name| {
            name == wanted
                || name
                    .strip_prefix(wanted)
                    .is_some_and(|rest| rest.starts_with('-'))
        });
        names.sort_by_key(|name| name.len());
        names.truncate(1);
        return names;
    }
    names.retain(|name| name == LINKED || name == "nightly" || name.starts_with("nightly-"));
    let dated = |name: &str| {
        name.strip_prefix("nightly-")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.sort_by(|a, b| {
        (a != LINKED, dated(a))
            .cmp(&(b != LINKED, dated(b)))
            .then_with(|| b.cmp(a))
    });
    names
}

/// The first candidate that can build eBPF, or why none can. `ask` runs a compiler with `-vV`;
/// `oldest` is the workspace's `rust-version`.
pub fn choose(
    candidates: &[Candidate],
    oldest: &str,
    ask: impl Fn(&Path) -> Result<String, String>,
) -> Result<Chosen, Vec<(Candidate, Refusal)>> {
    let mut refused = Vec::new();
    for candidate in candidates {
        match inspect(candidate, oldest, &ask) {
            Ok(version) => {
                return Ok(Chosen {
                    candidate: candidate.clone(),
                    version,
                });
            }
            Err(refusal) => refused.push((candidate.clone(), refusal)),
        }
    }
    Err(refused)
}

fn inspect(
    candidate: &Candidate,
    oldest: &str,
    ask: impl Fn(&Path) -> Result<String, String>,
) -> Result<Version, Refusal> {
    let rustc = candidate.rustc();
    if !rustc.exists() {
        return Err(Refusal::NoCompiler(format!("no {}", rustc.display())));
    }
    // Cheap look first: most toolchains fall here, without a process being started.
    let source = candidate.root.join("lib/rustlib/src/rust");
    if !source.join("library/core/src/lib.rs").exists() {
        return Err(Refusal::NoSource);
    }
    let text = ask(&rustc).map_err(Refusal::NoCompiler)?;
    let version = Version::parse(&text)
        .ok_or_else(|| Refusal::NoCompiler("its version cannot be read".to_owned()))?;
    if number(&version.release) < number(oldest) {
        return Err(Refusal::TooOld(version.release));
    }
    // Debian's source folder carries its version in its name; rustup's belongs to its compiler by construction.
    if let Ok(real) = fs::canonicalize(&source)
        && let Some(of) = real
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("rustc-"))
        && version.release.split('-').next() != Some(of)
    {
        return Err(Refusal::OtherSource(of.to_owned()));
    }
    Ok(version)
}

/// Finds a program in PATH, in cargo's own folder (often missing from root's PATH) and in the system folders.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    Some(home_of("CARGO_HOME", ".cargo")?.join("bin"))
}

fn home_of(variable: &str, default: &str) -> Option<PathBuf> {
    match env::var_os(variable) {
        Some(value) if !value.is_empty() => Some(PathBuf::from(value)),
        _ => Some(PathBuf::from(env::var_os("HOME")?).join(default)),
    }
}
