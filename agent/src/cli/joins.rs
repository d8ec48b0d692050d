//! The one place where commands and numbers that live in other parts of the project are joined in.
//!
//! MERGE: each item here stands for something that another branch brings; replace it as its comment says.

// MERGE: `pub use super::check;` (with `pub mod check;` in cli/mod.rs).
pub mod check {
    //! Stands for `cli/check.rs`.
    use std::process::ExitCode;

    /// Arguments of `heartline check`.
    #[derive(Debug, clap::Args)]
    pub struct Args {}

    /// Not here yet.
    pub fn run(_: Args) -> ExitCode {
        super::missing("check")
    }
}

// MERGE: `pub use super::keygen;`
pub mod keygen {
    //! Stands for `cli/keygen.rs`.
    use std::process::ExitCode;

    /// Arguments of `heartline keygen`.
    #[derive(Debug, clap::Args)]
    pub struct Args {}

    /// Not here yet.
    pub fn run(_: Args) -> ExitCode {
        super::missing("keygen")
    }
}

// MERGE: `pub use super::doctor;`
pub mod doctor {
    //! Stands for `cli/doctor.rs`.
    use std::process::ExitCode;

    /// Arguments of `heartline doctor`.
    #[derive(Debug, clap::Args)]
    pub struct Args {}

    /// Not here yet.
    pub fn run(_: Args) -> ExitCode {
        super::missing("doctor")
    }
}

// MERGE: the version of the heartbeat packets from agent-common.
pub const WIRE_VERSION: u32 = 1;

// MERGE: `crate::agent::run(args)`
pub fn run_agent(_: super::agent::AgentArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("this build has no agent yet")
}

fn missing(command: &str) -> std::process::ExitCode {
    eprintln!("heartline: this build has no `{command}` yet");
    std::process::ExitCode::FAILURE
}
