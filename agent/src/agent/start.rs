//! Starting everything, in the order that safety asks for.

use std::{collections::BTreeMap, fs};

use agent_core::Core;
use anyhow::{Context, Result};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    End,
    apply::Serial,
    choose,
    devices::Gates,
    fitness::FitnessBook,
    generations,
    hooks::Hooks,
    link::LinkSender,
    narrate::Narrator,
    outdate::Outdating,
    prove::Provers,
    quiesce::Quiescing,
    replicas::Replicas,
    rt::{self, RtParts},
    services::ServicesBook,
    setup::{self, Names},
    status,
    supervise::{Net, PRIORITY, Supervisor},
    track::Targets,
};
use crate::{
    cli::agent::AgentArgs,
    config::KeyFile,
    datapath::AnyPath,
    events::{Draft, EventKind, EventLog},
    net::{self, Start, relay::Relay},
    service::Notifier,
};

/// Starts everything and runs it.
pub(super) async fn run(args: &AgentArgs) -> Result<End> {
    let config = setup::load(&args.config)?;
    crate::cli::logging::apply_config_level(&config.log)?;
    let me = setup::who_am_i(&config, args.node.as_deref())?;
    let key = KeyFile::load(&config.key_file)?;
    let choose::Chosen {
        path: mut datapath,
        locks: _locks,
        why,
    } = choose::open(args, &config, me, &key.keys())?;
    let notifier = Notifier::start();
    let names = Names::of(&config);
    let log = EventLog::new(names.node(me));
    if args.debug_datapath
        && let AnyPath::Bpf(datapath) = &mut datapath
    {
        let logger = datapath.logger()?;
        tokio::spawn(read_log(logger));
    }
    let table = datapath.table();
    let now = rt::now();
    let fresh = datapath.is_fresh();
    let history = generations::start(
        &args.state_dir,
        &config,
        &args.config,
        (!fresh).then_some(table),
    )?;
    generations::write(&args.state_dir, history)?;
    // Before the gate's map: gates of another generation are shut here.
    datapath.identify(
        &setup::identity(&config, me),
        now.boot,
        now.wall_ms.saturating_mul(1_000_000),
    );
    if !history.proven {
        datapath.await_proof();
    }
    let gated = setup::vips(&config);
    datapath.set_gated(config.cluster_id, &gated)?;
    let links: Vec<_> = config
        .node_by_id(me)
        .map(|n| n.links.iter().map(|l| l.address).collect())
        .unwrap_or_default();
    datapath.set_links(&links)?;
    // From here on the programs use the table; the gate is shut for every group that has no lease.
    let mut gates = Gates::default();
    let (drafts, _) = gates.check(&mut datapath, setup::modes(config.datapath));
    let records = datapath.take_records().context("the records are taken")?;
    let held = datapath.take_held();

    let core = Core::new(setup::core_config(&config, me), table, rt::now());
    let keep: Vec<_> = core
        .owned()
        .iter()
        .map(|g| (g, table.group_epoch[usize::from(g)].load()))
        .collect();
    let kept = keep.len();
    // As things were before the real-time thread began: what it gains until the main task attends to that is no ownership
    // that is gone on with, and starts nothing before it is known to be stopped elsewhere.
    let epoch = |g: &crate::config::Group| (g.id, table.group_epoch[usize::from(g.id)].load());
    let last_epoch = config.groups.iter().map(epoch).collect();
    // Loading is over: what it took goes back before the rest is locked.
    net::rt::give_back();
    let locked = !args.no_realtime
        && net::rt::lock_memory()
            .map_err(|e| tracing::warn!("{e}; takeovers may be late when memory is short"))
            .is_ok();
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
        table,
        records,
        links: LinkSender::all(&config, me),
        keys: Box::new(key.keys()),
        newest: args.wire_version,
        net: commands,
        priority,
    };
    let relay = held
        .map(|ring| Relay::spawn(ring, priority.map(|p| p - 1)))
        .transpose()?;
    let rt = rt::spawn(parts).context("starting the real-time thread")?;

    let s = Supervisor {
        args: args.clone(),
        me,
        table,
        gated,
        gates,
        rt,
        net,
        net_serial: Serial::default(),
        log,
        narrator: Narrator::new(names),
        notifier,
        waiting: BTreeMap::new(),
        next_id: 0,
        vip_errors: BTreeMap::new(),
        present: table.run_set.load().0,
        fitness: FitnessBook::default(),
        targets: Targets::default(),
        services: ServicesBook::default(),
        hooks: Hooks::default(),
        unproven: BTreeMap::new(),
        provers: Provers::default(),
        quiescing: Quiescing::default(),
        relay,
        outdating: Outdating::default(),
        replicas: Replicas::default(),
        last_epoch,
        left: false,
        unsent: Vec::new(),
        rejected: BTreeMap::new(),
        clock_source: clock_source(),
        rounds: 0,
        started_ns: now.boot,
        locked,
        history,
        staged: None,
        mapping: false,
        shrink_peers_at: 0,
        closed: true,
        config,
        key,
        datapath,
        why,
    };
    s.record(drafts);
    if let AnyPath::Socket(_) = &s.datapath {
        let why = s.why.as_deref().unwrap_or("as configured");
        let text = format!("without BPF ({why}): {}", status::SOCKET_PROMISES);
        s.record(vec![Draft::new(EventKind::Note, text)]);
    }
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
    if !s.history.proven {
        let text = format!(
            "generation {} is new to this node: it votes when it has heard a member that does",
            s.config.generation
        );
        s.record(vec![Draft::new(EventKind::GenerationChange, text)]);
    } else if fresh {
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

pub(super) fn clock_source() -> String {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    fs::read_to_string(path)
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}
