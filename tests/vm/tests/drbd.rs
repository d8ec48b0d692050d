//! DRBD 8.4 in guests: promotion, its refusals, a survivor with the data; and rows through a VIP in front of it.

use std::time::Duration;

use heartline_lab::interrupt;
use heartline_vm::{
    cluster::{Cluster, Setting, Stack},
    drbd::{self, DEVICE, MOUNT, Options, RESOURCE},
    roles::Roles,
    rows::{self, Store, Writer},
    site::{Plan, Site},
};

const SOON: Duration = Duration::from_secs(90);

#[test]
fn a_survivor_has_the_data() {
    let plan = Plan {
        witness: false,
        ..Plan::default()
    };
    let mut site = Site::up(plan).expect("two guests");
    drbd::create(&mut site, &Options::default(), "ext4", Store::Sqlite).expect("DRBD");
    let [one, two] =
        ["n1", "n2"].map(|name| site.guest(name).expect("a guest").control().expect("on"));
    one.sh(
        &format!(
            "drbdadm primary {RESOURCE} && mount {DEVICE} {MOUNT} && echo kept >{MOUNT}/file && sync"
        ),
        SOON,
    )
    .expect("n1 is primary");

    // While the other is primary, and known to be, DRBD refuses.
    let ran = two
        .run(&format!("drbdadm primary {RESOURCE}"), SOON)
        .expect("an answer");
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(
        drbd::line(&two)
            .expect("a line")
            .contains("ro:Secondary/Primary")
    );

    site.guest("n1").expect("n1").kill().expect("kill");
    two.sh(
        &format!("until drbdadm primary {RESOURCE}; do sleep 0.1; done; mount {DEVICE} {MOUNT}"),
        SOON,
    )
    .expect("n2 is primary");
    assert_eq!(
        two.sh(&format!("cat {MOUNT}/file"), SOON).expect("cat"),
        "kept\n"
    );
    two.sh(
        &format!("echo more >{MOUNT}/file && umount {MOUNT} && drbdadm secondary {RESOURCE}"),
        SOON,
    )
    .expect("n2 writes and demotes");

    // The old one comes back, learns what it missed, and takes it back in order.
    site.boot("n1").expect("n1 boots");
    let one = site.guest("n1").expect("n1").control().expect("on");
    drbd::configure(&one, &drbd::text(2, &Options::default())).expect("configuration");
    one.sh(&format!("drbdadm up {RESOURCE}"), SOON).expect("up");
    drbd::until(&one, "ds:UpToDate/UpToDate").expect("resynced");
    let script =
        format!("drbdadm primary {RESOURCE} && mount {DEVICE} {MOUNT} && cat {MOUNT}/file");
    assert_eq!(one.sh(&script, SOON).expect("n1 is primary"), "more\n");
}

#[test]
fn no_acknowledged_row_is_lost_when_the_owners_machine_dies() {
    let mut site = Site::up(Plan::default()).expect("two guests and a witness");
    drbd::create(&mut site, &Options::default(), "ext4", Store::Sqlite).expect("DRBD");
    let setting = Setting {
        stack: Stack::Exec,
        ..Setting::default()
    };
    let mut cluster = Cluster::start(site, &setting).expect("agents");
    cluster.brought_to("n1", SOON).expect("n1 owns");
    let mut roles = Roles::default();
    for name in ["n1", "n2"] {
        let control = cluster.control(name).expect("on");
        roles.watch(name, control).expect("a watch");
    }
    let writer = Writer::start(&cluster.site.ns, Store::Sqlite).expect("a client");
    let more = |writer: &Writer, than: usize| {
        interrupt::until(SOON, Duration::from_millis(50), || {
            Ok(writer.rows().len() > than)
        })
        .expect("wait")
    };
    assert!(more(&writer, 20), "rows are written");

    cluster.site.guest("n1").expect("n1").kill().expect("kill");
    let before = writer.rows().len();
    cluster.owned_by("n2", SOON).expect("n2 takes over");
    assert!(more(&writer, before + 20), "rows are written again");
    let acknowledged = writer.stop();
    let found = Store::Sqlite
        .found(&cluster.control("n2").expect("on"))
        .expect("rows");
    assert_eq!(rows::lost(&acknowledged, &found), [] as [u32; 0]);
    assert_eq!(roles.both(), 0, "{:?}", roles.spans());
    // And the check can fail: a row that was never sent is missed.
    let never = rows::Row {
        number: u32::MAX,
        at: 0,
    };
    assert_eq!(rows::lost(&[never], &found), [u32::MAX]);
}
