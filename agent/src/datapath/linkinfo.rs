//! Which device a pinned link belongs to. aya has no accessor for it, so this asks the kernel (bpf(2)).

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of struct bpf_link_info; the union of XDP and TCX begins with the ifindex.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    rest: [u32; 27],
}

fn bpf<T>(cmd: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: attr is a live, initialised struct of the size passed, laid out as this command of bpf(2) expects.
    let r = unsafe { libc::syscall(libc::SYS_bpf, cmd, attr as *mut T, size_of::<T>()) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r)
    }
}

/// The device of the link pinned at `pin`; 0 if that device is gone.
///
/// # Errors
/// There is no link pinned there.
pub fn ifindex_of(pin: &Path) -> io::Result<u32> {
    link_info(pin).map(|i| i.ifindex)
}

/// The id of the program that runs on the link pinned at `pin`.
///
/// # Errors
/// There is no link pinned there.
pub fn program_of(pin: &Path) -> io::Result<u32> {
    link_info(pin).map(|i| i.prog_id)
}

fn link_info(pin: &Path) -> io::Result<LinkInfo> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let fd = bpf(
        BPF_OBJ_GET,
        &mut ObjGet {
            pathname: path.as_ptr() as u64,
            ..Default::default()
        },
    )?;
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut info = LinkInfo::default();
    bpf(
        BPF_OBJ_GET_INFO_BY_FD,
        &mut InfoByFd {
            bpf_fd: fd.as_raw_fd() as u32,
            info_len: size_of::<LinkInfo>() as u32,
            info: &mut info as *mut LinkInfo as u64,
        },
    )?;
    Ok(info)
}
