//! What a node keeps on disk about the generations it has been in (rule 10). Pure; the agent reads and writes it.

/// The generations of a node. Default: it has been in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The newest one that it was in; 0 is none.
    pub generation: u32,
    /// Its members, one bit each.
    pub voters: u32,
    /// It came into it as rule 10 demands, and may vote there.
    pub proven: bool,
    /// A majority of its voters was heard in it or later, and older promises had run out since: it may be left.
    pub settled: bool,
    /// A later one that it was told to enter, and may have entered; 0 is none. Written before the core learns of it.
    pub next: u32,
}

/// Why a node must not start with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// A generation never goes back; the node has been, or may have been, in this one.
    Older(u32),
    /// One generation has one list of members, and this node has seen another.
    OtherMembers,
    /// More than one member differs from the generation before.
    Several,
}

impl History {
    /// The history after a start in `generation` with these members. `table`: what the pinned table says, if it outlived the
    /// last run; it is never behind the disk, but for `settled`.
    ///
    /// # Errors
    /// The node must not start so.
    pub fn start(
        self,
        table: Option<History>,
        generation: u32,
        voters: u32,
    ) -> Result<History, StartError> {
        let mut known = self;
        if let Some(t) = table {
            if t.generation == known.generation {
                known.proven = t.proven;
                known.voters = t.voters;
            } else if t.generation > known.generation {
                known = History {
                    settled: false,
                    next: known.next,
                    ..t
                };
            }
        }
        // A staged generation is entered in the table first.
        let least = match table {
            Some(_) => known.generation,
            None => known.generation.max(known.next),
        };
        if generation < least {
            return Err(StartError::Older(least));
        }
        let same = generation == known.generation;
        let following = known.generation != 0 && generation == known.generation + 1;
        if same && voters != known.voters {
            return Err(StartError::OtherMembers);
        }
        if following && (voters ^ known.voters).count_ones() > 1 {
            return Err(StartError::Several);
        }
        Ok(History {
            generation,
            voters,
            proven: match known.generation {
                // A cluster begins with generation 1; who joins later must hear that it may.
                0 => generation == 1,
                _ if same => known.proven,
                _ => following && known.proven && known.settled,
            },
            settled: same && known.settled,
            next: if known.next > generation {
                known.next
            } else {
                0
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: History = History {
        generation: 7,
        voters: 0b111,
        proven: true,
        settled: true,
        next: 0,
    };

    fn start(h: History, generation: u32, voters: u32) -> Result<(bool, bool), StartError> {
        h.start(None, generation, voters)
            .map(|h| (h.proven, h.settled))
    }

    #[test]
    fn a_cluster_begins_with_generation_1() {
        assert_eq!(start(History::default(), 1, 0b111), Ok((true, false)));
        assert_eq!(start(History::default(), 2, 0b111), Ok((false, false)));
    }

    #[test]
    fn a_generation_never_goes_back() {
        assert_eq!(start(ONE, 6, 0b111), Err(StartError::Older(7)));
        let staged = History { next: 8, ..ONE };
        assert_eq!(start(staged, 7, 0b111), Err(StartError::Older(8)));
        // The table would know if it had been entered.
        let still = staged.start(Some(ONE), 7, 0b111).unwrap();
        assert_eq!((still.generation, still.next), (7, 8));
        let entered = History {
            generation: 8,
            ..ONE
        };
        assert_eq!(
            staged.start(Some(entered), 7, 0b111),
            Err(StartError::Older(8))
        );
    }

    #[test]
    fn one_member_and_one_generation_at_a_time() {
        assert_eq!(start(ONE, 7, 0b1111), Err(StartError::OtherMembers));
        assert_eq!(start(ONE, 8, 0b1111), Ok((true, false)));
        assert_eq!(start(ONE, 8, 0b11111), Err(StartError::Several));
        assert_eq!(start(ONE, 8, 0b1011), Err(StartError::Several));
        // Not settled, not proven, or more than one generation missed: somebody must be heard.
        for h in [
            History {
                settled: false,
                ..ONE
            },
            History {
                proven: false,
                ..ONE
            },
        ] {
            assert_eq!(start(h, 8, 0b1111), Ok((false, false)));
        }
        assert_eq!(start(ONE, 9, 0b1111), Ok((false, false)));
        assert_eq!(start(ONE, 7, 0b111), Ok((true, true)));
    }

    /// The disk was lost: the pinned table knows.
    #[test]
    fn the_table_speaks_for_a_lost_file() {
        let t = History {
            settled: false,
            ..ONE
        };
        let h = History::default();
        assert_eq!(h.start(Some(t), 7, 0b111).unwrap(), t);
        assert_eq!(h.start(Some(t), 6, 0b111), Err(StartError::Older(7)));
        let unproven = History { proven: false, ..t };
        assert!(!ONE.start(Some(unproven), 7, 0b111).unwrap().proven);
    }
}
