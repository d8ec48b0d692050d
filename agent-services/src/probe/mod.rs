//! Is a service any good? Asked as its users would ask.
//!
//! A probe that says *bad* found a service that does not answer as it should. What keeps the probe itself from running
//! (no socket left, no such plugin, a secret that cannot be read, a node too busy to listen) is *unknown* and never
//! counts as a failure. One probe is one question: no retries, [`Judge`] counts.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

mod bound;
mod dns;
mod exec;
mod http;
mod icmp;
mod judge;
mod pattern;
mod radius;
mod sip;
mod systemd;
mod tcp;
mod tls;

pub use bound::AT_ONCE;
pub use dns::{Dns, Expect};
pub use exec::Exec;
pub use http::Http;
pub use icmp::Icmp;
pub use judge::{Judge, Standing};
pub use pattern::{Pattern, PatternError};
pub use radius::{Ask, Radius, Want};
pub use sip::Sip;
pub use systemd::Systemd;
pub use tcp::Tcp;
pub use tls::Trust;

use bound::{No, Stage, Yes};

/// No probe is asked more often.
pub const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// No probe waits longer.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The service answers as it should.
    Good(Answer),
    /// It does not, or not as it should; with what was seen.
    Bad(String),
    /// The probe could not run (no such command, no socket left); with why. Never taken for a failure.
    Unknown(String),
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// How long it took.
    pub took: Duration,
    /// One line for people.
    pub text: String,
    /// Performance data as Nagios plugins print it, kept as it came.
    pub performance: String,
}

/// On which nodes a probe runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum On {
    /// On the owner of the group.
    #[default]
    Owner,
    /// On standbys, too, where a failure makes a node unfit to take over. Such a probe should ask an address of the
    /// node itself: from a standby, a VIP leads to the owner.
    All,
}

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Name, unique within the group.
    pub name: String,
    /// What is asked.
    pub kind: Kind,
    /// From the beginning of one question to that of the next; from [`MIN_INTERVAL`].
    pub interval: Duration,
    /// The answer must be complete by then; up to [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// So many good answers in a row make a bad service good.
    pub rise: u32,
    /// So many bad ones in a row make a good service bad.
    pub fall: u32,
    /// Where it runs.
    pub on: On,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are few, and they are not moved about"
)]
pub enum Kind {
    /// A TCP connection, and what is said on it.
    Tcp(Tcp),
    /// A request by HTTP or HTTPS.
    Http(Http),
    /// A question to a name server.
    Dns(Dns),
    /// An echo request.
    Icmp(Icmp),
    /// A RADIUS request.
    Radius(Radius),
    /// A SIP OPTIONS request.
    Sip(Sip),
    /// The state of a unit of systemd.
    Systemd(Systemd),
    /// A command with the exit codes of a Nagios plugin.
    Exec(Exec),
}

impl Kind {
    async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        match self {
            Kind::Tcp(k) => k.ask(stage).await,
            Kind::Http(k) => k.ask(stage).await,
            Kind::Dns(k) => k.ask(stage).await,
            Kind::Icmp(k) => k.ask(stage).await,
            Kind::Radius(k) => k.ask(stage).await,
            Kind::Sip(k) => k.ask(stage).await,
            Kind::Systemd(k) => k.ask(stage).await,
            Kind::Exec(k) => k.ask(stage).await,
        }
    }

    /// What is wrong with it, as far as that can be told without asking anybody.
    fn flaw(&self) -> Option<String> {
        match self {
            Kind::Tcp(_) | Kind::Icmp(_) | Kind::Radius(_) => None,
            Kind::Http(k) => k.flaw(),
            Kind::Dns(k) => k.flaw(),
            Kind::Sip(k) => k.flaw(),
            Kind::Systemd(k) => k.flaw(),
            Kind::Exec(k) => k.flaw(),
        }
    }
}

impl Probe {
    /// What is wrong with it, for `heartline check`: numbers out of range, a URL that is none.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        if self.interval < MIN_INTERVAL {
            return Some(format!(
                "interval is {:?}, must be {MIN_INTERVAL:?} at least",
                self.interval
            ));
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return Some(format!(
                "timeout is {:?}, must be more than 0 and at most {MAX_TIMEOUT:?}",
                self.timeout
            ));
        }
        if self.rise == 0 || self.fall == 0 {
            return Some("rise and fall count from 1".to_owned());
        }
        self.kind.flaw()
    }

    /// Asks once. Ends within `timeout`, whatever happens; leaves nothing running when it is dropped.
    pub async fn run(&self) -> Verdict {
        let begun = Instant::now();
        let timeout = self.timeout.min(MAX_TIMEOUT);
        let deadline = begun + timeout;
        let Some(_slot) = bound::slot(deadline).await else {
            return Verdict::Unknown(format!(
                "was not asked: {AT_ONCE} other probes ran for {timeout:?}"
            ));
        };
        let asked = Instant::now();
        let stage = Stage::default();
        let result = timeout_at(deadline, self.kind.ask(&stage)).await;
        let took = asked.elapsed();
        match result {
            Ok(Ok(yes)) => Verdict::Good(Answer {
                took,
                text: yes.text,
                performance: yes.performance,
            }),
            Ok(Err(No::Bad(text))) => Verdict::Bad(text),
            Ok(Err(No::Unknown(text))) => Verdict::Unknown(text),
            Err(_) => late(&stage, timeout, asked - begun, begun.elapsed()),
        }
    }
}

/// The answer did not come in time. Whose fault is it?
fn late(stage: &Stage, timeout: Duration, waited: Duration, took: Duration) -> Verdict {
    let (doing, ours) = stage.get();
    if ours {
        return Verdict::Unknown(format!("{doing} took longer than {timeout:?}"));
    }
    if waited > timeout / 4 {
        return Verdict::Unknown(format!(
            "waited {waited:?} for its turn behind {AT_ONCE} other probes, then had no answer in what was left of \
             {timeout:?}"
        ));
    }
    // The timer itself was late: this process did not run, so it did not listen either.
    if took > timeout + (timeout / 2).max(Duration::from_millis(100)) {
        return Verdict::Unknown(format!(
            "this node was too busy to listen: it noticed after {took:?} that {timeout:?} were over"
        ));
    }
    if doing.is_empty() {
        Verdict::Bad(format!("no answer within {timeout:?}"))
    } else {
        Verdict::Bad(format!("no answer within {timeout:?}: {doing}"))
    }
}

/// Status codes as people write them: "200-399, 401".
fn ranges(all: &[RangeInclusive<u16>]) -> String {
    let one = |r: &RangeInclusive<u16>| {
        if r.start() == r.end() {
            r.start().to_string()
        } else {
            format!("{}-{}", r.start(), r.end())
        }
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Any address and port of the family of the other side.
fn any_of(ip: IpAddr) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_late_is_bad_only_if_we_could_have_heard_it() {
        let s = Duration::from_secs;
        let stage = Stage::default();
        stage.say("connecting");
        let text = "no answer within 1s: connecting".to_owned();
        assert_eq!(late(&stage, s(1), s(0), s(1)), Verdict::Bad(text));
        assert!(matches!(
            late(&stage, s(1), s(0), s(2)),
            Verdict::Unknown(_)
        ));
        let waited = Duration::from_millis(300);
        assert!(matches!(
            late(&stage, s(1), waited, s(1)),
            Verdict::Unknown(_)
        ));
        stage.ours("looking a name up");
        assert!(matches!(
            late(&stage, s(1), s(0), s(1)),
            Verdict::Unknown(_)
        ));
    }

    #[test]
    fn ranges_read_well() {
        assert_eq!(ranges(&[200..=399, 401..=401]), "200-399, 401");
    }
}
