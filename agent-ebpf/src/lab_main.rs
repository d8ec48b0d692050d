//! eBPF of the lab's switch; see `lab_port.rs`. The agent does not contain it.
#![no_std]
#![no_main]

mod lab_map;
mod lab_port;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
