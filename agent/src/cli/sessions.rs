//! TCP sessions to VIPs that end on this node: what a move would reset.
//!
//! Counted from the kernel's own tables (proc_net_tcp(5)), not from conntrack, which need not be there. What a node
//! only forwards (gateway VIPs, load balancers in the kernel) has no session here.

use std::{collections::BTreeMap, net::IpAddr};

use procfs::net::{TcpState, tcp, tcp6};

use crate::control::proto::StatusReport;

/// Whether a move would take anything from this session: one side has yet to say something.
const fn lives(state: &TcpState) -> bool {
    match state {
        TcpState::Established
        | TcpState::SynRecv
        | TcpState::NewSynRecv
        | TcpState::FinWait1
        | TcpState::CloseWait
        | TcpState::Closing
        | TcpState::LastAck => true,
        // Listens, asks itself, or both sides have said all.
        TcpState::SynSent
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::Close
        | TcpState::Listen => false,
    }
}

/// How many there are of each group that `node` runs; groups with none are left out.
///
/// # Errors
/// The tables cannot be read.
pub(super) fn of_groups(
    status: &StatusReport,
    node: &str,
) -> Result<BTreeMap<String, usize>, procfs::ProcError> {
    let mut local: Vec<IpAddr> = Vec::new();
    let mut take = |entry: procfs::net::TcpNetEntry| {
        if lives(&entry.state) {
            // A socket of IPv6 that serves both has IPv4 addresses in IPv6's clothes.
            local.push(entry.local_address.ip().to_canonical());
        }
    };
    tcp()?.into_iter().for_each(&mut take);
    // Not there where IPv6 is switched off.
    tcp6().unwrap_or_default().into_iter().for_each(&mut take);
    Ok(by_group(status, node, &local))
}

fn by_group(status: &StatusReport, node: &str, local: &[IpAddr]) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let own = status
        .groups
        .iter()
        .filter(|group| group.owner.as_deref() == Some(node));
    for group in own {
        // "192.0.2.80/24"
        let vip = |text: &str| text.split('/').next()?.parse::<IpAddr>().ok();
        let vips: Vec<_> = group.vips.iter().filter_map(|v| vip(&v.address)).collect();
        let sessions = local
            .iter()
            .filter(|address| vips.contains(address))
            .count();
        if sessions > 0 {
            found.insert(group.name.clone(), sessions);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::control::proto::{GroupStatus, VipStatus};

    fn status(address: &str) -> StatusReport {
        let group = |name: &str, owner: &str, address: &str| GroupStatus {
            name: name.into(),
            owner: Some(owner.into()),
            vips: vec![VipStatus {
                address: address.into(),
                ..VipStatus::default()
            }],
            ..GroupStatus::default()
        };
        StatusReport {
            groups: vec![
                group("web", "n1", address),
                group("mail", "n2", address),
                group("quiet", "n1", "192.0.2.9/32"),
            ],
            ..StatusReport::default()
        }
    }

    #[test]
    fn a_session_counts_until_it_ends() {
        // An address of this test alone, so that others' connections do not count.
        let vip = "127.77.19.4";
        let listener = TcpListener::bind((vip, 0)).unwrap();
        let count = || of_groups(&status(&format!("{vip}/32")), "n1").unwrap();
        assert_eq!(count(), BTreeMap::new(), "who listens has no session");
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(count(), BTreeMap::from([("web".to_owned(), 1)]));
        drop((client, server));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !count().is_empty() {
            assert!(std::time::Instant::now() < end, "{:?}", count());
            std::thread::yield_now();
        }
    }

    #[test]
    fn sessions_of_both_families_count_for_their_own_group() {
        let local: Vec<IpAddr> = ["192.0.2.80", "192.0.2.80", "2001:db8::80", "192.0.2.1"]
            .map(|text| text.parse().unwrap())
            .into();
        let count = |vip| by_group(&status(vip), "n1", &local).remove("web");
        assert_eq!(count("192.0.2.80/32"), Some(2));
        assert_eq!(count("2001:db8::80/128"), Some(1));
        assert_eq!(count("192.0.2.81/32"), None);
    }
}
