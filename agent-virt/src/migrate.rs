//! Live migration, watched from begin to end: both ends are asked where the domain is afterwards.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use agent_virt_proto::message::{Answer, Line, Migrate, Migrated, Place, Refusal, Seen, Why};
use virt::{
    connect::Connect,
    domain::{Domain, MigrateParameters},
    error::Error,
    sys,
};

use crate::{act, job, link::Say};

/// Time between two looks at the job.
const LOOK: Duration = Duration::from_millis(250);
/// How long both ends may take to come to rest.
const SETTLE: Duration = Duration::from_secs(10);

/// Breaks off what is under way.
pub fn abort(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain lives.
    match unsafe { sys::virDomainAbortJob(domain.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// Migrates; when `within` is over, the migration is broken off, unless it is past the point of no return.
pub fn run(
    connect: &Connect,
    domain: &Domain,
    id: u64,
    order: &Migrate,
    within: Duration,
    say: &Say,
) -> Result<Answer, Refusal> {
    let texts = [Some(&order.to), order.data.as_ref()];
    if texts.into_iter().flatten().any(|t| t.contains('\0')) {
        return Err(Refusal {
            why: Why::Misconfigured,
            text: "a URI has no zero bytes".into(),
        });
    }
    let begun = Instant::now();
    let over = (Mutex::new(false), Condvar::new());
    let done = thread::scope(|scope| {
        scope.spawn(|| watch(domain, id, order, begun, within, say, &over));
        let parameters = MigrateParameters {
            bandwidth: order.bandwidth,
            uri: order.data.clone(),
            ..MigrateParameters::default()
        };
        let done = domain.migrate_to_uri3(Some(&order.to), parameters, flags(order));
        *over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        over.1.notify_all();
        done
    });
    let took = begun.elapsed();
    let error = done.err().map(|e| e.message().to_owned());
    let other = Connect::open(Some(&order.to));
    let settled = Instant::now() + SETTLE;
    loop {
        let here = seen(connect, &order.name);
        let there = match &other {
            Ok(other) => seen(other, &order.name),
            Err(error) => Seen::Unknown(error.message().to_owned()),
        };
        let mut migrated = Migrated {
            error: error.clone(),
            here,
            there,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            progress: None,
        };
        if migrated.place() != Place::Unclear || Instant::now() >= settled {
            // The completed job is known where the domain is.
            let at = match (migrated.place(), &other) {
                (Place::There, Ok(other)) => other,
                _ => connect,
            };
            let arrived = act::find(at, &order.name).ok().flatten();
            migrated.progress = arrived.and_then(|d| job::read(&d, true).ok().flatten());
            return Ok(Answer::Migrated(migrated));
        }
        thread::sleep(LOOK);
    }
}

fn seen(connect: &Connect, name: &str) -> Seen {
    match act::look(connect, name) {
        Ok(state) => Seen::As(state.life),
        Err(refusal) => Seen::Unknown(refusal.text),
    }
}

/// Never `VIR_MIGRATE_UNSAFE`: a disk that is not shared would be two disks afterwards.
fn flags(order: &Migrate) -> u32 {
    let mut flags = sys::VIR_MIGRATE_LIVE
        | sys::VIR_MIGRATE_PEER2PEER
        | sys::VIR_MIGRATE_PERSIST_DEST
        // What is not defined here nobody starts here by accident.
        | sys::VIR_MIGRATE_UNDEFINE_SOURCE
        | sys::VIR_MIGRATE_ABORT_ON_ERROR;
    for (wanted, flag) in [
        (order.tls, sys::VIR_MIGRATE_TLS),
        (order.tunnelled, sys::VIR_MIGRATE_TUNNELLED),
        (order.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
        (order.postcopy, sys::VIR_MIGRATE_POSTCOPY),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    flags
}

/// Tells how far it is, and does what is due on the way.
fn watch(
    domain: &Domain,
    id: u64,
    order: &Migrate,
    begun: Instant,
    within: Duration,
    say: &Say,
    over: &(Mutex<bool>, Condvar),
) {
    let (mut paced, mut switched) = (order.downtime_ms.is_none(), !order.postcopy);
    let mut aborted = false;
    loop {
        let ended = over.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = over
            .1
            .wait_timeout_while(ended, LOOK, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return;
        }
        drop(ended);
        let Ok(Some(progress)) = job::read(domain, false) else {
            // Nothing is sent yet.
            if begun.elapsed() >= within && !aborted {
                aborted = abort(domain).is_ok();
            }
            continue;
        };
        say(Line::Progress { id, progress });
        if !paced && let Some(ms) = order.downtime_ms {
            paced = domain.migrate_set_max_downtime(ms, 0).is_ok();
        }
        if !switched && begun.elapsed() >= within / 2 {
            // SAFETY: the domain lives.
            switched = unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) } == 0;
        }
        if begun.elapsed() >= within && !aborted {
            // In post-copy libvirt refuses, and rightly so: half of the memory is over there.
            aborted = abort(domain).is_ok();
        }
    }
}
