//! The control protocol: request lines in the agent, reply and event lines in the client and what it shows of them.

use heartline::{
    cli::render::{self, EventLines, Style},
    control::proto::{
        CONTROL_VERSION, Done, Envelope, Event, EventPage, ExplainReport, MoveReply, Pong,
        ReloadReply, Reply, StatusReport, StreamLine, parse_request,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Runs one request line.
pub fn run_request(line: &[u8]) {
    match parse_request(line) {
        Ok(request) => {
            let text = serde_json::to_vec(&Envelope {
                v: CONTROL_VERSION,
                request: request.clone(),
            })
            .expect("a request");
            assert!(!text.contains(&b'\n'), "one line");
            assert_eq!(parse_request(&text), Ok(request));
        }
        Err(refusal) => {
            let text =
                serde_json::to_string(&Reply::<()>::Error(refusal.clone())).expect("a reply");
            assert!(!text.contains('\n'), "one line");
            // The asker's own words come back; they must not make the answer grow without bound.
            assert!(
                text.len() <= 4 * line.len() + 1024,
                "{} from {}",
                text.len(),
                line.len()
            );
            match serde_json::from_str(&text) {
                Ok(Reply::<Done>::Error(again)) => assert!(again == refusal),
                other => panic!("{:?}", other.is_ok()),
            }
        }
    }
}

/// Runs one reply line, as each kind of answer.
pub fn run_reply(line: &[u8]) {
    let style = Style::plain(100);
    reply::<Pong>(line);
    if let Some(s) = reply::<StatusReport>(line) {
        shown(&render::status(&s, false, &style));
        shown(&render::status(&s, true, &style));
        for group in &s.groups {
            if let Some(e) = heartline::control::explain::explain(&s, &group.name) {
                shown(&render::explain(&e, &style));
            }
        }
    }
    if let Some(e) = reply::<ExplainReport>(line) {
        shown(&render::explain(&e, &style));
    }
    if let Some(m) = reply::<MoveReply>(line) {
        shown(&render::moved(&m, &style));
    }
    if let Some(d) = reply::<Done>(line) {
        shown(&render::done(&d, &style));
    }
    if let Some(r) = reply::<ReloadReply>(line) {
        shown(&render::reloaded(&r, &style));
    }
    let mut lines = EventLines::new(style);
    let mut event = |e: &Event| shown(&lines.line(e));
    if let Some(page) = reply::<EventPage>(line) {
        page.events.iter().for_each(&mut event);
    }
    if let Ok(StreamLine::Event(e)) = serde_json::from_slice(line) {
        event(&e);
    }
}

fn reply<T: DeserializeOwned + Serialize>(line: &[u8]) -> Option<T> {
    match serde_json::from_slice(line) {
        Ok(Reply::Ok(answer)) => {
            let text = serde_json::to_string(&answer).expect("an answer");
            assert!(!text.contains('\n'), "one line");
            assert!(
                serde_json::from_str::<T>(&text).is_ok(),
                "reads its own words: {text}"
            );
            Some(answer)
        }
        Ok(Reply::Error(_)) | Err(_) => None,
    }
}

/// What people see plays no tricks with their terminal.
fn shown(text: &str) {
    if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\n') {
        panic!("control character {c:?} reaches the terminal");
    }
}

/// Every request.
pub fn request_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"v":1,"request":"ping"}"#,
        r#"{"v":1,"request":"status"}"#,
        r#"{"v":1,"request":{"explain":{"group":"web"}}}"#,
        r#"{"v":1,"request":{"move":{"group":"web","node":"n2","wait_ms":5000}}}"#,
        r#"{"v":1,"request":{"drain":{"node":"n2"}}}"#,
        r#"{"v":1,"request":{"undrain":{"node":"n2"}}}"#,
        r#"{"v":1,"request":{"drbd_handler":{"handler":"fence_peer","group":"db","resource":"r0","peer":"n2"}}}"#,
        r#"{"v":1,"request":{"fenced":{"node":"n2","how":"by hand"}}}"#,
        r#"{"v":1,"request":"pause"}"#,
        r#"{"v":1,"request":"resume"}"#,
        r#"{"v":1,"request":{"events":{"follow":true,"since_seq":3,"limit":100}}}"#,
        r#"{"v":1,"request":"restart"}"#,
        r#"{"v":1,"request":"reload"}"#,
        r#"{"v":2,"request":{"fly":{}},"more":[]}"#,
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}

/// The golden answers of the agent's own tests.
pub fn reply_seeds() -> Vec<Vec<u8>> {
    let status: serde_json::Value = serde_json::from_str(include_str!(
        "../../../agent/tests/control/golden/status.json"
    ))
    .expect("the golden status");
    let event = r#"{"seq":1,"time":"2026-11-21T10:00:00.000Z","boot_ns":5,"node":"n1","kind":"gained","text":"x"}"#;
    let mut seeds = vec![serde_json::json!({ "ok": status }).to_string()];
    for kind in ["gained", "released", "no-such-kind"] {
        let event = event.replace("gained", kind);
        seeds.push(format!(r#"{{"event":{event}}}"#));
        seeds.push(format!(r#"{{"ok":{{"events":[{event}],"missed":0}}}}"#));
    }
    seeds.push(r#"{"error":{"code":"unknown_group","message":"no group x","help":"web"}}"#.into());
    seeds.push(r#"{"end":null}"#.into());
    seeds.push(r#"{"missed":3}"#.into());
    let report = serde_json::to_string(&Reply::Ok(ExplainReport::default()));
    seeds.extend(report);
    seeds.extend(serde_json::to_string(&Reply::Ok(MoveReply::default())));
    seeds.extend(serde_json::to_string(&Reply::Ok(Done::default())));
    seeds.extend(serde_json::to_string(&Reply::Ok(ReloadReply::default())));
    seeds.into_iter().map(String::into_bytes).collect()
}
