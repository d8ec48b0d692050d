use super::*;

const ME: u8 = 1;
const PEER: u8 = 2;
const EPOCH: u64 = 50;

fn mark(behind: u8, by: u8, epoch: u64) -> Mark {
    Mark {
        group: 7,
        behind,
        by,
        epoch,
    }
}

fn marks(list: &[Mark]) -> Marks {
    let mut marks = Marks::default();
    for m in list {
        assert!(marks.place(*m));
    }
    marks
}

/// An owner that runs, and has just lost its peer.
fn owner<'a>(known: &'a Marks, standing: &'a Marks) -> Snapshot<'a> {
    Snapshot {
        me: ME,
        group: 7,
        owner: Some((ME, EPOCH)),
        lease: true,
        peer: Some(PEER),
        heard: true,
        others: Others::Unknown,
        fenced: false,
        outdated: false,
        replica: Replica::Unknown,
        role: Role::Primary,
        disk: Disk::UpToDate,
        known,
        standing,
    }
}

fn number(reply: Reply) -> u8 {
    match reply {
        Reply::Now(code, _) => code.number(),
        Reply::Place(_) => 100,
        Reply::Wait(_) => 101,
    }
}

#[test]
fn an_owner_marks_first_and_writes_then() {
    let none = Marks::default();
    let s = owner(&none, &none);
    assert_eq!(fence_peer(&s), Reply::Place(mark(PEER, ME, EPOCH)));
    let placed = marks(&[mark(PEER, ME, EPOCH)]);
    assert_eq!(number(fence_peer(&owner(&placed, &placed))), 4);
    // Known here alone, or from an earlier ownership: not enough.
    assert_eq!(number(fence_peer(&owner(&placed, &none))), 100);
    let old = marks(&[mark(PEER, ME, EPOCH - 1)]);
    assert_eq!(number(fence_peer(&owner(&old, &old))), 100);
    let outdated = Snapshot {
        outdated: true,
        ..owner(&none, &none)
    };
    assert_eq!(number(fence_peer(&outdated)), 4);
    let gone = Snapshot {
        others: Others::Gone,
        ..owner(&none, &none)
    };
    assert_eq!(number(fence_peer(&gone)), 5, "a person's word");
    let fenced = Snapshot {
        fenced: true,
        ..gone
    };
    assert_eq!(number(fence_peer(&fenced)), 7);
    let fenced = Snapshot {
        others: Others::Gone,
        fenced: true,
        ..owner(&placed, &placed)
    };
    assert_eq!(number(fence_peer(&fenced)), 7);
    assert_eq!(
        number(fence_peer(&Snapshot {
            fenced: false,
            ..fenced
        })),
        4
    );
}

#[test]
fn what_is_not_known_is_denied() {
    let none = Marks::default();
    let placed = marks(&[mark(PEER, ME, EPOCH)]);
    let s = owner(&none, &placed);
    for (s, wanted) in [
        (Snapshot { peer: None, ..s }, 1),
        (
            Snapshot {
                peer: Some(ME),
                ..s
            },
            1,
        ),
        (Snapshot { owner: None, ..s }, 1),
        (
            Snapshot {
                owner: Some((3, EPOCH)),
                ..s
            },
            1,
        ),
        (Snapshot { lease: false, ..s }, 1),
        (
            Snapshot {
                owner: Some((PEER, EPOCH)),
                ..s
            },
            6,
        ),
        (
            Snapshot {
                owner: Some((PEER, EPOCH)),
                heard: false,
                ..s
            },
            101,
        ),
        (
            Snapshot {
                replica: Replica::Behind,
                ..s
            },
            6,
        ),
        (
            Snapshot {
                disk: Disk::Diskless,
                ..s
            },
            1,
        ),
        (
            Snapshot {
                disk: Disk::Inconsistent,
                others: Others::Gone,
                ..s
            },
            5,
        ),
    ] {
        assert_eq!(number(fence_peer(&s)), wanted, "{s:?}");
    }
    let against_me = marks(&[mark(ME, PEER, EPOCH - 1)]);
    assert_eq!(number(fence_peer(&owner(&against_me, &placed))), 6);
}

#[test]
fn a_promotion_needs_proof() {
    let none = Marks::default();
    let placed = marks(&[mark(PEER, ME, EPOCH)]);
    let s = Snapshot {
        role: Role::Secondary,
        heard: false,
        ..owner(&none, &placed)
    };
    assert_eq!(number(fence_peer(&s)), 101);
    assert_eq!(
        number(fence_peer(&Snapshot {
            others: Others::Stopped,
            ..s
        })),
        101
    );
    assert_eq!(
        number(fence_peer(&Snapshot {
            others: Others::Stopped,
            replica: Replica::Newest,
            ..s
        })),
        4
    );
    assert_eq!(
        number(fence_peer(&Snapshot {
            others: Others::Gone,
            ..s
        })),
        4
    );
    // Fencing the peer does not make our data better.
    let consistent = Snapshot {
        disk: Disk::Consistent,
        others: Others::Gone,
        fenced: true,
        ..s
    };
    assert_eq!(number(fence_peer(&consistent)), 5);
    assert_eq!(
        number(fence_peer(&Snapshot {
            replica: Replica::Newest,
            ..consistent
        })),
        7
    );
}

/// Over all of it: writes go on only under a lease, and where the peer's replica cannot be promoted as if it were good; or
/// the kernel does nothing with the answer.
#[test]
fn never_leave_to_write_without_lease_and_reason() {
    let none = Marks::default();
    let placed = marks(&[mark(PEER, ME, EPOCH)]);
    let mut leave = 0;
    for standing in [&none, &placed] {
        for owner_is in [
            None,
            Some((ME, EPOCH)),
            Some((PEER, EPOCH)),
            Some((3, EPOCH)),
        ] {
            for bits in 0..16u8 {
                for others in [Others::Unknown, Others::Stopped, Others::Gone] {
                    for replica in [Replica::Unknown, Replica::Newest, Replica::Behind] {
                        for role in [Role::Secondary, Role::Primary, Role::Other] {
                            for disk in [
                                Disk::UpToDate,
                                Disk::Consistent,
                                Disk::Outdated,
                                Disk::Other,
                            ] {
                                let s = Snapshot {
                                    owner: owner_is,
                                    lease: bits & 1 != 0,
                                    heard: bits & 2 != 0,
                                    fenced: bits & 4 != 0,
                                    outdated: bits & 8 != 0,
                                    others,
                                    replica,
                                    role,
                                    disk,
                                    ..owner(&none, standing)
                                };
                                let n = number(fence_peer(&s));
                                let goes_on =
                                    matches!(n, 3 | 4 | 7) || n == 5 && disk == Disk::UpToDate;
                                if goes_on {
                                    leave += 1;
                                    assert!(s.lease && owner_is == Some((ME, EPOCH)), "{s:?}");
                                    let reason =
                                        standing == &placed || s.outdated || others == Others::Gone;
                                    assert!(reason, "{s:?}");
                                    assert!(n != 7 || s.fenced && others == Others::Gone);
                                    assert!(
                                        disk == Disk::UpToDate || replica == Replica::Newest,
                                        "{s:?}"
                                    );
                                    assert!(
                                        role == Role::Primary || others != Others::Unknown,
                                        "{s:?}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(leave > 10);
}

#[test]
fn marks_end_by_resync_and_by_epoch() {
    let mut m = marks(&[mark(PEER, ME, 50), mark(3, ME, 50)]);
    m.lift(7, PEER, 49);
    assert!(m.against(7, PEER).is_some(), "an earlier owner's word");
    m.lift(7, PEER, 50);
    assert!(m.against(7, PEER).is_none() && m.against(7, 3).is_some());
    // An older mark does not undo a newer one.
    assert!(m.place(mark(3, PEER, 40)));
    assert_eq!(m.against(7, 3), Some(mark(3, ME, 50)));
    m.promoted(8, 60);
    m.promoted(7, 50);
    assert!(m.against(7, 3).is_some(), "of this very ownership");
    m.promoted(7, 60);
    assert!(
        m.against(7, 3).is_none(),
        "node 3's replica is judged anew by the owner of epoch 60"
    );
}

#[test]
fn there_is_an_end_to_marks() {
    let mut m = Marks::default();
    for group in 0..=255u8 {
        for node in 1..=32 {
            assert!(m.place(Mark {
                group,
                behind: node,
                by: 1,
                epoch: 1
            }));
        }
    }
    assert!(!m.place(Mark {
        group: 0,
        behind: 33,
        by: 1,
        epoch: 1
    }));
    assert!(m.place(Mark {
        group: 0,
        behind: 32,
        by: 1,
        epoch: 2
    }));
    assert_eq!(m.iter().count(), 256 * 32);
}

#[test]
fn only_the_owners_resync_lifts() {
    let none = Marks::default();
    let s = owner(&none, &none);
    assert_eq!(unfence_peer(&s, false), Some((PEER, EPOCH)));
    assert_eq!(unfence_peer(&Snapshot { lease: false, ..s }, false), None);
    assert_eq!(unfence_peer(&s, true), None);
    let target = Snapshot {
        owner: Some((PEER, EPOCH)),
        role: Role::Secondary,
        ..s
    };
    assert_eq!(unfence_peer(&target, true), Some((ME, EPOCH)));
    assert_eq!(
        unfence_peer(
            &Snapshot {
                disk: Disk::Inconsistent,
                ..target
            },
            true
        ),
        None
    );
    assert_eq!(
        unfence_peer(
            &Snapshot {
                owner: None,
                ..target
            },
            true
        ),
        None
    );
}
