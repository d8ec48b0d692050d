//! systemd's own socket, for machines without a bus.
//!
//! There systemd calls itself `org.freedesktop.systemd1` in the sender field of each message, where the D-Bus
//! specification wants a unique name, and zbus refuses such a message. So the bytes go through a task that writes a
//! unique name of the same length in its place.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::UnixStream,
};

/// Where systemd listens, for root.
pub(super) const PATH: &str = "/run/systemd/private";
/// Header field 7 (sender), a variant of signature `s`, its length in little endian, the name.
const THEIRS: &[u8] = b"\x07\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00";
const OURS: &[u8] = b"\x07\x01s\x00\x18\x00\x00\x00:0.000000000000000000000\x00";

/// A socket to systemd. The task that serves it ends with either side.
pub(super) async fn connect() -> io::Result<std::os::unix::net::UnixStream> {
    let (mut from, mut to) = UnixStream::connect(PATH).await?.into_split();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let (mut answers, mut calls) = {
        let (read, write) = UnixStream::from_std(theirs)?.into_split();
        (write, read)
    };
    tokio::spawn(async move {
        let up = async {
            // Ended: so is the connection.
            let _ = copy(&mut calls, &mut to).await;
        };
        let down = async {
            let mut held = Vec::new();
            let mut buffer = [0u8; 4096];
            while let Ok(n) = from.read(&mut buffer).await {
                if n == 0 {
                    break;
                }
                held.extend_from_slice(buffer.get(..n).unwrap_or_default());
                let ready = translate(&mut held);
                if answers.write_all(&ready).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! { () = up => {}, () = down => {} }
    });
    Ok(ours)
}

/// Takes what can be passed on, translated, and leaves the beginning of a name that is not there in full.
fn translate(held: &mut Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(rest) = held.get_mut(at..) {
        if rest.starts_with(THEIRS)
            && let Some(name) = rest.get_mut(..OURS.len())
        {
            name.copy_from_slice(OURS);
            at += OURS.len();
        } else if rest.is_empty() || THEIRS.starts_with(rest) {
            break;
        } else {
            at += 1;
        }
    }
    let tail = held.split_off(at.min(held.len()));
    std::mem::replace(held, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_pieces() {
        assert_eq!(THEIRS.len(), OURS.len());
        let stream = [
            b"abc\x07\x01s",
            THEIRS,
            THEIRS,
            b"x\x07",
            THEIRS,
            b"\x07\x01",
        ]
        .concat();
        let wanted = [b"abc\x07\x01s", OURS, OURS, b"x\x07", OURS, b"\x07\x01"].concat();
        for piece in 1..stream.len() {
            let (mut held, mut out) = (Vec::new(), Vec::new());
            for bytes in stream.chunks(piece) {
                held.extend_from_slice(bytes);
                out.extend(translate(&mut held));
            }
            out.extend(&held);
            assert_eq!(out, wanted, "{piece}");
            assert_eq!(held, b"\x07\x01");
        }
    }
}
