//! SIP OPTIONS (RFC 3261, 11), by UDP or TCP.

use std::{net::SocketAddr, ops::RangeInclusive};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    bound::{No, Stage, Yes, random, udp},
    ranges, tcp,
};

/// No message is longer.
const MESSAGE: usize = 64 * 1024;

/// Good: a final answer to our request, with one of the status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sip {
    /// Who is asked; 5060 is the usual port.
    pub server: SocketAddr,
    /// What is asked for: "sip:example.org"; empty: the server itself.
    pub uri: String,
    /// Status codes that are good; empty: any, for a server that answers 404 or 483 is alive.
    pub status: Vec<RangeInclusive<u16>>,
    /// Over TCP.
    pub tcp: bool,
}

impl Sip {
    /// By UDP, any final answer is good.
    #[must_use]
    pub fn new(server: SocketAddr) -> Sip {
        Sip {
            server,
            uri: String::new(),
            status: Vec::new(),
            tcp: false,
        }
    }

    pub(super) fn flaw(&self) -> Option<String> {
        let bad = |c: char| c.is_control() || c == ' ' || c == '<' || c == '>';
        let scheme = self.uri.starts_with("sip:") || self.uri.starts_with("sips:");
        if !self.uri.is_empty() && (!scheme || self.uri.contains(bad)) {
            return Some(format!(
                "{:?} is no SIP URI, as sip:example.org is",
                self.uri
            ));
        }
        None
    }

    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        if let Some(why) = self.flaw() {
            return Err(No::unknown(why));
        }
        let ticket = Ticket::new()?;
        if self.tcp {
            self.by_tcp(stage, &ticket).await
        } else {
            self.by_udp(stage, &ticket).await
        }
    }

    async fn by_udp(&self, stage: &Stage, ticket: &Ticket) -> Result<Yes, No> {
        let no = |e: std::io::Error| No::io(&format!("UDP to {}", self.server), &e);
        let socket = udp(self.server).await?;
        let own = socket.local_addr().map_err(no)?;
        stage.say("");
        socket
            .send(self.request(ticket, own).as_bytes())
            .await
            .map_err(no)?;
        let mut strays = 0u32;
        let mut buffer = vec![0; MESSAGE];
        loop {
            let n = socket.recv(&mut buffer).await.map_err(no)?;
            let heard = Reply::parse(buffer.get(..n).unwrap_or_default());
            match heard.filter(|r| r.is_for(ticket)) {
                Some(reply) => {
                    if let Some(result) = self.judge(stage, &reply) {
                        return result;
                    }
                }
                None => {
                    strays = strays.saturating_add(1);
                    stage.say(format!(
                        "{strays} datagrams came that are no answer to this request"
                    ));
                }
            }
        }
    }

    async fn by_tcp(&self, stage: &Stage, ticket: &Ticket) -> Result<Yes, No> {
        let no = |e: std::io::Error| No::io(&format!("connected to {}, then", self.server), &e);
        let mut stream = tcp::connect(stage, self.server).await?;
        let own = stream.local_addr().map_err(no)?;
        stage.say("connected, but no answer");
        stream
            .write_all(self.request(ticket, own).as_bytes())
            .await
            .map_err(no)?;
        let mut heard = Vec::new();
        loop {
            while let Some(length) = message_length(&heard).map_err(No::bad)? {
                if heard.len() < length {
                    break;
                }
                let message: Vec<u8> = heard.drain(..length).collect();
                match Reply::parse(&message).filter(|r| r.is_for(ticket)) {
                    Some(reply) => {
                        if let Some(result) = self.judge(stage, &reply) {
                            return result;
                        }
                    }
                    None => return Err(No::bad("a message that is no answer to this request")),
                }
            }
            if heard.len() >= MESSAGE {
                return Err(No::bad(format!("no whole message in {MESSAGE} bytes")));
            }
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.map_err(no)?;
            if n == 0 {
                return Err(No::bad("it hung up without an answer"));
            }
            heard.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
    }

    fn request(&self, ticket: &Ticket, own: SocketAddr) -> String {
        let transport = if self.tcp { "TCP" } else { "UDP" };
        let uri = if self.uri.is_empty() {
            format!("sip:{}", self.server)
        } else {
            self.uri.clone()
        };
        let Ticket { branch, tag, call } = ticket;
        format!(
            "OPTIONS {uri} SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {own};rport;branch={branch}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:heartline@{own}>;tag={tag}\r\n\
             To: <{uri}>\r\n\
             Call-ID: {call}\r\n\
             CSeq: 1 OPTIONS\r\n\
             Contact: <sip:heartline@{own};transport={}>\r\n\
             Accept: application/sdp\r\n\
             User-Agent: heartline/{}\r\n\
             Content-Length: 0\r\n\r\n",
            transport.to_ascii_lowercase(),
            env!("CARGO_PKG_VERSION")
        )
    }

    /// `None`: it is a provisional answer, and another one will come.
    fn judge(&self, stage: &Stage, reply: &Reply) -> Option<Result<Yes, No>> {
        let text = format!("status {} {}", reply.code, reply.reason);
        if reply.code < 200 {
            stage.say(format!("only {text}"));
            return None;
        }
        let good = self.status.is_empty() || self.status.iter().any(|r| r.contains(&reply.code));
        Some(if good {
            Ok(Yes::new(text))
        } else {
            Err(No::bad(format!("{text}, wanted {}", ranges(&self.status))))
        })
    }
}

/// What makes an answer ours (RFC 3261, 8.1.3.3 and 17.1.3); random, so that nobody can guess it.
struct Ticket {
    branch: String,
    tag: String,
    call: String,
}

impl Ticket {
    fn new() -> Result<Ticket, No> {
        let hex =
            || -> Result<String, No> { Ok(format!("{:032x}", u128::from_ne_bytes(random()?))) };
        Ok(Ticket {
            branch: format!("z9hG4bK{}", hex()?),
            tag: hex()?,
            call: hex()?,
        })
    }
}

/// The part of an answer that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: u16,
    reason: String,
    branch: Option<String>,
    call: Option<String>,
    sequence: Option<String>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Option<Reply> {
        let text = head(bytes)?;
        let (status, headers) = text.split_once('\n').unwrap_or((text, ""));
        let status = status.trim_end_matches('\r').strip_prefix("SIP/2.0 ")?;
        let (code, reason) = status.split_once(' ').unwrap_or((status, ""));
        if code.len() != 3 || !code.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let mut reply = Reply {
            code: code.parse().ok().filter(|c| (100..700).contains(c))?,
            reason: reason.to_owned(),
            branch: None,
            call: None,
            sequence: None,
        };
        for (name, value) in fields(headers) {
            let slot = match name.as_str() {
                "via" | "v" if reply.branch.is_none() => {
                    reply.branch = Some(branch(&value).unwrap_or_default().to_owned());
                    continue;
                }
                "call-id" | "i" => &mut reply.call,
                "cseq" => &mut reply.sequence,
                _ => continue,
            };
            // The same header twice is no answer of ours.
            if slot.is_some() {
                return None;
            }
            *slot = Some(value);
        }
        Some(reply)
    }

    fn is_for(&self, ticket: &Ticket) -> bool {
        let sequence = self.sequence.as_deref().unwrap_or_default();
        self.branch.as_ref() == Some(&ticket.branch)
            && self.call.as_ref() == Some(&ticket.call)
            && sequence.split_whitespace().eq(["1", "OPTIONS"])
    }
}

/// The branch of the topmost of the hops in a Via header.
fn branch(via: &str) -> Option<&str> {
    let parameters = via.split(',').next()?.split(';').skip(1);
    parameters
        .filter_map(|p| p.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("branch"))
        .map(|(_, value)| value.trim())
}

/// Names in lower case, and values; a line that begins with white space goes on with the one before.
fn fields(headers: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in headers.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = all.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            all.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

/// Where the head of a message ends, the empty line included.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Start line and headers, without the empty lines that may stand before a message (RFC 3261, 7.5).
fn head(bytes: &[u8]) -> Option<&str> {
    let start = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let bytes = bytes.get(start..)?;
    std::str::from_utf8(bytes.get(..head_end(bytes)?)?).ok()
}

/// The length of the first message in a stream; `None`: its head is not whole yet.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(start) = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')) else {
        return Ok(None);
    };
    let Some(end) = head_end(bytes.get(start..).unwrap_or_default()) else {
        return Ok(None);
    };
    let text = head(bytes).ok_or("a message that is not text")?;
    let body = fields(text)
        .into_iter()
        .find(|(name, _)| name == "content-length" || name == "l")
        .map_or(Ok(0), |(_, value)| value.parse::<usize>())
        .map_err(|_| "a message with a length that is none")?;
    if body > MESSAGE {
        return Err("a message that is too long");
    }
    Ok(Some(start + end + body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        Ticket {
            branch: "z9hG4bK1".into(),
            tag: "t".into(),
            call: "c@h".into(),
        }
    }

    const GOOD: &str = "SIP/2.0 200 OK\r\nv: SIP/2.0/UDP 1.2.3.4:5;rport=5;Branch=z9hG4bK1;received=1.2.3.4 , \
                        SIP/2.0/UDP x;branch=z9hG4bK2\r\ni: c@h\r\nTo: <sip:a>;tag=1\r\nCSeq : 1\r\n OPTIONS\r\n\
                        l: 2\r\n\r\nhi";

    #[test]
    fn an_answer_in_another_spelling() {
        let reply = Reply::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((reply.code, reply.reason.as_str()), (200, "OK"));
        assert!(reply.is_for(&ticket()), "{reply:?}");
        assert_eq!(message_length(GOOD.as_bytes()), Ok(Some(GOOD.len())));
        assert_eq!(
            message_length(format!("\r\n\r\n{GOOD}more").as_bytes()),
            Ok(Some(GOOD.len() + 4))
        );
    }

    #[test]
    fn answers_to_others() {
        for (from, to) in [
            ("z9hG4bK1", "z9hG4bK9"),
            ("c@h", "d@h"),
            ("CSeq : 1", "CSeq: 2"),
            ("OPTIONS", "INVITE"),
            ("v: ", "x: "),
            ("i: ", "x: "),
        ] {
            let reply = Reply::parse(GOOD.replace(from, to).as_bytes()).unwrap();
            assert!(!reply.is_for(&ticket()), "{from}");
        }
        for (from, to) in [
            ("200", "20"),
            ("200", "0200"),
            ("200", "999"),
            ("SIP/2.0 2", "SIP/1.0 2"),
            ("To:", "i:"),
        ] {
            assert_eq!(
                Reply::parse(GOOD.replacen(from, to, 1).as_bytes()),
                None,
                "{from} {to}"
            );
        }
    }

    #[test]
    fn flaws_are_told() {
        let with = |uri: &str| {
            Sip {
                uri: uri.into(),
                ..Sip::new("[::1]:5060".parse().unwrap())
            }
            .flaw()
        };
        assert_eq!(
            (with(""), with("sip:a@b"), with("sips:b;x=y")),
            (None, None, None)
        );
        assert!(
            with("http://a").is_some()
                && with("sip:a\r\nX: y").is_some()
                && with("sip:a b").is_some()
        );
    }

    proptest! {
        #[test]
        fn any_message_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..GOOD.len()) {
            let _ = (Reply::parse(&bytes), message_length(&bytes));
            let mut mixed = GOOD.as_bytes()[..at].to_vec();
            mixed.extend(&bytes);
            mixed.extend(&GOOD.as_bytes()[at..]);
            let _ = Reply::parse(&mixed);
            if let Ok(Some(n)) = message_length(&mixed) { prop_assert!(n > 0); }
        }

        #[test]
        fn headers_may_be_written_in_any_case_and_order(
            code in 100u16..700, reason in "[ -~]{0,30}", order in Just(vec![0, 1, 2, 3]).prop_shuffle(), upper: bool
        ) {
            let lines = ["Via: SIP/2.0/UDP h;branch=z9hG4bK1", "Call-ID: c@h", "CSeq: 1 OPTIONS", "Server: x"];
            let mut text = format!("SIP/2.0 {code} {reason}\r\n");
            for i in order {
                let (name, value) = lines[i].split_once(':').unwrap();
                let name = if upper { name.to_uppercase() } else { name.to_lowercase() };
                text += &format!("{name}:{value}\r\n");
            }
            let reply = Reply::parse((text + "\r\n").as_bytes()).unwrap();
            prop_assert_eq!((reply.code, reply.reason.as_str()), (code, reason.as_str()));
            prop_assert!(reply.is_for(&ticket()));
        }
    }
}
