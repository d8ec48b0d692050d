//! Measurements on virtual time.
