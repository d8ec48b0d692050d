//! ICMP.

use agent_services::probe::{Icmp, Kind};

use crate::rig::{alone, bad, good, hasty, patient, unknown};

fn kind(address: &str, device: Option<&str>) -> Kind {
    Kind::Icmp(Icmp {
        address: address.parse().unwrap(),
        device: device.map(str::to_owned),
    })
}

#[test]
fn an_echo_of_either_family() {
    alone(|| async {
        good(&patient(kind("127.0.0.5", None))).await;
        good(&patient(kind("127.0.0.1", Some("lo")))).await;
        good(&patient(kind("::1", Some("lo")))).await;
    });
}

#[test]
fn no_way_no_device_no_answer() {
    alone(|| async {
        bad(&patient(kind("192.0.2.1", None)), &["unreachable"]).await;
        unknown(
            &patient(kind("127.0.0.1", Some("nope0"))),
            &["no device nope0"],
        )
        .await;
        let off = std::process::Command::new("sysctl")
            .args(["-qw", "net.ipv4.icmp_echo_ignore_all=1"])
            .status();
        assert!(off.expect("sysctl, of the package procps").success());
        bad(&hasty(kind("127.0.0.1", None)), &["no echo"]).await;
    });
}
