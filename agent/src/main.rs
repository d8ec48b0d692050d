//! Only for trying `check`, `keygen` and `doctor` on this branch.

use clap::Parser;
use heartline::cli::{check, doctor, keygen};

#[derive(Parser)]
enum Command {
    Check(check::Args),
    Keygen(keygen::Args),
    Doctor(doctor::Args),
}

fn main() -> std::process::ExitCode {
    match Command::parse() {
        Command::Check(args) => check::run(args),
        Command::Keygen(args) => keygen::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}
