//! Numbers that later writers win by: epochs, and versions of soft state.

/// Later than `last`, and no earlier than the wall clock (ms since 1970); the node id is in the low six bits, so that no two
/// nodes make the same. At the end of all numbers it stays there: one that wrapped would be older than all before it.
pub(crate) fn stamp(last: u64, wall_ms: u64, me: u8) -> u64 {
    let next = ((last >> 6) + 1).max(wall_ms).min(u64::MAX >> 6);
    next << 6 | u64::from(me & 63)
}

#[cfg(test)]
mod tests {
    use super::stamp;

    #[test]
    fn a_stamp_is_later_until_there_is_no_later_one() {
        assert_eq!(stamp(0, 1_700_000_000_000, 3), 1_700_000_000_000 << 6 | 3);
        let s = stamp(1_700_000_000_000 << 6 | 9, 5, 3);
        assert_eq!(s, 1_700_000_000_001 << 6 | 3, "a clock that was set back");
        assert_eq!(stamp(u64::MAX - 64, 5, 3), u64::MAX >> 6 << 6 | 3);
        for wall in [0, 5, u64::MAX] {
            assert_eq!(stamp(u64::MAX, wall, 3), u64::MAX >> 6 << 6 | 3, "{wall}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_stamp_never_goes_back(last: u64, wall: u64, me in 1u8..=32) {
            let s = stamp(last, wall, me);
            proptest::prop_assert!(s >> 6 >= last >> 6);
            proptest::prop_assert!(s > last || last >> 6 == u64::MAX >> 6);
        }
    }
}
