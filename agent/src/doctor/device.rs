//! What the kernel knows of a network device, asked by ioctl in the caller's network namespace.
//!
//! Not from `/sys/class/net`: that shows the namespace of whoever mounted it.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GDRVINFO` and `ETHTOOL_GTXCSUM` of `linux/ethtool.h`.
const GET_DRIVER: u32 = 0x03;
const GET_TX_CHECKSUM: u32 = 0x16;

/// What was seen of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Driver, as ethtool names it; `None` if it does not say.
    pub driver: Option<String>,
    /// MTU in bytes; `None` if it cannot be read.
    pub mtu: Option<u32>,
    /// Administratively up.
    pub up: bool,
    /// With a carrier.
    pub running: bool,
    /// Whether the device itself is trusted to finish checksums.
    pub tx_checksum: Option<bool>,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// Looks at a device; `None` if there is none of that name.
pub(super) fn look(name: &str) -> Option<Seen> {
    nix::net::if_::if_nametoindex(name).ok()?;
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
    let flags = ask(&socket, name, libc::SIOCGIFFLAGS, |_| ())
        // SAFETY: SIOCGIFFLAGS filled this member.
        .map_or(0, |r| i32::from(unsafe { r.ifr_ifru.ifru_flags }));
    // SAFETY: SIOCGIFMTU filled this member.
    let mtu = ask(&socket, name, libc::SIOCGIFMTU, |_| ())
        .and_then(|r| u32::try_from(unsafe { r.ifr_ifru.ifru_mtu }).ok());

    let mut info = DriverInfo {
        cmd: GET_DRIVER,
        driver: [0; 32],
        rest: [0; 160],
    };
    let answered = ask(&socket, name, libc::SIOCETHTOOL, |r| {
        r.ifr_ifru.ifru_data = (&raw mut info).cast()
    });
    let driver = answered.and_then(|_| {
        let text = info.driver.split(|b| *b == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned()).filter(|t| !t.is_empty())
    });
    let mut value = Value {
        cmd: GET_TX_CHECKSUM,
        data: 0,
    };
    let answered = ask(&socket, name, libc::SIOCETHTOOL, |r| {
        r.ifr_ifru.ifru_data = (&raw mut value).cast()
    });
    Some(Seen {
        driver,
        mtu,
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_RUNNING != 0,
        tx_checksum: answered.map(|_| value.data != 0),
    })
}

/// One interface ioctl. `fill` sets the request's data pointer, where there is one, to a struct of the right size
/// that outlives the call.
fn ask(
    socket: &OwnedFd,
    name: &str,
    request: libc::c_ulong,
    fill: impl FnOnce(&mut libc::ifreq),
) -> Option<libc::ifreq> {
    // SAFETY: all bytes zero is a valid `ifreq`: integers, a byte array and a null pointer.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0; longer names were refused by if_nametoindex.
    let room = ifreq.ifr_name.len() - 1;
    for (to, from) in ifreq.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    fill(&mut ifreq);
    // SAFETY: the descriptor is open, `ifreq` is valid, and its data pointer is one that `fill` answers for.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw mut ifreq) };
    (rc == 0).then_some(ifreq)
}

/// Layout as in `linux/ethtool.h`; a shorter struct would let the kernel write past it.
const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Value>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_seen_and_nonsense_is_not() {
        let lo = look("lo").expect("every namespace has one");
        assert!(lo.mtu.is_some_and(|m| m >= 1280), "{lo:?}");
        assert_eq!(look("hl-none0"), None);
        assert_eq!(look("longer-than-any-device-name"), None);
    }
}
