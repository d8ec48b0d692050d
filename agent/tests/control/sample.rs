//! Reports to test with.

use heartline::control::proto::*;

const SECOND: u64 = 1_000_000_000;

fn node(id: u8, state: NodeState, heard: Option<u64>) -> NodeStatus {
    let links = ["eth0", "eth1"].map(|device| LinkStatus {
        device: device.into(),
        address: format!("10.77.0.{id}"),
        last_heard_ms: heard,
    });
    NodeStatus {
        name: format!("n{id}"),
        id,
        state,
        last_heard_ms: heard,
        links: if state == NodeState::Me {
            Vec::new()
        } else {
            links.into()
        },
        incarnation: heard.map(|_| 7),
        generation: heard.map(|_| 1),
        digest_match: heard.map(|_| true),
        ..NodeStatus::default()
    }
}

fn vip(address: &str, present: bool) -> VipStatus {
    VipStatus {
        address: address.into(),
        device: "eth0".into(),
        present,
        error: None,
    }
}

/// Three healthy nodes; n1, where it is made, owns `web`, n2 owns `db`.
pub fn healthy() -> StatusReport {
    let boot_ns = 300_000 * SECOND;
    let phases = Phases {
        last_heard_ns: Some(boot_ns - 200 * SECOND - 51_350_000),
        detected_ns: boot_ns - 200 * SECOND - 1_400_000,
        claimed_ns: boot_ns - 200 * SECOND - 1_150_000,
        agreed_ns: boot_ns - 200 * SECOND - 350_000,
        address_ns: boot_ns - 200 * SECOND - 50_000,
        announced_ns: boot_ns - 200 * SECOND,
    };
    let device = |name: &str, link, prog| DeviceStatus {
        name: name.into(),
        link,
        mode: DatapathMode::Native,
        xdp_prog_id: Some(prog),
        egress: EgressMode::Tcx,
        error: None,
    };
    StatusReport {
        agent_version: "0.1.0".into(),
        wire_version: 1,
        node: "n1".into(),
        node_id: 1,
        cluster: "demo".into(),
        generation: 1,
        change: None,
        digest: "5ab3c1d2e4f60718".into(),
        incarnation: 7,
        boot_ns,
        uptime_ms: 273_600_000,
        timing: TimingStatus {
            profile: "lan".into(),
            heartbeat_ns: 10_000_000,
            lease_ns: 40_000_000,
            takeover_ns: 50_000_000,
            max_promise_ns: 10 * SECOND,
        },
        datapath: vec![device("eth0", true, 41), device("eth1", true, 43)],
        rt: RtStatus {
            policy: "fifo".into(),
            priority: 80,
            memory_locked: true,
            max_loop_late_us: 123,
            late: vec![0, 1_000, 20],
        },
        voting: VotingStatus {
            active: true,
            since_boot_ns: Some(26_400 * SECOND),
            ..VotingStatus::default()
        },
        quorum: QuorumStatus {
            voters: 3,
            needed: 2,
            reachable: 3,
        },
        lease: LeaseStatus {
            holds: true,
            until_ns_remaining: Some(34_200_000),
        },
        nodes: vec![
            node(1, NodeState::Me, None),
            node(2, NodeState::Alive, Some(4)),
            NodeStatus {
                voting: true,
                role: Role::Witness,
                ..node(3, NodeState::Alive, Some(7))
            },
        ],
        groups: vec![
            GroupStatus {
                name: "web".into(),
                id: 0,
                owner: Some("n1".into()),
                owned_here: true,
                gate_open: true,
                epoch: 17,
                desired: Some("n1".into()),
                vips: vec![vip("10.77.0.100/32", true), vip("fd00:77::100/128", true)],
                since_boot_ns: Some(boot_ns - 200 * SECOND),
                prefer: vec!["n1".into(), "n2".into()],
                failback: "manual".into(),
                last_takeover: Some(Takeover::new(
                    TakeoverReason::OwnerLost,
                    Some("n2".into()),
                    17,
                    phases,
                )),
                ..GroupStatus::default()
            },
            GroupStatus {
                name: "db".into(),
                id: 1,
                owner: Some("n2".into()),
                epoch: 9,
                desired: Some("n2".into()),
                vips: vec![vip("10.77.0.101/32", false)],
                since_boot_ns: Some(boot_ns - 26_000 * SECOND),
                prefer: vec!["n2".into(), "n1".into()],
                failback: "auto".into(),
                spread: true,
                ..GroupStatus::default()
            },
        ],
        counters: [
            ("heartbeats_sent".to_owned(), 27_360_000),
            ("refused_bad_mac".to_owned(), 0),
        ]
        .into(),
        ..StatusReport::default()
    }
}

/// Much is wrong: no majority, devices without gates, another configuration, a late and a silent node.
pub fn troubled() -> StatusReport {
    let mut report = healthy();
    report.paused = true;
    report.quorum.reachable = 1;
    report.lease = LeaseStatus::default();
    report.voting = VotingStatus {
        active: false,
        waits_ms: Some(7_400),
        ..VotingStatus::default()
    };
    report.rt = RtStatus {
        policy: "other".into(),
        max_loop_late_us: 48_000,
        ..RtStatus::default()
    };
    report.uncovered_devices = vec!["br-lan".into()];
    report.datapath[1].egress = EgressMode::None;
    report.datapath[1].mode = DatapathMode::Generic;
    report.datapath[1].error = Some("cannot attach to egress: operation not permitted".into());
    report.nodes[1] = NodeStatus {
        drained: true,
        generation: Some(2),
        digest_match: Some(false),
        config_mismatch: Some("lease 40 ms here, 60 ms there".into()),
        ..node(2, NodeState::Late, Some(4))
    };
    report.nodes[2] = NodeStatus {
        role: Role::Witness,
        ..node(3, NodeState::Silent, Some(12_345))
    };
    report.nodes.push(node(4, NodeState::NeverSeen, None));
    report.groups[0].gate_open = false;
    report.groups[0].vips[1].present = false;
    report.groups[0].vips[1].error = Some("netlink: no buffer space".into());
    report.groups[1].owner = None;
    report.groups[1].desired = Some("n1".into());
    report.groups[1].unfit = vec![Unfit {
        node: "n1".into(),
        reason: "eth0 has no carrier".into(),
    }];
    let warning = |level, code: &str, text: &str, help: Option<&str>| Warning {
        level,
        code: code.into(),
        text: text.into(),
        help: help.map(Into::into),
    };
    report.warnings = vec![
        warning(
            Level::Note,
            "assumption_clock",
            "The boot clock of each node is assumed to run whenever the node can later run.",
            None,
        ),
        warning(
            Level::Warning,
            "config_mismatch",
            "n2 has another configuration: lease 40 ms here, 60 ms there.",
            Some("copy the same file to both nodes, then heartline reload"),
        ),
        warning(
            Level::Error,
            "gate_missing",
            "br-lan has no gate: traffic of virtual addresses can pass there although the lease has run out.",
            Some("heartline doctor"),
        ),
    ];
    report
}
