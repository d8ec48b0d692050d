//! The main task: everything that may wait.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use agent_core::{Command, CommandError, History};
use anyhow::Result;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    End,
    apply::{Gated, Serial},
    attend::Doubt,
    backend::{ASKS, AgentBackend},
    devices::Gates,
    fitness::FitnessBook,
    generations::Staged,
    hooks::Hooks,
    narrate::Narrator,
    outdate::Outdating,
    prove::Provers,
    quiesce::Quiescing,
    replicas::Replicas,
    rt::{RtCommand, RtHandle, RtReport},
    services::ServicesBook,
    status,
    track::Targets,
};
use crate::{
    cli::agent::AgentArgs,
    config::{Config, KeyFile},
    control::{
        ControlServer, SOCKET_GROUP,
        proto::{Code, Refusal, StatusReport},
        socket_path,
    },
    datapath::{AnyPath, Table},
    events::{Draft, EventKind, EventLog},
    net::{self, ControlSender, EventReceiver, NetControl, rt::boottime_ns},
    service::Notifier,
};

/// Priority of the real-time thread; the address thread runs one below.
pub(super) const PRIORITY: u8 = 50;
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
    pub(super) datapath: AnyPath,
    /// Why the data path is not what "auto" would rather have.
    pub(super) why: Option<String>,
    pub(super) table: Table,
    /// The VIPs that the gate knows.
    pub(super) gated: Gated,
    pub(super) gates: Gates,
    pub(super) rt: RtHandle,
    pub(super) net: Net,
    /// See [`Serial`].
    pub(super) net_serial: Serial,
    pub(super) log: Arc<EventLog>,
    pub(super) narrator: Narrator,
    pub(super) notifier: Notifier,
    pub(super) waiting: BTreeMap<u64, Answer>,
    pub(super) next_id: u64,
    pub(super) vip_errors: BTreeMap<(u8, u16), String>,
    pub(super) present: [u64; 4],
    pub(super) fitness: FitnessBook,
    pub(super) targets: Targets,
    /// What stands behind the groups.
    pub(super) services: ServicesBook,
    pub(super) hooks: Hooks,
    /// Groups that are not started because they may still run elsewhere.
    pub(super) unproven: BTreeMap<u8, Doubt>,
    /// Nodes that are fenced so that such groups may start.
    pub(super) provers: Provers,
    /// Groups that are about to leave.
    pub(super) quiescing: Quiescing,
    /// Frames that were held; without BPF none are.
    pub(super) relay: Option<net::relay::Relay>,
    /// Replicas that DRBD has lost, here and elsewhere.
    pub(super) outdating: Outdating,
    /// How good the replicas here are.
    pub(super) replicas: Replicas,
    /// The last ownership of each group here.
    pub(super) last_epoch: BTreeMap<u8, u64>,
    /// Everything is handed over; what still stops is waited for.
    pub(super) left: bool,
    /// Commands for the core that found its queue full.
    pub(super) unsent: Vec<Command>,
    pub(super) rejected: BTreeMap<&'static str, u64>,
    pub(super) clock_source: String,
    pub(super) rounds: u64,
    pub(super) started_ns: u64,
    pub(super) locked: bool,
    /// What is on disk about generations.
    pub(super) history: History,
    /// A change to a later generation.
    pub(super) staged: Option<Staged>,
    /// The address thread has not followed the newest generation yet.
    pub(super) mapping: bool,
    /// When nodes that are no members any more are told nothing any more, boot ns; 0: they are not.
    pub(super) shrink_peers_at: u64,
    /// A link may be closed.
    pub(super) closed: bool,
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

/// A descriptor to wait on: a duplicate, so that it stays valid whatever its owner does.
fn watch(fd: &impl AsFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: the OwnedFd inside keeps the descriptor open and unchanged for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

impl Supervisor {
    pub(super) async fn run(mut self) -> Result<End> {
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
        // Only while there is something to look at: an idle agent sleeps.
        let mut quick = interval(Duration::from_millis(200));
        quick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.set_targets();
        self.set_services(true);
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
            if self.left && matches!(ending, Ending::Leaving(_)) && !self.services.is_stopping() {
                break self.left_behind();
            }
            let restless = self.is_restless();
            let quiet = self.quiescing.next();
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
                () = self.targets.hear() => self.check_fitness(),
                () = self.replicas.changed() => self.check_fitness(),
                report = self.services.news() => self.service_news(report),
                news = self.provers.news() => self.prover_news(news),
                () = sleep_until(quiet.unwrap_or(until)), if quiet.is_some() => self.quiesced(),
                news = self.outdating.news() => self.outdated_here(news),
                ask = asked.recv() => {
                    if let Some(ask) = ask {
                        self.ask(ask, &mut ending);
                    }
                }
                _ = quick.tick(), if restless => self.quick(),
                _ = second.tick() => {
                    self.quick();
                    self.second();
                }
                _ = hup.recv() => {
                    self.notifier.reloading();
                    // Nobody can be asked whether groups may stop: see `heartline reload --yes`.
                    let _ = self.reload(false);
                    self.notifier.ready("configuration read again");
                }
                _ = term.recv() => self.leave(&mut ending),
                _ = int.recv() => self.leave(&mut ending),
                _ = sleep_until(until) => {
                    match std::mem::replace(&mut ending, Ending::No) {
                        Ending::No => {}
                        Ending::Leaving(_) => {
                            tracing::warn!("not everything was handed over in time");
                            break self.left_behind();
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
        self.finish(end).await
    }

    /// Ends the threads: rights first, addresses after.
    async fn finish(mut self, end: End) -> Result<End> {
        let last = match end {
            End::Stopped | End::Unclean => RtCommand::ShutDown,
            End::Restart => RtCommand::Quit,
        };
        let _ = self.rt.send(last);
        // What is held follows its groups first.
        tokio::time::sleep(self.quiescing.rest()).await;
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
            crate::cli::logging::event(&self.log.push(d));
        }
    }

    fn reports(&mut self, ending: &mut Ending) -> Option<End> {
        while let Ok(r) = self.rt.reports.pop() {
            match r {
                RtReport::Event(at, e) => {
                    self.attend(&e);
                    let drafts = self.narrator.core(at, e);
                    self.record(drafts);
                }
                RtReport::Stop(group, epoch, to) => self.stop_services(group, epoch, to),
                RtReport::Resume(group, epoch) => self.resume_services(group, epoch),
                RtReport::Lost(at, group, epoch) => {
                    self.last_epoch.insert(group, epoch);
                    self.lose_services(group);
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
                RtReport::Left => self.left = true,
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
                RtReport::OldNext(next) => drop(next),
                RtReport::OldPeers(peers) => drop(peers),
                RtReport::Entered(generation) => self.entered(generation),
                RtReport::Unstaged => self.unstaged(),
                RtReport::NotStaged(e) => {
                    let text = format!("the new generation cannot be entered from here: {e:?}");
                    self.record(vec![Draft::new(EventKind::Note, text)]);
                    self.unstaged();
                }
                RtReport::GateLost => self.check_gates(),
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
        if let Some(relay) = &self.relay {
            let (sent, lost) = (&relay.stats.sent, &relay.stats.lost);
            all.extend([
                ("held_sent", sent.load(Relaxed)),
                ("held_lost", lost.load(Relaxed)),
            ]);
        }
        all
    }

    pub(super) fn status(&mut self) -> StatusReport {
        let counters = self.counters();
        self.status_with(counters)
    }

    /// The counters are dear: each is a system call.
    pub(super) fn status_with(&mut self, counters: Vec<(&'static str, u64)>) -> StatusReport {
        let change = self.change_status();
        let snapshot = self.rt.snapshot.read();
        status::report(&status::Sources {
            config: &self.config,
            names: &self.narrator.names,
            me: self.me,
            snapshot,
            table: &self.table,
            gates: &self.gates,
            without_bpf: matches!(self.datapath, AnyPath::Socket(_)).then_some(&self.why),
            counters,
            change,
            takeovers: &self.narrator.takeovers,
            errors: &self.vip_errors,
            fitness: &self.fitness,
            services: &self.services,
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
        // What runs here is stopped first, each resource within its own time.
        let stops = self.services.longest_stop();
        self.notifier.extend_timeout(HANDOVER + stops);
        *ending = Ending::Leaving(Instant::now() + HANDOVER + stops);
        self.command(Command::Leave, Box::new(|_| {}));
    }
}
