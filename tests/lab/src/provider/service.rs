//! The services: their groups, units and VIPs, and who else asks them.

use std::net::SocketAddr;

/// One of the provider's services: a group of the same name, a unit, a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// unbound with a local zone.
    Dns,
    /// freeradius.
    Radius,
    /// nginx.
    Web,
    /// kamailio.
    Sip,
}

impl Service {
    /// All of them, in order of their groups' ids.
    pub const ALL: [Self; 4] = [Self::Dns, Self::Radius, Self::Web, Self::Sip];

    /// The name of its group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Radius => "radius",
            Self::Web => "web",
            Self::Sip => "sip",
        }
    }

    /// Its unit.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Dns => "unbound.service",
            Self::Radius => "freeradius.service",
            Self::Web => "nginx.service",
            Self::Sip => "kamailio.service",
        }
    }

    /// Whether it runs on every node, so that only its VIP moves; the other one is started by whoever takes over.
    #[must_use]
    pub const fn hot_standby(self) -> bool {
        match self {
            Self::Dns | Self::Radius | Self::Web => true,
            Self::Sip => false,
        }
    }

    /// Where clients ask: VIP and port.
    #[must_use]
    pub fn target(self) -> SocketAddr {
        let (host, port) = match self {
            Self::Dns => (101, 53),
            Self::Radius => (102, 18121),
            Self::Web => (103, 80),
            Self::Sip => (104, 5060),
        };
        SocketAddr::from(([10, 77, 0, host], port))
    }

    /// A client of Debian's that asks once: a cross-check of our own.
    #[must_use]
    pub fn cross_check(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Dns => (
                &[
                    "kdig",
                    "@10.77.0.101",
                    "+short",
                    "+retry=0",
                    "+time=2",
                    "www.lab",
                    "A",
                ],
                "10.77.0.103",
            ),
            Self::Radius => (
                &[
                    "radclient",
                    "-r",
                    "1",
                    "-t",
                    "2",
                    "-x",
                    "10.77.0.102:18121",
                    "status",
                    "labsecret",
                ],
                "Received Access-Accept",
            ),
            Self::Web => (
                &[
                    "curl",
                    "--silent",
                    "--show-error",
                    "--max-time",
                    "2",
                    "http://10.77.0.103/",
                ],
                "n",
            ),
            Self::Sip => (
                &[
                    "sipsak",
                    "-v",
                    "-H",
                    "10.77.0.201",
                    "-s",
                    "sip:lab@10.77.0.104:5060",
                ],
                "200 OK",
            ),
        }
    }
}
