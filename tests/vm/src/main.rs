//! `heartline-vm`: the lab of guests by hand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use heartline_lab::{cleanup, interrupt, paint::Busy};
use heartline_vm::{
    demo, image,
    site::{Plan, Site},
};

/// A lab of QEMU guests.
#[derive(Parser)]
#[command(name = "heartline-vm", bin_name = "cargo xtask vm", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make what guests boot: Debian's kernel, a root file system (kept under target/vm)
    Image {
        /// Anew, with Debian's newest kernel and packages
        #[arg(long)]
        fresh: bool,
    },
    /// A replicated disk under a service, and all that can happen to it: rows lost, two primaries, time without
    Demo(demo::Options),
    /// Boot a guest, run a command in it, and show what it says
    Do {
        /// The command, for sh
        script: String,
    },
}

fn main() -> ExitCode {
    let done = interrupt::catch().and_then(|()| run(Cli::parse().task));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("heartline-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Image { fresh } => {
            let image = image::ensure(fresh)?;
            println!("kernel     {} ({})", image.kernel.display(), image.release);
            println!("initramfs  {}", image.initramfs.display());
            println!("root       {}", image.root.display());
        }
        Task::Demo(options) => {
            cleanup::remove_leftovers()?;
            if !demo::run(&options)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Do { script } => {
            cleanup::remove_leftovers()?;
            let busy = Busy::with("booting a guest");
            let plan = Plan {
                guests: 1,
                witness: false,
                ..Plan::default()
            };
            let mut site = Site::up(plan)?;
            drop(busy);
            let ran = site
                .guest("n1")?
                .run(&script, std::time::Duration::from_secs(300))?;
            print!("{}", ran.stdout);
            eprint!("{}", ran.stderr);
            return Ok(ran
                .code
                .and_then(|code| u8::try_from(code).ok())
                .map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
    Ok(ExitCode::SUCCESS)
}
