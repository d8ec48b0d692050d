//! The OCF agents of Debian's resource-agents.

mod resource_common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use agent_services::resource::{Failure, State, ocf};
use resource_common::{inside, ocf, sh, until};

async fn up_and_down(r: &agent_services::resource::Resource) {
    assert_eq!(r.status().await, State::Stopped);
    assert_eq!(r.stop().await, Ok(()));
    for _ in 0..2 {
        assert_eq!(r.start().await, Ok(()));
        assert_eq!(r.status().await, State::Running);
    }
}

async fn down(r: &agent_services::resource::Resource) {
    for _ in 0..2 {
        assert_eq!(r.stop().await, Ok(()));
        assert_eq!(r.status().await, State::Stopped);
    }
}

#[test]
fn metadata_of_all() {
    inside("metadata_of_all", &[], |_| async move {
        let (mut parameters, mut wrong, mut agents) = (0, Vec::new(), 0);
        let mut longest = String::new();
        for entry in fs::read_dir("/usr/lib/ocf/resource.d/heartbeat").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // Links to the shell functions, from before they moved.
            if name.starts_with('.') {
                continue;
            }
            agents += 1;
            match ocf::describe(&resource_common::ocf("heartbeat", &name, &[])).await {
                Ok(m) => {
                    assert!(
                        m.action("start").is_some() && m.action("stop").is_some(),
                        "{name}"
                    );
                    assert!(m.actions.iter().any(|a| a.timeout.is_some()), "{name}");
                    parameters += m.parameters.len();
                }
                Err(why) => {
                    wrong.push(format!("{name}: {why}"));
                    if why.contains("longer than") {
                        longest = name;
                    }
                }
            }
        }
        eprintln!("{agents} agents, {parameters} parameters; {wrong:#?}");
        assert_eq!(longest, "");
        // Some need a program even to say what they are.
        assert!(agents > 100 && wrong.len() * 10 < agents, "{wrong:#?}");
        assert!(!wrong.iter().any(|w| w.contains("XML")), "{wrong:#?}");
    });
}

#[test]
fn dummy() {
    inside("dummy", &[], |_| async move {
        let r = ocf("heartbeat", "Dummy", &[]);
        assert_eq!(r.check().await, Vec::<String>::new());
        up_and_down(&r).await;
        let state = Path::new("/run/resource-agents/Dummy-web.test.state");
        assert!(state.exists());
        fs::remove_file(state).unwrap();
        assert_eq!(r.status().await, State::Stopped);
        let wrong = ocf("heartbeat", "Dummy", &[("fakee", "")]).check().await;
        assert_eq!(
            wrong,
            ["ocf:heartbeat:Dummy has no parameter fakee: did you mean fake?"]
        );
        let r = ocf("heartbeat", "Dummy", &[("state", "/no/such/folder/x")]);
        let wrong = r.check().await;
        assert!(wrong[0].contains("is not writable"), "{wrong:?}");
        assert!(matches!(r.start().await, Err(Failure::Failed(_))));
    });
}

#[test]
fn filesystem() {
    inside("filesystem", &[], |folder| async move {
        let (image, point) = (folder.join("image"), folder.join("point"));
        sh(&format!(
            "truncate -s 16M {0}; mkfs.ext4 -q {0}; mkdir {1}",
            image.display(),
            point.display()
        ));
        let device = sh(&format!("losetup -f --show {}", image.display()));
        let mut r = ocf(
            "heartbeat",
            "Filesystem",
            &[
                ("device", &device),
                ("directory", point.to_str().unwrap()),
                ("fstype", "ext4"),
            ],
        );
        r.stateful = true;
        up_and_down(&r).await;
        fs::write(point.join("file"), "x").unwrap();
        down(&r).await;
        assert!(!point.join("file").exists());
        sh(&format!("losetup -d {device}"));
        let wrong = ocf("heartbeat", "Filesystem", &[("device", "/dev/no-such")])
            .check()
            .await;
        for with in [
            "needs parameter directory",
            "needs parameter fstype",
            "less than the 40s",
        ] {
            assert!(wrong.iter().any(|w| w.contains(with)), "{with}: {wrong:?}");
        }
    });
}

#[test]
fn apache() {
    inside("apache", &[], |folder| async move {
        let f = folder.to_str().unwrap();
        fs::write(
            folder.join("apache.conf"),
            format!(
                "ServerRoot {f}\nServerName localhost\nPidFile {f}/pid\nErrorLog {f}/log\nListen 127.0.0.1:8080\n\
                 DocumentRoot {f}/www\nMutex file:{f}\nDefaultRuntimeDir {f}\nUser www-data\nGroup www-data\n\
                 LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
                 LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
                 LoadModule status_module /usr/lib/apache2/modules/mod_status.so\n\
                 <Location /server-status>\nSetHandler server-status\n</Location>\n"
            ),
        )
        .unwrap();
        fs::create_dir(folder.join("www")).unwrap();
        fs::write(folder.join("www/index"), "hello").unwrap();
        sh(&format!("chmod 755 {f}"));
        let configuration = format!("{f}/apache.conf");
        let r = ocf(
            "heartbeat",
            "apache",
            &[
                ("configfile", &configuration),
                ("httpd", "/usr/sbin/apache2"),
                ("port", "8080"),
                ("statusurl", "http://127.0.0.1:8080/server-status"),
                ("envfiles", "/dev/null"),
            ],
        );
        assert_eq!(r.check().await, Vec::<String>::new());
        up_and_down(&r).await;
        let mut page = String::new();
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        stream.write_all(b"GET /index HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut page).unwrap();
        assert!(page.ends_with("hello"), "{page}");
        // Once: of what is stopped its stop takes 5 s.
        assert_eq!(r.stop().await, Ok(()));
        assert_eq!(r.status().await, State::Stopped);
        assert!(TcpStream::connect("127.0.0.1:8080").is_err());
        // Dies under it.
        assert_eq!(r.start().await, Ok(()));
        sh(&format!("kill -9 -$(cat {f}/pid)"));
        until("it is missed", || async {
            r.status().await != State::Running
        })
        .await;
        assert_eq!(r.stop().await, Ok(()));
        // A configuration that is wrong.
        fs::write(&configuration, "Nonsense\n").unwrap();
        let mut r = r;
        // The agent tries until it is killed.
        r.start_timeout = Duration::from_secs(2);
        let error = r.start().await.unwrap_err();
        assert!(matches!(error, Failure::TimedOut { .. }), "{error}");
        assert_eq!(r.status().await, State::Stopped);
    });
}

#[test]
fn source_address() {
    inside("source_address", &[], |_| async move {
        sh(
            "ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up
            ip address add 192.0.2.1/24 dev d0; ip address add 192.0.2.100/24 dev d0
            ip route add default via 192.0.2.254 dev d0",
        );
        let r = ocf(
            "heartbeat",
            "IPsrcaddr",
            &[("ipaddress", "192.0.2.100"), ("cidr_netmask", "24")],
        );
        assert_eq!(r.check().await, Vec::<String>::new());
        up_and_down(&r).await;
        let route = sh("ip route get 198.51.100.1");
        assert!(route.contains("src 192.0.2.100"), "{route}");
        down(&r).await;
        let route = sh("ip route get 198.51.100.1");
        assert!(route.contains("src 192.0.2.1 "), "{route}");
        let r = ocf("heartbeat", "IPsrcaddr", &[("ipaddress", "192.0.2.77")]);
        let error = r.start().await.unwrap_err();
        eprintln!("{error}");
        assert!(
            !matches!(error, Failure::Unknown(_) | Failure::TimedOut { .. }),
            "{error}"
        );
    });
}

/// An iSCSI target in user space (tgtd); the kernel's initiator need not be there.
#[test]
fn iscsi() {
    inside("iscsi", &[], |folder| async move {
        let mut tgtd = Command::new("tgtd").arg("-f").spawn().unwrap();
        until("tgtd answers", || async {
            Command::new("tgtadm")
                .args(["--lld", "iscsi", "--op", "show", "--mode", "target"])
                .output()
                .unwrap()
                .status
                .success()
        })
        .await;
        let disk = folder.join("disk");
        sh(&format!("truncate -s 8M {}", disk.display()));
        let iqn = "iqn.2026-11.test:disk";
        let target = ocf(
            "heartbeat",
            "iSCSITarget",
            &[("implementation", "tgt"), ("iqn", iqn), ("tid", "1")],
        );
        let unit = ocf(
            "heartbeat",
            "iSCSILogicalUnit",
            &[
                ("implementation", "tgt"),
                ("target_iqn", iqn),
                ("lun", "1"),
                ("path", disk.to_str().unwrap()),
            ],
        );
        assert_eq!(target.check().await, Vec::<String>::new());
        up_and_down(&target).await;
        up_and_down(&unit).await;
        let shown = sh("tgtadm --lld iscsi --op show --mode target");
        assert!(
            shown.contains(iqn) && shown.contains(disk.to_str().unwrap()),
            "{shown}"
        );
        down(&unit).await;
        down(&target).await;

        // The initiator: its agent says what is wrong with a portal that is none.
        let initiator = ocf(
            "heartbeat",
            "iscsi",
            &[("portal", "127.0.0.1:1"), ("target", iqn)],
        );
        let error = initiator.start().await.unwrap_err();
        eprintln!("initiator: {error}");
        assert!(!matches!(error, Failure::TimedOut { .. }), "{error}");
        let wrong = ocf("heartbeat", "iscsi", &[("portal", "127.0.0.1:1")])
            .check()
            .await;
        assert!(
            wrong.iter().any(|w| w.contains("needs parameter target")),
            "{wrong:?}"
        );
        tgtd.kill().unwrap();
        tgtd.wait().unwrap();
    });
}

/// Where the kernel has no device mapper, the error is what is tested; where it has one, the activation.
#[test]
fn logical_volume() {
    inside("logical_volume", &[], |folder| async move {
        let r = ocf(
            "heartbeat",
            "LVM-activate",
            &[
                ("vgname", "hl-no-such"),
                ("vg_access_mode", "tagging"),
                ("activation_mode", "exclusive"),
            ],
        );
        let wrong = r.check().await;
        eprintln!("{wrong:#?}");
        assert!(
            wrong.iter().any(|w| w.contains("validate-all ended with")),
            "{wrong:?}"
        );
        let error = r.start().await.unwrap_err();
        eprintln!("{error}");
        assert!(
            !matches!(error, Failure::TimedOut { .. } | Failure::Unknown(_)),
            "{error}"
        );
        assert_ne!(r.status().await, State::Running);
        let wrong = ocf("heartbeat", "LVM-activate", &[("vg", "x")])
            .check()
            .await;
        for with in [
            "has no parameter vg: did you mean vgname?",
            "needs parameter vg_access_mode",
        ] {
            assert!(wrong.iter().any(|w| w.contains(with)), "{with}: {wrong:?}");
        }
        drop(folder);
    });
}
