//! PostgreSQL's client, as far as a numbered row needs it: the simple query of its protocol (version 3, "Frontend/Backend
//! Protocol" in its manual), with a deadline of our own on every step, which the crates for it do not give.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Result, bail};

use super::{ANSWER, CONNECT};

const PROTOCOL: u32 = 3 << 16;
/// No answer to an INSERT is longer.
const MOST: u32 = 1 << 16;

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Session(TcpStream);

impl Session {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut session = Self(stream);
        let mut start = PROTOCOL.to_be_bytes().to_vec();
        start.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        session.send(None, &start)?;
        session.until_ready()?;
        Ok(session)
    }

    /// Whether the row was acknowledged. A statement by itself is a transaction: when it is complete, it is committed.
    pub(super) fn insert(&mut self, number: u32) -> Result<bool> {
        let text = format!("INSERT INTO rows VALUES ({number})\0");
        self.send(Some(b'Q'), text.as_bytes())?;
        Ok(self.until_ready()?.as_deref() == Some("INSERT 0 1"))
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4)?.to_be_bytes();
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length);
        message.extend_from_slice(body);
        Ok(self.0.write_all(&message)?)
    }

    /// Reads to ReadyForQuery; returns the tag of the command that was completed on the way.
    fn until_ready(&mut self) -> Result<Option<String>> {
        let mut complete = None;
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let length = u32::from_be_bytes(length);
            if !(4..=MOST).contains(&length) {
                bail!("a message of {length} bytes");
            }
            let mut body = vec![0; length as usize - 4];
            self.0.read_exact(&mut body)?;
            let text = String::from_utf8_lossy(&body);
            match kind {
                b'Z' => return Ok(complete),
                b'C' => complete = Some(text.trim_end_matches('\0').to_owned()),
                b'E' => bail!("PostgreSQL: {}", text.replace('\0', " ")),
                // AuthenticationOk; anything else asks for what we do not have.
                b'R' if body != [0, 0, 0, 0] => bail!("PostgreSQL wants a password"),
                _ => {}
            }
        }
    }
}
