//! What rtnetlink says.

use heartline::net::read_notices;

/// Runs one input: as a datagram, and as the payload of each kind of message.
pub fn run(data: &[u8]) {
    let (count, _) = read_notices(data);
    assert!(count <= data.len() / 16, "a message has a header");
    let Some(([kind, flags, ..], payload)) = data.split_first_chunk::<4>() else {
        return;
    };
    const KINDS: [u16; 8] = [2, 2, 3, 4, 16, 17, 20, 21];
    let kind = KINDS[usize::from(kind & 7)];
    let flags = u16::from(flags & 7) << 8;
    let datagram = message(kind, flags, payload);
    assert_eq!(read_notices(&datagram), (1, false));
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut m = (payload.len() as u32 + 16).to_ne_bytes().to_vec();
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend([7, 0, 0, 0, 0, 0, 0, 0]);
    m.extend(payload);
    m.resize(m.len().next_multiple_of(4), 0);
    m
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut a = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    a.extend(kind.to_ne_bytes());
    a.extend(value);
    a.resize(a.len().next_multiple_of(4), 0);
    a
}

/// A device, an address, an error with the kernel's words.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut link = vec![0, 0, 1, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    link.extend(attribute(3, b"eth0\0"));
    link.extend(attribute(1, &[2, 0, 0, 0, 0, 9]));
    link.extend(attribute(4, &1500u32.to_ne_bytes()));
    link.extend(attribute(18, &attribute(1, b"veth\0")));
    let mut addr = vec![2, 32, 0x80, 0, 5, 0, 0, 0];
    addr.extend(attribute(1, &[10, 0, 0, 9]));
    addr.extend(attribute(2, &[10, 0, 0, 1]));
    addr.extend(attribute(3, b"eth0:hl\0"));
    addr.extend(attribute(8, &0x280u32.to_ne_bytes()));
    addr.extend(attribute(11, &[72]));
    let mut error = (-17i32).to_ne_bytes().to_vec();
    error.extend(message(20, 0, &[]));
    error.extend(attribute(1, b"ipv4: Address already assigned\0"));
    let mut seeds = vec![
        message(16, 0, &link),
        message(20, 0, &addr),
        message(2, 0x300, &error),
        [message(17, 0, &link), message(3, 0, &[0; 4])].concat(),
    ];
    for (kind, payload) in [(4u8, link), (6, addr), (0, error)] {
        seeds.push([vec![kind, 3, 0, 0], payload].concat());
    }
    seeds
}
