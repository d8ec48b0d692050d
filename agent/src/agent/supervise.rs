//! The main task: everything that may wait.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use agent_core::{Command, CommandError, Core};
use anyhow::{Context, Result};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    End,
    backend::{ASKS, AgentBackend},
    devices::Gates,
    link::LinkSender,
    narrate::Narrator,
    rt::{self, RtCommand, RtHandle, RtParts, RtReport},
    setup::{self, Names},
    status,
};
use crate::{
    cli::agent::AgentArgs,
    config::{Config, KeyFile},
    control::{
        ControlServer, SOCKET_GROUP,
        proto::{Code, Refusal, StatusReport},
        socket_path,
    },
    datapath::{DataPath, Table},
    events::{Draft, EventKind, EventLog},
    net::{self, ControlSender, EventReceiver, NetControl, Start, rt::boottime_ns},
    service::Notifier,
};

/// Priority of the real-time thread; the address thread runs one below.
const PRIORITY: u8 = 50;
/// How long a clean stop waits for the groups to be handed over.
const HANDOVER: Duration = Duration::from_secs(2);

pub(super) type Done<T> = oneshot::Sender<Result<T, Refusal>>;

/// The address thread, without the end that the real-time thread holds.
pub(super) struct Net {
    pub(super) control: ControlSender,
    pub(super) events: EventReceiver,
    pub(super) stats: Arc<net::NetStats>,
}

pub(super) struct Supervisor {
    pub(super) args: AgentArgs,
    pub(super) config: Config,
    pub(super) key: KeyFile,
    pub(super) me: u8,
    pub(super) datapath: DataPath,
    pub(super) table: Table,
    pub(super) gates: Gates,
    pub(super) rt: RtHandle,
    pub(super) net: Net,
    pub(super) log: Arc<EventLog>,
    pub(super) narrator: Narrator,
    pub(super) notifier: Notifier,
    pub(super) waiting: BTreeMap<u64, Answer>,
    pub(super) next_id: u64,
    pub(super) vip_errors: BTreeMap<(u8, u16), String>,
    pub(super) present: [u64; 4],
    pub(super) unfit: BTreeMap<u8, bool>,
    pub(super) rejected: BTreeMap<&'static str, u64>,
    pub(super) clock_source: String,
    pub(super) rounds: u64,
    pub(super) started_ns: u64,
    pub(super) locked: bool,
}

/// Whom to tell what became of a command.
pub(super) type Answer = Box<dyn FnOnce(Result<(), CommandError>) + Send>;

/// What goes on until the end.
pub(super) enum Ending {
    No,
    /// Handing over until this moment at the latest.
    Leaving(Instant),
    /// Waiting for the long lease until this moment at the latest.
    Pausing(Instant, Option<Done<()>>),
}

/// Starts everything and runs it.
pub(super) async fn run(args: &AgentArgs) -> Result<End> {
    let config = setup::load(&args.config)?;
    crate::cli::logging::apply_config_level(&config.log)?;
    let me = setup::who_am_i(&config, args.node.as_deref())?;
    let key = KeyFile::load(&config.key_file)?;
    mount_bpffs(&args.bpf_dir);
    let _locks = setup::lock(&args.run_dir, &args.bpf_dir)?;
    let notifier = Notifier::start();
    let names = Names::of(&config);
    let log = EventLog::new(names.node(me));
    let locked = !args.no_realtime
        && net::rt::lock_memory()
            .map_err(|e| tracing::warn!("{e}; takeovers may be late when memory is short"))
            .is_ok();

    let mut datapath = DataPath::load_logging(&args.bpf_dir, &key.keys(), args.debug_datapath)?;
    if args.debug_datapath {
        let logger = datapath.logger()?;
        tokio::spawn(read_log(logger));
    }
    let table = datapath.table();
    let now = rt::now();
    let fresh = datapath.is_fresh();
    let before = table.generation.load();
    if !fresh && before > u64::from(config.generation) {
        anyhow::bail!(
            "{}: generation {} is older than the {before} that this node has been in: a generation never goes back \
             (raise it in the file on all nodes, or, with the whole cluster stopped: heartline unload)",
            args.config.display(),
            config.generation
        );
    }
    datapath.set_gated(config.cluster_id, &setup::vips(&config))?;
    let links: Vec<_> = config
        .node_by_id(me)
        .map(|n| n.links.iter().map(|l| l.address).collect())
        .unwrap_or_default();
    datapath.set_links(&links)?;
    datapath.identify(
        &setup::identity(&config, me),
        now.boot,
        now.wall_ms.saturating_mul(1_000_000),
    );
    // From here on the programs use the table; the gate is shut for every group that has no lease.
    let mut gates = Gates::default();
    let (drafts, _) = gates.check(&mut datapath, setup::modes(config.datapath));
    let ring = datapath.take_ring().context("the ring buffer is taken")?;

    let core = Core::new(setup::core_config(&config, me), table, rt::now());
    let keep: Vec<_> = core
        .owned()
        .iter()
        .map(|g| (g, table.group_epoch[usize::from(g)].load()))
        .collect();
    let kept = keep.len();
    let priority = (!args.no_realtime).then_some(PRIORITY);
    let start = Start {
        keep,
        covered: gates.covered(),
        priority: priority.map(|p| p - 1),
        ..Start::default()
    };
    let net = net::spawn(&setup::net_config(&config)?, start)?;
    let net::NetHandle {
        commands,
        control,
        events,
        stats,
        thread: _,
    } = net;
    let net = Net {
        control,
        events,
        stats,
    };
    let parts = RtParts {
        core,
        ring,
        links: LinkSender::all(&config, me),
        table,
        keys: Box::new(key.keys()),
        newest: args.wire_version,
        net: commands,
        priority,
    };
    let rt = rt::spawn(parts).context("starting the real-time thread")?;

    let s = Supervisor {
        args: args.clone(),
        me,
        table,
        gates,
        rt,
        net,
        log,
        narrator: Narrator::new(names),
        notifier,
        waiting: BTreeMap::new(),
        next_id: 0,
        vip_errors: BTreeMap::new(),
        present: table.run_set.load().0,
        unfit: BTreeMap::new(),
        rejected: BTreeMap::new(),
        clock_source: clock_source(),
        rounds: 0,
        started_ns: now.boot,
        locked,
        config,
        key,
        datapath,
    };
    s.record(drafts);
    let stale = s.datapath.removed_pins().iter().map(|path| {
        Draft::new(
            EventKind::StalePins,
            format!("pins of another version are removed: {}", path.display()),
        )
    });
    s.record(stale.collect());
    let how = if fresh {
        "with fresh state"
    } else {
        "with the state of an earlier run"
    };
    let text = format!(
        "agent {} started {how}, {kept} groups kept",
        env!("CARGO_PKG_VERSION")
    );
    s.record(vec![Draft::new(EventKind::AgentStarted, text)]);
    if kept > 0 {
        s.record(vec![Draft::new(
            EventKind::Restart,
            format!("the new agent goes on with {kept} groups; nothing moved"),
        )]);
    }
    if fresh {
        let wait = s.config.timing.max_promise_ns;
        let text = format!(
            "voting in {}: until then every promise that may have been forgotten runs out",
            crate::config::show_ns(wait)
        );
        s.record(vec![Draft::new(EventKind::RejoinWait, text)]);
    }
    s.run().await
}

/// Passes on what the eBPF programs log.
async fn read_log(logger: aya_log::EbpfLogger<&'static dyn log::Log>) {
    // SAFETY: the logger owns its descriptor and keeps it open for as long as it is registered.
    let Ok(mut logger) = (unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) })
    else {
        return;
    };
    while let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// Mounts the BPF file system if the pins go to the usual place and nothing is mounted there.
fn mount_bpffs(dir: &Path) {
    let root = Path::new("/sys/fs/bpf");
    if dir.starts_with(root)
        && nix::sys::statfs::statfs(root)
            .is_ok_and(|s| s.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC)
    {
        let none: Option<&str> = None;
        match nix::mount::mount(
            Some("bpf"),
            root,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            none,
        ) {
            Ok(()) => tracing::info!("mounted the BPF file system at {}", root.display()),
            Err(e) => tracing::warn!("mounting the BPF file system at {}: {e}", root.display()),
        }
    }
}

pub(super) fn clock_source() -> String {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    fs::read_to_string(path)
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// A descriptor to wait on: a duplicate, so that it stays valid whatever its owner does.
fn watch(fd: &impl AsFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: the OwnedFd inside keeps the descriptor open and unchanged for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

impl Supervisor {
    async fn run(mut self) -> Result<End> {
        let (asks, mut asked) = mpsc::channel(ASKS);
        let backend = AgentBackend {
            asks,
            log: Arc::clone(&self.log),
            node: self.narrator.names.node(self.me),
            started_ns: self.started_ns,
        };
        let server = ControlServer::bind(&socket_path(&self.args.run_dir), SOCKET_GROUP).await?;
        let (stop_server, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(Arc::new(backend), async {
            let _ = stopped.await;
        }));

        let reports = watch(&self.rt.reported)?;
        let net_events = watch(&self.net.events)?;
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hup = signal(SignalKind::hangup())?;
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quick = interval(Duration::from_millis(200));
        quick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.notifier.ready(format!(
            "node {} of {}",
            self.narrator.names.node(self.me),
            self.config.cluster
        ));

        let mut ending = Ending::No;
        let end = loop {
            let until = match &ending {
                Ending::No => Instant::now() + Duration::from_secs(3600),
                Ending::Leaving(at) | Ending::Pausing(at, _) => *at,
            };
            tokio::select! {
                biased;
                guard = reports.readable() => {
                    let mut guard = guard?;
                    guard.clear_ready();
                    let _ = self.rt.reported.read();
                    if let Some(end) = self.reports(&mut ending) {
                        break end;
                    }
                }
                guard = net_events.readable() => {
                    guard?.clear_ready();
                    self.net.events.clear();
                    self.net_events();
                }
                ask = asked.recv() => {
                    if let Some(ask) = ask {
                        self.ask(ask, &mut ending);
                    }
                }
                _ = quick.tick() => self.quick(),
                _ = second.tick() => self.second(),
                _ = hup.recv() => {
                    self.notifier.reloading();
                    let _ = self.reload();
                    self.notifier.ready("configuration read again");
                }
                _ = term.recv() => self.leave(&mut ending),
                _ = int.recv() => self.leave(&mut ending),
                _ = sleep_until(until) => {
                    match std::mem::replace(&mut ending, Ending::No) {
                        Ending::No => {}
                        Ending::Leaving(_) => {
                            tracing::warn!("not everything was handed over in time");
                            break End::Stopped;
                        }
                        Ending::Pausing(_, done) => {
                            let text = "the others did not grant the long promise in time; nothing was restarted";
                            self.record(vec![Draft::new(EventKind::Restart, text)]);
                            if let Some(done) = done {
                                let _ = done.send(Err(Refusal::new(Code::Failed, text).help("see `heartline status`: is a majority reachable?")));
                            }
                        }
                    }
                }
            }
        };
        // Answers under way are finished before anything else ends.
        drop(asked);
        let _ = stop_server.send(());
        let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
        self.finish(end)
    }

    /// Ends the threads: rights first, addresses after.
    fn finish(mut self, end: End) -> Result<End> {
        let last = match end {
            End::Stopped => RtCommand::ShutDown,
            End::Restart => RtCommand::Quit,
        };
        let _ = self.rt.send(last);
        let Supervisor {
            rt,
            mut net,
            notifier,
            ..
        } = self;
        if rt.thread.join().is_err() {
            tracing::error!("the real-time thread had failed; the gate shuts by itself");
        }
        let _ = net.control.send(NetControl::Stop);
        // A netlink call can wait for the kernel's RTNL lock, which no timeout reaches; the gate is shut anyway.
        let late = Instant::now() + Duration::from_secs(1);
        while !net.events.is_over() && Instant::now() < late {
            while net.events.pop().is_some() {}
            std::thread::yield_now();
        }
        notifier.flush(Duration::from_millis(100));
        Ok(end)
    }

    pub(super) fn record(&self, drafts: Vec<Draft>) {
        for d in drafts {
            let e = self.log.push(d);
            match e.kind.severity() {
                crate::events::Severity::Bad => {
                    tracing::error!(kind = e.kind.name(), group = e.group, "{}", e.text)
                }
                crate::events::Severity::Warn => {
                    tracing::warn!(kind = e.kind.name(), group = e.group, "{}", e.text)
                }
                crate::events::Severity::Good | crate::events::Severity::Plain => {
                    tracing::info!(kind = e.kind.name(), group = e.group, "{}", e.text);
                }
            }
        }
    }

    fn reports(&mut self, ending: &mut Ending) -> Option<End> {
        while let Ok(r) = self.rt.reports.pop() {
            match r {
                RtReport::Event(at, e) => {
                    let drafts = self.narrator.core(at, e);
                    self.record(drafts);
                }
                RtReport::Lost(at, group, epoch) => {
                    let drafts = self.narrator.lost(at, group, epoch);
                    self.record(drafts);
                }
                RtReport::Done(id, r) => {
                    if let Some(answer) = self.waiting.remove(&id) {
                        answer(r);
                    }
                }
                RtReport::PauseReady => {
                    if let Ending::Pausing(_, done) = ending {
                        if let Some(done) = done.take() {
                            let _ = done.send(Ok(()));
                        }
                        self.notifier.reloading();
                        self.record(vec![Draft::new(
                            EventKind::Restart,
                            "replacing the agent; nothing moves",
                        )]);
                        return Some(End::Restart);
                    }
                }
                RtReport::Left => {
                    if let Ending::Leaving(_) = ending {
                        return Some(End::Stopped);
                    }
                }
                RtReport::StoodStill(at, ns) => {
                    let text = format!(
                        "this agent did not run for {} ms (frozen or starved?)",
                        ns / 1_000_000
                    );
                    self.record(vec![
                        Draft::new(EventKind::Note, text).at(at).with("late_ns", ns),
                    ]);
                }
                RtReport::Old(config) => drop(config),
                // Wiped by its drop.
                RtReport::OldKeys(keys) => drop(keys),
                RtReport::Ended => {}
            }
        }
        None
    }

    /// What the data path and the address thread count.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        use std::sync::atomic::Ordering::Relaxed;
        let mut all = self.datapath.counters();
        let n = &self.net.stats;
        all.extend([
            ("address_events_dropped", n.events_dropped.load(Relaxed)),
            ("address_commands_delayed", n.commands_delayed.load(Relaxed)),
            ("announcements_sent", n.frames_sent.load(Relaxed)),
            ("announcements_failed", n.frames_failed.load(Relaxed)),
            ("netlink_refused", n.requests_refused.load(Relaxed)),
            ("netlink_silent", n.requests_silent.load(Relaxed)),
            ("netlink_resyncs", n.resyncs.load(Relaxed)),
            ("netlink_malformed", n.malformed.load(Relaxed)),
        ]);
        all
    }

    pub(super) fn status(&mut self) -> StatusReport {
        let counters = self.counters();
        let snapshot = self.rt.snapshot.read();
        status::report(&status::Sources {
            config: &self.config,
            names: &self.narrator.names,
            me: self.me,
            snapshot,
            table: &self.table,
            gates: &self.gates,
            counters,
            takeovers: &self.narrator.takeovers,
            errors: &self.vip_errors,
            present: &self.present,
            started_ns: self.started_ns,
            priority: (!self.args.no_realtime).then_some(PRIORITY),
            locked: self.locked,
            key: &self.key,
            newest: self.args.wire_version,
            now: boottime_ns(),
        })
    }

    /// False if the queue is full; the answer is dropped then.
    pub(super) fn command(&mut self, c: Command, answer: Answer) -> bool {
        self.next_id += 1;
        let id = self.next_id;
        self.waiting.insert(id, answer);
        let ok = self.rt.send(RtCommand::Core(id, c)).is_ok();
        if !ok {
            self.waiting.remove(&id);
        }
        ok
    }

    fn leave(&mut self, ending: &mut Ending) {
        if let Ending::Leaving(_) = ending {
            return;
        }
        self.notifier.stopping("handing over");
        self.record(vec![Draft::new(
            EventKind::AgentStopping,
            "stopping: handing the groups over",
        )]);
        *ending = Ending::Leaving(Instant::now() + HANDOVER);
        self.command(Command::Leave, Box::new(|_| {}));
    }
}
