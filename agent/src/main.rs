//! The `heartline` program: the agent and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    heartline::cli::main()
}
