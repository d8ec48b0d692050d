//! Tests of events.

use super::*;
use proptest::prelude::*;

fn note(text: &str) -> Draft {
    Draft::new(EventKind::Note, text)
}

fn seqs(page: &EventPage) -> Vec<u64> {
    page.events.iter().map(|event| event.seq).collect()
}

#[test]
fn json_is_flat_and_comes_back() {
    let log = EventLog::new("n2");
    let wall: Timestamp = "2025-11-21T06:43:12.5Z".parse().unwrap();
    let draft = Draft::new(EventKind::Gained, "n2 owns web")
        .at(2_000_000_000)
        .group("web")
        .epoch(7)
        .with("reason", "owner lost")
        .with("phases", serde_json::json!({"detected_ns": 1}));
    let event = log.push_at(draft, 2_250_000_000, wall);
    let text = serde_json::to_string(&*event).unwrap();
    assert_eq!(
        text,
        r#"{"boot_ns":2000000000,"time":"2025-11-21T06:43:12.250Z","node":"n2","seq":1,"kind":"gained","group":"web","epoch":7,"text":"n2 owns web","phases":{"detected_ns":1},"reason":"owner lost"}"#
    );
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), *event);
}

#[test]
fn an_unknown_kind_is_read() {
    assert_eq!(
        serde_json::from_str::<EventKind>(r#""from_the_future""#).unwrap(),
        EventKind::Unknown
    );
    assert_eq!(
        EventKind::GateShutByHigherEpoch.name(),
        "gate_shut_by_higher_epoch"
    );
}

#[test]
fn history_is_bounded_and_says_what_is_gone() {
    let log = EventLog::with_capacity("n1", 3, 8);
    for i in 0..5 {
        log.push(note(&i.to_string()));
    }
    let page = log.page(Some(1), 100);
    assert_eq!(
        (seqs(&page), page.missed, page.next_seq),
        (vec![3, 4, 5], 2, 6)
    );
    assert_eq!(seqs(&log.page(Some(5), 100)), [5]);
    assert_eq!(seqs(&log.page(Some(6), 100)), [0u64; 0]);
    assert_eq!(seqs(&log.page(None, 2)), [4, 5]);
    assert_eq!(log.page(None, 2).missed, 0);
    assert_eq!(seqs(&log.page(Some(u64::MAX), 2)), [0u64; 0]);
}

#[tokio::test]
async fn a_slow_follower_is_told_and_does_not_hold_up_the_log() {
    let log = EventLog::with_capacity("n1", 100, 4);
    let (_, mut follower) = log.follow(None, 0);
    for i in 0..10 {
        log.push(note(&i.to_string()));
    }
    let Followed::Missed(missed) = follower.next().await else {
        panic!("not told")
    };
    let Followed::Event(next) = follower.next().await else {
        panic!("no event")
    };
    assert_eq!((missed, next.seq), (6, 7));
    drop(log);
    for _ in 0..3 {
        assert!(matches!(follower.next().await, Followed::Event(_)));
    }
    assert!(matches!(follower.next().await, Followed::Closed));
}

proptest! {
    #[test]
    fn a_page_and_its_follower_join_without_gap(before in 0u64..40, since in proptest::option::of(0u64..60), limit in 0usize..50) {
        let log = EventLog::with_capacity("n1", 16, 8);
        for _ in 0..before {
            log.push(note(""));
        }
        let (page, _follower) = log.follow(since, limit);
        let got = seqs(&page);
        prop_assert!(got.len() <= limit.min(16));
        prop_assert_eq!(page.next_seq, before + 1);
        prop_assert!(got.windows(2).all(|pair| pair[1] == pair[0] + 1));
        if let Some(last) = got.last() {
            prop_assert_eq!(*last, before);
            prop_assert!(got[0] >= since.unwrap_or(0));
        }
    }
}
