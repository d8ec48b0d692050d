//! What clients felt, beside what was promised.

use super::{
    fault::{Fault, Row},
    measure::Felt,
    own::Own,
    rig::Service,
};

/// The promise for hot standby on `lan`.
const OUTAGE_MS: f64 = 100.0;
/// For what is started by whoever takes over: so much beside its own time.
const BESIDE_MS: f64 = 150.0;
/// And for new connections during planned changes.
const REFUSED_MS: f64 = 50.0;

/// Sets what was felt beside what was promised. `node` was the owner; `own` is what the unit itself took.
pub(super) fn judge(fault: Fault, node: &str, service: Service, felt: Felt, own: Own) -> Row {
    let moved = felt.by.last().is_some_and(|by| by != node);
    let (target, held) = match fault {
        Fault::Cut | Fault::Freeze | Fault::KillAgent => unplanned(service, &felt, own),
        Fault::Move | Fault::Reboot | Fault::Maintenance => planned(service, &felt),
        Fault::KillUnit => (
            "started again here".into(),
            felt.by.iter().all(|by| by == node) && own.start_ms > 0.0,
        ),
        Fault::UnitDies | Fault::ProbeFails if fault.hits(service) => {
            ("moves".into(), moved && felt.outage_ms > 0.0)
        }
        // The other groups on that node feel nothing of it.
        Fault::UnitDies | Fault::ProbeFails => {
            let (target, held) = untouched(&felt);
            (target, held && !moved)
        }
    };
    Row {
        service,
        felt,
        own,
        target,
        held,
    }
}

fn unplanned(service: Service, felt: &Felt, own: Own) -> (String, bool) {
    let limit = if service.hot_standby() {
        OUTAGE_MS
    } else {
        own.start_ms + BESIDE_MS
    };
    let started = service.hot_standby() || own.start_ms > 0.0;
    (
        format!("<= {limit:.0} ms"),
        started && felt.outage_ms <= limit,
    )
}

fn planned(service: Service, felt: &Felt) -> (String, bool) {
    if !service.hot_standby() {
        // It is stopped here before it is started there: nothing is promised but its return.
        return (String::new(), felt.by.len() > 1);
    }
    match &felt.web {
        None => ("0 lost".into(), felt.lost == 0),
        Some(tcp) => {
            // The connection that is kept is reset once by each new owner, at most.
            let moves = felt.by.len().saturating_sub(1);
            (
                format!("<= {moves} resets, refused <= {REFUSED_MS} ms, none slow"),
                tcp.resets <= moves
                    && tcp.hung == 0
                    && tcp.refused_ms <= REFUSED_MS
                    && tcp.slow == 0,
            )
        }
    }
}

fn untouched(felt: &Felt) -> (String, bool) {
    let tcp = felt
        .web
        .as_ref()
        .is_none_or(|tcp| tcp.resets + tcp.hung + tcp.slow == 0);
    ("untouched: 0 lost".into(), felt.lost == 0 && tcp)
}
