//! Model checking of the lease: three real cores (`agent_core::Core`) over real tables with the real kernel half
//! (`agent_common::kernel`), every history with a few faults, walked by stateright.
//!
//! Time goes in ticks of [`setup::TICK`]. In a tick everything that is due happens in a fixed order and messages take no
//! time; that is the history without faults. A [`fault::Fault`] deviates from it: messages of a kind held back, lost or
//! copied, directions cut, an agent frozen or killed, a node rebooted, the order of nodes turned round, a move, a planned
//! pause. Explored are **all** histories with at most `faults` of them, at any of the ticks of the horizon, in any
//! combination. What is beyond that bound is not covered; the simulator goes there at random.

pub mod check;
pub mod fault;
pub mod hunt;
pub mod model;
pub mod setup;
pub mod state;
mod step;
