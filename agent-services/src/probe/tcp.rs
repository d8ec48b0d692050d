//! A TCP connection.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Pattern,
    bound::{No, Stage, Yes},
};

/// So much of an answer is looked at.
const KEPT: usize = 16 * 1024;

/// Good: the connection is made; with `expect`, the answer contains that in its first 16 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Where the service listens.
    pub address: SocketAddr,
    /// Said once connected.
    pub send: Vec<u8>,
    /// Waited for then; some services greet without being spoken to.
    pub expect: Option<Pattern>,
}

/// Connects, saying so.
pub(super) async fn connect(stage: &Stage, address: SocketAddr) -> Result<TcpStream, No> {
    stage.say(format!("connecting to {address}"));
    TcpStream::connect(address)
        .await
        .map_err(|e| No::io(&format!("cannot connect to {address}"), &e))
}

impl Tcp {
    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        let mut stream = connect(stage, self.address).await?;
        if !self.send.is_empty() {
            stage.say("connected, but it takes nothing");
            let sent = stream.write_all(&self.send).await;
            sent.map_err(|e| No::io("connected, but it takes nothing", &e))?;
        }
        let Some(expect) = &self.expect else {
            return Ok(Yes::new("connected"));
        };
        stage.say("connected, but nothing came");
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 2048];
            let n = stream.read(&mut buffer).await;
            let n = n.map_err(|e| No::io("connected, then", &e))?;
            answer.extend_from_slice(buffer.get(..n).unwrap_or_default());
            answer.truncate(KEPT);
            if expect.found_in(&answer) {
                return Ok(Yes::new(String::from_utf8_lossy(&answer)));
            }
            let so_far = || {
                let mut text = String::from_utf8_lossy(&answer).into_owned();
                text.truncate(text.floor_char_boundary(100));
                text
            };
            if n == 0 {
                let text = format!(
                    "the answer has no {expect}, and no more came: {:?}",
                    so_far()
                );
                return Err(No::bad(text));
            }
            if answer.len() == KEPT {
                let text = format!("no {expect} in the first {KEPT} bytes: {:?}", so_far());
                return Err(No::bad(text));
            }
            stage.say(format!("no {expect} in what came: {:?}", so_far()));
        }
    }
}
