//! The XDP and TC programs of Heartline.
//!
//! ```text
//! NIC -> heartline_xdp -+- heartbeat for one of our links: MAC, promise/ack, XDP_TX   (heartbeat.rs)
//!                       |- ARP, IPv4, IPv6, NDP for a VIP: gate                       (ingress.rs)
//!                       `- everything else: XDP_PASS
//! stack -> heartline_egress: frames that speak as a VIP: gate                         (egress.rs)
//! ```
//! Every decision about promises and leases is a function of agent-common; here are only packets and maps.
#![no_std]
#![no_main]

mod egress;
mod heartbeat;
mod hold;
mod ingress;
mod maps;
mod packet;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;

/// Passes everything: for the far end of a veth pair, which must have a program or XDP_TX vanishes there.
#[xdp]
pub fn heartline_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Ingress: heartbeats and the gate.
#[xdp]
pub fn heartline_xdp(ctx: XdpContext) -> u32 {
    let action = match ingress::handle(&ctx) {
        Ok(action) => action,
        // Too short for the header that it announces: the stack knows what to do with it.
        Err(packet::Short) => xdp_action::XDP_PASS,
    };
    // The level is a constant when the program is loaded; at 0, the default, the verifier drops this.
    debug!(
        &ctx,
        "in: {} bytes, XDP action {}",
        ctx.data_end() - ctx.data(),
        action
    );
    action
}

/// Egress: nobody speaks as a VIP without the lease.
#[classifier]
pub fn heartline_egress(ctx: TcContext) -> i32 {
    let action = match egress::handle(&ctx) {
        Ok(action) => action,
        Err(_) => TC_ACT_UNSPEC,
    };
    debug!(&ctx, "out: {} bytes, TC action {}", ctx.len(), action);
    action
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
