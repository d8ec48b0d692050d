//! Other machines, shown in a folder; each finding in each of its states.

use std::path::Path;

use super::device::Seen;
use super::links::Used;
use super::*;

pub(super) struct Fake(tempfile::TempDir);

impl Fake {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }
    pub(super) fn machine(&self) -> Machine {
        Machine::at(self.0.path())
    }
}

#[track_caller]
pub(super) fn expect(finding: &Finding, level: Level, words: &[&str]) {
    let said = format!(
        "{} | {}",
        finding.found,
        finding.mend.as_deref().unwrap_or("")
    );
    assert_eq!(finding.level, level, "{said}");
    assert_eq!(
        finding.mend.is_some(),
        level != Level::Ok,
        "a mend where one is needed: {said}"
    );
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn kernels() {
    for (release, level, word) in [
        ("6.18.44-fc-v595\n", Level::Ok, "egress gate by TCX"),
        ("6.6.0", Level::Ok, "egress gate by TCX"),
        ("6.5.13", Level::Ok, "clsact"),
        ("6.1.0-35-cloud-amd64", Level::Ok, "clsact"),
        ("5.15.0", Level::Ok, "clsact"),
        ("5.14.21", Level::Bad, "too old"),
        ("4.19", Level::Bad, "5.15"),
        ("6", Level::Warn, "no version"),
        ("", Level::Warn, "no version"),
    ] {
        let fake = Fake::new(&[("proc/sys/kernel/osrelease", release)]);
        expect(&system::kernel(&fake.machine()), level, &[word]);
    }
    expect(
        &system::kernel(&Fake::new(&[]).machine()),
        Level::Warn,
        &["cannot be read"],
    );
}

#[test]
fn bpf() {
    let mounts = |text| Fake::new(&[("proc/self/mounts", text)]);
    let look = |text, dir: &str| system::bpf_file_system(&mounts(text).machine(), Path::new(dir));
    let dir = "/sys/fs/bpf/heartline";
    expect(
        &look(
            "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0",
            dir,
        ),
        Level::Ok,
        &["/sys/fs/bpf"],
    );
    expect(
        &look("bpf /sys/fs/bpf bpf ro,nosuid 0 0", dir),
        Level::Bad,
        &["read-only", "ReadWritePaths"],
    );
    expect(
        &look("sysfs /sys sysfs rw 0 0", dir),
        Level::Bad,
        &["mount -t bpf"],
    );
    expect(
        &look("bpf /sys/fs/bpf bpf rw 0 0", "/tmp/lab/bpf"),
        Level::Bad,
        &["/tmp/lab/bpf"],
    );
    expect(
        &look("bpf /tmp/lab bpf rw 0 0", "/tmp/lab/bpf"),
        Level::Ok,
        &["/tmp/lab"],
    );

    expect(
        &system::btf(&Fake::new(&[("sys/kernel/btf/vmlinux", "x")]).machine()),
        Level::Ok,
        &[],
    );
    expect(
        &system::btf(&Fake::new(&[]).machine()),
        Level::Warn,
        &["CONFIG_DEBUG_INFO_BTF"],
    );
    let jit =
        |text| system::jit(&Fake::new(&[("proc/sys/net/core/bpf_jit_enable", text)]).machine());
    expect(&jit("1\n"), Level::Ok, &["on"]);
    expect(&jit("0\n"), Level::Warn, &["bpf_jit_enable=1"]);
}

#[test]
fn clocks() {
    let folder = "sys/devices/system/clocksource/clocksource0";
    let look = |current, available| {
        let (a, b) = (
            format!("{folder}/current_clocksource"),
            format!("{folder}/available_clocksource"),
        );
        system::clock_source(&Fake::new(&[(&a, current), (&b, available)]).machine())
    };
    expect(&look("tsc\n", "tsc hpet acpi_pm"), Level::Ok, &["tsc"]);
    expect(
        &look("hpet\n", "tsc hpet acpi_pm"),
        Level::Warn,
        &["echo tsc"],
    );
    expect(&look("acpi_pm\n", "hpet acpi_pm"), Level::Warn, &["dmesg"]);
}

#[test]
fn other_tools_are_found_by_name() {
    let fake = Fake::new(&[
        ("proc/17/comm", "keepalived\n"),
        ("proc/18/comm", "keepalived\n"),
        ("proc/self/comm", "ucarp"),
    ]);
    let finding = system::other_tools(&fake.machine());
    expect(&finding, Level::Warn, &["keepalived runs here"]);
    assert!(!finding.found.contains("ucarp"));
    expect(
        &system::other_tools(&Fake::new(&[("proc/17/comm", "nginx")]).machine()),
        Level::Ok,
        &[],
    );
}

#[test]
fn hypervisors_break_an_assumption() {
    let virt = |files: &[(&str, &str)]| system::hypervisor(&Fake::new(files).machine());
    assert_eq!(
        virt(&[("proc/cpuinfo", "flags\t\t: fpu hypervisor sse")]).as_deref(),
        Some("the CPU says so")
    );
    assert_eq!(
        virt(&[(
            "proc/cpuinfo",
            "model name : hypervisor\nflags\t\t: fpu sse"
        )]),
        None
    );
    assert_eq!(
        virt(&[("sys/hypervisor/type", "xen\n")]).as_deref(),
        Some("xen")
    );
    let qemu = [
        ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
        ("sys/class/dmi/id/product_name", "Standard PC\n"),
    ];
    assert_eq!(virt(&qemu).as_deref(), Some("QEMU Standard PC"));
    assert_eq!(
        virt(&[("sys/class/dmi/id/sys_vendor", "Dell Inc.\n")]),
        None
    );

    let all = system::assumptions(&Fake::new(&qemu).machine());
    assert_eq!(all.len(), 4);
    expect(&all[0], Level::Warn, &["virtual machine", "one lease"]);
    expect(
        &system::assumptions(&Fake::new(&[]).machine())[0],
        Level::Ok,
        &[],
    );
}

#[test]
fn rights_are_read_from_the_status() {
    let look = |bits: &str| {
        rights::capabilities(
            &Fake::new(&[("proc/self/status", &format!("Name:\tx\nCapEff:\t{bits}\n"))]).machine(),
        )
    };
    expect(&look("000001ffffffffff"), Level::Ok, &[]);
    // All but CAP_BPF and CAP_PERFMON, with and without CAP_SYS_ADMIN.
    expect(&look("0000003fffffffff"), Level::Ok, &[]);
    let level = if nix::unistd::geteuid().is_root() {
        Level::Bad
    } else {
        Level::Warn
    };
    expect(
        &look("0000003fffdfffff"),
        level,
        &["CAP_BPF", "CAP_PERFMON"],
    );
    expect(
        &look("0000000000000000"),
        level,
        &["CAP_NET_ADMIN", "CAP_SYS_NICE"],
    );

    let budget = |runtime| {
        let files = [
            ("proc/sys/kernel/sched_rt_runtime_us", runtime),
            ("proc/sys/kernel/sched_rt_period_us", "1000000"),
        ];
        rights::real_time_budget(&Fake::new(&files).machine())
    };
    expect(&budget("950000"), Level::Ok, &["950000 us"]);
    expect(&budget("-1"), Level::Ok, &["not limited"]);
    expect(&budget("0"), Level::Bad, &["sched_rt_runtime_us"]);
}

fn config(datapath: &str) -> Config {
    let text = include_str!("../../../config/demo.toml");
    let text = text.replace(
        "generation = 1",
        &format!("generation = 1\ndatapath = {datapath:?}"),
    );
    Config::from_str(&text, "demo.toml").unwrap().config
}

fn used() -> Used {
    let config = config("auto");
    let all = links::devices_of(&config, &config.nodes[0]);
    assert_eq!(all.len(), 1);
    all[0].clone()
}

fn seen(driver: &str, mtu: u32) -> Seen {
    Seen {
        driver: Some(driver.into()),
        mtu: Some(mtu),
        up: true,
        running: true,
        tx_checksum: Some(true),
    }
}

#[test]
fn devices_of_a_node() {
    assert_eq!(
        used(),
        Used {
            name: "eth0".into(),
            link: true,
            ipv4: true,
            ipv6: true,
            wide_vip: false,
            one_of_many: false
        }
    );
    let text = include_str!("../../../config/heartline.toml");
    let (before, vip) = text.split_at(text.find("\"192.0.2.100\"").unwrap());
    let vip = vip
        .replacen(".100\"", ".100/24\"", 1)
        .replacen("\"eth0\"", "\"eth7\"", 1);
    let text = format!("{before}{vip}");
    let config = Config::from_str(&text, "t").unwrap().config;
    let names = |node: usize| -> Vec<_> {
        links::devices_of(&config, &config.nodes[node])
            .iter()
            .map(|u| (u.name.clone(), u.link, u.wide_vip))
            .collect()
    };
    let links = [
        ("eth0".to_owned(), true, false),
        ("eth1".to_owned(), true, false),
    ];
    assert_eq!(names(0)[..2], links);
    assert_eq!(names(0)[2], ("eth7".to_owned(), false, true));
    assert_eq!(names(2), links, "a witness carries no VIP");
}

#[test]
fn state_and_mtu() {
    let up = seen("ice", 1500);
    expect(&links::state(&used(), &up), Level::Ok, &[]);
    expect(
        &links::state(
            &used(),
            &Seen {
                running: false,
                ..up.clone()
            },
        ),
        Level::Bad,
        &["carrier"],
    );
    expect(
        &links::state(
            &used(),
            &Seen {
                up: false,
                ..up.clone()
            },
        ),
        Level::Bad,
        &["ip link set eth0 up"],
    );
    expect(&links::mtu(&used(), &up), Level::Ok, &["1500"]);
    expect(
        &links::mtu(&used(), &seen("ice", 1279)),
        Level::Bad,
        &["IPv6"],
    );
    let v4 = Used {
        ipv6: false,
        ..used()
    };
    expect(&links::mtu(&v4, &seen("ice", 240)), Level::Ok, &[]);
    expect(
        &links::mtu(&v4, &seen("ice", 239)),
        Level::Bad,
        &["a heartbeat"],
    );
}

#[test]
fn data_paths() {
    let look = |path: &str, driver: &str, mtu| {
        links::data_path(&config(path), &used(), &seen(driver, mtu))
    };
    expect(
        &look("auto", "ice", 1500),
        Level::Ok,
        &["native XDP is likely"],
    );
    expect(
        &look("auto", "virtio_net", 9000),
        Level::Warn,
        &["mtu 3498"],
    );
    expect(&look("auto", "bridge", 1500), Level::Warn, &["generic"]);
    expect(&look("native", "bridge", 1500), Level::Bad, &["auto"]);
    expect(&look("socket", "veth", 1500), Level::Ok, &["nftables"]);
    expect(
        &look("generic", "bridge", 1500),
        Level::Ok,
        &["as configured"],
    );
    expect(&look("auto", "veth", 1500), Level::Ok, &["peer"]);
    assert!(links::checksum_offload(&used(), &seen("ice", 1500)).is_none());
    expect(
        &links::checksum_offload(&used(), &seen("veth", 1500)).unwrap(),
        Level::Warn,
        &["ethtool -K eth0 tx off"],
    );
}

#[test]
fn a_machine_without_bpf() {
    let ms = 1_000_000;
    let look = |release: &str, nft: Option<&str>, tick| {
        let fake = Fake::new(&[("proc/sys/kernel/osrelease", release)]);
        sockets::of(
            &fake.machine(),
            &config("socket"),
            nft.map(Into::into),
            tick,
        )
    };
    let good = look("6.1.0", Some("/usr/sbin/nft"), 4 * ms);
    let [program, kernel, lease, firewall, promises] = &good[..] else {
        panic!("{good:?}");
    };
    expect(program, Level::Ok, &["/usr/sbin/nft"]);
    expect(kernel, Level::Ok, &[]);
    expect(lease, Level::Warn, &["20 ms", "wan"]);
    expect(firewall, Level::Warn, &["4747"]);
    expect(promises, Level::Warn, &["flush ruleset"]);
    let poor = look("5.15.0", None, 10 * ms);
    expect(&poor[0], Level::Bad, &["apt-get install nftables"]);
    expect(&poor[1], Level::Bad, &["5.16"]);
    expect(&poor[2], Level::Bad, &["does not start"]);
}

/// What BPF lacks is no fault where it is not used, and no end with "auto".
#[test]
fn lacks_of_bpf_weigh_by_the_data_path() {
    let fake = Fake::new(&[("proc/sys/kernel/osrelease", "6.1.0")]);
    let lacks = || {
        vec![
            Finding::bad("bpf file system", "none", "mount it"),
            Finding::bad(
                "capabilities",
                "missing: CAP_BPF (loading programs)",
                "give it",
            ),
            Finding::bad("other", "bad", "mend it"),
        ]
    };
    let look = |path: &str| {
        let mut all = lacks();
        sockets::without_bpf(&fake.machine(), &config(path), &mut all);
        all
    };
    assert_eq!(look("native"), lacks());
    let auto = look("auto");
    assert_eq!(
        auto[..3].iter().map(|f| f.level).collect::<Vec<_>>(),
        [Level::Warn, Level::Warn, Level::Bad]
    );
    assert!(auto.iter().any(|f| f.what == "sockets: nft"));
    let socket = look("socket");
    assert_eq!(socket[0].what, "other");
    assert!(socket.iter().any(|f| f.what == "sockets: lease"));
}

#[test]
fn sysctls() {
    let base = "proc/sys/net";
    let off = format!("{base}/ipv6/conf/eth0/disable_ipv6");
    let look =
        |files: &[(&str, &str)], used: &Used| links::sysctls(&Fake::new(files).machine(), used);
    let found = look(&[(&off, "0\n")], &used());
    assert_eq!(found.len(), 1);
    expect(&found[0], Level::Ok, &[]);
    expect(
        &look(&[(&off, "1\n")], &used())[0],
        Level::Bad,
        &["disable_ipv6=0"],
    );
    expect(&look(&[], &used())[0], Level::Bad, &["no IPv6"]);

    let v4 = Used {
        ipv6: false,
        one_of_many: true,
        ..used()
    };
    let (all, own) = (
        format!("{base}/ipv4/conf/all/rp_filter"),
        format!("{base}/ipv4/conf/eth0/rp_filter"),
    );
    expect(
        &look(&[(&all, "1"), (&own, "0")], &v4)[0],
        Level::Warn,
        &["rp_filter=2"],
    );
    assert_eq!(look(&[(&all, "1"), (&own, "2")], &v4), []);
    assert_eq!(
        look(
            &[(&all, "1")],
            &Used {
                one_of_many: false,
                ..v4.clone()
            }
        ),
        []
    );

    let wide = Used {
        wide_vip: true,
        one_of_many: false,
        ..v4
    };
    let promote = format!("{base}/ipv4/conf/eth0/promote_secondaries");
    expect(
        &look(&[(&promote, "0")], &wide)[0],
        Level::Bad,
        &["own address"],
    );
    expect(&look(&[(&promote, "1")], &wide)[0], Level::Ok, &[]);
}

#[test]
fn link_addresses() {
    let here = [("eth0".to_owned(), "10.77.0.1".parse().unwrap())];
    let look = |device, address: &str| links::link_address(&here, device, address.parse().unwrap());
    expect(&look("eth0", "10.77.0.1"), Level::Ok, &[]);
    expect(&look("eth1", "10.77.0.1"), Level::Bad, &["on eth0 instead"]);
    expect(&look("eth0", "10.77.0.2"), Level::Bad, &["right node"]);
}

#[test]
fn configuration_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heartline.toml");
    let look = |named| {
        configuration(&Questions {
            config: path.clone(),
            config_named: named,
            node: None,
            bpf_dir: "/".into(),
            agent: None,
        })
    };
    expect(&look(true).0, Level::Bad, &["cannot be read"]);
    expect(&look(false).0, Level::Warn, &["cannot be read"]);
    std::fs::write(&path, include_str!("../../../config/demo.toml")).unwrap();
    let (finding, config) = look(true);
    expect(&finding, Level::Bad, &["demo.key", "heartline check"]);
    assert!(config.is_some(), "the links can be looked at without a key");
    crate::config::ClusterKey::generate()
        .unwrap()
        .write(&folder.path().join("demo.key"), false)
        .unwrap();
    expect(&look(true).0, Level::Ok, &["good"]);
    std::fs::write(&path, "cluster = 3").unwrap();
    let (finding, config) = look(true);
    expect(&finding, Level::Bad, &["more; see `heartline check`"]);
    assert!(config.is_none());
}

#[test]
fn a_node_that_is_not_there() {
    expect(&no_node(Some("n9"), "host"), Level::Bad, &["n9"]);
    expect(&no_node(None, "host"), Level::Warn, &["host", "--node"]);
}

/// The real machine: nothing panics, all has a name, and what must be there is.
#[test]
fn this_machine() {
    let questions = Questions {
        config: "/nonexistent".into(),
        config_named: false,
        node: None,
        bpf_dir: "/sys/fs/bpf".into(),
        agent: None,
    };
    let all = examine(&Machine::this(), &questions);
    for what in [
        "kernel",
        "bpf file system",
        "real-time priority",
        "clock source",
        "configuration",
        "assumed: boot clock",
    ] {
        assert!(all.iter().any(|f| f.what == what), "{what}");
    }
    assert!(all.iter().all(|f| f.level == Level::Ok || f.mend.is_some()));
}
