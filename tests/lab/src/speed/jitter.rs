//! `bench jitter`: how late the timer of the real-time thread fires, in three agents at once, idle and while the machine
//! has far more to do than it can.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{
    Cluster, Lab, LabSpec, cleanup,
    config::{self, ConfigSpec},
    exec, interrupt,
    paint::Paint,
};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Seconds for each histogram
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Print JSON instead of histograms
    #[arg(long)]
    json: bool,
}

/// The load: more of everything than a machine with a few processors can do.
const LOAD: [&str; 8] = ["--cpu", "8", "--fork", "8", "--switch", "4", "--vm", "2"];

/// One histogram, of all three agents together.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// Timing profile.
    pub profile: &'static str,
    /// `idle` or `load`.
    pub load: &'static str,
    /// Seconds that it covers.
    pub seconds: u32,
    /// How often a timer fired.
    pub timers: u64,
    /// How many were how late: below 1 µs, then for each i from 1 on from 2^(i-1) to 2^i µs.
    pub late: Vec<u64>,
    /// Upper end of the class in which half, 99 %, 99.9 % and all of them are, µs.
    pub below_us: [u64; 4],
    /// Groups that changed hands meanwhile.
    pub takeovers: u64,
}

struct Load(Child);

impl Load {
    fn start() -> Result<Self> {
        let mut command = Command::new("stress-ng");
        command
            .args(LOAD)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        exec::tie_to_lab(&mut command);
        let child = command
            .spawn()
            .context("cannot start stress-ng (package stress-ng)")?;
        Ok(Self(child))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // stress-ng ends its workers when it is asked to end, not when it is killed.
        let _ = exec::signal(self.0.id(), nix::sys::signal::Signal::SIGTERM);
        let _ = exec::wait(&mut self.0, Duration::from_secs(10));
    }
}

/// Measures, prints and writes `jitter.json` and the histograms as text, `jitter.txt`.
///
/// # Errors
/// Not root, something does not start, or Ctrl-C.
pub fn run(options: &Options) -> Result<()> {
    cleanup::remove_leftovers()?;
    let mut all = Vec::new();
    for profile in ["lan", "fast"] {
        let spec = LabSpec::default();
        let extra = ConfigSpec {
            profile,
            vip6: false,
            ..ConfigSpec::default()
        };
        let text = config::text(&spec, &extra);
        let mut cluster = Cluster::start(Lab::up(&spec)?, &text, "cluster.key")?;
        cluster.settled(Duration::from_secs(30))?;
        for load in ["idle", "load"] {
            let running = (load == "load").then(Load::start).transpose()?;
            let before = look(&cluster)?;
            interrupt::pass(Duration::from_secs(options.seconds.into()))?;
            let after = look(&cluster)?;
            drop(running);
            all.push(histogram(profile, load, options.seconds, &before, &after)?);
        }
    }
    super::save("jitter.json", &all)?;
    let shown = |paint: Paint| -> String { all.iter().map(|h| show(h, paint)).collect() };
    let plain = format!("{}{}\n", shown(Paint::plain()), super::machine());
    let path = super::save_text("jitter.txt", &plain)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let paint = Paint::for_stdout();
    println!(
        "{}{}\nwritten to {}",
        shown(paint),
        paint.dim(super::machine()),
        path.display()
    );
    Ok(())
}

/// The counts of all agents together, and how often a group was gained. The CLI is asked again while the load keeps it
/// from answering in time.
fn look(cluster: &Cluster) -> Result<(Vec<u64>, u64)> {
    let (mut late, mut gains) = (Vec::new(), 0);
    for agent in cluster.agents() {
        let mut status = agent.status();
        let mut events = agent.events();
        for _ in 0..5 {
            if status.is_ok() && events.is_ok() {
                break;
            }
            (status, events) = (agent.status(), agent.events());
        }
        let status = status?;
        gains += events?.iter().filter(|e| e["kind"] == "gained").count() as u64;
        let counts = status.pointer("/rt/late").and_then(|v| v.as_array());
        let counts = counts.context("this agent counts no lateness")?;
        late.resize(counts.len(), 0);
        for (sum, count) in late.iter_mut().zip(counts) {
            *sum += count.as_u64().unwrap_or(0);
        }
    }
    Ok((late, gains))
}

fn histogram(
    profile: &'static str,
    load: &'static str,
    seconds: u32,
    before: &(Vec<u64>, u64),
    after: &(Vec<u64>, u64),
) -> Result<Histogram> {
    let late: Vec<u64> = after
        .0
        .iter()
        .zip(&before.0)
        .map(|(a, b)| a.saturating_sub(*b))
        .collect();
    let timers: u64 = late.iter().sum();
    if timers == 0 {
        bail!("no timer fired in {seconds} s");
    }
    let below = |part: f64| {
        let mut sum = 0;
        let class = late.iter().position(|count| {
            sum += count;
            sum as f64 >= timers as f64 * part
        });
        1 << class.unwrap_or(late.len())
    };
    Ok(Histogram {
        profile,
        load,
        seconds,
        timers,
        below_us: [0.5, 0.99, 0.999, 1.0].map(below),
        takeovers: after.1 - before.1,
        late,
    })
}

fn show(h: &Histogram, paint: Paint) -> String {
    let title = format!(
        "{}, {}: {} timers in {} s",
        h.profile, h.load, h.timers, h.seconds
    );
    let mut text = format!("{}, {} takeovers\n", paint.bold(&title), h.takeovers);
    let first = h.late.iter().position(|c| *c != 0).unwrap_or(0);
    let last = h.late.iter().rposition(|c| *c != 0).unwrap_or(0);
    let most = h.late.iter().max().copied().unwrap_or(1).max(1) as f64;
    for (i, count) in h.late.iter().enumerate().take(last + 1).skip(first) {
        // By the logarithm: one late timer in a million is what this is about.
        let width = if *count == 0 {
            0.0
        } else {
            ((*count as f64).ln() + 1.0) / (most.ln() + 1.0) * 50.0
        };
        text += &format!(
            "{:>9} {:<50} {count}\n",
            format!("< {}", micros(1 << i)),
            "█".repeat(width.ceil() as usize)
        );
    }
    let [half, most, nearly, all] = h.below_us.map(micros);
    text + &format!(
        "half below {half}, 99 % below {most}, 99.9 % below {nearly}, all below {all}\n\n"
    )
}

fn micros(us: u64) -> String {
    match us {
        1_000_000.. => format!("{:.1} s", us as f64 / 1e6),
        1_000.. => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{us} µs"),
    }
}
