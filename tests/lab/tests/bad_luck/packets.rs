//! Packets that no honest node sends.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use agent_common::wire::{LEN, Message, VERSION};
use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    LabSpec,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    interrupt::pass,
    spray::{Forger, datagrams, overhear},
    trial::{SOON, event, events, number, owner, says, standbys, taken_over, undisturbed, with},
};

const PORT: u16 = 4747;
const PAUSE: Duration = Duration::from_micros(100);

fn port_of(rig: &Rig, node: &str) -> Result<SocketAddr> {
    Ok((rig.cluster.lab.node(node)?.eth0().v4, PORT).into())
}

/// A node's incarnation, as another node sees it.
fn incarnation(rig: &mut Rig, node: &str) -> Result<(u8, u64)> {
    let status = rig.cluster.agent(node)?.status()?;
    let id = status["node_id"].as_u64().context("node_id")?;
    Ok((u8::try_from(id)?, number(&status, "/incarnation")))
}

/// Whoever has no key, or another cluster's, changes nothing; each kind is counted by its reason.
#[test]
fn packets_that_are_refused() -> Result<()> {
    const EACH: usize = 300;
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        let (id, born) = incarnation(rig, &standby)?;
        let forger = Forger::of(rig.cluster.config())?;
        let good = |m: &mut Message| {
            m.from = id;
            m.incarnation = born;
            m.seq = 1 << 39;
            m.epoch = u64::MAX;
            m.cv = u64::MAX >> 1;
            m.set.0[0] = 1;
        };
        let mut forged = forger.signed(good);
        forged[LEN - 1] ^= 1;
        let with = |change: fn(&mut Message)| {
            forger.signed(|m| {
                good(m);
                change(m);
            })
        };
        let truth = forger.signed(good);
        let old_words = overhear(&rig.cluster.lab, &standby, PORT, 1)?;
        let old_words = old_words.first().context("a heartbeat")?.clone();
        // 24 heartbeats later it is out of the replay window, and younger than the clock's tolerance
        // (150 ms), unless this machine stands still: then it is refused for that.
        let kinds: Vec<(&str, Vec<u8>)> = vec![
            ("truncated", truth[..LEN - 1].to_vec()),
            ("truncated", Vec::new()),
            ("oversized", [&truth[..], &[0]].concat()),
            ("oversized", vec![0xff; 1400]),
            ("bad_magic", with(|m| m.magic ^= 0x101)),
            ("bad_version", with(|m| m.version = VERSION + 2)),
            ("other_cluster", with(|m| m.cluster ^= 1)),
            ("forged", forged),
            ("bad_sender", with(|m| m.from = 0)),
            ("bad_sender", with(|m| m.from = 31)),
            ("bad_sender", with(|m| m.kind = 99)),
            ("bad_promise", with(|m| m.max_promise_ms += 1)),
            ("bad_promise", with(|m| m.promise_us = u32::MAX)),
            ("old_incarnation", with(|m| m.incarnation -= 1)),
        ];
        let to = port_of(rig, &old)?;
        let prober = rig.cluster.lab.prober.clone();
        let before = rig.cluster.agent(&old)?.status()?;
        let from = boot_ns();
        for (_, payload) in &kinds {
            datagrams(&prober, to, vec![payload.clone(); EACH], PAUSE)?;
        }
        let mut reasons: Vec<&str> = kinds.iter().map(|(reason, _)| *reason).collect();
        reasons.dedup();
        for reason in &reasons {
            let sent = EACH * kinds.iter().filter(|(kind, _)| kind == reason).count();
            let path = format!("/counters/drop_{reason}");
            let least = number(&before, &path) + sent as u64;
            let what = format!("{reason}: {sent} counted");
            says(rig, &old, &what, |status| number(status, &path) >= least)?;
            event(rig, &old, "packet_rejected", from, |event| {
                event["reason"] == *reason
            })?;
        }
        // Authentic words of a live node, long after they were said.
        let refused = |status: &serde_json::Value| {
            number(status, "/counters/drop_replayed") + number(status, "/counters/drop_regressed")
        };
        let least = refused(&rig.cluster.agent(&old)?.status()?) + EACH as u64;
        datagrams(&prober, to, vec![old_words; EACH], PAUSE)?;
        says(rig, &old, "old words: refused", |status| {
            refused(status) >= least
        })?;
        pass(Duration::from_millis(200))?;
        undisturbed(rig, from, &old)?;
        for node in [&old, &standby] {
            for kind in [
                "rejoin_wait",
                "lost",
                "gate_shut_by_higher_epoch",
                "duplicate_id",
            ] {
                let told = events(rig, node, kind, from)?;
                ensure!(told.is_empty(), "{node}: {told:?}");
            }
        }
        let after = rig.cluster.agent(&standby)?.status()?;
        ensure!(
            number(&after, "/incarnation") == born,
            "{standby} started afresh"
        );
        Ok(())
    })
}

/// The last words of a dead owner, said again and again by somebody without the key: they must not
/// hold its promise.
#[test]
fn the_last_words_of_a_dead_owner_hold_nothing() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let others = standbys(rig)?;
        let prober = rig.cluster.lab.prober.clone();
        let refused = |rig: &mut Rig| -> Result<u64> {
            let mut sum = 0;
            for node in &others {
                let status = rig.cluster.agent(node)?.status()?;
                sum += number(&status, "/counters/drop_replayed");
            }
            Ok(sum)
        };
        let before = refused(rig)?;
        let to = others.iter().map(|name| port_of(rig, name));
        let to = to.collect::<Result<Vec<_>>>()?;
        let last = overhear(&rig.cluster.lab, &old, PORT, 5)?;
        rig.cluster.lab.switch.cut(&old)?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (stop, last, prober) = (&stop, &last, &prober);
            let echoes: Vec<_> = to
                .iter()
                .map(|to| {
                    let words = last.iter().cycle().cloned();
                    // One each ms, far above the rate of heartbeats, for 10 s at most.
                    let words = words.take(10_000);
                    let words = words.take_while(|_| !stop.load(Ordering::Relaxed));
                    scope.spawn(move || datagrams(prober, *to, words, Duration::from_millis(1)))
                })
                .collect();
            let new = taken_over(rig, &old);
            stop.store(true, Ordering::Relaxed);
            for echo in echoes {
                echo.join().ok().context("panic")??;
            }
            new
        })?;
        ensure!(refused(rig)? > before, "no replayed word was counted");
        rig.cluster.lab.switch.heal()?;
        rig.settle()
    })
}

/// A flood of garbage of every size, faster than heartbeats by far, costs nobody anything.
#[test]
fn garbage_of_every_size() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let prober = rig.cluster.lab.prober.clone();
        let to = port_of(rig, &old)?;
        let mut seed = boot_ns() | 1;
        println!("seed {seed}");
        let garbage = std::iter::repeat_with(move || {
            let mut next = || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed
            };
            let size = (next() % 1400) as usize;
            (0..size).map(|_| next() as u8).collect::<Vec<u8>>()
        });
        let from = boot_ns();
        datagrams(&prober, to, garbage.take(3000), PAUSE)?;
        undisturbed(rig, from, &old)?;
        ensure!(boot_ns() - from < SOON.as_nanos() as u64 * 3, "bounded");
        Ok(())
    })
}
