//! RADIUS by UDP: Access-Request (RFC 2865) or Status-Server (RFC 5997), with Message-Authenticator (RFC 3579).

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use super::bound::{No, Stage, Yes, from_disk, random, read_file, udp};

/// A secret is not longer, nor is the file around it.
const SECRET: usize = 1024;
/// No packet is longer (RFC 2865, 3).
const PACKET: usize = 4096;
/// Code, identifier, length, authenticator.
const HEAD: usize = 20;
/// A password is not longer (RFC 2865, 5.2).
const PASSWORD: usize = 128;

const USER_NAME: u8 = 1;
const USER_PASSWORD: u8 = 2;
const REPLY_MESSAGE: u8 = 18;
const NAS_IDENTIFIER: u8 = 32;
const MESSAGE_AUTHENTICATOR: u8 = 80;

/// Good: an answer as wanted, signed with the secret that we share with the server.
///
/// Secrets are read from files for each question, and wiped after it. A file holds one line, and others than its owner
/// and group must have no rights on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Radius {
    /// Who is asked; 1812 is the usual port.
    pub server: SocketAddr,
    /// The file with the shared secret.
    pub secret: PathBuf,
    /// What is asked.
    pub ask: Ask,
    /// What is good.
    pub want: Want,
}

/// What a RADIUS server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Are you there? (Status-Server; a server may have it switched off, and keeps silent then.)
    Status,
    /// May this user in? By PAP.
    Access {
        /// Name of the user.
        user: String,
        /// The file with the password.
        password: PathBuf,
    },
}

/// What answer is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Access-Accept (to Status-Server on an accounting port, Accounting-Response).
    #[default]
    Accept,
    /// Access-Reject: the server works, and knows that this user may not in.
    Reject,
    /// Any of the server's.
    Any,
}

impl Radius {
    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        let (secret_file, password_file) = (
            self.secret.clone(),
            match &self.ask {
                Ask::Status => None,
                Ask::Access { password, .. } => Some(password.clone()),
            },
        );
        let read = move || {
            Ok((
                secret(&secret_file)?,
                password_file.as_deref().map(secret).transpose()?,
            ))
        };
        let (secret, password) = from_disk(stage, "the secret", read).await??;
        if password.as_ref().is_some_and(|p| p.len() > PASSWORD) {
            return Err(No::unknown(format!(
                "the password is longer than {PASSWORD} bytes"
            )));
        }
        let user = match (&self.ask, &password) {
            (Ask::Access { user, .. }, Some(password)) => {
                Some((user.as_str(), password.as_slice()))
            }
            (Ask::Access { .. } | Ask::Status, _) => None,
        };
        let [id] = random()?;
        let request = request(id, &random()?, &secret, user)?;

        let no = |e: io::Error| No::io(&format!("UDP to {}", self.server), &e);
        let socket = udp(self.server).await?;
        // RFC 2865, 3: what is not signed as it should be is dropped in silence.
        stage.say("as if it did not know this client or the secret differed");
        socket.send(&request).await.map_err(no)?;
        let mut strays = 0u32;
        loop {
            let mut buffer = [0; PACKET];
            let n = socket.recv(&mut buffer).await.map_err(no)?;
            match reply(buffer.get(..n).unwrap_or_default(), &request, &secret) {
                Ok(reply) => return self.judge(&reply),
                Err(why) => {
                    strays = strays.saturating_add(1);
                    stage.say(format!(
                        "{strays} datagrams that do not count; the last one {why}"
                    ));
                }
            }
        }
    }

    fn judge(&self, reply: &Reply) -> Result<Yes, No> {
        let name = match reply.code {
            2 => "Access-Accept".to_owned(),
            3 => "Access-Reject".to_owned(),
            5 => "Accounting-Response".to_owned(),
            11 => "Access-Challenge".to_owned(),
            code => format!("code {code}"),
        };
        let text = match &reply.message {
            Some(message) => format!("{name}: {message}"),
            None => name,
        };
        match (self.want, reply.code) {
            (Want::Accept, 2 | 5) | (Want::Reject, 3) | (Want::Any, _) => Ok(Yes::new(text)),
            (Want::Accept, _) => Err(No::bad(format!("{text}; wanted Access-Accept"))),
            (Want::Reject, _) => Err(No::bad(format!("{text}; wanted Access-Reject"))),
        }
    }
}

fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, No> {
    let no =
        |e: &dyn std::fmt::Display| No::unknown(format!("secret file {}: {e}", path.display()));
    let mode = std::fs::metadata(path).map_err(|e| no(&e))?.mode();
    if mode & 0o007 != 0 {
        return Err(no(&format!(
            "mode {:04o} gives everybody rights on it; chmod o= {}",
            mode & 0o7777,
            path.display()
        )));
    }
    let mut bytes = read_file(path, SECRET).map_err(|e| no(&e))?;
    while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(no(&"is empty"));
    }
    if bytes.contains(&b'\n') {
        return Err(no(&"has more than one line"));
    }
    Ok(bytes)
}

fn keyed(secret: &[u8]) -> Result<Hmac<Md5>, No> {
    Hmac::<Md5>::new_from_slice(secret).map_err(|_| No::unknown("the secret cannot be used"))
}

fn attribute(packet: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), No> {
    let length = u8::try_from(value.len().saturating_add(2))
        .map_err(|_| No::unknown(format!("attribute {kind} is longer than 253 bytes")))?;
    packet.extend_from_slice(&[kind, length]);
    packet.extend_from_slice(value);
    Ok(())
}

/// The bytes of a request: Status-Server, or Access-Request of a user with a password.
fn request(
    id: u8,
    authenticator: &[u8; 16],
    secret: &[u8],
    user: Option<(&str, &[u8])>,
) -> Result<Vec<u8>, No> {
    let mut packet = vec![if user.is_some() { 1 } else { 12 }, id, 0, 0];
    packet.extend_from_slice(authenticator);
    // First, so that no forged attribute can stand before it (CVE-2024-3596).
    attribute(&mut packet, MESSAGE_AUTHENTICATOR, &[0; 16])?;
    attribute(&mut packet, NAS_IDENTIFIER, b"heartline")?;
    if let Some((name, password)) = user {
        attribute(&mut packet, USER_NAME, name.as_bytes())?;
        attribute(
            &mut packet,
            USER_PASSWORD,
            &hide(password, authenticator, secret),
        )?;
    }
    let length = u16::try_from(packet.len()).map_err(|_| No::unknown("the request is too long"))?;
    if let Some(field) = packet.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    let signature = keyed(secret)?.chain_update(&packet).finalize().into_bytes();
    if let Some(field) = packet.get_mut(HEAD + 2..HEAD + 18) {
        field.copy_from_slice(&signature);
    }
    Ok(packet)
}

/// RFC 2865, 5.2.
fn hide(password: &[u8], authenticator: &[u8; 16], secret: &[u8]) -> Vec<u8> {
    let mut hidden = Vec::new();
    let mut before = *authenticator;
    let blocks = password.len().div_ceil(16).max(1);
    for at in 0..blocks {
        let mask = Md5::new()
            .chain_update(secret)
            .chain_update(before)
            .finalize();
        let clear = password.get(at * 16..).unwrap_or_default();
        for (i, m) in mask.iter().enumerate() {
            if let Some(b) = before.get_mut(i) {
                *b = m ^ clear.get(i).copied().unwrap_or(0);
            }
        }
        hidden.extend_from_slice(&before);
    }
    hidden
}

#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: u8,
    message: Option<String>,
}

/// Takes a datagram for the reply to a request, or says why it is none.
fn reply(datagram: &[u8], request: &[u8], secret: &[u8]) -> Result<Reply, &'static str> {
    let head: &[u8; HEAD] = datagram.first_chunk().ok_or("is too short")?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    // RFC 2865, 3: bytes beyond the length are padding.
    let packet = datagram.get(..length).ok_or("is shorter than it says")?;
    let attributes = packet.get(HEAD..).ok_or("has a length that cannot be")?;
    if Some(&head[1]) != request.get(1) {
        return Err("has another identifier");
    }
    let asked = request.get(4..HEAD).ok_or("has no request")?;
    let right = Md5::new()
        .chain_update(&head[..4])
        .chain_update(asked)
        .chain_update(attributes)
        .chain_update(secret)
        .finalize();
    if head[4..] != right[..] {
        return Err("has a wrong Response Authenticator: does the secret differ?");
    }
    let mut message = None;
    let mut signed = None;
    let mut rest = attributes;
    while let [kind, length, ..] = *rest {
        let length = usize::from(length);
        let value = rest
            .get(2..length)
            .ok_or("has an attribute that cannot be")?;
        if kind == MESSAGE_AUTHENTICATOR {
            signed = Some((attributes.len() - rest.len() + 2, value));
        } else if kind == REPLY_MESSAGE && message.is_none() {
            message = Some(String::from_utf8_lossy(value).into_owned());
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        return Err("has an attribute that cannot be");
    }
    if let Some((at, value)) = signed {
        let (before, after) = (attributes.get(..at), attributes.get(at + value.len()..));
        keyed(secret)
            .map_err(|_| "cannot be checked")?
            .chain_update(&head[..4])
            .chain_update(asked)
            .chain_update(before.unwrap_or_default())
            .chain_update([0; 16])
            .chain_update(after.unwrap_or_default())
            .verify_slice(value)
            .map_err(|_| "has a wrong Message-Authenticator")?;
    }
    Ok(Reply {
        code: head[0],
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    /// RFC 2865, 7.1: User-Name "nemo", password "arctangent", secret "xyzzy5461".
    #[test]
    fn the_example_of_the_rfc() {
        let authenticator = 0x0f40_3f94_7397_8057_bd83_d5cb_98f4_227a_u128.to_be_bytes();
        let hidden = hide(b"arctangent", &authenticator, b"xyzzy5461");
        assert_eq!(
            hidden,
            0x0dbe_708d_93d4_13ce_3196_e43f_782a_0aee_u128.to_be_bytes()
        );
        let mut request = vec![1, 0, 0, 56];
        request.extend(authenticator);
        let accept = [
            0x02, 0x00, 0x00, 0x26, 0x86, 0xfe, 0x22, 0x0e, 0x76, 0x24, 0xba, 0x2a, 0x10, 0x05,
            0xf6, 0xbf, 0x9b, 0x55, 0xe0, 0xb2, 0x06, 0x06, 0x00, 0x00, 0x00, 0x01, 0x0f, 0x06,
            0x00, 0x00, 0x00, 0x00, 0x0e, 0x06, 0xc0, 0xa8, 0x01, 0x03,
        ];
        assert_eq!(
            reply(&accept, &request, b"xyzzy5461"),
            Ok(Reply {
                code: 2,
                message: None
            })
        );
        let why = reply(&accept, &request, b"xyzzy5462").unwrap_err();
        assert!(why.contains("Response Authenticator"), "{why}");
        for at in 0..accept.len() {
            let mut changed = accept;
            changed[at] ^= 1;
            assert!(
                reply(&changed, &request, b"xyzzy5461").is_err(),
                "byte {at}"
            );
        }
        assert!(reply(&accept[..37], &request, b"xyzzy5461").is_err());
    }

    #[test]
    fn passwords_of_several_blocks() {
        let hidden = |n| hide(&vec![b'a'; n], &[7; 16], b"s").len();
        assert_eq!([0, 1, 16, 17, 128].map(hidden), [16, 16, 16, 32, 128]);
    }

    #[test]
    fn a_secret_is_for_few_eyes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let with = |text: &[u8], mode| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            secret(&file).map(|s| s.to_vec())
        };
        assert_eq!(with(b"geheim\r\n", 0o640), Ok(b"geheim".to_vec()));
        for (text, mode) in [
            (&b"geheim"[..], 0o644),
            (b"\n", 0o600),
            (b"geheim\nb\n", 0o600),
            (&[b'g'; 2000], 0o600),
        ] {
            match with(text, mode) {
                Err(No::Unknown(why)) => assert!(!why.contains("geheim"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A reply as a server would sign it.
    pub(super) fn answer(code: u8, attributes: &[u8], request: &[u8], secret: &[u8]) -> Vec<u8> {
        let mut packet = vec![code, request[1], 0, (HEAD + attributes.len()) as u8];
        let mut md5 = Md5::new()
            .chain_update(&packet)
            .chain_update(&request[4..20]);
        md5.update(attributes);
        packet.extend(md5.chain_update(secret).finalize());
        packet.extend(attributes);
        packet
    }

    #[test]
    fn a_message_authenticator_must_be_right_if_there_is_one() {
        let request = request(9, &[3; 16], b"s", None).unwrap();
        let mut attributes = vec![REPLY_MESSAGE, 4, b'h', b'i', MESSAGE_AUTHENTICATOR, 18];
        attributes.extend([0; 16]);
        let mut head = vec![2, 9, 0, (HEAD + attributes.len()) as u8];
        head.extend([3; 16]);
        let right = keyed(b"s")
            .unwrap()
            .chain_update(&head)
            .chain_update(&attributes)
            .finalize()
            .into_bytes();
        attributes[6..].copy_from_slice(&right);
        let good = reply(&answer(2, &attributes, &request, b"s"), &request, b"s").unwrap();
        assert_eq!(good.message.as_deref(), Some("hi"));
        attributes[6] ^= 1;
        let why = reply(&answer(2, &attributes, &request, b"s"), &request, b"s").unwrap_err();
        assert!(why.contains("Message-Authenticator"), "{why}");
        let short = [MESSAGE_AUTHENTICATOR, 2];
        assert!(reply(&answer(2, &short, &request, b"s"), &request, b"s").is_err());
    }

    proptest! {
        #[test]
        fn any_reply_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200), signed: bool) {
            let request = request(1, &[1; 16], b"s", Some(("u", b"p"))).unwrap();
            let bytes = if signed { answer(2, &bytes, &request, b"s") } else { bytes };
            let _ = reply(&bytes, &request, b"s");
        }
    }
}
