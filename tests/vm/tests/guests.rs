//! The lab of guests itself: machines that boot, obey, stand still, restart and die; cuts; the fence device.

use std::{process::Command, time::Duration};

use anyhow::Result;
use heartline_lab::exec;
use heartline_vm::{
    device::{ADDRESS, Device, Mood},
    site::{Cut, Plan, Site},
};

const SOON: Duration = Duration::from_secs(30);

/// Whether a guest reaches another address.
fn reaches(site: &mut Site, from: &str, to: &str) -> Result<bool> {
    let ran = site
        .guest(from)?
        .run(&format!("ping -q -c 1 -W 1 {to}"), SOON)?;
    Ok(ran.code == Some(0))
}

#[test]
fn a_guest_obeys_stands_still_restarts_and_dies() {
    let plan = Plan {
        guests: 1,
        witness: false,
        ..Plan::default()
    };
    let mut site = Site::up(plan).expect("a guest");
    let names = site.prefix().to_owned();
    let guest = site.guest("n1").expect("n1");

    // Commands: exit status, both outputs, a deadline.
    let ran = guest
        .run("echo out; echo err >&2; exit 7", SOON)
        .expect("an answer");
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(7), "out\n", "err\n")
    );
    let ran = guest
        .run("echo before; sleep 600", Duration::from_secs(3))
        .expect("an answer");
    assert!(
        ran.late && ran.code.is_none() && ran.stdout == "before\n",
        "{ran:?}"
    );
    let error = guest
        .sh("echo why >&2; exit 3", SOON)
        .expect_err("a failure");
    assert!(format!("{error:#}").contains("why"), "{error:#}");
    // Debian's kernel with what the tests need.
    guest
        .sh("modprobe -a drbd softdog sch_netem dm_mod bonding 8021q bridge && test -c /dev/watchdog", SOON)
        .expect("modules");

    // A frozen machine's clock stands still.
    let (before, _) = guest.clock().expect("a clock");
    guest.freeze().expect("stop");
    assert_eq!(guest.state().expect("a state"), "paused");
    std::thread::sleep(Duration::from_secs(2));
    guest.thaw().expect("cont");
    let (after, error) = guest.clock().expect("a clock");
    let stood = after - before;
    assert!(
        stood > 1_800_000_000 - error.cast_signed(),
        "its clock fell back by {stood} ns only"
    );

    // Another life.
    let life = guest.control().expect("on").life();
    guest.sh("touch /run/old-life", SOON).expect("touch");
    guest.reset().expect("reset");
    guest.booted_anew(life.as_deref()).expect("another life");
    let ran = guest.run("test -e /run/old-life", SOON).expect("an answer");
    assert_eq!(ran.code, Some(1));

    guest.kill().expect("kill");
    assert!(!guest.running());
    assert!(guest.run("true", SOON).is_err());
    drop(site);
    let mut list = Command::new("ip");
    list.args(["netns", "list"]);
    let left = exec::run_ok(list, "", SOON).expect("ip");
    assert!(!left.contains(&names), "{left}");
}

#[test]
fn cuts_cut_what_they_say_and_the_fence_agent_ends_guests() {
    let mut site = Site::up(Plan::default()).expect("two guests");
    let device = Device::start(&site.ns, site.dir()).expect("a fence device");
    let all = |site: &mut Site| {
        ["10.77.0.2", "10.77.1.2", "10.77.0.3", "10.77.0.201"]
            .map(|to| reaches(site, "n1", to).expect("an answer"))
    };
    assert_eq!(all(&mut site), [true; 4]);
    site.cut(Cut::Back("n1".into(), "n2".into())).expect("cut");
    assert_eq!(all(&mut site), [true, false, true, true]);
    site.cut(Cut::All("n1".into())).expect("cut");
    assert_eq!(all(&mut site), [false; 4]);
    site.heal().expect("heal");
    assert_eq!(all(&mut site), [true; 4]);

    // The agent in a guest, over the network, as any fence agent.
    let ask = |site: &mut Site, action: &str, plug: &str| {
        let ip = ADDRESS.ip();
        let text =
            format!("printf 'action={action}\\nip={ip}\\nplug={plug}\\n' | fence_heartline_qmp");
        let ran = site
            .guest("n1")
            .expect("n1")
            .run(&text, SOON)
            .expect("an answer");
        (ran.code, ran.stdout + &ran.stderr)
    };
    assert_eq!(ask(&mut site, "status", "n2").0, Some(0));
    assert_eq!(ask(&mut site, "monitor", "n2").0, Some(0));
    assert!(ask(&mut site, "metadata", "").1.contains("<resource-agent"));
    assert_eq!(ask(&mut site, "off", "n9").0, Some(1), "no such machine");
    device.set(Mood::Dead);
    assert_eq!(ask(&mut site, "off", "n2").0, Some(1), "a dead device");
    assert!(site.guest("n2").expect("n2").running());
    device.set(Mood::Lies);
    assert_eq!(ask(&mut site, "off", "n2").0, Some(0), "a device that lies");
    assert!(site.guest("n2").expect("n2").running());
    device.set(Mood::Works);
    // A frozen machine dies like any other.
    site.guest("n2").expect("n2").freeze().expect("stop");
    assert_eq!(ask(&mut site, "off", "n2").0, Some(0));
    site.guest("n2").expect("n2").ended(SOON).expect("its end");
    let (code, said) = ask(&mut site, "status", "n2");
    assert_eq!((code, said.trim()), (Some(2), "Status: OFF"));
    assert!(
        device
            .deeds()
            .iter()
            .any(|deed| deed.order == "off n2" && deed.answer == "ok off")
    );
    site.boot("n2").expect("another life");
    assert_eq!(ask(&mut site, "reboot", "n2").0, Some(0));
}
