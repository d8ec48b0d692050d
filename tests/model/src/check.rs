//! What must hold in every state.

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Broken {
    /// Two gates open for one group.
    TwoOwners,
    /// An owner resumed after another had owned, without a new claim.
    Resume,
    /// A voter promised a group while its word to another node stood.
    GrantOverPromise,
    /// A claim version went back.
    Version,
    /// A failed attempt cost a group held.
    CostlyFailure,
    /// Messages without end within one tick.
    Storm,
}
