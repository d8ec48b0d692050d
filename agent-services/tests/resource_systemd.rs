//! Units of a real systemd (its user instance, alone in namespaces) over a real D-Bus.

mod resource_common;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_services::{
    group::{Group, Phase, Report, Role, Services, What},
    policy::Policy,
    resource::{Failure, Kind, Resource, State},
};
use resource_common::{inside, resource, sh, until};

const ENVIRONMENT: &[(&str, &str)] = &[
    ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path={}/bus"),
    ("DBUS_SESSION_BUS_ADDRESS", "unix:path={}/bus"),
    ("XDG_RUNTIME_DIR", "{}/run"),
    ("XDG_CONFIG_HOME", "{}/config"),
    ("HOME", "{}"),
    ("SYSTEMD_UNIT_PATH", "{}/config/systemd/user"),
];

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>systemd:</listen><auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_type="*"/><allow receive_type="*"/></policy></busconfig>"#;

/// Writes the units, starts systemd, and waits until it answers.
async fn systemd(folder: &Path, bus: bool, units: &[(&str, &str)]) {
    let path = |name: &str| folder.join("config/systemd/user").join(name);
    fs::create_dir_all(path("")).unwrap();
    fs::create_dir(folder.join("run")).unwrap();
    fs::write(folder.join("bus.conf"), BUS).unwrap();
    let folder_text = folder.to_str().unwrap();
    let daemon = format!(
        "[Service]\nType=notify\nExecStart=/usr/bin/dbus-daemon --config-file={folder_text}/bus.conf \
         --nofork --nopidfile --systemd-activation\n"
    );
    let socket = format!("[Socket]\nListenStream={folder_text}/bus\n");
    let wants = if bus { "dbus.socket" } else { "" };
    let basic = format!("[Unit]\nWants={wants}\nAfter={wants}\n");
    for (name, text) in [
        ("dbus.service", daemon.as_str()),
        ("dbus.socket", &socket),
        ("basic.target", &basic),
        ("shutdown.target", "[Unit]\n"),
    ]
    .iter()
    .chain(units)
    {
        fs::write(path(name), text).unwrap();
    }
    // tokio buries it.
    tokio::process::Command::new("/lib/systemd/systemd")
        .args(["--user", "--unit=basic.target"])
        .spawn()
        .unwrap();
    let private = folder.join("run/systemd/private");
    until("systemd's socket", || async { private.exists() }).await;
    if bus {
        until("the bus", || async { folder.join("bus").exists() }).await;
        // By the bus, or not at all.
        assert!(!Path::new("/run/systemd/private").exists());
    } else {
        std::os::unix::fs::symlink(private, "/run/systemd/private").unwrap();
    }
    let basic = unit("basic.target");
    until("basic.target", || async {
        let state = basic.status().await;
        if state != State::Running {
            eprintln!("{state:?}");
        }
        state == State::Running
    })
    .await;
}

fn unit(name: &str) -> Resource {
    resource(Kind::Systemd { unit: name.into() })
}

fn misconfigured(result: Result<(), Failure>, with: &str) {
    match result {
        Err(Failure::Misconfigured(text)) if text.contains(with) => {}
        other => panic!("{other:?} instead of Misconfigured, {with}"),
    }
}

fn failed(result: Result<(), Failure>, with: &str) {
    match result {
        Err(Failure::Failed(text)) if text.contains(with) => {}
        other => panic!("{other:?} instead of Failed, {with}"),
    }
}

async fn up_and_down() {
    let r = unit("good.service");
    assert_eq!(r.status().await, State::Stopped);
    assert_eq!(r.stop().await, Ok(()));
    for _ in 0..2 {
        assert_eq!(r.start().await, Ok(()));
        assert_eq!(r.status().await, State::Running);
    }
    let pid = sh("systemctl --user show -P MainPID good.service");
    assert!(Path::new("/proc").join(&pid).exists());
    for _ in 0..2 {
        assert_eq!(r.stop().await, Ok(()));
        assert_eq!(r.status().await, State::Stopped);
    }
    assert!(!Path::new("/proc").join(&pid).exists());
    assert_eq!(r.check().await, Vec::<String>::new());
}

const GOOD: (&str, &str) = ("good.service", "[Service]\nExecStart=/bin/sleep 1000\n");

#[test]
fn start_and_stop_over_the_bus() {
    inside(
        "start_and_stop_over_the_bus",
        ENVIRONMENT,
        |folder| async move {
            systemd(&folder, true, &[GOOD]).await;
            up_and_down().await;
            // Readiness is waited for, and a oneshot that stays.
            let once = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 0.3\n";
            fs::write(folder.join("config/systemd/user/once.service"), once).unwrap();
            let once = unit("once.service");
            assert_eq!(once.start().await, Ok(()));
            assert_eq!(once.status().await, State::Running);
            assert_eq!(once.stop().await, Ok(()));
        },
    );
}

#[test]
fn start_and_stop_without_a_bus() {
    inside(
        "start_and_stop_without_a_bus",
        ENVIRONMENT,
        |folder| async move {
            systemd(&folder, false, &[GOOD]).await;
            assert!(!folder.join("bus").exists());
            up_and_down().await;
        },
    );
}

#[test]
fn units_that_cannot_be() {
    inside("units_that_cannot_be", ENVIRONMENT, |folder| async move {
        systemd(
            &folder,
            true,
            &[("bad.service", "[Service]\nType=oneshot\n")],
        )
        .await;
        std::os::unix::fs::symlink("/dev/null", folder.join("config/systemd/user/mask.service"))
            .unwrap();
        for (name, with) in [
            ("none.service", "does not exist"),
            ("mask.service", "is masked"),
            ("bad.service", "cannot be loaded (bad-setting)"),
            ("no suffix", "no suffix"),
        ] {
            let r = unit(name);
            misconfigured(r.start().await, with);
            let wrong = r.check().await;
            assert!(wrong.len() == 1 && wrong[0].contains(with), "{wrong:?}");
            if name != "no suffix" {
                assert_eq!(r.status().await, State::Stopped, "{name}");
                assert_eq!(r.stop().await, Ok(()), "{name}");
            }
        }
    });
}

#[test]
fn starts_and_stops_that_never_end() {
    inside(
        "starts_and_stops_that_never_end",
        ENVIRONMENT,
        |folder| async move {
            let units = [
                (
                    "start.service",
                    "[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStartSec=infinity\n",
                ),
                (
                    "stop.service",
                    "[Service]\nExecStart=/bin/sleep 1000\nExecStop=/bin/sleep 1000\nTimeoutStopSec=infinity\n",
                ),
            ];
            systemd(&folder, true, &units).await;
            let mut r = unit("start.service");
            r.start_timeout = Duration::from_secs(1);
            let error = r.start().await.unwrap_err();
            assert!(matches!(error, Failure::TimedOut { .. }), "{error}");
            assert_eq!(
                error.to_string(),
                "not done within 1s: start of unit start.service"
            );
            assert_eq!(
                r.status().await,
                State::Unknown("it is activating (start)".into())
            );
            // A stop takes the place of the start that hangs.
            assert_eq!(r.stop().await, Ok(()));

            let mut r = unit("stop.service");
            assert_eq!(r.start().await, Ok(()));
            r.stop_timeout = Duration::from_secs(1);
            let error = r.stop().await.unwrap_err();
            assert!(matches!(error, Failure::TimedOut { .. }), "{error}");
            assert_eq!(
                r.status().await,
                State::Unknown("it is deactivating (stop)".into())
            );
            sh("systemctl --user kill stop.service");
        },
    );
}

#[test]
fn a_start_that_waits_is_taken_back() {
    inside(
        "a_start_that_waits_is_taken_back",
        ENVIRONMENT,
        |folder| async move {
            let units = [
                (
                    "late.service",
                    "[Unit]\nAfter=slow.service\nWants=slow.service\n[Service]\nExecStart=/bin/sleep 1000\n",
                ),
                (
                    "slow.service",
                    "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 4\n",
                ),
            ];
            systemd(&folder, true, &units).await;
            let mut r = unit("late.service");
            r.start_timeout = Duration::from_secs(1);
            assert!(matches!(r.start().await, Err(Failure::TimedOut { .. })));
            let state = r.status().await;
            assert!(
                matches!(&state, State::Unknown(t) if t.contains("waits for its start")),
                "{state:?}"
            );
            assert_eq!(r.stop().await, Ok(()));
            let slow = unit("slow.service");
            until("what it waited for is there", || async {
                slow.status().await == State::Running
            })
            .await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(r.status().await, State::Stopped);
        },
    );
}

#[test]
fn units_that_die() {
    inside("units_that_die", ENVIRONMENT, |folder| async move {
        let count = format!(
            "[Service]\nExecStart=/bin/sh -c 'echo x >>{}/count; exit 1'\n",
            folder.display()
        );
        let units = [
            ("false.service", count.as_str()),
            (
                "again.service",
                "[Service]\nExecStart=/bin/sh -c 'exit 7'\nRestart=always\nRestartSec=1000\n",
            ),
            ("no.service", "[Service]\nExecStart=/no/such/program\n"),
            (
                "need.service",
                "[Unit]\nRequires=fail.service\nAfter=fail.service\n[Service]\nExecStart=/bin/sleep 1000\n",
            ),
            (
                "fail.service",
                "[Service]\nType=oneshot\nExecStart=/bin/false\n",
            ),
            (
                "condition.service",
                "[Unit]\nConditionPathExists=/no/such\n[Service]\nExecStart=/bin/sleep 1000\n",
            ),
            GOOD,
        ];
        systemd(&folder, true, &units).await;
        // More often than systemd would start it of its own (5 in 10 s): that is for the group's policy to say.
        for _ in 0..8 {
            failed(unit("false.service").start().await, "exit-code, status 1");
        }
        let tried = fs::read_to_string(folder.join("count")).unwrap();
        assert_eq!(tried.lines().count(), 8);
        assert_eq!(unit("false.service").stop().await, Ok(()));
        assert_eq!(unit("false.service").status().await, State::Stopped);
        failed(unit("again.service").start().await, "status 7");
        let state = unit("again.service").status().await;
        assert!(
            matches!(&state, State::Failed(t) if t.contains("about to restart")),
            "{state:?}"
        );
        assert_eq!(unit("again.service").stop().await, Ok(()));
        failed(unit("no.service").start().await, "status 203");
        failed(unit("need.service").start().await, "a unit that it needs");
        failed(unit("condition.service").start().await, "condition");

        let r = unit("good.service");
        assert_eq!(r.start().await, Ok(()));
        sh("kill -9 $(systemctl --user show -P MainPID good.service)");
        until("systemd sees it", || async {
            r.status().await != State::Running
        })
        .await;
        assert_eq!(
            r.status().await,
            State::Failed("failed (signal, signal 9)".into())
        );
        assert_eq!(r.start().await, Ok(()));
        assert_eq!(r.status().await, State::Running);
    });
}

#[test]
fn who_is_left_behind_is_named() {
    inside(
        "who_is_left_behind_is_named",
        ENVIRONMENT,
        |folder| async move {
            let stays = "exec /bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done' stays";
            fs::write(
                folder.join("stays.sh"),
                format!("({stays}) &\nexec sleep 1000\n"),
            )
            .unwrap();
            let text = |mode: &str| {
                format!(
                    "[Service]\nExecStart=/bin/sh {}/stays.sh\nTimeoutStopSec=1\nSendSIGKILL=no\n{mode}\n",
                    folder.display()
                )
            };
            let (by_mistake, on_purpose) = (text(""), text("KillMode=process"));
            systemd(
                &folder,
                true,
                &[
                    ("mistake.service", &by_mistake),
                    ("purpose.service", &on_purpose),
                ],
            )
            .await;
            let r = unit("mistake.service");
            assert_eq!(r.start().await, Ok(()));
            // It must be deaf before it is asked to end.
            until("the process that stays", || async {
                sh("pgrep -cf '[s]tays$' || true") != "0"
            })
            .await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            failed(r.stop().await, "has left processes behind: ");
            let state = r.status().await;
            assert!(
                matches!(&state, State::Failed(t) if t.contains("stays")),
                "{state:?}"
            );
            let r = unit("purpose.service");
            assert_eq!(r.start().await, Ok(()));
            assert_eq!(r.stop().await, Ok(()));
            assert_eq!(r.status().await, State::Stopped);
        },
    );
}

#[test]
fn bus_gone_and_back() {
    inside(
        "bus_gone_and_back",
        ENVIRONMENT,
        |folder: PathBuf| async move {
            systemd(&folder, true, &[GOOD]).await;
            let r = unit("good.service");
            assert_eq!(r.start().await, Ok(()));
            for _ in 0..3 {
                sh("systemctl --user stop dbus.socket dbus.service");
                let state = r.status().await;
                assert!(
                    matches!(&state, State::Unknown(t) if t.contains("cannot be reached")),
                    "{state:?}"
                );
                let error = r.stop().await.unwrap_err();
                assert!(matches!(error, Failure::Unknown(_)), "{error}");
                let wrong = r.check().await;
                assert!(wrong[0].contains("cannot be reached"), "{wrong:?}");
                sh("systemctl --user start dbus.socket");
                until("it is back", || async {
                    r.status().await == State::Running
                })
                .await;
                // Jobs are heard of again, too.
                assert_eq!(r.stop().await, Ok(()));
                assert_eq!(r.start().await, Ok(()));
            }
            // Killed under a job.
            let slow = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 3\n";
            fs::write(folder.join("config/systemd/user/slow.service"), slow).unwrap();
            let slow = unit("slow.service");
            let kill = async {
                until("it starts", || async {
                    sh("systemctl --user show -P ActiveState slow.service") == "activating"
                })
                .await;
                sh("systemctl --user kill -s KILL dbus.service");
            };
            let (result, ()) = tokio::join!(slow.start(), kill);
            assert!(matches!(result, Err(Failure::Unknown(_))), "{result:?}");
            until("it has started", || async {
                slow.status().await == State::Running
            })
            .await;
            assert_eq!(slow.start().await, Ok(()));
        },
    );
}

#[test]
fn what_systemd_starts_by_itself() {
    inside(
        "what_systemd_starts_by_itself",
        ENVIRONMENT,
        |folder| async move {
            let units = [
                (
                    "boot.service",
                    "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=basic.target\n",
                ),
                ("asked.service", "[Service]\nExecStart=/bin/sleep 1000\n"),
                (
                    "asked.socket",
                    "[Socket]\nListenStream=127.0.0.1:7\n[Install]\nWantedBy=basic.target\n",
                ),
            ];
            systemd(&folder, true, &units).await;
            let mut boot = unit("boot.service");
            let asked = unit("asked.service");
            assert_eq!(boot.check().await, Vec::<String>::new());
            assert_eq!(asked.check().await, Vec::<String>::new());
            sh(
                "systemctl --user enable boot.service asked.socket && systemctl --user daemon-reload",
            );
            let wrong = boot.check().await;
            assert!(
                wrong.len() == 1 && wrong[0].contains("systemctl disable boot.service"),
                "{wrong:?}"
            );
            let wrong = asked.check().await;
            assert!(
                wrong.len() == 1 && wrong[0].contains("TriggeredBy=asked.socket"),
                "{wrong:?}"
            );
            boot.keep_running = true;
            assert_eq!(boot.check().await, Vec::<String>::new());
        },
    );
}

/// A group with one unit, that is looked at often.
fn group(name: &str, reports: tokio::sync::mpsc::Sender<Report>) -> Group {
    let mut r = unit(name);
    r.status_interval = Duration::from_millis(100);
    let services = Services {
        resources: vec![r],
        probes: Vec::new(),
        policy: Policy::default(),
    };
    let group = Group::spawn(1, services, reports);
    group.want(|w| w.role = Role::Owner { epoch: 1 });
    group
}

/// A unit that does not exist is no matter of trying again: given up at once, with its name. The group may go elsewhere.
#[test]
fn a_group_whose_unit_does_not_exist_is_given_up_at_once() {
    inside(
        "a_group_whose_unit_does_not_exist_is_given_up_at_once",
        ENVIRONMENT,
        |folder: PathBuf| async move {
            systemd(&folder, true, &[GOOD]).await;
            let (send, mut reports) = tokio::sync::mpsc::channel(64);
            let group = group("missing.service", send);
            let why = loop {
                if let What::Broken(Some(why)) = reports.recv().await.unwrap().what {
                    break why;
                }
            };
            assert!(
                why.contains("missing.service") && why.contains("does not start"),
                "{why}"
            );
            until("failed, and said so", || async {
                let v = group.view();
                v.phase == Phase::Failed && v.given_up && v.failures == 1
            })
            .await;
        },
    );
}

/// Without the bus nothing is known of the unit, and nothing has failed.
#[test]
fn a_group_whose_bus_goes_and_comes_back_has_not_failed() {
    inside(
        "a_group_whose_bus_goes_and_comes_back_has_not_failed",
        ENVIRONMENT,
        |folder: PathBuf| async move {
            systemd(&folder, true, &[GOOD]).await;
            let (send, mut reports) = tokio::sync::mpsc::channel(64);
            let group = group("good.service", send);
            let state = || group.view().resources.first().map_or("", |r| r.state);
            until("it runs", || async { group.view().phase == Phase::Running }).await;
            let begun = sh("systemctl --user show -P ActiveEnterTimestampMonotonic good.service");
            for _ in 0..3 {
                sh("systemctl --user stop dbus.socket dbus.service");
                until("it is not known", || async { state() == "unknown" }).await;
                // Asked again some times.
                tokio::time::sleep(Duration::from_millis(500)).await;
                let v = group.view();
                assert!(v.resources[0].text.contains("cannot be reached"), "{v:?}");
                assert_eq!(
                    (v.phase, v.failures, v.given_up),
                    (Phase::Running, 0, false)
                );
                sh("systemctl --user start dbus.socket");
                until("it is known again", || async { state() == "running" }).await;
            }
            let v = group.view();
            assert_eq!(
                (v.phase, v.failures, v.given_up),
                (Phase::Running, 0, false)
            );
            let now = sh("systemctl --user show -P ActiveEnterTimestampMonotonic good.service");
            assert_eq!(begun, now, "it was started again");
            while let Ok(report) = reports.try_recv() {
                assert!(!matches!(report.what, What::Broken(Some(_))), "{report:?}");
            }
        },
    );
}
