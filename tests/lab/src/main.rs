//! `heartline-lab`: the demo, a lab to play with, and the programs on a device of your choice.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use heartline_lab::{
    bench, bench_services, clock, demo, flood, hold, interrupt, load, nemesis, provider, speed,
};

/// The lab of Heartline: clusters in network namespaces. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Three nodes, a client, five faults: what each costs, measured from outside
    #[command(args_conflicts_with_subcommands = true)]
    Demo {
        /// Another demo
        #[command(subcommand)]
        which: Option<DemoTask>,
        /// Config of all nodes [default: config/demo.toml of the sources]
        #[arg(long)]
        config: Option<PathBuf>,
        /// Write everything that was measured to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Draw it as a picture (SVG)
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// Keep configs and logs (kept in any case if an expectation did not hold)
        #[arg(long)]
        keep: bool,
    },
    /// Measure
    #[command(subcommand)]
    Bench(BenchTask),
    /// Random faults on a cluster in the lab, several at once; every promise is checked from outside
    Nemesis {
        /// How long
        #[arg(long, default_value_t = 30.0)]
        minutes: f64,
        /// The same seed gives the same schedule [default: from the clock]
        #[arg(long)]
        seed: Option<u64>,
        /// Nodes, 3 to 7
        #[arg(long, default_value_t = 3)]
        nodes: u8,
        /// Timing: fast, lan or wan
        #[arg(long, default_value = "lan")]
        profile: String,
        /// Only this cycle of the schedule
        #[arg(long)]
        cycle: Option<u64>,
        /// Write the report to this file [default: target/nemesis/nemesis.json]
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// A lab to play with
    #[command(subcommand)]
    Lab(LabTask),
    /// Load the programs on a device and show what they see
    Load {
        /// The device
        device: String,
        /// The network namespace it is in (a name of `ip netns`)
        #[arg(long)]
        netns: Option<String>,
        /// End after so many seconds instead of at Ctrl-C
        #[arg(long)]
        seconds: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
enum DemoTask {
    /// DNS, RADIUS, web and SIP on three Debian machines under systemd; what faults and maintenance cost each
    Provider(provider::Options),
}

#[derive(Debug, Subcommand)]
enum BenchTask {
    /// The same faults many times against Heartline and keepalived: table, plot, failover.json
    Failover(bench::Options),
    /// DNS, RADIUS, web and SIP on Debian machines: Heartline, keepalived with check scripts, Pacemaker; services.json
    Services(bench_services::Options),
    /// Hostile packets at the owner's heartbeat port: what they cost; table, flood.json
    Flood(flood::measure::Options),
    /// What a heartbeat and an ordinary packet cost in the XDP and TC programs: table, xdp.json
    Xdp(speed::xdp::Options),
    /// How late the real-time thread's timer fires, idle and under load: histograms, jitter.json
    Jitter(speed::jitter::Options),
}

#[derive(Debug, Subcommand)]
enum LabTask {
    /// Raise a lab of three nodes and leave it running
    Up {
        /// Config of all nodes
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Take it down, and remove what labs that were killed left over
    Down,
    /// What is up
    Status,
    /// A shell (or a command) in the namespace of n1, n2, n3, client or prober
    Shell {
        /// The station
        station: String,
        /// A command instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Do something to a node: cut, mute, freeze, thaw, kill, start NODE; part NODE NODE; heal
    Do {
        /// What, and to whom
        #[arg(required = true)]
        what: Vec<String>,
    },
    /// Raise a lab and hold it in the foreground (what `up` starts)
    #[command(hide = true)]
    Hold {
        /// Config of all nodes
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) if interrupt::caught().is_some() => {
            eprintln!("interrupted; everything is cleaned up");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("heartline-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> Result<bool> {
    let shell = matches!(task, Task::Lab(LabTask::Shell { .. }));
    if !shell {
        interrupt::catch()?;
    }
    match task {
        Task::Demo {
            which: Some(DemoTask::Provider(options)),
            ..
        } => return provider::run(&options),
        Task::Demo {
            which: None,
            config,
            json,
            svg,
            keep,
        } => {
            return demo::run(&demo::Options {
                config,
                json,
                svg,
                keep,
            });
        }
        Task::Bench(BenchTask::Failover(options)) => return bench::run(&options),
        Task::Bench(BenchTask::Services(options)) => return bench_services::run(&options),
        Task::Bench(BenchTask::Flood(options)) => return flood::measure::run(&options),
        Task::Nemesis {
            minutes,
            seed,
            nodes,
            profile,
            cycle,
            json,
        } => {
            let seed = seed.unwrap_or_else(|| clock::boot_ns() / 1000 % 1_000_000);
            println!("seed {seed}");
            return nemesis::run(&nemesis::Options {
                time: Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?,
                seed,
                nodes,
                profile,
                only: cycle,
                json,
            });
        }
        Task::Bench(BenchTask::Xdp(options)) => speed::xdp::run(&options)?,
        Task::Bench(BenchTask::Jitter(options)) => speed::jitter::run(&options)?,
        Task::Load {
            device,
            netns,
            seconds,
        } => load::run(&device, netns.as_deref(), seconds)?,
        Task::Lab(LabTask::Up { config }) => {
            let state = hold::up(config.as_deref())?;
            println!(
                "lab of process {} is up: lab shell n1, lab do cut n1, lab status, lab down",
                state.pid
            );
        }
        Task::Lab(LabTask::Down) => print!("{}", hold::down()?),
        Task::Lab(LabTask::Status) => print!("{}", hold::status()?),
        Task::Lab(LabTask::Shell { station, command }) => hold::shell(&station, &command)?,
        Task::Lab(LabTask::Do { what }) => hold::ask(&what.join(" "))?,
        Task::Lab(LabTask::Hold { config }) => hold::hold(config.as_deref())?,
    }
    Ok(true)
}
