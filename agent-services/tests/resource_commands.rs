//! Commands, and OCF agents that we made up, some of which lie or hang.

mod resource_common;

use std::{fs, path::Path, time::Duration};

use agent_services::resource::{Failure, Kind, Resource, State};
use resource_common::{inside, ocf, program, resource, sh, until};

fn exec(folder: &Path, start: &str, stop: &str, status: &str) -> Resource {
    let argv = |script: &str| {
        let script = script.replace("{}", folder.to_str().unwrap());
        ["sh", "-c", &script].map(str::to_owned).to_vec()
    };
    resource(Kind::Exec {
        start: argv(start),
        stop: argv(stop),
        status: argv(status),
    })
}

#[test]
fn three_commands() {
    inside("three_commands", &[], |folder| async move {
        // A daemon with a PID file, as many are: the start returns before it runs.
        let daemon =
            "(sleep 0.3; exec sh -c 'echo $$ >{}/pid; exec sleep 1000') & echo start >>{}/log";
        let status = "test -f {}/pid || exit 3; kill -0 $(cat {}/pid) || exit 1";
        let r = exec(&folder, daemon, "kill $(cat {}/pid) && rm {}/pid", status);
        assert_eq!(r.check().await, Vec::<String>::new());
        assert_eq!(r.status().await, State::Stopped);
        // Of what is stopped: the command fails, and it is stopped.
        assert_eq!(r.stop().await, Ok(()));
        for _ in 0..2 {
            assert_eq!(r.start().await, Ok(()));
            assert_eq!(r.status().await, State::Running);
        }
        // Not once more for what runs.
        assert_eq!(fs::read_to_string(folder.join("log")).unwrap(), "start\n");
        sh(&format!("kill -9 $(cat {}/pid)", folder.display()));
        until("it is dead", || async {
            matches!(r.status().await, State::Failed(_))
        })
        .await;
        fs::remove_file(folder.join("pid")).unwrap();
        assert_eq!(r.start().await, Ok(()));
        assert_eq!(r.stop().await, Ok(()));
        assert_eq!(r.status().await, State::Stopped);
    });
}

#[test]
fn commands_that_fail_hang_and_lie() {
    inside(
        "commands_that_fail_hang_and_lie",
        &[],
        |folder| async move {
            let r = exec(&folder, "echo no licence >&2; exit 9", "exit 1", "exit 3");
            let error = r.start().await.unwrap_err();
            assert!(
                matches!(&error, Failure::Failed(t) if t.ends_with("ended with 9: no licence")),
                "{error}"
            );
            // Says that it has started, and does not run; says that it has stopped, and runs.
            let error = exec(&folder, "true", "true", "exit 3")
                .start()
                .await
                .unwrap_err();
            assert!(
                error.to_string().contains("does not run after its start"),
                "{error}"
            );
            let error = exec(&folder, "true", "true", "true")
                .stop()
                .await
                .unwrap_err();
            assert!(
                error.to_string().contains("still runs after its stop"),
                "{error}"
            );
            let error = exec(&folder, "true", "exit 5", "true")
                .stop()
                .await
                .unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("ended with 5, and it still runs"),
                "{error}"
            );
            // Its state cannot be asked: neither stopped nor failed.
            let mut r = exec(&folder, "true", "true", "sleep 1000");
            r.status_timeout = Duration::from_millis(300);
            assert!(matches!(r.status().await, State::Unknown(_)));
            assert!(matches!(r.stop().await, Err(Failure::Unknown(_))));
            assert!(matches!(
                exec(&folder, "", "", "exit 4").status().await,
                State::Unknown(_)
            ));
            assert!(matches!(
                exec(&folder, "", "", "kill -9 $$").status().await,
                State::Failed(_)
            ));
            // Hangs, and what it started is gone with it.
            let mut r = exec(&folder, "sleep 1234 & sleep 1000", "yes", "exit 3");
            r.start_timeout = Duration::from_millis(500);
            r.stop_timeout = Duration::from_millis(500);
            assert!(matches!(r.start().await, Err(Failure::TimedOut { .. })));
            assert!(matches!(r.stop().await, Err(Failure::TimedOut { .. })));
            until("nothing is left", || async {
                sh("pgrep -cf '[s]leep 1234' || true") == "0"
            })
            .await;
            let mut r = exec(&folder, "", "", "");
            if let Kind::Exec {
                start,
                stop,
                status,
            } = &mut r.kind
            {
                *start = vec!["/no/such".into()];
                *stop = vec![];
                *status = vec!["no-such-program".into(), "status".into()];
            }
            assert!(matches!(r.status().await, State::Unknown(_)));
            assert!(matches!(r.start().await, Err(Failure::Misconfigured(_))));
            let wrong = r.check().await;
            assert_eq!(wrong.len(), 3, "{wrong:?}");
        },
    );
}

/// Agents of our own are looked for here.
const OWN: &[(&str, &str)] = &[("OCF_ROOT", "{}/ocf")];

fn agent(folder: &Path, name: &str, text: &str) {
    program(
        &folder.join("ocf/resource.d/own").join(name),
        &format!("#!/bin/sh\n{text}\n"),
    );
}

const METADATA: &str = r#"metadata() { cat <<E
<?xml version="1.0"?><!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd"><resource-agent name="own" version="1"><version>1.1</version>
<parameters><parameter name="file" required="1"><shortdesc>The file</shortdesc><content type="string"/></parameter>
<parameter name="count"><content type="integer"/></parameter></parameters><actions><action name="start" timeout="20s"/>
<action name="stop" timeout="2min"/><action name="monitor" timeout="20s" interval="10s"/><action name="meta-data" timeout="5s"/>
<action name="validate-all" timeout="5s"/></actions></resource-agent>
E
}"#;

#[test]
fn an_agent_is_told_all() {
    inside("an_agent_is_told_all", OWN, |folder| async move {
        let text = format!(
            "{METADATA}\n[ -z \"$OCF_RESKEY_file\" ] || env | sort >$OCF_RESKEY_file.$1\n\
             case $1 in meta-data) metadata;; start) touch $OCF_RESKEY_file;; stop) rm -f $OCF_RESKEY_file;;\n\
             monitor) [ -f $OCF_RESKEY_file ] || exit 7;;\n\
             validate-all) [ \"$OCF_RESKEY_count\" != 13 ] || {{ echo 'ocf-exit-reason:not 13' >&2; exit 6; }};; esac"
        );
        agent(&folder, "own", &text);
        let file = folder.join("state");
        let file = file.to_str().unwrap();
        let r = ocf("own", "own", &[("file", file), ("count", "3")]);
        for _ in 0..2 {
            assert_eq!(r.start().await, Ok(()));
            assert_eq!(r.status().await, State::Running);
        }
        let env = fs::read_to_string(format!("{file}.start")).unwrap();
        for line in [
            "OCF_RA_VERSION_MAJOR=1",
            "OCF_RA_VERSION_MINOR=1",
            "OCF_RESOURCE_INSTANCE=web.test",
            "OCF_RESOURCE_TYPE=own",
            "OCF_RESOURCE_PROVIDER=own",
            "OCF_RESKEY_count=3",
            "OCF_RESKEY_CRM_meta_timeout=60000",
            "OCF_RESKEY_CRM_meta_interval=0",
            "HA_LOGFILE=/dev/stderr",
        ] {
            assert!(env.lines().any(|l| l == line), "{line} is not in {env}");
        }
        assert!(
            env.contains(&format!("OCF_ROOT={}/ocf\n", folder.display())),
            "{env}"
        );
        // Nothing of ours.
        assert!(!env.contains("HEARTLINE"), "{env}");
        let env = fs::read_to_string(format!("{file}.monitor")).unwrap();
        assert!(
            env.contains("OCF_RESKEY_CRM_meta_interval=10000\n"),
            "{env}"
        );
        for _ in 0..2 {
            assert_eq!(r.stop().await, Ok(()));
            assert_eq!(r.status().await, State::Stopped);
        }
        let less = "less than the 120s that its author advises";
        let wrong = r.check().await;
        assert!(wrong.len() == 1 && wrong[0].contains(less), "{wrong:?}");
        let wrong = ocf(
            "own",
            "own",
            &[("fiel", file), ("count", "13x"), ("zzz", "")],
        )
        .check()
        .await;
        for with in [
            "has no parameter fiel: did you mean file?",
            "parameter count = \"13x\" must be a whole number",
            "has no parameter zzz; it has file, count",
            "needs parameter file (The file)",
        ] {
            assert!(wrong.iter().any(|w| w.contains(with)), "{with}: {wrong:?}");
        }
        let wrong = ocf("own", "own", &[("file", file), ("count", "13")])
            .check()
            .await;
        let with = "validate-all ended with 6 (a parameter is wrong): not 13";
        assert!(wrong.iter().any(|w| w.contains(with)), "{wrong:?}");
    });
}

#[test]
fn every_exit_status_has_its_meaning() {
    inside(
        "every_exit_status_has_its_meaning",
        OWN,
        |folder| async move {
            agent(
                &folder,
                "own",
                "echo 'ocf-exit-reason:because' >&2; exit $OCF_RESKEY_code",
            );
            let with = |code: &str, stateful| {
                let mut r = ocf("own", "own", &[("code", code)]);
                r.stateful = stateful;
                r
            };
            for (code, state) in [
                ("0", State::Running),
                ("8", State::Running),
                ("190", State::Running),
                ("191", State::Running),
                ("7", State::Stopped),
                (
                    "1",
                    State::Failed("monitor ended with 1 (an error): because".into()),
                ),
                (
                    "9",
                    State::Failed("monitor ended with 9 (it has failed, promoted): because".into()),
                ),
                (
                    "42",
                    State::Failed("monitor ended with 42 (an error): because".into()),
                ),
                (
                    "2",
                    State::Unknown(
                        "monitor ended with 2 (a parameter is wrong on this node): because".into(),
                    ),
                ),
                (
                    "4",
                    State::Unknown("monitor ended with 4 (not permitted): because".into()),
                ),
                (
                    "6",
                    State::Unknown("monitor ended with 6 (a parameter is wrong): because".into()),
                ),
            ] {
                assert_eq!(with(code, true).status().await, state, "{code}");
            }
            assert_eq!(with("5", false).status().await, State::Stopped);
            assert!(matches!(with("5", true).status().await, State::Unknown(_)));
            for code in ["2", "3", "4", "5", "6"] {
                let error = with(code, true).start().await.unwrap_err();
                assert!(
                    matches!(error, Failure::Misconfigured(_)),
                    "{code}: {error}"
                );
            }
            for code in ["1", "7", "9", "42"] {
                let error = with(code, true).start().await.unwrap_err();
                assert!(matches!(error, Failure::Failed(_)), "{code}: {error}");
            }
            assert!(with("1", false).stop().await.is_err());
            // A stop that fails, of what does not run: of what has state only if it did not run before either.
            let text = "case $1 in stop) touch $OCF_RESKEY_file; exit 1;; monitor) [ ! -e $OCF_RESKEY_file ] || exit 7;; esac";
            agent(&folder, "stops", text);
            for (stateful, there, well) in [
                (false, false, true),
                (true, false, false),
                (true, true, true),
            ] {
                let file = folder.join("stopped");
                let _ = fs::remove_file(&file);
                if there {
                    fs::write(&file, "").unwrap();
                }
                let mut r = ocf("own", "stops", &[("file", file.to_str().unwrap())]);
                r.stateful = stateful;
                assert_eq!(r.stop().await.is_ok(), well, "{stateful} {there}");
            }
            assert!(with("5", true).stop().await.is_err());
            assert_eq!(with("5", false).stop().await, Ok(()));
            // A probe asks for less.
            agent(
                &folder,
                "own",
                "[ $OCF_RESKEY_CRM_meta_interval = 0 ] && exit 7; exit 6",
            );
            assert_eq!(with("", true).status().await, State::Stopped);
        },
    );
}

#[test]
fn agents_that_lie_or_hang() {
    inside("agents_that_lie_or_hang", OWN, |folder| async move {
        for (text, with) in [
            ("echo hello", "is no XML"),
            ("echo '<a></b>'", "is no XML"),
            ("head -c 300000000 /dev/zero", "is longer than 65536 bytes"),
            ("yes '<resource-agent>'", "not done within"),
            (
                "sleep 1000",
                "not done within 1s: meta-data of web.test (ocf:own:own)",
            ),
            (
                "echo 'no mem' >&2; exit 1",
                "meta-data ended with 1 (an error): no mem",
            ),
            ("kill -9 $$", "meta-data was killed by SIGKILL"),
            (
                "echo '<resource-agent name=\"x\"/>'",
                "cannot start, by its own metadata",
            ),
        ] {
            agent(&folder, "own", text);
            let mut r = ocf("own", "own", &[]);
            r.status_timeout = if with.contains("within") {
                Duration::from_secs(1)
            } else {
                Duration::from_secs(60)
            };
            let wrong = r.check().await;
            assert!(wrong.iter().any(|w| w.contains(with)), "{text}: {wrong:?}");
        }
        agent(&folder, "own", "sleep 1000");
        let mut r = ocf("own", "own", &[]);
        r.start_timeout = Duration::from_millis(300);
        r.stop_timeout = Duration::from_millis(300);
        r.status_timeout = Duration::from_millis(300);
        assert!(matches!(r.start().await, Err(Failure::TimedOut { .. })));
        assert!(matches!(r.stop().await, Err(Failure::TimedOut { .. })));
        assert!(matches!(r.status().await, State::Unknown(_)));
        // There is none, or it is none.
        for (provider, name, with) in [
            ("own", "none", "there is no OCF agent"),
            ("..", "own", "is no name of an OCF provider"),
            ("own", "../own/own", "is no name of an OCF provider"),
        ] {
            let mut r = ocf(provider, name, &[]);
            let wrong = r.check().await;
            assert!(wrong.len() == 1 && wrong[0].contains(with), "{wrong:?}");
            assert!(matches!(r.start().await, Err(Failure::Misconfigured(_))));
            assert_eq!((r.status().await, r.stop().await), (State::Stopped, Ok(())));
            r.stateful = true;
            assert!(matches!(r.status().await, State::Unknown(_)));
            assert!(matches!(r.stop().await, Err(Failure::Misconfigured(_))));
        }
    });
}
