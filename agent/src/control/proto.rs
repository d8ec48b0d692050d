//! Requests, replies and errors of the control socket.
//!
//! A request is `{"v":1,"request":R}` where `R` is `"status"`, `{"explain":{"group":"web"}}` and so on;
//! members that are not known are refused. A reply is `{"ok":..}` or `{"error":{"code","message","help"}}`.
//! The reply to `events` with `follow` is followed by [`StreamLine`]s until either side closes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use super::drbd::{Handler, HandlerAnswer, HandlerCall};
pub use super::foresee::*;
pub use super::report::*;
pub use super::services::*;
pub use crate::events::{Event, EventKind, EventPage};

/// The version of this protocol. It grows when a request changes its meaning; new requests and new
/// members of replies do not change it.
pub const CONTROL_VERSION: u32 = 1;

/// The longest request line, in bytes, without the newline.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The most events in one reply.
pub const MAX_EVENTS: u32 = 4096;

/// The longest time that a `move` may wait, in milliseconds.
pub const MAX_WAIT_MS: u64 = 3_600_000;

/// A request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`CONTROL_VERSION`] of the sender.
    pub v: u32,
    /// What is asked.
    pub request: Request,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Is anyone there? Answered with [`Pong`].
    Ping,
    /// Everything about this node. Answered with [`StatusReport`].
    Status,
    /// Why a group is where it is. Answered with [`ExplainReport`].
    Explain {
        /// Name of the group.
        group: String,
    },
    /// Moves a group to a node. Answered with [`MoveReply`].
    Move {
        /// Name of the group.
        group: String,
        /// Name of the node.
        node: String,
        /// Wait until it is done, at most so many milliseconds (up to [`MAX_WAIT_MS`]). Without it the answer
        /// comes as soon as the move is accepted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
    },
    /// Takes a node out of use: its groups move away, none comes. Answered with [`Done`].
    Drain {
        /// Name of the node.
        node: String,
    },
    /// Puts a drained node back into use. Answered with [`Done`].
    Undrain {
        /// Name of the node.
        node: String,
    },
    /// Forgets that a group failed, on all nodes. Answered with [`Done`].
    Clear {
        /// Name of the group.
        group: String,
        /// Somebody has made sure that nothing of the group runs on another node.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stopped_elsewhere: bool,
    },
    /// What would become of the groups without a node. Answered with [`NodeDown`].
    NodeDown {
        /// Name of the node.
        node: String,
    },
    /// What one of DRBD's handlers asks. Answered with [`HandlerAnswer`].
    DrbdHandler(HandlerCall),
    /// A node was fenced, or somebody made sure that it is off. Answered with [`Done`].
    Fenced {
        /// Name of the node.
        node: String,
        /// With what: a fence device, or who says so.
        how: String,
    },
    /// Hands off: keep everything where it is. Answered with [`Done`].
    Pause,
    /// Ends a pause. Answered with [`Done`].
    Resume,
    /// The history, and with `follow` what happens from then on. Answered with [`EventPage`].
    Events {
        /// Keep the connection and send each new event.
        #[serde(default)]
        follow: bool,
        /// Only events with this sequence number or a higher one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_seq: Option<u64>,
        /// Only the newest so many (up to [`MAX_EVENTS`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Replaces the agent process and moves nothing. Answered with [`Done`] before it begins.
    Restart,
    /// Reads the configuration again. Answered with [`ReloadReply`]. Refused if a group runs that is in it no more.
    Reload,
    /// As `reload`; groups that run and are in it no more are stopped.
    ReloadAndStop,
}

impl Request {
    /// The request's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Ping => "ping",
            Request::Status => "status",
            Request::Explain { .. } => "explain",
            Request::Move { .. } => "move",
            Request::Drain { .. } => "drain",
            Request::Undrain { .. } => "undrain",
            Request::Clear { .. } => "clear",
            Request::NodeDown { .. } => "node_down",
            Request::DrbdHandler(_) => "drbd_handler",
            Request::Fenced { .. } => "fenced",
            Request::Pause => "pause",
            Request::Resume => "resume",
            Request::Events { .. } => "events",
            Request::Restart => "restart",
            Request::Reload => "reload",
            Request::ReloadAndStop => "reload_and_stop",
        }
    }

    /// Whether it changes anything (such requests are logged with the asker's uid).
    pub fn changes_something(&self) -> bool {
        match self {
            Request::Ping
            | Request::Status
            | Request::Explain { .. }
            | Request::NodeDown { .. }
            | Request::Events { .. } => false,
            Request::Move { .. }
            | Request::Drain { .. }
            | Request::Undrain { .. }
            | Request::Clear { .. }
            | Request::Fenced { .. }
            | Request::Pause
            | Request::Resume
            | Request::Restart
            | Request::Reload
            | Request::ReloadAndStop => true,
            // It asks ten times a second.
            Request::DrbdHandler(call) => !call.repeated,
        }
    }
}

/// A reply line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// It was done; what was asked for.
    Ok(T),
    /// It was not.
    Error(Refusal),
}

impl<T> From<Result<T, Refusal>> for Reply<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(value) => Reply::Ok(value),
            Err(refusal) => Reply::Error(refusal),
        }
    }
}

/// A line after the reply to `events` with `follow`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamLine {
    /// The next event.
    Event(Event),
    /// This follower was too slow: so many events are lost to it (fetch them by `since_seq`).
    Missed(u64),
    /// The agent ends.
    End,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// What is wrong, for people.
    pub message: String,
    /// The mend, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Refusal {
    /// A refusal without help.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: None,
        }
    }

    /// Adds the mend.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Why something was not done, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request could not be read.
    BadRequest,
    /// The request line is longer than [`MAX_REQUEST`].
    TooLarge,
    /// Too many connections.
    Busy,
    /// The client speaks another version of this protocol.
    UnsupportedVersion,
    /// No group of this name.
    UnknownGroup,
    /// No node of this name.
    UnknownNode,
    /// Not possible as things are (a witness owns nothing, the node is silent, no majority, paused).
    Refused,
    /// It was tried and did not work.
    Failed,
    /// It took too long.
    Timeout,
    /// The agent is still starting or already stopping.
    NotReady,
    /// The new configuration is wrong; the old one stays in force.
    BadConfig,
    /// A mistake in the agent.
    Internal,
    /// A code that this program does not know (a newer agent).
    #[serde(other)]
    Unknown,
}

/// Reads a request line (without the newline).
///
/// # Errors
/// [`Code::TooLarge`], [`Code::UnsupportedVersion`] or [`Code::BadRequest`] with the place of the mistake.
pub fn parse_request(line: &[u8]) -> Result<Request, Refusal> {
    /// The version alone, so that a request from another version gets the right answer.
    #[derive(Deserialize)]
    struct Version {
        v: Option<u32>,
    }

    if line.len() > MAX_REQUEST {
        return Err(too_large());
    }
    match serde_json::from_slice::<Envelope>(line) {
        Ok(envelope) if envelope.v == CONTROL_VERSION => Ok(envelope.request),
        Ok(envelope) => Err(unsupported(envelope.v)),
        Err(error) => match serde_json::from_slice::<Version>(line) {
            Ok(Version { v: Some(v) }) if v != CONTROL_VERSION => Err(unsupported(v)),
            _ => Err(
                Refusal::new(Code::BadRequest, format!("this is not a request: {error}")).help(
                    format!(r#"for example {{"v":{CONTROL_VERSION},"request":"status"}}"#),
                ),
            ),
        },
    }
}

/// The refusal of a line longer than [`MAX_REQUEST`].
pub fn too_large() -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!("a request has at most {MAX_REQUEST} bytes"),
    )
}

fn unsupported(v: u32) -> Refusal {
    Refusal::new(
        Code::UnsupportedVersion,
        format!("the agent speaks control protocol {CONTROL_VERSION}, this request is version {v}"),
    )
    .help("restart the agent after an upgrade: heartline restart, or systemctl restart heartline")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(request: Request) -> String {
        serde_json::to_string(&Envelope {
            v: CONTROL_VERSION,
            request,
        })
        .unwrap()
    }

    #[test]
    fn wire_forms_are_stable() {
        let forms = [
            (Request::Ping, r#"{"v":1,"request":"ping"}"#),
            (
                Request::ReloadAndStop,
                r#"{"v":1,"request":"reload_and_stop"}"#,
            ),
            (
                Request::Explain {
                    group: "web".into(),
                },
                r#"{"v":1,"request":{"explain":{"group":"web"}}}"#,
            ),
            (
                Request::Move {
                    group: "web".into(),
                    node: "n2".into(),
                    wait_ms: None,
                },
                r#"{"v":1,"request":{"move":{"group":"web","node":"n2"}}}"#,
            ),
            (
                Request::Events {
                    follow: true,
                    since_seq: Some(3),
                    limit: None,
                },
                r#"{"v":1,"request":{"events":{"follow":true,"since_seq":3}}}"#,
            ),
        ];
        for (request, form) in forms {
            assert_eq!(text(request.clone()), form);
            assert_eq!(parse_request(form.as_bytes()), Ok(request));
        }
        let refusal =
            Reply::<()>::Error(Refusal::new(Code::UnknownGroup, "no group x").help("web"));
        assert_eq!(
            serde_json::to_string(&refusal).unwrap(),
            r#"{"error":{"code":"unknown_group","message":"no group x","help":"web"}}"#
        );
        assert_eq!(
            serde_json::from_str::<Code>(r#""new_code""#).unwrap(),
            Code::Unknown
        );
    }

    #[test]
    fn unknown_members_are_refused() {
        for line in [
            r#"{"v":1,"request":"status","x":1}"#,
            r#"{"v":1,"request":{"explain":{"group":"web","x":1}}}"#,
            r#"{"v":1,"request":{"fly":{}}}"#,
            r#"{"request":"status"}"#,
            "",
            "status",
        ] {
            assert_eq!(
                parse_request(line.as_bytes()).map_err(|e| e.code),
                Err(Code::BadRequest),
                "{line}"
            );
        }
    }

    #[test]
    fn another_version_is_named_even_if_its_request_is_unknown() {
        for line in [
            r#"{"v":2,"request":"status"}"#,
            r#"{"v":2,"request":{"fly":{}},"more":[]}"#,
        ] {
            assert_eq!(
                parse_request(line.as_bytes()).map_err(|e| e.code),
                Err(Code::UnsupportedVersion)
            );
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let line = [b"{\"v\":1,\"request\":".to_vec(), vec![b'['; 60_000]].concat();
        assert_eq!(
            parse_request(&line).map_err(|e| e.code),
            Err(Code::BadRequest)
        );
        assert_eq!(
            parse_request(&vec![b' '; MAX_REQUEST + 1]).map_err(|e| e.code),
            Err(Code::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_request(&bytes);
        }

        #[test]
        fn a_damaged_request_never_panics(at in 0usize..80, byte in any::<u8>(), cut in 0usize..80) {
            let mut line = text(Request::Move { group: "web".into(), node: "n2".into(), wait_ms: Some(5) }).into_bytes();
            if let Some(place) = line.get_mut(at) {
                *place = byte;
            }
            line.truncate(cut);
            let _ = parse_request(&line);
        }

        #[test]
        fn what_is_written_is_read(group in ".*", node in ".*", wait_ms in proptest::option::of(any::<u64>())) {
            let request = Request::Move { group, node, wait_ms };
            prop_assert_eq!(parse_request(text(request.clone()).as_bytes()), Ok(request));
        }
    }
}
