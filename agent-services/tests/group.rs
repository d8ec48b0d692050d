//! A group's task with real programs: what is started when, what is stopped, what follows from failures.

use std::{fs, path::PathBuf, time::Duration};

use agent_services::{
    group::{Group, Phase, Report, Role, Services, Stake, Wanted, What},
    policy::Policy,
    probe::{Exec, Kind as ProbeKind, On, Probe},
    resource::{Kind, Resource},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Nothing here takes so long, however busy the machine.
const LONG: Duration = Duration::from_secs(60);

/// A folder in which each resource is a file, and everything that is done is a line of `log`.
struct Place {
    dir: TempDir,
    reports: mpsc::Receiver<Report>,
    send: mpsc::Sender<Report>,
    seen: Vec<What>,
}

fn sh(script: String) -> Vec<String> {
    vec!["sh".into(), "-c".into(), script]
}

impl Place {
    fn new() -> Place {
        let (send, reports) = mpsc::channel(64);
        Place {
            dir: tempfile::tempdir().unwrap(),
            reports,
            send,
            seen: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn touch(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    fn log(&self) -> Vec<String> {
        fs::read_to_string(self.path("log"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// A resource that starts unless `NAME.nostart` is there, stops unless `NAME.nostop` is, waits while `NAME.slow` is.
    fn resource(&self, name: &str) -> Resource {
        let d = self.dir.path().display();
        let act = |verb: &str, what: &str| {
            sh(format!(
                "cd {d}; echo {verb} {name} >> log; while [ -e {name}.slow ]; do sleep 0.01; done; [ ! -e {name}.no{verb} ] && {what}"
            ))
        };
        Resource {
            name: name.into(),
            kind: Kind::Exec {
                start: act("start", &format!("touch {name}")),
                stop: act("stop", &format!("rm -f {name}")),
                status: sh(format!("cd {d}; [ -e {name} ] || exit 3")),
            },
            start_timeout: LONG,
            stop_timeout: LONG,
            status_timeout: LONG,
            status_interval: Duration::from_millis(30),
            keep_running: false,
            stateful: false,
        }
    }

    /// Good while the file is there.
    fn probe(&self, name: &str, on: On) -> Probe {
        let script = format!("[ -e {} ] || exit 2", self.path(name).display());
        Probe {
            name: name.into(),
            kind: ProbeKind::Exec(Exec::new(&sh(script))),
            interval: Duration::from_millis(50),
            timeout: LONG,
            rise: 1,
            fall: 2,
            on,
        }
    }

    fn group(&self, resources: Vec<Resource>, probes: Vec<Probe>, restarts: u32) -> Group {
        let policy = Policy {
            restarts,
            window: LONG,
            failure_memory: LONG,
        };
        Group::spawn(
            1,
            Services {
                resources,
                probes,
                policy,
            },
            self.send.clone(),
        )
    }

    async fn until(&mut self, what: impl Fn(&What) -> bool) -> What {
        loop {
            if let Some(i) = self.seen.iter().position(&what) {
                return self.seen.remove(i);
            }
            let next = tokio::time::timeout(LONG, self.reports.recv()).await;
            let next =
                next.unwrap_or_else(|_| panic!("only {:?}, log {:?}", self.seen, self.log()));
            self.seen.push(next.unwrap().what);
        }
    }

    async fn phase(&mut self, phase: Phase) {
        self.until(|w| *w == What::Phase(phase)).await;
    }

    async fn logged(&self, lines: &[&str]) {
        let wait = async {
            while self.log() != lines {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            tokio::time::timeout(LONG, wait).await.is_ok(),
            "{:?} instead of {lines:?}",
            self.log()
        );
    }
}

fn own(epoch: u64) -> impl FnOnce(&mut Wanted) {
    move |w| w.role = Role::Owner { epoch }
}

fn lose(w: &mut Wanted) {
    w.role = Role::Standby;
    w.losses += 1;
}

fn leave(epoch: u64) -> impl FnOnce(&mut Wanted) {
    move |w| w.role = Role::Leaving { epoch }
}

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn started_in_order_and_stopped_in_reverse() {
    let mut p = Place::new();
    let g = p.group(
        vec![p.resource("a"), p.resource("b"), p.resource("c")],
        vec![],
        3,
    );
    g.want(own(7));
    p.phase(Phase::Running).await;
    p.logged(&["start a", "start b", "start c"]).await;
    g.want(leave(7));
    assert_eq!(
        p.until(|w| matches!(w, What::Stopped { .. })).await,
        What::Stopped { epoch: 7 }
    );
    p.logged(&[
        "start a", "start b", "start c", "stop c", "stop b", "stop a",
    ])
    .await;
    assert_eq!(g.view().phase, Phase::Idle);
}

#[tokio::test]
async fn what_runs_is_adopted_and_what_should_not_run_is_swept() {
    let mut p = Place::new();
    p.touch("a");
    let g = p.group(vec![p.resource("a")], vec![], 3);
    g.want(own(1));
    p.phase(Phase::Running).await;
    assert_eq!(p.log(), NOTHING, "it was running: not started again");
    drop(g);
    let g = p.group(vec![p.resource("a")], vec![], 3);
    g.want(|w| w.role = Role::Standby);
    p.logged(&["stop a"]).await;
    drop(g);
}

#[tokio::test]
async fn a_group_lost_while_it_starts_is_stopped_at_once() {
    let mut p = Place::new();
    p.touch("b.slow");
    let g = p.group(vec![p.resource("a"), p.resource("b")], vec![], 3);
    g.want(own(1));
    p.logged(&["start a", "start b"]).await;
    g.want(lose);
    p.until(|w| matches!(w, What::Note(_, t) if t == "starting b was broken off"))
        .await;
    fs::remove_file(p.path("b.slow")).unwrap();
    p.phase(Phase::Idle).await;
    assert!(!p.path("a").exists() && !p.path("b").exists());
}

#[tokio::test]
async fn lost_and_gained_again_means_stopped_in_between() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a")], vec![], 3);
    g.want(own(1));
    p.phase(Phase::Running).await;
    // Both before the task looks: the newest role alone would say that nothing has changed.
    g.want(|w| {
        lose(w);
        own(2)(w);
    });
    p.logged(&["start a", "stop a", "start a"]).await;
    p.phase(Phase::Running).await;
}

#[tokio::test]
async fn what_dies_is_started_again_with_what_rests_on_it_until_that_is_too_often() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a"), p.resource("b")], vec![], 2);
    g.want(own(1));
    for _ in 0..2 {
        p.phase(Phase::Running).await;
        fs::remove_file(p.path("a")).unwrap();
    }
    p.phase(Phase::Running).await;
    let mut log = vec!["start a", "start b"];
    for _ in 0..2 {
        // What is dead is stopped, too: it may have left something behind.
        log.extend(["stop b", "stop a", "start a", "start b"]);
    }
    p.logged(&log).await;
    assert_eq!((g.view().failures, g.view().given_up), (2, false));
    fs::remove_file(p.path("a")).unwrap();
    let broken = p.until(|w| matches!(w, What::Broken(Some(_)))).await;
    assert_eq!(broken, What::Broken(Some("a has stopped".into())));
    p.phase(Phase::Failed).await;
    assert!(g.view().given_up);
    // Somebody mends it and says so.
    g.want(|w| w.clears += 1);
    p.until(|w| *w == What::Broken(None)).await;
    p.phase(Phase::Running).await;
}

#[tokio::test]
async fn what_will_not_start_is_given_up_and_comes_back_when_cleared() {
    let mut p = Place::new();
    p.touch("a.nostart");
    let g = p.group(vec![p.resource("a")], vec![], 0);
    g.want(own(1));
    p.until(|w| matches!(w, What::Broken(Some(_)))).await;
    fs::remove_file(p.path("a.nostart")).unwrap();
    g.want(|w| w.clears += 1);
    p.phase(Phase::Running).await;
}

#[tokio::test]
async fn a_stateful_stop_that_fails_is_told_and_nothing_else_follows() {
    let mut p = Place::new();
    let stateful = Resource {
        stateful: true,
        ..p.resource("a")
    };
    let g = p.group(vec![stateful, p.resource("b")], vec![], 3);
    g.want(own(5));
    p.phase(Phase::Running).await;
    p.touch("a.nostop");
    g.want(leave(5));
    let told = p
        .until(|w| matches!(w, What::StopFailed { .. } | What::Stopped { .. }))
        .await;
    assert!(
        matches!(told, What::StopFailed { epoch: 5, .. }),
        "{told:?}"
    );
    p.phase(Phase::Stuck).await;
    fs::remove_file(p.path("a.nostop")).unwrap();
    g.want(|w| w.clears += 1);
    p.until(|w| *w == What::Stopped { epoch: 5 }).await;
    // Stopped by a later try, which the core did not take: it is told once more when somebody clears it.
    g.want(|w| w.clears += 1);
    p.until(|w| *w == What::Stopped { epoch: 5 }).await;
}

#[tokio::test]
async fn a_stop_that_fails_of_something_without_state_holds_nobody_up() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a"), p.resource("b")], vec![], 3);
    g.want(own(5));
    p.phase(Phase::Running).await;
    p.touch("b.nostop");
    g.want(leave(5));
    p.until(|w| *w == What::Stopped { epoch: 5 }).await;
    assert!(!p.path("a").exists());
}

#[tokio::test]
async fn what_keeps_running_runs_on_standbys_and_outlives_a_move() {
    let mut p = Place::new();
    let kept = Resource {
        keep_running: true,
        ..p.resource("a")
    };
    let g = p.group(vec![kept, p.resource("b")], vec![], 3);
    g.want(|w| w.role = Role::Standby);
    p.logged(&["start a"]).await;
    g.want(own(1));
    p.phase(Phase::Running).await;
    g.want(leave(1));
    p.until(|w| *w == What::Stopped { epoch: 1 }).await;
    p.logged(&["start a", "start b", "stop b"]).await;
    g.want(lose);
    // It dies on a standby: it is started there, too.
    fs::remove_file(p.path("a")).unwrap();
    p.logged(&["start a", "start b", "stop b", "stop a", "start a"])
        .await;
}

#[tokio::test]
async fn a_bad_probe_restarts_and_then_moves() {
    let mut p = Place::new();
    p.touch("ok");
    let g = p.group(vec![p.resource("a")], vec![p.probe("ok", On::Owner)], 1);
    g.want(own(1));
    p.phase(Phase::Running).await;
    fs::remove_file(p.path("ok")).unwrap();
    p.logged(&["start a", "stop a", "start a"]).await;
    let broken = p.until(|w| matches!(w, What::Broken(Some(_)))).await;
    assert!(
        matches!(&broken, What::Broken(Some(why)) if why.starts_with("probe ok is bad")),
        "{broken:?}"
    );
}

#[tokio::test]
async fn a_bad_probe_on_a_standby_makes_it_unfit_until_it_is_good() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a")], vec![p.probe("ok", On::All)], 1);
    g.want(|w| w.role = Role::Standby);
    p.until(|w| matches!(w, What::Broken(Some(_)))).await;
    p.touch("ok");
    p.until(|w| *w == What::Broken(None)).await;
    assert_eq!(p.log(), NOTHING, "nothing is started or stopped for that");
}

#[tokio::test]
async fn while_paused_no_failure_is_acted_on() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a")], vec![], 3);
    g.want(own(1));
    p.phase(Phase::Running).await;
    g.want(|w| w.paused = true);
    fs::remove_file(p.path("a")).unwrap();
    // It is seen, and no more.
    let wait = async {
        while g.view().resources[0].state != "stopped" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait)
        .await
        .expect("it is not seen");
    assert_eq!(p.log(), ["start a"]);
    g.want(|w| w.paused = false);
    p.logged(&["start a", "stop a", "start a"]).await;
}

#[tokio::test]
async fn who_has_to_wait_starts_later() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a")], vec![], 3);
    g.want(|w| w.hold = Some("waits for group db".into()));
    g.want(own(1));
    p.phase(Phase::Blocked).await;
    assert_eq!(
        (g.view().text.as_str(), p.log().len()),
        ("waits for group db", 0)
    );
    g.want(|w| w.hold = None);
    p.phase(Phase::Running).await;
}

#[tokio::test]
async fn a_resource_that_is_configured_no_more_is_stopped_and_the_rest_runs_on() {
    let mut p = Place::new();
    let g = p.group(vec![p.resource("a"), p.resource("b")], vec![], 3);
    g.want(own(1));
    p.phase(Phase::Running).await;
    let services = Services {
        resources: vec![p.resource("b")],
        ..Services::default()
    };
    g.want(|w| w.services = services.into());
    p.logged(&["start a", "start b", "stop a"]).await;
    assert!(p.path("b").exists());
}

/// Waits until this is said, of this wish.
async fn staked(g: &Group, stake: Stake, role: Role, losses: u64) {
    let wait = async {
        while g.stake() != (stake, Some((role, losses))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(LONG, wait).await.is_ok();
    assert!(
        came,
        "{:?} instead of {stake:?} {role:?} {losses}",
        g.stake()
    );
}

/// What must not run twice is at stake from before it is started until it was seen to be stopped; what was left over, as
/// soon as it was seen.
#[tokio::test]
async fn what_is_at_stake_is_said_before_it_runs_and_until_it_is_stopped() {
    let mut p = Place::new();
    let stateful = |p: &Place, name: &str| Resource {
        stateful: true,
        ..p.resource(name)
    };
    let g = p.group(vec![stateful(&p, "a")], vec![], 3);
    assert_eq!(g.stake(), (Stake::Unknown, None), "nobody has looked");
    g.want(|w| w.role = Role::Standby);
    staked(&g, Stake::Nothing, Role::Standby, 0).await;
    p.touch("a.slow");
    g.want(own(1));
    staked(&g, Stake::AtStake, Role::Owner { epoch: 1 }, 0).await;
    // Lost while it is being started, when it is up already; and it does not stop.
    p.touch("a");
    p.touch("a.nostop");
    g.want(lose);
    fs::remove_file(p.path("a.slow")).unwrap();
    p.phase(Phase::Stuck).await;
    staked(&g, Stake::AtStake, Role::Standby, 1).await;
    fs::remove_file(p.path("a.nostop")).unwrap();
    g.want(|w| w.clears += 1);
    staked(&g, Stake::Nothing, Role::Standby, 1).await;

    p.touch("b");
    p.touch("b.slow");
    let left = p.group(vec![stateful(&p, "b")], vec![], 3);
    left.want(|w| w.role = Role::Standby);
    staked(&left, Stake::AtStake, Role::Standby, 0).await;
    fs::remove_file(p.path("b.slow")).unwrap();
    staked(&left, Stake::Nothing, Role::Standby, 0).await;
    // What could be had twice is no matter.
    let plain = p.group(vec![p.resource("c")], vec![], 3);
    plain.want(own(1));
    staked(&plain, Stake::Nothing, Role::Owner { epoch: 1 }, 0).await;
}
