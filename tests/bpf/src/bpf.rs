//! The few calls of bpf(2) that aya does not offer.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_ENABLE_STATS: libc::c_long = 32;

fn bpf<T>(cmd: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: attr is a live, initialised struct of the size passed, laid out as this command of bpf(2) expects.
    let r = unsafe { libc::syscall(libc::SYS_bpf, cmd, attr as *mut T, size_of::<T>()) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r as i32)
    }
}

fn fd(raw: i32) -> OwnedFd {
    // SAFETY: bpf(2) just made it, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// What one run of a program gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program's return value.
    pub retval: u32,
    /// The frame afterwards.
    pub data: Vec<u8>,
    /// Mean duration of one run, ns.
    pub duration_ns: u32,
}

/// The head of `struct xdp_md`, as far as a run may set it.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a program `repeat` times on one frame; an XDP program sees it arrive on `ifindex`.
///
/// # Errors
/// What bpf(2) says.
pub fn run(prog: i32, frame: &[u8], ifindex: Option<u32>, repeat: u32) -> io::Result<Run> {
    let mut out = vec![0u8; frame.len() + 256];
    let md = XdpMd {
        data_end: frame.len() as u32,
        ingress_ifindex: ifindex.unwrap_or(0),
        ..XdpMd::default()
    };
    let mut attr = TestRun {
        prog_fd: prog as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    if ifindex.is_some() {
        attr.ctx_size_in = size_of::<XdpMd>() as u32;
        attr.ctx_in = &raw const md as u64;
    }
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    out.truncate(attr.data_size_out as usize);
    Ok(Run {
        retval: attr.retval,
        data: out,
        duration_ns: attr.duration,
    })
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    rest: [u32; 13],
}

#[repr(C)]
#[derive(Default)]
struct Obj {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins an array of one value of this size: a foreign map in the way of ours.
///
/// # Errors
/// What bpf(2) says.
pub fn pin_array(path: &Path, value_size: u32) -> io::Result<()> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let map = fd(bpf(
        BPF_MAP_CREATE,
        &mut MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size,
            max_entries: 1,
            ..MapCreate::default()
        },
    )?);
    pin(map.as_raw_fd(), path)
}

/// Pins whatever this descriptor is.
///
/// # Errors
/// What bpf(2) says.
pub fn pin(fd: i32, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        BPF_OBJ_PIN,
        &mut Obj {
            pathname: path.as_ptr() as u64,
            bpf_fd: fd as u32,
            file_flags: 0,
        },
    )?;
    Ok(())
}

/// While it lives the kernel measures how long programs run.
pub struct StatsGuard {
    _fd: OwnedFd,
}

impl StatsGuard {
    /// Starts measuring.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn new() -> io::Result<StatsGuard> {
        // The only kind there is: BPF_STATS_RUN_TIME.
        Ok(StatsGuard {
            _fd: fd(bpf(BPF_ENABLE_STATS, &mut 0u32)?),
        })
    }
}

/// How often and how long a program has run while measured.
#[derive(Clone, Copy, Debug)]
pub struct ProgramStats {
    /// Runs.
    pub runs: u64,
    /// Their time in all, ns.
    pub ns: u64,
}

/// The statistics of a program.
///
/// # Errors
/// What bpf(2) says.
pub fn program_stats(prog: i32) -> io::Result<ProgramStats> {
    #[repr(C)]
    struct Info {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    // struct bpf_prog_info: run_time_ns and run_cnt are the 64-bit words at byte 192 and 200.
    let mut info = [0u64; 32];
    let len = size_of_val(&info) as u32;
    bpf(
        BPF_OBJ_GET_INFO_BY_FD,
        &mut Info {
            bpf_fd: prog as u32,
            info_len: len,
            info: info.as_mut_ptr() as u64,
        },
    )?;
    Ok(ProgramStats {
        ns: info[24],
        runs: info[25],
    })
}
