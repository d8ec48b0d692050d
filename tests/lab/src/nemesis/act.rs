//! Faults, as they are done to the lab and undone.

use std::{
    collections::BTreeMap,
    fs,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    GROUPS, Spec,
    excuse::{History, Impaired, What},
    plan::{Fault, Step, Who},
    watch::{Usage, Watch, vip},
};
use crate::{
    Cluster, agent,
    clock::boot_ns,
    exec,
    flood::{Flood, garbage, udp_frame},
    interrupt,
    lab::Station,
    spray::{Forger, overhear},
    switch::Cut,
    trial::SOON,
};

/// Commands in the background end by themselves before this.
const CALLS: Duration = Duration::from_secs(30);
/// Frames per second of a flood that goes on beside other faults.
const FLOOD: u64 = 20_000;

/// A fault under way.
struct Active {
    fault: Fault,
    /// The node that it hit, from 0.
    node: u8,
    cuts: Vec<Cut>,
    end: u64,
    from: u64,
    flood: Option<Flood>,
    load: Vec<std::process::Child>,
}

/// How a command in the background ended.
struct Called {
    what: String,
    at: u64,
    out: Result<exec::Output>,
}

/// The cluster and what is being done to it.
pub(super) struct Stage {
    pub cluster: Cluster,
    pub history: History,
    /// What was done when, for the report.
    pub log: Vec<String>,
    forger: Forger,
    active: Vec<Active>,
    /// How many faults freeze a node, take its carrier, its card, or its agent.
    frozen: BTreeMap<u8, u32>,
    dark: BTreeMap<u8, u32>,
    unplugged: BTreeMap<u8, u32>,
    down: BTreeMap<u8, u32>,
    calls: (mpsc::SyncSender<Called>, mpsc::Receiver<Called>),
    calling: usize,
    begin: u64,
    reloads: u32,
    /// Old words of each node, to be said again.
    words: Vec<Vec<u8>>,
    /// Agents that were started: place in the history, node, since when, how long each waits before it votes (ns). When
    /// they took part again is known from what they tell; on a busy machine a start takes seconds.
    pub starting: Vec<(usize, u8, u64, u64)>,
    /// What each agent held before the first fault.
    pub first: BTreeMap<String, Usage>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("log", &self.log).finish()
    }
}

fn up(counts: &mut BTreeMap<u8, u32>, node: u8) -> bool {
    let count = counts.entry(node).or_default();
    *count += 1;
    *count == 1
}

fn last(counts: &mut BTreeMap<u8, u32>, node: u8) -> bool {
    let count = counts.entry(node).or_default();
    *count = count.saturating_sub(1);
    *count == 0
}

fn name(node: u8) -> String {
    format!("n{}", node + 1)
}

impl Stage {
    pub fn new(cluster: Cluster) -> Result<Self> {
        Ok(Self {
            forger: Forger::of(cluster.config())?,
            cluster,
            history: History::default(),
            log: Vec::new(),
            active: Vec::new(),
            frozen: BTreeMap::new(),
            dark: BTreeMap::new(),
            unplugged: BTreeMap::new(),
            down: BTreeMap::new(),
            calls: mpsc::sync_channel(256),
            calling: 0,
            begin: 0,
            reloads: 0,
            words: Vec::new(),
            starting: Vec::new(),
            first: BTreeMap::new(),
        })
    }

    fn nodes(&self) -> u8 {
        self.cluster.lab.nodes.len() as u8
    }

    fn station(&self, node: u8) -> Result<Station> {
        self.cluster.lab.node(&name(node)).cloned()
    }

    fn note(&mut self, what: &str) {
        let at = boot_ns().saturating_sub(self.begin) as f64 / 1e9;
        self.log.push(format!("{at:7.3} s  {what}"));
    }

    /// Plays the schedule; each fault ends at its time, too.
    pub fn play(&mut self, steps: &[Step], watch: &Watch, spec: Spec) -> Result<()> {
        if steps
            .iter()
            .any(|step| matches!(step.fault, Fault::Flood(_)))
        {
            self.words.clear();
            for node in 0..self.nodes() {
                let heard = overhear(&self.cluster.lab, &name(node), 4747, 5)?;
                self.words.extend(heard);
            }
        }
        self.begin = boot_ns();
        let at = |ms: u64| self.begin + ms * 1_000_000;
        let mut todo: Vec<(u64, Step)> = steps.iter().map(|s| (at(s.at_ms), *s)).collect();
        todo.reverse();
        loop {
            let begin = todo.last().map(|(at, _)| *at);
            let end = self.active.iter().map(|active| active.end).min();
            let Some(next) = begin.into_iter().chain(end).min() else {
                break;
            };
            while boot_ns() < next {
                let rest = Duration::from_nanos(next.saturating_sub(boot_ns()));
                interrupt::pass(rest.min(Duration::from_millis(20)))?;
            }
            if begin == Some(next) {
                if let Some((_, step)) = todo.pop() {
                    self.begin_one(step, at_end(step, self.begin), watch)
                        .with_context(|| format!("beginning: {step}"))?;
                }
            } else if let Some(nth) = self.active.iter().position(|a| a.end == next) {
                let active = self.active.swap_remove(nth);
                self.end_one(active, spec)?;
            }
            self.collect()?;
        }
        Ok(())
    }

    /// Ends what is still going on, and waits until everything runs again. Returns the instant.
    pub fn heal(&mut self) -> Result<u64> {
        let deadline = Instant::now() + CALLS;
        while self.calling > 0 {
            self.collect()?;
            if Instant::now() > deadline {
                bail!("{} commands have not ended after {CALLS:?}", self.calling);
            }
            interrupt::pass(Duration::from_millis(10))?;
        }
        // A drain may have been asked for after its end was: now everybody is there to hear.
        for node in 0..self.nodes() {
            self.ask_until("n1", &["undrain", &name(node)])?;
        }
        self.ask_until("n1", &["resume"])?;
        self.note("healed");
        Ok(boot_ns())
    }

    /// A command that must succeed soon: an agent that was just started may not answer yet.
    fn ask_until(&mut self, node: &str, args: &[&str]) -> Result<()> {
        let agent = self.cluster.agent(node)?;
        let mut said = String::new();
        let done = interrupt::until(SOON, Duration::from_millis(50), || {
            let out = agent.cli(args)?;
            said = out.stderr;
            Ok(out.code == Some(0))
        })?;
        if !done {
            bail!("{node}: heartline {}: {}", args.join(" "), said.trim());
        }
        Ok(())
    }

    fn who(&self, who: Who, watch: &Watch) -> u8 {
        match who {
            Who::Node(node) => node,
            // Nobody answers now: somebody is as good as another, and the choice follows from the group.
            Who::Owner(group) => watch.owner(group).unwrap_or(group % self.nodes()),
        }
    }

    fn begin_one(&mut self, step: Step, end: u64, watch: &Watch) -> Result<()> {
        let fault = step.fault;
        let nodes = self.nodes();
        let node = match fault {
            Fault::Cut(who)
            | Fault::Mute(who)
            | Fault::OneWay(who, _)
            | Fault::CutLink(who)
            | Fault::Carrier(who)
            | Fault::Unplug(who)
            | Fault::Freeze(who)
            | Fault::Kill(who)
            | Fault::Stop(who)
            | Fault::Reboot(who)
            | Fault::Restart(who)
            | Fault::Drain(who)
            | Fault::Flood(who) => self.who(who, watch),
            Fault::Move(_, node) => node,
            Fault::Delete(group) => self.who(Who::Owner(group), watch),
            Fault::Part(_) | Fault::Reload | Fault::Pause | Fault::Load => 0,
        };
        let other = |k: u8| (node + 1 + k) % nodes;
        let mut active = Active {
            fault,
            node,
            cuts: Vec::new(),
            end,
            from: boot_ns(),
            flood: None,
            load: Vec::new(),
        };
        let me = name(node);
        match fault {
            Fault::Cut(_) => active.cuts.push(Cut::Off(me.clone())),
            Fault::Mute(_) => active.cuts.push(Cut::Mute(me.clone())),
            Fault::OneWay(_, k) => active.cuts.push(Cut::OneWay(me.clone(), name(other(k)))),
            Fault::CutLink(_) => active.cuts.push(Cut::Link(me.clone(), 1)),
            Fault::Part(mask) => active.cuts = part(mask, nodes),
            Fault::Carrier(_) => {
                if up(&mut self.dark, node) && self.unplugged.get(&node).is_none_or(|n| *n == 0) {
                    self.cluster.lab.carrier(&me, 0, false)?;
                }
            }
            Fault::Unplug(_) => {
                if up(&mut self.unplugged, node) {
                    self.cluster.lab.unplug(&me, 0)?;
                }
            }
            Fault::Freeze(_) => {
                if up(&mut self.frozen, node) && self.cluster.agent(&me)?.running() {
                    self.cluster.freeze(&me)?;
                }
            }
            Fault::Kill(_) | Fault::Stop(_) | Fault::Reboot(_) => {
                self.take_down(fault, node, watch)?
            }
            Fault::Restart(_) => self.call(node, &["restart"])?,
            Fault::Reload => self.reload()?,
            Fault::Move(group, to) => {
                let (group, _) = GROUPS[usize::from(group) % GROUPS.len()];
                self.call(node, &["move", group, &name(to)])?;
            }
            Fault::Drain(_) => self.call(other(0), &["drain", &me, "--no-wait"])?,
            Fault::Pause => self.call(1, &["pause"])?,
            Fault::Delete(group) => {
                let station = self.station(node)?;
                let address = vip(usize::from(group));
                // Not there is as good as gone.
                let _ = station
                    .ns
                    .ip(&format!("address del {address}/32 dev eth0\n"));
            }
            Fault::Load => active.load = load()?,
            Fault::Flood(_) => active.flood = Some(self.flood(node)?),
        }
        self.cut(&active.cuts)?;
        active.from = boot_ns();
        let said = match step.fault {
            Fault::OneWay(_, k) => format!("one way: {me} to {} is lost", name(other(k))),
            Fault::Part(_) | Fault::Reload | Fault::Pause | Fault::Load | Fault::Move(..) => {
                fault.to_string()
            }
            _ => format!("{} {me} ({fault})", fault.kind()),
        };
        self.note(&format!("begin {said}"));
        self.active.push(active);
        Ok(())
    }

    fn end_one(&mut self, active: Active, spec: Spec) -> Result<()> {
        let Active {
            fault, node, from, ..
        } = active;
        let me = name(node);
        match fault {
            Fault::Cut(_)
            | Fault::Mute(_)
            | Fault::OneWay(..)
            | Fault::CutLink(_)
            | Fault::Part(_) => self.cut(&[])?,
            Fault::Carrier(_) => {
                if last(&mut self.dark, node) && self.unplugged.get(&node).is_none_or(|n| *n == 0) {
                    self.cluster.lab.carrier(&me, 0, true)?;
                }
            }
            Fault::Unplug(_) => {
                if last(&mut self.unplugged, node) {
                    self.cluster.lab.replug(&me, 0)?;
                    if self.dark.get(&node).is_some_and(|n| *n > 0) {
                        self.cluster.lab.carrier(&me, 0, false)?;
                    }
                    // The new device is another one to the switch.
                    self.cut(&[])?;
                }
            }
            Fault::Freeze(_) => {
                if last(&mut self.frozen, node) {
                    // A dead one needs no waking.
                    let _ = self.cluster.thaw(&me);
                }
            }
            Fault::Kill(_) | Fault::Stop(_) | Fault::Reboot(_) => {
                if last(&mut self.down, node) {
                    // One that was asked to stop may still be at it.
                    if self.cluster.agent(&me)?.running() {
                        self.cluster.agent(&me)?.kill()?;
                    }
                    self.cluster.agent(&me)?.start()?;
                    if self.frozen.get(&node).is_some_and(|n| *n > 0) {
                        self.cluster.freeze(&me)?;
                    }
                }
            }
            Fault::Drain(_) => self.call((node + 1) % self.nodes(), &["undrain", &me])?,
            Fault::Pause => self.call(1, &["resume"])?,
            Fault::Restart(_) | Fault::Reload | Fault::Move(..) | Fault::Delete(_) => {}
            Fault::Load => end_load(active.load),
            Fault::Flood(_) => drop(active.flood),
        }
        self.note(&format!("end   {} {me}", fault.kind()));
        let to = boot_ns();
        let mut add = |to: u64, what: What| self.history.list.push(Impaired { from, to, what });
        match fault {
            Fault::Cut(_)
            | Fault::Mute(_)
            | Fault::Carrier(_)
            | Fault::Unplug(_)
            | Fault::Freeze(_) => add(to, What::Node(node)),
            Fault::Kill(_) | Fault::Stop(_) | Fault::Reboot(_) | Fault::Restart(_) => {
                // Fresh state waits before it votes.
                let wait = match fault {
                    Fault::Reboot(_) => spec.max_promise.as_nanos() as u64,
                    _ => 0,
                };
                add(to, What::Node(node));
                let since = if matches!(fault, Fault::Restart(_)) {
                    from
                } else {
                    to
                };
                let nth = self.history.list.len() - 1;
                self.starting.push((nth, node, since, wait));
            }
            Fault::OneWay(_, k) => {
                let nodes = spec.nodes;
                add(to, What::Pair(node, (node + 1 + k) % nodes));
            }
            Fault::Part(mask) => {
                for (a, b) in pairs(mask, spec.nodes) {
                    add(to, What::Pair(a, b));
                }
            }
            Fault::CutLink(_)
            | Fault::Reload
            | Fault::Move(..)
            | Fault::Drain(_)
            | Fault::Pause
            | Fault::Delete(_)
            | Fault::Load
            | Fault::Flood(_) => add(to, What::Nothing),
        }
        Ok(())
    }

    fn take_down(&mut self, fault: Fault, node: u8, watch: &Watch) -> Result<()> {
        if !up(&mut self.down, node) {
            return Ok(());
        }
        let me = name(node);
        watch.save_events(&self.cluster, &me);
        if matches!(fault, Fault::Stop(_)) {
            return self.cluster.agent(&me)?.signal(Signal::SIGTERM);
        }
        self.cluster.agent(&me)?.kill()?;
        if matches!(fault, Fault::Reboot(_)) {
            let station = self.station(node)?;
            for nth in 0..GROUPS.len() {
                let address = vip(nth);
                // Not there on a standby.
                let _ = station
                    .ns
                    .ip(&format!("address del {address}/32 dev eth0\n"));
            }
            let _ = station
                .ns
                .ip(&format!("address del {}/128 dev eth0\n", crate::VIP6));
            let pins = agent::bpf_dir(self.cluster.lab.prefix()).join(&me);
            for layout in fs::read_dir(&pins)?.flatten() {
                fs::remove_dir_all(layout.path())?;
            }
        }
        Ok(())
    }

    /// All agents read a file again that differs in something harmless.
    fn reload(&mut self) -> Result<()> {
        self.reloads += 1;
        let path = self.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let kept: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with("announce_interval"))
            .collect();
        let seconds = 20 + self.reloads % 20;
        let text = format!("announce_interval = \"{seconds}s\"\n{}\n", kept.join("\n"));
        // Whole or not at all, as an editor does it.
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &path)?;
        (0..self.nodes()).try_for_each(|node| self.call(node, &["reload"]))
    }

    fn flood(&mut self, node: u8) -> Result<Flood> {
        let target = self.station(node)?.eth0().clone();
        let from = self.cluster.lab.client.clone();
        let own = from.eth0().clone();
        let mut payloads = garbage(self.begin, 64, 1400);
        for nth in 0..64_u64 {
            let mut forged = self.forger.signed(|m| {
                m.from = 1 + (nth % u64::from(self.nodes())) as u8;
                m.seq = nth << 30;
                m.epoch = u64::MAX;
            });
            if let Some(last) = forged.last_mut() {
                *last ^= 1;
            }
            payloads.push(forged);
        }
        payloads.extend(self.words.iter().cloned());
        let frames = payloads
            .iter()
            .map(|p| udp_frame(&own, own.v4, target.mac, target.v4, 4747, p));
        Flood::start(&from, frames.collect(), Some(FLOOD), 1)
    }

    /// Puts the cuts of all active faults, and these, in place.
    fn cut(&mut self, more: &[Cut]) -> Result<()> {
        let all = self.active.iter().flat_map(|active| &active.cuts);
        let all: Vec<Cut> = all.chain(more).cloned().collect();
        self.cluster.lab.switch.replace(&all).map(drop)
    }

    /// Runs a command against the agent of a node in the background: the node may be frozen or dead.
    fn call(&mut self, node: u8, args: &[&str]) -> Result<()> {
        let caller = self.cluster.agent(&name(node))?.caller();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let what = format!("{}: heartline {}", name(node), args.join(" "));
        let done = self.calls.0.clone();
        std::thread::Builder::new()
            .name("nemesis-call".into())
            .spawn(move || {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let out = caller.cli(&args);
                let at = boot_ns();
                let _ = done.send(Called { what, at, out });
            })?;
        self.calling += 1;
        Ok(())
    }

    /// Takes in what commands said: a refusal is an answer, a crash is not.
    fn collect(&mut self) -> Result<()> {
        while let Ok(Called { what, at, out }) = self.calls.1.try_recv() {
            self.calling -= 1;
            let out = out.with_context(|| what.clone())?;
            let code = out.code.context(format!("{what} was ended by a signal"))?;
            if !(0..=4).contains(&code) || out.stderr.contains("panicked") {
                bail!("{what} ended with {code}: {}", out.stderr.trim());
            }
            self.history.list.push(Impaired {
                from: at,
                to: at,
                what: What::Nothing,
            });
            let said = out.stderr.lines().next().unwrap_or_default().to_owned();
            self.note(&format!("{what}: {code} {said}"));
        }
        Ok(())
    }
}

fn at_end(step: Step, begin: u64) -> u64 {
    begin + step.end_ms * 1_000_000
}

fn pairs(mask: u32, nodes: u8) -> Vec<(u8, u8)> {
    let inside = |node: &u8| mask >> node & 1 == 1;
    let (one, other): (Vec<u8>, Vec<u8>) = (0..nodes).partition(inside);
    one.iter()
        .flat_map(|a| other.iter().map(move |b| (*a, *b)))
        .collect()
}

fn part(mask: u32, nodes: u8) -> Vec<Cut> {
    let both = |(a, b)| [(a, b), (b, a)];
    pairs(mask, nodes)
        .into_iter()
        .flat_map(both)
        .map(|(a, b)| Cut::OneWay(name(a), name(b)))
        .collect()
}

/// Four shells that count as fast as they can.
fn load() -> Result<Vec<std::process::Child>> {
    (0..4)
        .map(|_| {
            let mut command = std::process::Command::new("sh");
            command.args([
                "-c",
                "while :; do (:); i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done",
            ]);
            exec::tie_to_lab(&mut command);
            command.spawn().context("cannot start sh")
        })
        .collect()
}

fn end_load(children: Vec<std::process::Child>) {
    for mut child in children {
        exec::end(&mut child, Duration::from_secs(2));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for active in self.active.drain(..) {
            end_load(active.load);
        }
    }
}
