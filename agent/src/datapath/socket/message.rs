//! nf_tables messages (linux/netfilter/nf_tables.h): batches that change set elements, and what a dump of chains and
//! rules says. Only this much of the protocol is spoken here; the ruleset itself is given to the `nft` program, once.

/// Name of our table.
pub const TABLE: &str = "heartline";

const SUBSYSTEM: u16 = 10;
const FAMILY_NETDEV: u8 = 5;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_SETELEM: u16 = SUBSYSTEM << 8 | 12;
const DEL_SETELEM: u16 = SUBSYSTEM << 8 | 14;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;

/// Elements in one message: its list must stay below the 64 KiB that an attribute may have.
const CHUNK: usize = 512;

/// Several changes that the kernel makes all at once, or not at all.
#[derive(Default)]
pub struct Batch {
    out: Vec<u8>,
    seq: u32,
    last: usize,
}

impl Batch {
    /// A batch that holds `elements` elements without asking for memory.
    pub fn with_room(elements: usize) -> Batch {
        Batch {
            out: Vec::with_capacity(1024 + elements * 64),
            ..Batch::default()
        }
    }

    /// Starts anew.
    pub fn begin(&mut self) {
        self.out.clear();
        let at = self.header(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM);
        self.end(at);
    }

    /// Takes all elements out of a set.
    pub fn flush(&mut self, set: &str) {
        let at = self.header(DEL_SETELEM, REQUEST, FAMILY_NETDEV, 0);
        self.text(1, TABLE);
        self.text(2, set);
        self.end(at);
    }

    /// Puts elements into a set, each to live for `ms` from now (0: for ever).
    pub fn add<'k>(&mut self, set: &str, keys: impl Iterator<Item = &'k [u8]>, ms: u64) {
        self.elements(NEW_SETELEM, REQUEST | CREATE, set, keys, ms);
    }

    /// Takes one element out. The whole batch fails if it is not there, or not any more.
    pub fn remove(&mut self, set: &str, key: &[u8]) {
        self.elements(DEL_SETELEM, REQUEST, set, std::iter::once(key), 0);
    }

    /// Ends the batch; its bytes, and the number that the kernel's word for "done" carries.
    pub fn finish(&mut self) -> (&[u8], u32) {
        // Only the last change is acknowledged; a refusal comes unasked.
        if let Some(flags) = self.out.get_mut(self.last + 6..self.last + 8) {
            let with = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&with.to_ne_bytes());
        }
        let done = self.seq;
        let at = self.header(BATCH_END, REQUEST, 0, SUBSYSTEM);
        self.end(at);
        (&self.out, done)
    }

    fn elements<'k>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        keys: impl Iterator<Item = &'k [u8]>,
        ms: u64,
    ) {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let at = self.header(kind, flags, FAMILY_NETDEV, 0);
            self.text(1, TABLE);
            self.text(2, set);
            let list = self.nest(3);
            for key in keys.by_ref().take(CHUNK) {
                let element = self.nest(1);
                let name = self.nest(1);
                self.attribute(1, key);
                self.close(name);
                if ms != 0 {
                    self.attribute(4, &ms.to_be_bytes());
                }
                self.close(element);
            }
            self.close(list);
            self.end(at);
        }
    }

    /// Header of netlink(7) and of nfnetlink; its length is filled in by `end`.
    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> usize {
        let at = self.out.len();
        self.last = at;
        self.seq = self.seq.wrapping_add(1);
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(&flags.to_ne_bytes());
        self.out.extend_from_slice(&self.seq.to_ne_bytes());
        self.out.extend_from_slice(&[0, 0, 0, 0, family, 0]);
        self.out.extend_from_slice(&resource.to_be_bytes());
        at
    }

    fn end(&mut self, at: usize) {
        let length = (self.out.len() - at) as u32;
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.out
            .extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(value);
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
    }

    fn text(&mut self, kind: u16, value: &str) {
        let at = self.nest(kind);
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(0);
        // A text is no nest.
        if let Some(place) = self.out.get_mut(at + 2..at + 4) {
            place.copy_from_slice(&kind.to_ne_bytes());
        }
        self.close(at);
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
    }

    fn nest(&mut self, kind: u16) -> usize {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 2]);
        self.out.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        at
    }

    fn close(&mut self, at: usize) {
        let length = (self.out.len() - at) as u16;
        if let Some(place) = self.out.get_mut(at..at + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// What to ask the kernel for in a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dump {
    /// All chains of family netdev.
    Chains,
    /// All rules of family netdev.
    Rules,
}

/// The request of a dump.
pub fn dump(what: Dump, seq: u32) -> Vec<u8> {
    let mut b = Batch {
        seq: seq.wrapping_sub(1),
        ..Batch::default()
    };
    let kind = match what {
        Dump::Chains => GET_CHAIN,
        Dump::Rules => GET_RULE,
    };
    let at = b.header(kind, REQUEST | DUMP, FAMILY_NETDEV, 0);
    b.end(at);
    b.out
}

/// One message from the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// The answer to the message of this number: 0 or an errno.
    Answer(u32, i32),
    /// A chain of our table, by its name; whether it hangs on a device.
    Chain(String, bool),
    /// A rule in the chain of this name.
    Rule(String),
    /// The dump is over.
    End,
}

/// What a datagram from the kernel says; what is not understood is left out.
pub fn read(mut bytes: &[u8]) -> Vec<Said> {
    let mut all = Vec::new();
    while let Some(length) = word(bytes, 0).map(|l| l as usize) {
        let Some(message) = bytes.get(..length).filter(|m| m.len() >= 16) else {
            break;
        };
        all.extend(one(message));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn one(message: &[u8]) -> Option<Said> {
    let kind = half(message, 4)?;
    match kind {
        // NLMSG_ERROR: errno, negative, or 0; then the message that it is about.
        2 => Some(Said::Answer(
            word(message, 8)?,
            word(message, 16)?.cast_signed().wrapping_neg(),
        )),
        3 => Some(Said::End),
        NEW_CHAIN | NEW_RULE => {
            let attributes = message.get(20..)?;
            if text(find(attributes, 1)?) != TABLE {
                return None;
            }
            if kind == NEW_RULE {
                return Some(Said::Rule(text(find(attributes, 2)?)));
            }
            let hook = find(attributes, 4);
            let device = hook.is_some_and(|h| find(h, 3).is_some() || find(h, 4).is_some());
            Some(Said::Chain(text(find(attributes, 3)?), device))
        }
        _ => None,
    }
}

/// The value of the attribute of this kind.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(length) = half(bytes, 0).map(usize::from) {
        let value = bytes.get(4..length)?;
        if half(bytes, 2)? & !NESTED & 0x3fff == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes([b[0], b[1]]))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn whatever_the_kernel_says_does_no_harm(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_batch_is_whole_messages() {
        let mut b = Batch::with_room(8);
        b.begin();
        b.flush("open4");
        let keys: Vec<[u8; 4]> = (0..1200u32).map(u32::to_be_bytes).collect();
        b.add("open4", keys.iter().map(|k| &k[..]), 20);
        b.remove("fuse", &[0; 4]);
        let (bytes, done) = b.finish();
        let mut at = 0;
        let mut kinds = Vec::new();
        let mut acked = None;
        while let Some(length) = word(bytes, at) {
            kinds.push(half(bytes, at + 4).unwrap());
            if half(bytes, at + 6).unwrap() & ACK != 0 {
                acked = word(bytes, at + 8);
            }
            assert!(length.is_multiple_of(4));
            at += length as usize;
        }
        assert_eq!(at, bytes.len());
        assert_eq!(
            kinds,
            [
                BATCH_BEGIN,
                DEL_SETELEM,
                NEW_SETELEM,
                NEW_SETELEM,
                NEW_SETELEM,
                DEL_SETELEM,
                BATCH_END
            ]
        );
        assert_eq!(acked, Some(done));
    }
}
