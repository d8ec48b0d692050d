//! Fence agents: those of Debian's fence-agents, and made-up ones that hang, lie and talk too much.

#[path = "resource_common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};

use agent_services::fence::{
    Action, Device, Goal, Outcome, Plan, Power, Said, Secret, answers, call, check, metadata,
    monitor, run,
};
use common::program;

fn device(agent: &str, parameters: &[(&str, &str)]) -> Device {
    Device {
        name: "d".into(),
        agent: agent.into(),
        parameters: parameters
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        secrets: Vec::new(),
        timeout: Duration::from_secs(60),
        verify: true,
        can_on: true,
        only_reboots: false,
    }
}

fn plan(devices: Vec<Device>) -> Plan {
    Plan {
        node: "n2".into(),
        levels: vec![devices],
        delay: Duration::ZERO,
        goal: Goal::Reboot,
    }
}

/// A device of fence-agents that keeps the state of one node in a file.
fn dummy(folder: &Path) -> Device {
    let file = folder.join("power");
    fs::write(&file, "on").unwrap();
    device("fence_dummy", &[("status_file", file.to_str().unwrap())])
}

#[tokio::test]
async fn a_real_agent_turns_off_and_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dummy(dir.path());
    assert_eq!(check(&d).await, Vec::<String>::new());
    assert_eq!(monitor(&d, "n2").await, Ok(()));
    assert_eq!(call(&d, "n2", Action::Status).await, Said::Power(Power::On));
    let off = Plan {
        goal: Goal::Off,
        ..plan(vec![d.clone()])
    };
    let mut told = Vec::new();
    let report = run(&off, |step, fenced| told.push((step.what.clone(), fenced))).await;
    assert_eq!(
        report.outcome,
        Outcome::Fenced {
            level: 1,
            verified: true
        },
        "{report:?}"
    );
    assert_eq!(
        told,
        [
            ("fence_dummy off (d)".to_owned(), false),
            ("fence_dummy status (d)".to_owned(), true)
        ]
    );
    assert_eq!(
        call(&d, "n2", Action::Status).await,
        Said::Power(Power::Off)
    );
    let report = run(&plan(vec![d.clone()]), |_, _| {}).await;
    assert_eq!(
        report.outcome,
        Outcome::Fenced {
            level: 1,
            verified: true
        }
    );
    assert_eq!(call(&d, "n2", Action::Status).await, Said::Power(Power::On));
}

/// fencing.py ends with 2 for what it does not like, and with 2 for "off": only the word tells them apart.
#[tokio::test]
async fn a_wrong_call_is_not_taken_for_off() {
    let nothing = device("fence_ipmilan", &[]);
    for action in [Action::Status, Action::Off] {
        let said = call(&nothing, "n2", action).await;
        assert!(
            matches!(&said, Said::Failed(why) if why.contains("You have to enter fence address")),
            "{said:?}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let two = program(
        &dir.path().join("fence_two"),
        "#!/bin/sh\necho 'Failed: bad arguments' >&2; exit 2\n",
    );
    let said = call(&device(&two, &[]), "n2", Action::Status).await;
    assert!(matches!(said, Said::Failed(_)), "{said:?}");
    let lies = program(
        &dir.path().join("fence_lies"),
        "#!/bin/sh\necho 'Status: OFF'; exit 0\n",
    );
    assert!(matches!(
        call(&device(&lies, &[]), "n2", Action::Status).await,
        Said::Failed(_)
    ));
}

#[tokio::test]
async fn what_is_wrong_is_found_before_it_is_needed() {
    let wrong = device(
        "fence_ipmilan",
        &[("usrename", "admin"), ("lanplus", "perhaps")],
    );
    let found = check(&wrong).await.join("\n");
    assert!(
        found.contains("no parameter usrename: did you mean username?"),
        "{found}"
    );
    assert!(
        found.contains("lanplus = \"perhaps\" must be true or false"),
        "{found}"
    );
    let found = check(&device("fence_virsh", &[])).await.join("\n");
    assert!(found.contains("needs ip"), "{found}");
    let found = check(&device("fence_kdump", &[("ip", "192.0.2.1")]))
        .await
        .join("\n");
    assert!(found.contains("verify = false"), "{found}");
    let found = check(&device("fence_no_such", &[])).await.join("\n");
    assert!(found.contains("install fence-agents"), "{found}");
}

/// All of them describe themselves in a way that is understood.
#[tokio::test]
async fn all_installed_agents_can_be_read() {
    let mut agents: Vec<String> = fs::read_dir("/usr/sbin")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        // Asks a person on the terminal, and describes itself to nobody; `heartline fence --confirm` is what it is for.
        .filter(|n| n.starts_with("fence_") && n != "fence_ack_manual")
        .collect();
    agents.sort();
    assert!(agents.len() > 50, "install fence-agents");
    let (mut good, mut wrong) = (0, Vec::new());
    // Each is a Python program: four at once.
    for some in agents.chunks(4) {
        let tasks: Vec<_> = some
            .iter()
            .map(|a| {
                let a = a.clone();
                tokio::spawn(async move { (a.clone(), metadata(&a).await) })
            })
            .collect();
        for task in tasks {
            match task.await.unwrap() {
                (_, Ok(m)) if !m.parameters.is_empty() && !m.actions.is_empty() => good += 1,
                (agent, Ok(m)) => wrong.push(format!(
                    "{agent}: {} parameters, {} actions",
                    m.parameters.len(),
                    m.actions.len()
                )),
                (agent, Err(why)) => wrong.push(format!("{agent}: {why}")),
            }
        }
    }
    println!("{good} good; {wrong:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(good > 50, "{good}");
}

fn secret(folder: &Path, value: &str, mode: u32) -> Secret {
    let file = folder.join("secret");
    fs::write(&file, value).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    Secret {
        parameter: "password".into(),
        file,
    }
}

#[tokio::test]
async fn secrets_go_by_standard_input_alone_and_come_out_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\ncat > input; tr '\\0' ' ' < /proc/$$/cmdline > argv; env > env\n\
        echo \"Failed: login as admin with $(grep password= input | cut -d= -f2-) was refused\" >&2; exit 1\n"
        .replace("input", &format!("{}/input", dir.path().display()))
        .replace("> argv", &format!("> {}/argv", dir.path().display()))
        .replace("> env", &format!("> {}/env", dir.path().display()));
    let agent = program(&dir.path().join("fence_talks"), &script);
    let mut d = device(
        &agent,
        &[
            ("username", "admin"),
            ("action", "on"),
            ("evil", "a\naction=on"),
        ],
    );
    d.secrets.push(secret(dir.path(), "s3cr3t words\n", 0o600));
    let said = call(&d, "n2", Action::Off).await;
    let Said::Failed(why) = &said else {
        panic!("{said:?}")
    };
    assert!(why.contains("with *** was refused"), "{why}");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        read("input"),
        "action=off\nnodename=n2\nusername=admin\npassword=s3cr3t words\n"
    );
    assert!(!read("argv").contains("s3cr3t") && !read("env").contains("s3cr3t"));
    assert!(!format!("{d:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn secrets_that_others_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let agent = program(&dir.path().join("fence_ok"), "#!/bin/sh\nexit 0\n");
    for (value, mode, part) in [
        ("x\n", 0o640, "chmod 600"),
        ("x\n", 0o604, "chmod 600"),
        ("", 0o600, "one line"),
        ("a\nb\n", 0o600, "one line"),
        (&"x".repeat(5000), 0o600, "one line"),
    ] {
        let mut d = device(&agent, &[]);
        d.secrets.push(secret(dir.path(), value, mode));
        let said = call(&d, "n2", Action::Off).await;
        assert!(
            matches!(&said, Said::Failed(why) if why.contains(part)),
            "{part}: {said:?}"
        );
    }
    let mut d = device(&agent, &[]);
    d.secrets.push(Secret {
        parameter: "password".into(),
        file: dir.path().join("nowhere"),
    });
    assert!(
        matches!(call(&d, "n2", Action::Off).await, Said::Failed(why) if why.contains("cannot be read"))
    );
    let good = secret(dir.path(), "x", 0o400);
    assert_eq!(good.read().unwrap().as_str(), "x");
}

#[tokio::test]
async fn one_that_hangs_is_ended_and_the_next_level_comes() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!(
        "#!/bin/sh\necho $$ >> {0}\nsleep 1000 &\necho $! >> {0}\nwait\n",
        pids.display()
    );
    let hangs = program(&dir.path().join("fence_hangs"), &script);
    let mut first = device(&hangs, &[]);
    first.timeout = Duration::from_millis(500);
    let both = Plan {
        levels: vec![vec![first], vec![dummy(dir.path())]],
        ..plan(Vec::new())
    };
    let report = run(&both, |_, _| {}).await;
    assert_eq!(
        report.outcome,
        Outcome::Fenced {
            level: 2,
            verified: true
        },
        "{report:#?}"
    );
    assert!(
        report
            .steps
            .iter()
            .any(|s| !s.good && s.result.contains("did not end within")),
        "{report:#?}"
    );
    for pid in fs::read_to_string(&pids).unwrap().lines() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{pid} still runs");
    }
}

#[tokio::test]
async fn one_that_lies_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\nif grep -q action=status; then echo 'Status: ON'; fi\nexit 0\n";
    let lies = program(&dir.path().join("fence_lies"), script);
    let report = run(&plan(vec![device(&lies, &[])]), |_, _| {}).await;
    assert_eq!(report.outcome, Outcome::Failed, "{report:#?}");
    let text: Vec<_> = report
        .steps
        .iter()
        .map(|s| format!("{} {}", s.good, s.result))
        .collect();
    assert_eq!(
        text,
        [
            "true done",
            "false the node is on",
            "false the node is on",
            "false the node is on"
        ]
    );
}

/// It may know no `monitor`: that it says how the node is will do. One that says neither is dead, for the reason that it gave
/// first.
#[tokio::test]
async fn a_device_answers_by_monitor_or_else_by_status() {
    let dir = tempfile::tempdir().unwrap();
    let agent = |name: &str, cases: &str| {
        let script = format!(
            "#!/bin/sh\nwhile read -r line; do case $line in action=*) action=${{line#action=}} ;; esac; done\n\
             case $action in\n{cases}\n*) echo \"Failed: no such action\" >&2; exit 1 ;;\nesac\n"
        );
        program(&dir.path().join(name), &script)
    };
    let by_monitor = agent("fence_monitor", "monitor) exit 0 ;;");
    let by_status = agent("fence_status", "status) echo \"Status: OFF\"; exit 2 ;;");
    let neither = agent("fence_dead", "status) exit 1 ;;");
    for good in [&by_monitor, &by_status] {
        assert_eq!(answers(&device(good, &[]), "n2").await, Ok(()), "{good}");
    }
    let why = answers(&device(&neither, &[]), "n2").await.unwrap_err();
    assert!(why.contains("no such action"), "{why}");
    let unverified = Device {
        verify: false,
        ..device(&by_status, &[])
    };
    assert!(
        answers(&unverified, "n2").await.is_err(),
        "it is not asked what it cannot"
    );
}
