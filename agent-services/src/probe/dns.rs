//! A question to a name server (RFC 1035), in one UDP datagram or over TCP.

use std::{net::SocketAddr, str::FromStr as _};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype,
        iana::{Class, Rcode},
    },
    rdata::AllRecordData,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    bound::{No, Stage, Yes, random, udp},
    tcp,
};

/// What the answers must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// One of those that are expected, at least.
    #[default]
    Any,
    /// All of them; there may be more.
    All,
}

/// Good: `NOERROR`, and at least one record of the type, of those that are expected if any are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Who is asked.
    pub server: SocketAddr,
    /// What name.
    pub name: String,
    /// What type: "A", "AAAA", "SOA", or by number "TYPE65".
    pub rtype: String,
    /// Data of the records, as a zone file has it: "192.0.2.1", "10 mail.example.". Case, a dot at the end of a name
    /// and quotes do not count.
    pub answers: Vec<String>,
    /// How many of these there must be.
    pub expect: Expect,
    /// Over TCP. By UDP, an answer that was cut short (TC) is asked for again over TCP, as resolvers do.
    pub tcp: bool,
}

impl Dns {
    /// Any answer to this, by UDP.
    #[must_use]
    pub fn new(server: SocketAddr, name: &str, rtype: &str) -> Dns {
        Dns {
            server,
            name: name.to_owned(),
            rtype: rtype.to_owned(),
            answers: Vec::new(),
            expect: Expect::Any,
            tcp: false,
        }
    }

    pub(super) fn flaw(&self) -> Option<String> {
        self.question(0).err()
    }

    fn rtype(&self) -> Result<Rtype, String> {
        Rtype::from_str(&self.rtype.to_ascii_uppercase())
            .map_err(|_| format!("{:?} is no type of record", self.rtype))
    }

    fn question(&self, id: u16) -> Result<Vec<u8>, String> {
        let name = Name::<Vec<u8>>::from_str(&self.name)
            .map_err(|e| format!("{:?} is no name: {e}", self.name))?;
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message
            .push((name, self.rtype()?, Class::IN))
            .map_err(|e| e.to_string())?;
        Ok(message.finish())
    }

    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        let id = u16::from_ne_bytes(random()?);
        let question = self.question(id).map_err(No::unknown)?;
        if !self.tcp
            && let Some(yes) = self.by_udp(stage, &question).await?
        {
            return Ok(yes);
        }
        self.by_tcp(stage, &question).await
    }

    /// `None`: the answer was cut short.
    async fn by_udp(&self, stage: &Stage, question: &[u8]) -> Result<Option<Yes>, No> {
        let no = |e: std::io::Error| No::io(&format!("UDP to {}", self.server), &e);
        let socket = udp(self.server).await?;
        stage.say("");
        socket.send(question).await.map_err(no)?;
        let mut strays = 0u32;
        loop {
            let mut buffer = [0; 4096];
            let n = socket.recv(&mut buffer).await.map_err(no)?;
            match self.judge(question, buffer.get(..n).unwrap_or_default())? {
                Heard::Answer(yes) => return Ok(Some(yes)),
                Heard::Cut => return Ok(None),
                Heard::Stray => {
                    strays = strays.saturating_add(1);
                    stage.say(format!(
                        "{strays} datagrams came that answer another question, or none"
                    ));
                }
            }
        }
    }

    async fn by_tcp(&self, stage: &Stage, question: &[u8]) -> Result<Yes, No> {
        let no = |e: std::io::Error| No::io(&format!("connected to {}, then", self.server), &e);
        let mut stream = tcp::connect(stage, self.server).await?;
        stage.say("connected, but no answer");
        let length =
            u16::try_from(question.len()).map_err(|_| No::unknown("the question is too long"))?;
        let mut sent = length.to_be_bytes().to_vec();
        sent.extend_from_slice(question);
        stream.write_all(&sent).await.map_err(no)?;
        let length = stream.read_u16().await.map_err(no)?;
        let mut answer = vec![0; usize::from(length)];
        stage.say("connected, but the answer is not whole");
        stream.read_exact(&mut answer).await.map_err(no)?;
        match self.judge(question, &answer)? {
            Heard::Answer(yes) => Ok(yes),
            Heard::Cut => Err(No::bad("the answer is cut short also over TCP")),
            Heard::Stray => Err(No::bad("an answer to another question, or none")),
        }
    }

    fn judge(&self, question: &[u8], answer: &[u8]) -> Result<Heard, No> {
        let (Ok(asked), Ok(found)) = (Message::from_octets(question), Message::from_octets(answer))
        else {
            return Ok(Heard::Stray);
        };
        let header = found.header();
        if header.id() != asked.header().id()
            || !header.qr()
            || header.opcode() != asked.header().opcode()
        {
            return Ok(Heard::Stray);
        }
        // Servers that could not read the question, or will not, may leave it out of their answer.
        let refused = header.rcode() != Rcode::NOERROR && found.header_counts().qdcount() == 0;
        if !refused && asked.sole_question().ok() != found.sole_question().ok() {
            return Ok(Heard::Stray);
        }
        if header.tc() {
            return Ok(Heard::Cut);
        }
        if header.rcode() != Rcode::NOERROR {
            return Err(No::bad(header.rcode().to_string()));
        }
        let rtype = self.rtype().map_err(No::unknown)?;
        let broken =
            |e: &dyn std::fmt::Display| No::bad(format!("an answer that cannot be read: {e}"));
        let mut data = Vec::new();
        for record in found.answer().map_err(|e| broken(&e))? {
            let record = record.map_err(|e| broken(&e))?;
            if record.rtype() == rtype {
                let record = record
                    .to_any_record::<AllRecordData<_, _>>()
                    .map_err(|e| broken(&e))?;
                data.push(record.data().to_string());
            }
        }
        let shown = || {
            let mut text = data.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            if data.len() > 8 {
                text.push_str(", …");
            }
            text
        };
        if data.is_empty() {
            return Err(No::bad(format!("no {rtype} record of {}", self.name)));
        }
        let is_there = |wanted: &String| data.iter().any(|d| plain(d) == plain(wanted));
        let good = match self.expect {
            Expect::Any => self.answers.is_empty() || self.answers.iter().any(is_there),
            Expect::All => self.answers.iter().all(is_there),
        };
        if good {
            return Ok(Heard::Answer(Yes::new(shown())));
        }
        let how = match self.expect {
            Expect::Any => "one of",
            Expect::All => "all of",
        };
        Err(No::bad(format!(
            "{}; wanted {how} {}",
            shown(),
            self.answers.join(", ")
        )))
    }
}

#[derive(Debug)]
enum Heard {
    Answer(Yes),
    Cut,
    /// No answer to this question.
    Stray,
}

/// One way to write each datum.
fn plain(data: &str) -> String {
    if let Ok(ip) = data.trim().parse::<std::net::IpAddr>() {
        return ip.to_string();
    }
    let word = |w: &str| {
        w.replace('"', "")
            .trim_end_matches('.')
            .to_ascii_lowercase()
    };
    data.split_whitespace()
        .map(word)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dns() -> Dns {
        Dns::new("127.0.0.1:53".parse().unwrap(), "a.example", "a")
    }

    #[test]
    fn flaws_are_told() {
        assert_eq!(dns().flaw(), None);
        assert!(
            Dns {
                rtype: "NONE".into(),
                ..dns()
            }
            .flaw()
            .is_some()
        );
        assert!(
            Dns {
                name: "a..b".into(),
                ..dns()
            }
            .flaw()
            .is_some()
        );
        assert_eq!(
            Dns {
                rtype: "TYPE65".into(),
                ..dns()
            }
            .flaw(),
            None
        );
    }

    #[test]
    fn data_may_be_written_in_several_ways() {
        assert_eq!(plain("10 Mail.Example."), plain("10  mail.example"));
        assert_eq!(plain("2001:DB8:0::1"), plain("2001:db8::1"));
        assert_eq!(plain("\"v=spf1 -all\""), plain("v=spf1 -all"));
        assert_ne!(plain("192.0.2.1"), plain("192.0.2.10"));
    }

    proptest! {
        #[test]
        fn any_answer_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..600), whole: bool) {
            let dns = dns();
            let question = dns.question(7).unwrap();
            // Half of them begin as an answer to our question does.
            let mut answer = if whole { question.clone() } else { Vec::new() };
            if let Some(flags) = answer.get_mut(2) { *flags |= 0x80; }
            if let (Some(count), Some(b)) = (answer.get_mut(7), bytes.first()) { *count = *b; }
            answer.extend(bytes);
            let _ = dns.judge(&question, &answer);
        }
    }
}
