//! Plugins: those of Debian, unchanged, and those that behave as none should.

use std::time::Duration;

use agent_services::probe::{Exec, Kind, Verdict};

use crate::rig::{alone, bad, good, hasty, patient, tcp, unknown};

const PLUGINS: &str = "/usr/lib/nagios/plugins";

fn kind(argv: &[&str]) -> Kind {
    Kind::Exec(Exec::new(
        &argv.iter().map(|&a| a.to_owned()).collect::<Vec<_>>(),
    ))
}

fn plugin(name: &str, arguments: &[&str]) -> Kind {
    let program = format!("{PLUGINS}/{name}");
    assert!(
        std::path::Path::new(&program).exists(),
        "{program} is needed for this test, of the package monitoring-plugins-basic"
    );
    let mut argv = vec![program.as_str()];
    argv.extend(arguments);
    kind(&argv)
}

fn sh(script: &str) -> Kind {
    kind(&["sh", "-c", script])
}

#[test]
fn check_dummy_in_all_four_states() {
    alone(|| async {
        assert_eq!(
            good(&patient(plugin("check_dummy", &["0", "fine"]))).await,
            "OK: fine"
        );
        assert_eq!(
            good(&patient(plugin("check_dummy", &["1", "so so"]))).await,
            "WARNING: so so"
        );
        bad(
            &patient(plugin("check_dummy", &["2", "down"])),
            &["CRITICAL: down"],
        )
        .await;
        unknown(
            &patient(plugin("check_dummy", &["3", "who knows"])),
            &["UNKNOWN: who knows"],
        )
        .await;
        let Kind::Exec(exec) = plugin("check_dummy", &["1", "so so"]) else {
            unreachable!()
        };
        let strict = Kind::Exec(Exec {
            warning_is_good: false,
            ..exec
        });
        bad(&patient(strict), &["WARNING: so so"]).await;
    });
}

#[test]
fn check_load_and_its_performance_data() {
    alone(|| async {
        let probe = patient(plugin(
            "check_load",
            &["-w", "1000,1000,1000", "-c", "2000,2000,2000"],
        ));
        let Verdict::Good(answer) = probe.run().await else {
            panic!("check_load")
        };
        // "OK" came into the text with newer versions.
        assert!(
            answer.text.contains("load average") && !answer.text.contains('|'),
            "{answer:?}"
        );
        assert!(
            answer.performance.starts_with("load1=") && answer.performance.contains("load15="),
            "{answer:?}"
        );
        bad(
            &patient(plugin("check_load", &["-w", "0,0,0", "-c", "0,0,0"])),
            &["load average"],
        )
        .await;
    });
}

#[test]
fn check_http_and_check_tcp_ask_a_server() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    alone(|| async {
        let server = tcp(|mut stream| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
                .await;
        })
        .await;
        let port = server.port().to_string();
        let probe = patient(plugin(
            "check_http",
            &["-H", "127.0.0.1", "-p", &port, "-s", "hi"],
        ));
        let Verdict::Good(answer) = probe.run().await else {
            panic!("{:?}", probe.run().await)
        };
        assert!(
            answer.text.starts_with("HTTP OK") && answer.performance.contains("time="),
            "{answer:?}"
        );
        let other = plugin("check_http", &["-H", "127.0.0.1", "-p", &port, "-s", "ho"]);
        bad(&patient(other), &["HTTP CRITICAL"]).await;
        good(&patient(plugin(
            "check_tcp",
            &["-H", "127.0.0.1", "-p", &port],
        )))
        .await;
        bad(
            &patient(plugin("check_tcp", &["-H", "127.0.0.1", "-p", "1"])),
            &["refused"],
        )
        .await;
    });
}

#[test]
fn what_plugins_should_not_do() {
    alone(|| async {
        unknown(
            &patient(kind(&["/no/such/plugin"])),
            &["cannot run /no/such/plugin"],
        )
        .await;
        assert_eq!(
            good(&patient(sh("exit 0"))).await,
            "no output, ended with 0"
        );
        bad(&patient(sh("exit 2")), &["no output, ended with 2"]).await;
        bad(&patient(sh("echo on stderr >&2; exit 2")), &["on stderr"]).await;
        unknown(&patient(sh("echo hm; exit 127")), &["ended with 127", "hm"]).await;
        unknown(&patient(sh("kill -SEGV $$")), &["killed by SIGSEGV"]).await;
        assert_eq!(
            good(&patient(sh("echo 'fine|a=1'; head -c 8000000 /dev/zero"))).await,
            "fine"
        );
        assert_eq!(
            good(&patient(sh("head -c 8000000 /dev/zero | tr '\\0' x"))).await,
            "x".repeat(300)
        );
    });
}

#[test]
fn a_plugin_that_never_ends_is_killed_with_all_that_it_started() {
    alone(|| async {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; yes",
            file.display()
        );
        let pid = loop {
            bad(&hasty(sh(&script)), &["400ms", "sh did not end"]).await;
            // On too busy a machine it is killed before it wrote.
            if let Ok(pid) = std::fs::read_to_string(&file) {
                break pid;
            }
        };
        let stat = format!("/proc/{}/stat", pid.trim());
        while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
