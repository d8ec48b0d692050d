//! The few calls of bpf(2) that aya does not offer.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
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

/// Runs a TC program with these first words of `struct __sk_buff` (linux/bpf.h).
///
/// # Errors
/// What bpf(2) says.
pub fn run_with(prog: i32, frame: &[u8], skb: &[u32; 9]) -> io::Result<u32> {
    let mut attr = TestRun {
        prog_fd: prog as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ctx_size_in: size_of_val(skb) as u32,
        ctx_in: skb.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
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

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u32; 26],
}

/// A program that puts a VLAN tag beside the frame, as the kernel does for devices that insert it themselves, and then goes
/// on with another one.
pub struct Tagger {
    prog: OwnedFd,
    // The array is emptied with its last descriptor.
    _array: OwnedFd,
}

/// What [`Tagger`] returns if the tag or the other program was refused.
pub const NOT_TAGGED: u32 = 77;

impl Tagger {
    /// Of this TPID and TCI, before the TC program `next`.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn new(next: i32, tpid: u16, tci: u16) -> io::Result<Tagger> {
        const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
        const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
        let array = fd(bpf(
            BPF_MAP_CREATE,
            &mut MapCreate {
                map_type: BPF_MAP_TYPE_PROG_ARRAY,
                key_size: 4,
                value_size: 4,
                max_entries: 1,
                ..MapCreate::default()
            },
        )?);
        let key = 0u32;
        bpf(
            BPF_MAP_UPDATE_ELEM,
            &mut MapUpdate {
                map_fd: array.as_raw_fd() as u32,
                pad: 0,
                key: &raw const key as u64,
                value: &raw const next as u64,
                flags: 0,
            },
        )?;
        // code, dst | src << 4, offset, immediate: struct bpf_insn, little-endian.
        let insn = |code: u8, regs: u8, off: i16, imm: i32| {
            u64::from(code)
                | u64::from(regs) << 8
                | u64::from(off as u16) << 16
                | u64::from(imm as u32) << 32
        };
        const MOV_REG: u8 = 0xbf;
        const MOV: u8 = 0xb7;
        const CALL: u8 = 0x85;
        const EXIT: u8 = 0x95;
        const JNE: u8 = 0x55;
        const LD_IMM64: u8 = 0x18;
        let array_fd = array.as_raw_fd();
        let program = [
            insn(MOV_REG, 0x16, 0, 0),                // r6 = ctx
            insn(MOV, 2, 0, i32::from(tpid.to_be())), // r2 = TPID, network order
            insn(MOV, 3, 0, i32::from(tci)),          // r3 = TCI
            insn(CALL, 0, 0, 18),                     // bpf_skb_vlan_push
            insn(JNE, 0, 5, 0),                       // refused: to the end
            insn(MOV_REG, 0x61, 0, 0),                // r1 = ctx
            insn(LD_IMM64, 0x12, 0, array_fd),        // r2 = array
            0,
            insn(MOV, 3, 0, 0),   // r3 = its first program
            insn(CALL, 0, 0, 12), // bpf_tail_call
            insn(MOV, 0, 0, NOT_TAGGED as i32),
            insn(EXIT, 0, 0, 0),
        ];
        let prog = fd(bpf(
            BPF_PROG_LOAD,
            &mut ProgLoad {
                prog_type: BPF_PROG_TYPE_SCHED_CLS,
                insn_cnt: program.len() as u32,
                insns: program.as_ptr() as u64,
                license: c"GPL".as_ptr() as u64,
                ..ProgLoad::default()
            },
        )?);
        Ok(Tagger {
            prog,
            _array: array,
        })
    }

    /// Runs both on a frame.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn run(&self, frame: &[u8]) -> io::Result<Run> {
        run(self.prog.as_raw_fd(), frame, None, 1)
    }
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
