//! The lines: JSON, one per line. The helper says [`Line::Hello`] first; then each [`Request`] is answered once, in any order,
//! and events come in between. When its standard input ends, the helper ends.

use serde::{Deserialize, Serialize};

use crate::{
    job::Progress,
    preflight::Host,
    state::{DomainState, Life},
};

/// Version of these lines; agent and helper are of one package, so any other is refused.
pub const VERSION: u32 = 1;
/// Longest line, in bytes: the XML of a domain with hundreds of devices fits many times.
pub const LINE: usize = 4 << 20;
/// So many requests may be under way in one helper.
pub const AT_ONCE: usize = 32;

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back with the answer.
    pub id: u64,
    /// Who asks waits so long, ms; then it ends the helper. A migration is broken off by then.
    pub within_ms: u64,
    /// What.
    #[serde(flatten)]
    pub ask: Ask,
}

/// See [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// How is it? → [`Answer::State`]; [`Life::Absent`] if libvirt does not know it.
    Status {
        /// Name of the domain.
        name: String,
    },
    /// Runs a domain: defined from its XML, autostart off, created. One that runs is left as it is. → [`Answer::State`]
    Start {
        /// The XML.
        xml: String,
    },
    /// Asks the guest to shut down, and does not wait. → [`Answer::State`]
    Shutdown {
        /// Name of the domain.
        name: String,
    },
    /// Pulls the plug. → [`Answer::State`]
    Destroy {
        /// Name of the domain.
        name: String,
    },
    /// The XML of a running domain, as a migration would send it. → [`Answer::Xml`]
    Describe {
        /// Name of the domain.
        name: String,
    },
    /// What a host says of a domain that may come. → [`Answer::Host`]
    Host {
        /// The domain's XML.
        xml: String,
    },
    /// Migrates a running domain. → [`Answer::Migrated`], with [`Line::Progress`] before.
    Migrate(Migrate),
    /// Breaks a migration off. → [`Answer::State`]
    Abort {
        /// Name of the domain.
        name: String,
    },
}

/// A live migration, peer-to-peer: the daemons talk to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrate {
    /// Name of the domain.
    pub name: String,
    /// The other libvirt, as this host's daemon reaches it.
    pub to: String,
    /// Where memory goes, `tcp://10.0.0.2`; `None`: what the other host says of itself, its host name mostly.
    pub data: Option<String>,
    /// Memory goes encrypted, by QEMU's own TLS.
    pub tls: bool,
    /// Memory goes through the daemons' connection.
    pub tunnelled: bool,
    /// QEMU slows a guest down that writes faster than memory can be sent.
    pub auto_converge: bool,
    /// After half of the time the guest goes over at once and fetches what is missing; then it cannot go back.
    pub postcopy: bool,
    /// MiB per second.
    pub bandwidth: Option<u64>,
    /// Longest pause at the end that is aimed for, ms.
    pub downtime_ms: Option<u64>,
}

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Version of the libvirt library, as 9000000 for 9.0.0.
        libvirt: u32,
    },
    /// The connection to the daemon has come or gone.
    Link {
        /// It is there.
        up: bool,
        /// Why it is not.
        why: String,
    },
    /// Something has happened to a domain.
    Event(Event),
    /// How far a migration is.
    Progress {
        /// Of the request.
        id: u64,
        /// How far.
        progress: Progress,
    },
    /// The answer to a request.
    Answer {
        /// Of the request.
        id: u64,
        /// The answer.
        outcome: Outcome,
    },
}

/// Done or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done(Answer),
    /// Not done.
    Refused(Refusal),
}

/// See [`Ask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How a domain is now.
    State(DomainState),
    /// XML of a domain.
    Xml(String),
    /// What a host says.
    Host(Host),
    /// How a migration ended.
    Migrated(Migrated),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of reason.
    pub why: Why,
    /// In libvirt's words.
    pub text: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The daemon could not be asked: nothing is known of the domain.
    Unreachable,
    /// It will never work like this: XML refused, another domain of that name.
    Misconfigured,
    /// There is no such domain.
    NoDomain,
    /// It was tried, and failed.
    Failed,
    /// Too much at once.
    Busy,
}

/// How a migration ended; both ends were asked afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Migrated {
    /// What libvirt said against it.
    pub error: Option<String>,
    /// How the domain is here.
    pub here: Seen,
    /// How it is there.
    pub there: Seen,
    /// From order to end, ms.
    pub took_ms: u64,
    /// What libvirt counted, if it did.
    pub progress: Option<Progress>,
}

/// A domain at one end of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// So it is.
    As(Life),
    /// It could not be asked.
    Unknown(String),
}

/// Where the one copy of a domain is after a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It stayed, and runs.
    Here,
    /// It went, and runs.
    There,
    /// Not certain: an end could not be asked, or it runs at neither or at both.
    Unclear,
}

impl Migrated {
    /// Where the domain runs; only what was seen on both sides counts.
    #[must_use]
    pub fn place(&self) -> Place {
        match (&self.here, &self.there) {
            (Seen::As(here), Seen::As(there)) => {
                match (here.is_active(), there.is_active()) {
                    (true, false) => Place::Here,
                    (false, true) if *there == Life::Running => Place::There,
                    // At neither, at both, or there and not running.
                    (false, true | false) | (true, true) => Place::Unclear,
                }
            }
            (Seen::Unknown(_), _) | (_, Seen::Unknown(_)) => Place::Unclear,
        }
    }
}

/// Something that has happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Name of the domain.
    pub name: String,
    /// What.
    pub kind: EventKind,
    /// More of it, in a word or two; may be empty.
    pub detail: String,
}

/// virDomainEventType, and I/O errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Defined or defined anew.
    Defined,
    /// Libvirt does not know it any more.
    Undefined,
    /// Runs.
    Started,
    /// Stands still.
    Suspended,
    /// Runs on.
    Resumed,
    /// Has ended.
    Stopped,
    /// The guest is shutting down.
    Shutdown,
    /// Sleeps, by its own wish.
    PmSuspended,
    /// The guest has crashed.
    Crashed,
    /// A disk has failed it.
    IoError,
    /// Something that this version does not know.
    Other,
}

impl EventKind {
    /// From virDomainEventType (libvirt-domain.h).
    #[must_use]
    pub const fn from_libvirt(event: i32) -> EventKind {
        match event {
            0 => EventKind::Defined,
            1 => EventKind::Undefined,
            2 => EventKind::Started,
            3 => EventKind::Suspended,
            4 => EventKind::Resumed,
            5 => EventKind::Stopped,
            6 => EventKind::Shutdown,
            7 => EventKind::PmSuspended,
            8 => EventKind::Crashed,
            _ => EventKind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back() {
        let migrate = Migrate {
            name: "g1".into(),
            to: "qemu+tls://n2/system".into(),
            bandwidth: Some(100),
            ..Migrate::default()
        };
        for ask in [
            Ask::Status { name: "g1".into() },
            Ask::Start {
                xml: "<domain>\n\"</domain>".into(),
            },
            Ask::Migrate(migrate),
        ] {
            let request = Request {
                id: u64::MAX,
                within_ms: 5000,
                ask,
            };
            let line = serde_json::to_string(&request).expect("JSON");
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(
                serde_json::from_str::<Request>(&line).expect("reads"),
                request
            );
        }
        let line = Line::Answer {
            id: 7,
            outcome: Outcome::Refused(Refusal {
                why: Why::NoDomain,
                text: "Domain not found".into(),
            }),
        };
        let text = serde_json::to_string(&line).expect("JSON");
        assert_eq!(
            text,
            r#"{"say":"answer","id":7,"outcome":{"refused":{"why":"no_domain","text":"Domain not found"}}}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&text).expect("reads"), line);
        assert!(serde_json::from_str::<Line>(r#"{"say":"else"}"#).is_err());
    }

    #[test]
    fn one_copy_is_certain_only_if_both_ends_say_so() {
        let migrated = |here: Seen, there: Seen| Migrated {
            error: None,
            here,
            there,
            took_ms: 0,
            progress: None,
        };
        let on = || Seen::As(Life::Running);
        let off = || Seen::As(Life::Absent);
        let lost = || Seen::Unknown("no route".into());
        let paused = || Seen::As(Life::from_libvirt(3, 2));
        let place = |here, there| migrated(here, there).place();
        assert_eq!(place(off(), on()), Place::There);
        assert_eq!(place(on(), off()), Place::Here);
        assert_eq!(place(paused(), off()), Place::Here);
        for (here, there) in [
            (on(), on()),
            (off(), off()),
            (off(), paused()),
            (paused(), on()),
            (off(), lost()),
            (on(), lost()),
            (lost(), on()),
        ] {
            assert_eq!(
                place(here.clone(), there.clone()),
                Place::Unclear,
                "{here:?} {there:?}"
            );
        }
    }
}
