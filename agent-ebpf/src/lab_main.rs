//! eBPF of the lab: its switch (`lab_port.rs`), and what the bench compares with (`lab_sip.rs`). The agent does not
//! contain it.
#![no_std]
#![no_main]

mod lab_map;
mod lab_port;
mod lab_sip;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
