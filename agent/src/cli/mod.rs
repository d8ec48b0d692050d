//! Commands. (Branch `config` only: the CLI helper's file replaces this one.)

pub mod check;
pub mod doctor;
pub mod keygen;
