//! Resources of the kind `domain` with real daemons and real QEMU guests (emulated). No times are asserted. Needs root, libvirt
//! and QEMU.

#[path = "../../../agent-services/tests/resource_common/mod.rs"]
mod common;
mod hosts;
mod migration;

use std::{env, fs, path::Path, process::Command, time::Duration};

use agent_services::resource::{Failure, Kind, Resource, State};
use common::{inside, sh, until};
use hosts::{HERE, Hosts, virsh};

/// The helper that is tried.
const HELPER: &str = env!("CARGO_BIN_EXE_heartline-libvirt");

/// Runs a test on n1, with n2 beside it.
fn on_two_hosts<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Hosts) -> F) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    let made = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libvirt/guest.sh"))
        .arg(&folder)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "a kernel for the guests: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let host = env::var("HEARTLINE_TEST_HOST")
        .unwrap_or_else(|_| nix::unistd::gethostname().unwrap().into_string().unwrap());
    let environment = [
        ("HEARTLINE_LIBVIRT", HELPER),
        ("HEARTLINE_TEST_HOST", host.as_str()),
    ];
    inside(name, &environment, |own| async move {
        test(Hosts::up(&own, &folder).await).await;
    });
}

async fn is(resource: &Resource, wanted: &State) {
    until(&format!("{wanted:?}"), async || {
        resource.status().await == *wanted
    })
    .await;
}

/// Until its state is not known, for a reason in which these words are.
async fn is_unknown(resource: &Resource, words: &str) {
    let mut last = String::new();
    for _ in 0..100 {
        let state = resource.status().await;
        if let State::Unknown(why) = &state
            && why.contains(words)
        {
            return;
        }
        assert!(!matches!(state, State::Failed(_)), "{state:?}");
        last = format!("{state:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{last} instead of unknown for {words:?}");
}

fn pid_of_guest() -> String {
    sh("cat /run/libvirt/qemu/g1.pid")
}

#[test]
fn started_seen_and_shut_down() {
    on_two_hosts("started_seen_and_shut_down", |hosts| async move {
        let r = hosts.resource(HERE, &hosts.xml("", ""));
        assert_eq!(r.status().await, State::Stopped);
        r.stop().await.expect("what does not run is stopped");
        r.start().await.expect("starts");
        assert_eq!(r.status().await, State::Running);
        hosts.answers().await;
        let pid = pid_of_guest();
        r.start().await.expect("runs already");
        assert_eq!(pid_of_guest(), pid, "it was not touched");
        // Who owns the group decides, not the daemon.
        virsh(HERE, "autostart g1");
        r.start().await.expect("runs already");
        let info = virsh(HERE, "dominfo g1");
        let autostart = info.lines().find(|l| l.starts_with("Autostart"));
        assert!(
            autostart.is_some_and(|l| l.contains("disable")),
            "{autostart:?}"
        );
        // Somebody's will is no failure.
        virsh(HERE, "suspend g1");
        assert_eq!(
            r.status().await,
            State::Unknown("paused by somebody".into())
        );
        virsh(HERE, "resume g1");
        // The guest hears its power button: an orderly end is told apart from a plug pulled.
        r.stop().await.expect("stops");
        assert_eq!(r.status().await, State::Stopped);
        assert_eq!(virsh(HERE, "domstate --reason g1"), "shut off (shutdown)");
    });
}

#[test]
fn who_does_not_hear_loses_its_plug() {
    on_two_hosts("who_does_not_hear_loses_its_plug", |hosts| async move {
        let mut r = hosts.resource(HERE, &hosts.xml("deaf", ""));
        r.stop_timeout = Duration::from_secs(12);
        r.start().await.expect("starts");
        hosts.answers().await;
        r.stop().await.expect("stops");
        assert_eq!(virsh(HERE, "domstate --reason g1"), "shut off (destroyed)");
        // Its QEMU killed under libvirt: seen, and it starts again.
        r.start().await.expect("starts");
        sh(&format!("kill -KILL {}", pid_of_guest()));
        is(&r, &State::Stopped).await;
        r.start().await.expect("starts again");
        assert_eq!(r.status().await, State::Running);
    });
}

#[test]
fn what_libvirt_refuses_is_said_in_its_words() {
    on_two_hosts(
        "what_libvirt_refuses_is_said_in_its_words",
        |hosts| async move {
            let refused = async |r: &Resource, word: &str| {
                let done = r.start().await;
                let Err(Failure::Misconfigured(why)) = &done else {
                    panic!("{done:?}, {word}");
                };
                assert!(why.contains(word), "{why}");
            };
            let good = hosts.xml("", "");
            for (xml, word) in [
                ("<domain".to_owned(), "g1.xml"),
                (good.replace("<name>g1", "<name>g2"), "defines g2, not g1"),
                (
                    good.replace("type='virtio'", "type='no sense'"),
                    "invalid characters",
                ),
                (good.replace("'pc-q35-7.2'", "'pc-q35-0.1'"), "pc-q35-0.1"),
            ] {
                refused(&hosts.resource(HERE, &xml), word).await;
            }
            assert_eq!(hosts.resource(HERE, &good).status().await, State::Stopped);
            // Another domain has the name.
            let other = hosts.folder.join("other.xml");
            fs::write(&other, good.replace("aaaaaaaa", "bbbbbbbb")).unwrap();
            virsh(HERE, &format!("define {}", other.display()));
            let mut r = hosts.resource(HERE, &good);
            refused(&r, "bbbbbbbb").await;
            if let Kind::Domain(domain) = &mut r.kind {
                domain.xml = "/no/such.xml".into();
            }
            refused(&r, "/no/such.xml").await;
        },
    );
}

#[test]
fn a_daemon_that_is_gone_or_hangs_is_no_failure() {
    on_two_hosts(
        "a_daemon_that_is_gone_or_hangs_is_no_failure",
        |mut hosts| async move {
            let mut r = hosts.resource(HERE, &hosts.xml("", ""));
            r.start().await.expect("starts");
            let pid = pid_of_guest();
            let there = format!("its QEMU is there, process {pid}");
            hosts.kill_daemon();
            is_unknown(&r, &there).await;
            hosts.start_daemon();
            is(&r, &State::Running).await;
            // It hangs: the call ends with its deadline, and the helper with it.
            r.status_timeout = Duration::from_secs(2);
            hosts.signal_daemon("STOP");
            is_unknown(&r, &there).await;
            is_unknown(&r, &there).await;
            hosts.signal_daemon("CONT");
            r.status_timeout = Duration::from_secs(20);
            is(&r, &State::Running).await;
            // QEMU ends while nobody looks: that is certain without libvirt.
            hosts.kill_daemon();
            sh(&format!("kill -KILL {pid}"));
            until("seen to have ended", async || {
                matches!(r.status().await, State::Failed(why) if why.contains("QEMU has ended"))
            })
            .await;
            r.stop().await.expect("what has ended is stopped");
            hosts.start_daemon();
            is(&r, &State::Stopped).await;
        },
    );
}

#[test]
fn a_helper_that_dies_is_started_again() {
    on_two_hosts("a_helper_that_dies_is_started_again", |hosts| async move {
        let r = hosts.resource(HERE, &hosts.xml("", ""));
        r.start().await.expect("starts");
        // Names of processes are cut at 15 characters. All that is in this namespace is this test's.
        let helper = || sh("grep -lx heartline-libvi /proc/[0-9]*/comm || true");
        let first = helper();
        assert!(!first.is_empty() && !first.contains('\n'), "{first:?}");
        let pid = first.split('/').nth(2).unwrap().to_owned();
        // (SIGSEGV from outside is caught by Rust's guard of the stack, and ends nothing.)
        sh(&format!("kill -ABRT {pid}"));
        is(&r, &State::Running).await;
        let second = helper();
        assert!(!second.is_empty() && second != first, "{first} {second}");
    });
}

#[test]
fn without_libvirt() {
    on_two_hosts("without_libvirt", |hosts| async move {
        let r = hosts.resource(HERE, &hosts.xml("", ""));
        let library = sh("ldconfig -p | sed -n 's/.*libvirt.so.0 .*=> //p' | head -n 1");
        let folder = fs::canonicalize(&library).unwrap();
        let folder = folder.parent().unwrap();
        let over = hosts.folder.join("over");
        // On this machine alone: the namespace of mounts is the test's own.
        sh(&format!(
            "mkdir {0}; mount -t tmpfs none {0}; mkdir {0}/up {0}/work; \
             mount -t overlay -o lowerdir={1},upperdir={0}/up,workdir={0}/work overlay {1}; rm {1}/libvirt.so.0*",
            over.display(),
            folder.display()
        ));
        let done = r.start().await;
        assert!(
            matches!(&done, Err(Failure::Misconfigured(why)) if why.contains("apt install libvirt-daemon-system")),
            "{done:?}"
        );
        assert_eq!(r.status().await, State::Stopped, "nothing can run there");
        r.stop().await.expect("nothing to stop");
        let found = r.check().await;
        assert!(
            found.iter().any(|f| f.contains("not installed here")),
            "{found:?}"
        );
    });
}
