//! Live migration between the two, and what may come between.

use std::{cell::Cell, fs, time::Duration};

use agent_services::resource::{
    Failure, Kind, Resource, State,
    domain::{Live, Stay, hand_over, preflight},
};
use tokio::time::sleep;

use crate::{
    common::until,
    hosts::{HERE, Hosts, THERE, virsh},
    on_two_hosts,
};

/// The guest on n1 and on n2.
fn both(hosts: &Hosts, xml: &str) -> (Resource, Resource) {
    (hosts.resource(HERE, xml), hosts.resource(THERE, xml))
}

fn live(resource: &mut Resource) -> &mut Live {
    match &mut resource.kind {
        Kind::Domain(domain) => domain.live.as_mut().unwrap(),
        _ => unreachable!(),
    }
}

/// So slow that something can come between.
fn slowly(resource: &mut Resource) {
    let live = live(resource);
    live.bandwidth = Some(2);
    live.auto_converge = false;
}

fn home(done: Result<impl std::fmt::Debug, Stay>, word: &str) {
    let Err(Stay::Home(why)) = &done else {
        panic!("{done:?} for {word}");
    };
    assert!(why.contains(word), "{why}");
}

/// After whatever came between: one copy, once both daemons can say so.
async fn one_copy(here: &Resource, there: &Resource) -> bool {
    let at_here = Cell::new(false);
    until("exactly one copy runs", async || {
        let states = (here.status().await, there.status().await);
        at_here.set(states.0 == State::Running);
        matches!(
            states,
            (State::Running, State::Stopped) | (State::Stopped, State::Running)
        )
    })
    .await;
    at_here.get()
}

#[test]
fn there_and_back() {
    on_two_hosts("migration::there_and_back", |hosts| async move {
        let (here, there) = both(&hosts, &hosts.xml("", ""));
        here.start().await.expect("starts");
        hosts.answers().await;
        assert_eq!(preflight(&here, &hosts.peer(2)).await, Ok(Vec::new()));
        let told = Cell::new(0);
        let went = hand_over(&here, &hosts.peer(2), |progress| {
            told.set(told.get() + 1);
            println!("{}", progress.sentence());
        })
        .await
        .expect("it goes");
        println!("there: {went:?}, progress told {} times", told.get());
        assert!(told.get() > 0 && went.bytes > 0, "{went:?}");
        assert_eq!(here.status().await, State::Stopped);
        assert_eq!(there.status().await, State::Running);
        hosts.answers().await;
        // Nobody starts it here by accident, and it survives an end over there.
        assert!(virsh(HERE, "list --all --name").is_empty());
        assert!(virsh(THERE, "dominfo g1").contains("Persistent:     yes"));
        // Its new owner's start takes it as it is; a start here is not a second copy.
        let pid = virsh(THERE, "domid g1");
        there.start().await.expect("runs already");
        assert_eq!(virsh(THERE, "domid g1"), pid);
        let twice = here.start_given(Default::default(), &[hosts.peer(2)]).await;
        assert!(
            matches!(&twice, Err(Failure::Unknown(why)) if why.contains("runs on n2")),
            "{twice:?}"
        );
        let back = hand_over(&there, &hosts.peer(1), drop)
            .await
            .expect("it comes back");
        println!("back: {back:?}");
        assert_eq!(here.status().await, State::Running);
        assert_eq!(there.status().await, State::Stopped);
        hosts.answers().await;
    });
}

#[test]
fn what_speaks_against_it_is_found_before_anything_moves() {
    on_two_hosts(
        "migration::what_speaks_against_it_is_found_before_anything_moves",
        |hosts| async move {
            let xml = hosts.xml("", "");
            let (here, there) = both(&hosts, &xml);
            here.start().await.expect("starts");
            hosts.answers().await;
            let id = virsh(HERE, "domid g1");
            // Nobody there.
            home(hand_over(&here, &hosts.peer(9), drop).await, "n9");
            // Another domain of that name; the same one is welcome.
            let define = |xml: &str| {
                let file = hosts.folder.join("there.xml");
                fs::write(&file, xml).unwrap();
                virsh(THERE, &format!("define {}", file.display()));
            };
            define(&xml.replace("aaaaaaaa", "bbbbbbbb"));
            home(
                hand_over(&here, &hosts.peer(2), drop).await,
                "another domain by the name g1",
            );
            virsh(THERE, "undefine g1");
            // One with the same hardware address, running.
            define(
                &xml.replace("<name>g1", "<name>g2")
                    .replace("aaaaaaaa", "cccccccc"),
            );
            virsh(THERE, "start g2");
            home(
                hand_over(&here, &hosts.peer(2), drop).await,
                "domain g2 on n2 has the hardware address",
            );
            virsh(THERE, "destroy g2");
            assert_eq!(virsh(HERE, "domid g1"), id, "it was never touched");
            assert_eq!(here.status().await, State::Running);
            assert_eq!(there.status().await, State::Stopped);
        },
    );
}

#[test]
fn a_disk_that_is_not_shared_stays() {
    on_two_hosts(
        "migration::a_disk_that_is_not_shared_stays",
        |hosts| async move {
            let disk = hosts.folder.join("disk");
            fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
            let device = format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
                 <target dev='vda' bus='virtio'/></disk>",
                disk.display()
            );
            let (here, there) = both(&hosts, &hosts.xml("", &device));
            here.start().await.expect("starts");
            hosts.answers().await;
            let found = preflight(&here, &hosts.peer(2)).await.expect("asked");
            assert!(
                found.iter().any(|f| !f.stops && f.text.contains("cache")),
                "{found:?}"
            );
            home(hand_over(&here, &hosts.peer(2), drop).await, "nsafe");
            assert_eq!(here.status().await, State::Running);
            assert_eq!(there.status().await, State::Stopped);
        },
    );
}

#[test]
fn one_that_takes_too_long_is_broken_off() {
    on_two_hosts(
        "migration::one_that_takes_too_long_is_broken_off",
        |hosts| async move {
            let (mut here, there) = both(&hosts, &hosts.xml("", ""));
            slowly(&mut here);
            live(&mut here).timeout = Duration::from_secs(3);
            here.start().await.expect("starts");
            hosts.answers().await;
            let done = hand_over(&here, &hosts.peer(2), drop).await;
            println!("{done:?}");
            home(done, "no migration to n2");
            assert_eq!(here.status().await, State::Running);
            assert_eq!(there.status().await, State::Stopped);
            hosts.answers().await;
        },
    );
}

#[test]
fn a_daemon_killed_in_the_middle() {
    on_two_hosts(
        "migration::a_daemon_killed_in_the_middle",
        |mut hosts| async move {
            let (mut here, there) = both(&hosts, &hosts.xml("", ""));
            slowly(&mut here);
            here.start().await.expect("starts");
            hosts.answers().await;
            let peer = hosts.peer(2);
            let under_way = tokio::sync::Notify::new();
            let migration = hand_over(&here, &peer, |p| {
                if p.done > 0 {
                    under_way.notify_one();
                }
            });
            let accident = async {
                under_way.notified().await;
                hosts.kill_daemon();
                sleep(Duration::from_millis(500)).await;
                hosts.start_daemon();
            };
            let (done, ()) = tokio::join!(migration, accident);
            println!("{done:?}");
            assert!(matches!(done, Err(Stay::Home(_))), "{done:?}");
            assert!(one_copy(&here, &there).await, "it stayed here");
            hosts.answers().await;
        },
    );
}

#[test]
fn the_target_dies_in_the_middle() {
    on_two_hosts(
        "migration::the_target_dies_in_the_middle",
        |mut hosts| async move {
            let (mut here, _) = both(&hosts, &hosts.xml("", ""));
            slowly(&mut here);
            here.start().await.expect("starts");
            hosts.answers().await;
            let peer = hosts.peer(2);
            let under_way = tokio::sync::Notify::new();
            let migration = hand_over(&here, &peer, |p| {
                if p.done > 0 {
                    under_way.notify_one();
                }
            });
            let accident = async {
                under_way.notified().await;
                hosts.kill_second();
            };
            let (done, ()) = tokio::join!(migration, accident);
            println!("{done:?}");
            // n2 cannot say that it does not run there; that it runs here is certain.
            assert!(done.is_err(), "{done:?}");
            until("it runs on", async || here.status().await == State::Running).await;
            hosts.answers().await;
        },
    );
}
