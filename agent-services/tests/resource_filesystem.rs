//! Real file systems: tmpfs, and ext4 on a loop device.

mod resource_common;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use agent_services::resource::{Failure, Kind, Resource, State};
use resource_common::{inside, resource, sh, until};

fn filesystem(device: &str, point: &Path, fstype: &str, options: &str) -> Resource {
    resource(Kind::Filesystem {
        device: device.into(),
        mount: point.into(),
        fstype: fstype.into(),
        options: options.into(),
        kill_holders: false,
    })
}

fn kill_holders(r: &mut Resource) {
    if let Kind::Filesystem { kill_holders, .. } = &mut r.kind {
        *kill_holders = true;
    }
}

/// An ext4 in a file; returns its UUID.
fn image(path: &Path) -> String {
    sh(&format!(
        "truncate -s 16M {0}; mkfs.ext4 -q -L hltest{1} {0}; blkid -o value -s UUID {0}",
        path.display(),
        std::process::id()
    ))
}

async fn up_and_down(r: &Resource, point: &Path) {
    assert_eq!(r.status().await, State::Stopped);
    for _ in 0..2 {
        assert_eq!(r.start().await, Ok(()));
        assert_eq!(r.status().await, State::Running);
    }
    assert_eq!(r.check().await, Vec::<String>::new());
    fs::write(point.join("file"), "x").unwrap();
    for _ in 0..2 {
        assert_eq!(r.stop().await, Ok(()));
        assert_eq!(r.status().await, State::Stopped);
    }
    assert!(!point.join("file").exists());
}

#[test]
fn mount_and_unmount() {
    inside("mount_and_unmount", &[], |folder| async move {
        let point = folder.join("a point");
        fs::create_dir(&point).unwrap();
        up_and_down(&filesystem("tmpfs", &point, "tmpfs", "size=1m"), &point).await;

        // By the name of its file (mount(8) makes the loop device), and by a device of its own.
        let file = folder.join("image");
        let uuid = image(&file);
        let by_file = filesystem(file.to_str().unwrap(), &point, "ext4", "loop,noatime");
        up_and_down(&by_file, &point).await;
        let device = Loop::new(&file);
        up_and_down(&filesystem(&device.0, &point, "ext4", ""), &point).await;
        let by_uuid = filesystem(&format!("UUID={uuid}"), &point, "ext4", "");
        // findfs(8) and mount(8) look at the devices themselves: there is no udev here.
        up_and_down(&by_uuid, &point).await;
        // Through a symbolic link.
        let link = folder.join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        up_and_down(
            &filesystem(&device.0, &link.join("a point"), "", ""),
            &point,
        )
        .await;
    });
}

/// A loop device, freed again.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Loop {
        Loop(sh(&format!("losetup -f --show {}", file.display())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        sh(&format!("losetup -d {}", self.0));
    }
}

#[test]
fn mounts_that_cannot_be() {
    inside("mounts_that_cannot_be", &[], |folder| async move {
        let point = folder.join("point");
        let r = filesystem("tmpfs", &point, "tmpfs", "");
        let error = r.start().await.unwrap_err();
        assert_eq!(
            error,
            Failure::Misconfigured(format!(
                "the mount point {0} is missing: mkdir -p {0}",
                point.display()
            ))
        );
        assert_eq!(r.check().await, [error.to_string()]);
        assert_eq!(r.stop().await, Ok(()));
        fs::create_dir(&point).unwrap();

        let r = filesystem("/dev/no-such", &point, "ext4", "");
        let error = r.start().await.unwrap_err().to_string();
        assert!(
            error.contains("/dev/no-such is not mounted") && error.contains("does not exist"),
            "{error}"
        );
        let r = filesystem("UUID=12345678-no", &point, "ext4", "");
        let error = r.start().await.unwrap_err().to_string();
        assert!(error.contains("can't find UUID="), "{error}");
        let r = filesystem("/dev/zero", &point, "nosuchfs", "");
        let error = r.start().await.unwrap_err().to_string();
        assert!(error.contains("/dev/zero is not mounted"), "{error}");
        let wrong = r.check().await;
        assert!(
            wrong.len() == 1 && wrong[0].contains("mount.nosuchfs"),
            "{wrong:?}"
        );
        // Nothing of it is taken for an option.
        let r = filesystem("--help", &point, "tmpfs", "");
        assert_eq!(r.start().await, Ok(()));
        assert_eq!(r.stop().await, Ok(()));

        // Somebody else's mount is neither used nor touched.
        sh(&format!("mount -t tmpfs other {}", point.display()));
        for r in [
            filesystem("tmpfs", &point, "tmpfs", ""),
            filesystem("other", &point, "ext4", ""),
        ] {
            let State::Failed(seen) = r.status().await else {
                panic!("{:?}", r.status().await)
            };
            assert!(seen.contains("something else is mounted at"), "{seen}");
            assert!(matches!(r.start().await, Err(Failure::Failed(_))));
            let error = r.stop().await.unwrap_err().to_string();
            assert!(error.contains("left alone"), "{error}");
            assert_eq!(r.check().await.len(), 1);
        }
        assert_eq!(
            filesystem("other", &point, "tmpfs", "").stop().await,
            Ok(())
        );
    });
}

#[test]
fn errors_make_it_read_only() {
    inside("errors_make_it_read_only", &[], |folder| async move {
        let point = folder.join("point");
        fs::create_dir(&point).unwrap();
        image(&folder.join("image"));
        let device = Loop::new(&folder.join("image"));
        let r = filesystem(&device.0, &point, "ext4", "");
        assert_eq!(r.start().await, Ok(()));
        sh(&format!("mount -o remount,ro {}", point.display()));
        let state = r.status().await;
        assert!(
            matches!(&state, State::Failed(t) if t.contains("has become read-only")),
            "{state:?}"
        );
        let wanted = filesystem(&device.0, &point, "ext4", "noatime,ro");
        assert_eq!(wanted.status().await, State::Running);
        assert_eq!(r.stop().await, Ok(()));
    });
}

/// A process that uses a file system.
struct User(Child);

impl User {
    fn new(script: &str, point: &Path) -> User {
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(point)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        User(child)
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_holds_it_open_is_named() {
    inside("who_holds_it_open_is_named", &[], |folder| async move {
        let point = folder.join("point");
        fs::create_dir(&point).unwrap();
        let r = filesystem("tmpfs", &point, "tmpfs", "");
        assert_eq!(r.start().await, Ok(()));
        let shell = fs::canonicalize("/bin/sleep").unwrap();
        fs::copy(shell, point.join("program")).unwrap();
        for (script, how) in [
            ("cd $1; echo >ready; exec sleep 1000", "cwd"),
            ("exec 7>$1/file; echo >$1/ready; exec sleep 1000", "fd 7"),
            ("echo >$1/ready; exec $1/program 1000", "program"),
        ] {
            let user = User::new(script, &point);
            let ready = point.join("ready");
            until("it is ready", || async { ready.exists() }).await;
            let named = format!("process {} (", user.id());
            until(how, || async {
                // It may not have come as far as its last program.
                let error = r.stop().await.unwrap_err();
                assert!(matches!(error, Failure::Failed(_)), "{error}");
                let error = error.to_string();
                eprintln!("{error}");
                error.contains("is busy")
                    && error.contains(&named)
                    && error.contains(&format!("): {how} "))
            })
            .await;
            assert_eq!(r.status().await, State::Running);
            fs::remove_file(ready).unwrap();
        }
        // Mounted in it.
        fs::create_dir(point.join("sub")).unwrap();
        sh(&format!("mount -t tmpfs sub {}/sub", point.display()));
        until("it is free but for that", || async {
            let error = r.stop().await.unwrap_err().to_string();
            error.contains(&format!("; mounted in it: {}/sub", point.display()))
                && !error.contains("process")
        })
        .await;
        sh(&format!("umount {}/sub", point.display()));
        assert_eq!(r.stop().await, Ok(()));
    });
}

#[test]
fn who_holds_it_open_is_ended_if_told() {
    inside(
        "who_holds_it_open_is_ended_if_told",
        &[],
        |folder| async move {
            let point = folder.join("point");
            fs::create_dir(&point).unwrap();
            let mut r = filesystem("tmpfs", &point, "tmpfs", "");
            assert_eq!(r.start().await, Ok(()));
            let polite = User::new("cd $1; echo >ready; exec sleep 1000", &point);
            let deaf = User::new(
                "cd $1; trap '' TERM; echo >deaf; while :; do sleep 1; done",
                &point,
            );
            let bystander = User::new("exec sleep 1000", &point);
            // Elsewhere, though its path is the same.
            let elsewhere = User::new(
                "exec unshare --mount --propagation private sh -c \
                 'umount $0; mount -t tmpfs x $0; cd $0; echo >/run/elsewhere; exec sleep 1000' $1",
                &point,
            );
            until("they are ready", || async {
                point.join("ready").exists()
                    && point.join("deaf").exists()
                    && Path::new("/run/elsewhere").exists()
            })
            .await;
            assert!(
                r.stop()
                    .await
                    .unwrap_err()
                    .to_string()
                    .contains(&polite.id())
            );
            kill_holders(&mut r);
            assert_eq!(r.stop().await, Ok(()));
            assert_eq!(r.status().await, State::Stopped);
            let ended =
                [polite, deaf, bystander, elsewhere].map(|mut u| u.0.try_wait().unwrap().is_some());
            assert_eq!(ended, [true, true, false, false]);
        },
    );
}

#[test]
fn other_mount_namespaces_are_seen() {
    inside(
        "other_mount_namespaces_are_seen",
        &[],
        |folder| async move {
            let point = folder.join("point");
            fs::create_dir(&point).unwrap();
            image(&folder.join("image"));
            let device = Loop::new(&folder.join("image"));
            let r = filesystem(&device.0, &point, "ext4", "");
            assert_eq!(r.start().await, Ok(()));
            // As a service with its own namespace has it, or a container.
            let user = User::new(
                "exec unshare --mount --propagation private sh -c 'cd /; echo >$0/ready; exec sleep 1000' $1",
                &point,
            );
            until("it is ready", || async { point.join("ready").exists() }).await;
            let error = r.stop().await.unwrap_err().to_string();
            assert!(
                error.contains("is unmounted here")
                    && error.contains(&format!("process {} (", user.id())),
                "{error}"
            );
            drop(user);
            until("it is free", || async { r.start().await == Ok(()) }).await;
            assert_eq!(r.stop().await, Ok(()));
        },
    );
}

/// A file system whose server does not answer, made with FUSE's own protocol: it is mounted, and nobody reads.
#[test]
fn a_dead_server_holds_nothing_up() {
    inside("a_dead_server_holds_nothing_up", &[], |folder| async move {
        use std::os::fd::AsRawFd as _;
        let point = folder.join("point");
        fs::create_dir(&point).unwrap();
        let fuse = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            fuse.as_raw_fd()
        );
        nix::mount::mount(
            Some("dead"),
            &point,
            Some("fuse"),
            nix::mount::MsFlags::empty(),
            Some(data.as_str()),
        )
        .unwrap();
        let mut r = filesystem("dead", &point, "fuse", "");
        r.status_timeout = Duration::from_secs(1);
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let mut most = 0;
        for _ in 0..6 {
            let state = r.status().await;
            assert!(
                matches!(&state, State::Unknown(t) if t.contains("not answer")),
                "{state:?}"
            );
            most = most.max(threads());
        }
        // The harness has one or two, the runtime its blocking ones: what counts is that they do not grow.
        assert!(most <= 5, "{most} threads");
        // umount(8) does not ask it.
        r.stop_timeout = Duration::from_secs(30);
        assert_eq!(r.stop().await, Ok(()));
        assert_eq!(r.status().await, State::Stopped);
        drop(fuse);
    });
}
