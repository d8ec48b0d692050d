//! Followers of events.

use heartline::control::proto::*;
use heartline::control::{Client, ClientError, Limits};
use heartline::events::{Draft, EventLog};

use crate::fake::{Fake, Served, within};
use crate::sample::healthy;

fn note(text: &str) -> Draft {
    Draft::new(EventKind::Note, text)
}

#[tokio::test]
async fn a_follower_gets_the_past_and_then_each_event_once() {
    let served = Served::healthy().await;
    served.fake.events.push(note("a"));
    served.fake.events.push(note("b"));
    let (page, mut stream) = Client::new(&served.socket)
        .follow(Some(2), None)
        .await
        .unwrap();
    assert_eq!(
        page.events
            .iter()
            .map(|event| event.seq)
            .collect::<Vec<_>>(),
        [2]
    );
    served.fake.events.push(note("c"));
    served.fake.events.push(note("d"));
    for seq in [3, 4] {
        let Some(StreamLine::Event(event)) = within(stream.next()).await.unwrap() else {
            panic!()
        };
        assert_eq!(event.seq, seq);
    }
    served.stop().await;
    assert_eq!(within(stream.next()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_follower_is_told_what_it_missed_and_holds_up_nobody() {
    const EVENTS: u64 = 20_000;
    let fake = Fake::with_events(healthy(), EventLog::with_capacity("n1", 64, 16));
    let served = Served::new(fake, Limits::default()).await;
    let client = Client::new(&served.socket);
    let (_, mut stream) = client.follow(None, None).await.unwrap();
    // Far more than a socket buffer, while nobody reads.
    let text = "x".repeat(500);
    for _ in 0..EVENTS {
        served.fake.events.push(note(&text));
    }
    // Others are served meanwhile.
    let _: Pong = client.call(Request::Ping).await.unwrap();
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < EVENTS {
        match within(stream.next()).await.unwrap() {
            Some(StreamLine::Event(event)) => {
                seen += 1;
                assert_eq!(event.seq, seen + missed, "the count of the missed is exact");
            }
            Some(StreamLine::Missed(count)) => missed += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(missed > 0);
}

#[tokio::test]
async fn followers_leave_room_for_others_and_free_their_place() {
    let limits = Limits {
        connections: 4,
        followers: 1,
        ..Limits::default()
    };
    let served = Served::new(Fake::new(healthy()), limits).await;
    let client = Client::new(&served.socket);
    let first = client.follow(None, None).await.unwrap();
    let second = client.follow(None, None).await;
    assert!(matches!(
        second,
        Err(ClientError::Refused(Refusal {
            code: Code::Busy,
            ..
        }))
    ));
    let _: Pong = client.call(Request::Ping).await.unwrap();
    // The server notices that a follower has left without an event to tell it.
    drop(first);
    within(async {
        while client.follow(None, None).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
