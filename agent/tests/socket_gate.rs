//! The nftables gate against the real kernel, in network namespaces of its own. Needs root and `nft`, and fails without.

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use agent_common::{
    Set,
    state::{LeaseWord, Shared},
};
use heartline::{
    datapath::socket::{SocketPath, Source},
    net::{list_devices, rt::boottime_ns},
};
use nix::sched::{CloneFlags, unshare};

/// Longest wait for anything; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);
const MS: u64 = 1_000_000;
const WEB: &str = "192.0.2.100";
const WEB6: &str = "2001:db8::100";
const DB: &str = "192.0.2.101";

/// Runs `test` in a thread with a network namespace of its own, with a device `hl0`.
fn lab(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET): run this test as root");
        run(
            "ip",
            &["link", "add", "hl0", "type", "veth", "peer", "name", "hl1"],
        );
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ifindex() -> u32 {
    let all = list_devices().unwrap();
    all.iter().find(|d| d.name == "hl0").expect("hl0").ifindex
}

/// What a program says in this thread's namespace.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's look; ip and nft do not hang"
)]
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    let out = out.expect("iproute2 and nftables are needed");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The path with two groups, `web` (0) and `db` (1), and its source.
fn path(dir: &std::path::Path, clock: fn() -> u64) -> (SocketPath, Source) {
    let mut path = SocketPath::load(dir, clock).expect("root and nft");
    let vips = [(WEB, 0), (WEB6, 0), (DB, 1)];
    path.set_vips(&vips.map(|(a, g)| (a.parse().unwrap(), g)))
        .unwrap();
    path.cover("hl0", ifindex()).unwrap();
    let source = path.take_source().unwrap();
    (path, source)
}

fn owner(groups: Set, lease_until: u64) -> Shared {
    let sh = Shared::default();
    sh.gate.store(groups);
    sh.lease.store(LeaseWord::until(lease_until, 1).0);
    sh
}

fn extend(sh: &Shared, until: u64) {
    sh.lease.store(LeaseWord::until(until, 1).0);
}

fn nft(args: &[&str]) -> String {
    run("nft", args)
}

fn has(set: &str, element: &str) -> bool {
    nft(&["list", "set", "netdev", "heartline", set]).contains(element)
}

/// Does the kernel's lease hold now?
fn leased() -> bool {
    has("lease", "expires")
}

#[test]
fn it_opens_and_shuts_by_itself_before_the_lease_ends() {
    lab(|| {
        let dir = tempfile::tempdir().unwrap();
        let (_path, mut source) = path(dir.path(), boottime_ns);
        let end = boottime_ns() + 400 * MS;
        let sh = owner(Set::of(0), end);
        assert!(!leased());
        assert!(source.settle(&sh));
        // On a machine that is too busy to look in time nothing is to be learnt from one look.
        let open = leased();
        assert!(open || boottime_ns() > end - 30 * MS, "it did not open");
        assert!(has("open4", WEB) && has("open6", WEB6) && !has("open4", DB));
        let late = Instant::now() + PATIENCE;
        let mut last_open = 0;
        while Instant::now() < late {
            let before = boottime_ns();
            if !leased() {
                break;
            }
            last_open = before;
        }
        assert!(!leased(), "it does not shut by itself");
        assert!(
            last_open < end,
            "open {} us after the lease",
            (last_open - end) / 1000
        );
    });
}

/// The clock, and then a stand-still (SIGSTOP, a stolen processor) just after it was read: the clock is read for the
/// first time by `settle`, for the second time when the fuse has been laid.
fn frozen_clock() -> u64 {
    static READS: AtomicU64 = AtomicU64::new(0);
    let now = boottime_ns();
    if READS.fetch_add(1, SeqCst) == 1 {
        #[expect(
            clippy::disallowed_methods,
            reason = "standing still is what is tested"
        )]
        std::thread::sleep(Duration::from_millis(300));
    }
    now
}

#[test]
fn who_stood_still_after_reading_the_clock_opens_nothing() {
    lab(|| {
        let dir = tempfile::tempdir().unwrap();
        let (_path, mut source) = path(dir.path(), frozen_clock);
        // The lease is over when the thread goes on; the timeout that it worked out is not.
        let sh = owner(Set::of(0), boottime_ns() + 250 * MS);
        assert!(source.settle(&sh), "nothing is open, so nothing is wrong");
        assert!(!leased() && !has("open4", WEB));
        // Not opened and shut again, but not opened.
        assert_eq!(source.stats().overshot.load(SeqCst), 0);
        assert_eq!(source.stats().late.load(SeqCst), 1);
        // The next time it is awake.
        extend(&sh, boottime_ns() + 2000 * MS);
        assert!(source.settle(&sh));
        assert!(leased() && has("open4", WEB));
    });
}

#[test]
fn what_is_given_up_is_shut_before_settle_returns() {
    lab(|| {
        let dir = tempfile::tempdir().unwrap();
        let (_path, mut source) = path(dir.path(), boottime_ns);
        let sh = owner(Set::of(0).with(1), boottime_ns() + 5000 * MS);
        assert!(source.settle(&sh));
        assert!(has("open4", WEB) && has("open4", DB) && leased());
        sh.gate.remove(Set::of(1));
        assert!(source.settle(&sh));
        assert!(has("open4", WEB) && !has("open4", DB) && leased());
        // A lease that is cut short (a claim that grows starts anew) is cut short in the kernel.
        extend(&sh, boottime_ns() + 300 * MS);
        assert!(source.settle(&sh));
        let late = Instant::now() + Duration::from_secs(3);
        while leased() && Instant::now() < late {}
        assert!(!leased(), "the longer lease goes on");
        // A lapsed lease leaves nothing open, nor does one that is dropped.
        extend(&sh, boottime_ns() + 5000 * MS);
        assert!(source.settle(&sh) && leased());
        extend(&sh, 0);
        assert!(source.settle(&sh));
        assert!(!leased() && !has("open4", WEB) && !has("open6", WEB6));
    });
}

#[test]
fn a_gate_that_cannot_be_shut_holds_messages_back_until_it_is_there_again() {
    lab(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut path, mut source) = path(dir.path(), boottime_ns);
        let hl0 = ifindex();
        let sh = owner(Set::of(0).with(1), boottime_ns() + 60_000 * MS);
        assert!(source.settle(&sh));
        assert!(path.is_covered(hl0).is_some());
        nft(&["flush", "ruleset"]);
        assert!(path.is_covered(hl0).is_none());
        // Nothing is given up yet: nothing is wrong with sending.
        extend(&sh, boottime_ns() + 61_000 * MS);
        assert!(source.settle(&sh));
        assert!(source.gate().take_lost());
        sh.gate.remove(Set::of(1));
        assert!(!source.settle(&sh));
        path.cover("hl0", hl0).unwrap();
        assert!(source.settle(&sh));
        assert!(has("vips4", DB) && !has("open4", DB) && has("open4", WEB) && leased());
        assert!(path.is_covered(hl0).is_some());
        // One rule less is no gate, either.
        nft(&["flush", "chain", "netdev", "heartline", "leased"]);
        assert!(path.is_covered(hl0).is_none());
    });
}

/// What a new process finds is what it goes on with: nothing opens or shuts by the change.
#[test]
fn a_new_process_adopts_the_gate() {
    lab(|| {
        let dir = tempfile::tempdir().unwrap();
        let end = boottime_ns() + 60_000 * MS;
        let sh = owner(Set::of(0), end);
        {
            let (_path, mut source) = path(dir.path(), boottime_ns);
            assert!(source.settle(&sh));
        }
        let (_path, mut source) = path(dir.path(), boottime_ns);
        assert!(leased() && has("open4", WEB));
        assert!(source.settle(&sh));
        assert!(leased() && has("open4", WEB) && !has("open4", DB));
        // One that has lost its state shuts what another left open.
        let fresh = Shared::default();
        drop((_path, source));
        let (_path, mut source) = path(dir.path(), boottime_ns);
        assert!(source.settle(&fresh));
        assert!(!leased() && !has("open4", WEB));
    });
}
