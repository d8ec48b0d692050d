//! Key and values of the map `LAB_CUT`: shared by the lab's eBPF programs and, through `#[path]`,
//! by `tests/lab/src/switch.rs`.

/// Which frames at which switch port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabCutKey {
    /// Interface index of the switch port.
    pub ifindex: u32,
    /// The other station: destination of frames from the node, source of frames to it.
    /// All zero stands for every station that has no entry of its own.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

/// Frames that come from the node on this port are dropped.
pub const CUT_FROM: u8 = 1;
/// Frames that go to the node on this port are dropped.
pub const CUT_TO: u8 = 2;
/// Frames between the node and the station named in the key pass, whatever the entry for all says:
/// so that a prober can watch a node that is cut off.
pub const CUT_NEVER: u8 = 4;
