//! Looking at the machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    BENCH_PROGRAMS, CXX, Facts, LAB_PROGRAMS, LINKER_LLVM, Linker, Offer, SERVICE_PROGRAMS,
    VM_PROGRAMS,
};
use crate::{
    ebpf::{self, Candidate},
    run,
};

impl Facts {
    /// Looks at the machine. Starts at most two small processes when all is there.
    pub fn gather() -> Self {
        let wanted = std::env::var(ebpf::OVERRIDE).ok();
        let candidates = ebpf::candidates(wanted.as_deref());
        let debian = [Candidate {
            name: None,
            root: PathBuf::from("/usr"),
        }];
        let compiler = ebpf::choose(&candidates, OLDEST, ask_version);
        let debian_ready = compiler.is_err() && ebpf::choose(&debian, OLDEST, ask_version).is_ok();
        Self {
            root: nix::unistd::geteuid().is_root(),
            apt: ebpf::find_program("apt-get").is_some(),
            offer: Offer::Unknown,
            rustup: ebpf::find_program("rustup").is_some(),
            binstall: ebpf::find_program("cargo-binstall").is_some(),
            wanted,
            compiler,
            debian_ready,
            linker: look_at_linker(),
            llvm_dev: LINKER_LLVM
                .filter(|llvm| llvm_config(*llvm).is_file())
                .collect(),
            missing_programs: missing(LAB_PROGRAMS),
            missing_bench: missing(BENCH_PROGRAMS),
            missing_services: missing(SERVICE_PROGRAMS),
            missing_vm: missing(VM_PROGRAMS),
            cxx: ebpf::find_program(CXX.0).is_some(),
            missing_lints: [("cargo-clippy", "clippy"), ("cargo-fmt", "rustfmt")]
                .into_iter()
                .filter(|(program, _)| !lint_is_here(program))
                .map(|(_, component)| component)
                .collect(),
        }
    }
}

fn missing(programs: &[(&'static str, &str)]) -> Vec<&'static str> {
    programs
        .iter()
        .map(|(program, _)| *program)
        .filter(|program| ebpf::find_program(program).is_none())
        .collect()
}

/// The oldest compiler the workspace builds with.
pub const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

fn ask_version(rustc: &Path) -> Result<String, String> {
    run::ask(Command::new(rustc).arg("-vV")).map_err(|error| format!("{error:#}"))
}

/// Where an LLVM's development files are found by.
fn llvm_config(llvm: u32) -> PathBuf {
    llvm_bin(llvm).join("llvm-config")
}

/// The folder to put in front of PATH to build against an LLVM.
pub fn llvm_bin(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin"))
}

/// rustup keeps stand-ins for all tools in cargo's folder, whether they are installed or not: look beside the
/// cargo that runs us first.
fn lint_is_here(program: &str) -> bool {
    let beside = std::env::var_os("CARGO").map(PathBuf::from);
    match beside.as_deref().and_then(Path::parent) {
        Some(folder) => folder.join(program).is_file(),
        None => ebpf::find_program(program).is_some(),
    }
}

fn look_at_linker() -> Linker {
    let Some(path) = ebpf::find_program("bpf-linker") else {
        return Linker::Missing;
    };
    match run::ask(Command::new(&path).arg("--version")) {
        Ok(text) => Linker::Works {
            version: text.trim().trim_start_matches("bpf-linker ").to_owned(),
            llvm: std::fs::read(&path)
                .ok()
                .and_then(|bytes| loaded_llvm(&bytes)),
        },
        Err(error) => Linker::Broken(format!("{error:#}")),
    }
}

/// The major version of the libLLVM that a program loads, from the names near its start.
fn loaded_llvm(program: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM";
    let near = program.get(..1 << 20).unwrap_or(program);
    // `libLLVM.so.22.1`, `libLLVM-22.so.1`, `libLLVM-22-rust-...`
    near.windows(NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == NAME)
        .find_map(|(at, _)| {
            let rest = near.get(at + NAME.len()..)?;
            let rest = rest
                .strip_prefix(b".so.")
                .or_else(|| rest.strip_prefix(b"-"))?;
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_the_file() {
        assert_eq!(loaded_llvm(b"\0libLLVM.so.22.1\0libc.so.6\0"), Some(22));
        assert_eq!(loaded_llvm(b"..libLLVM-21.so.1\0"), Some(21));
        assert_eq!(loaded_llvm(b"libLLVMCore libLLVM.so.23\0"), Some(23));
        assert_eq!(loaded_llvm(b"statically linked"), None);
    }
}
