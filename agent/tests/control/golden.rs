//! What people see, stored. `UPDATE_GOLDEN=1 cargo test -p heartline --test control golden` writes it anew.

use std::path::Path;

use heartline::cli::render::{self, EventLines, Style};
use heartline::control::explain::explain;
use heartline::control::proto::*;
use heartline::events::{Draft, EventLog};
use jiff::tz::TimeZone;

use crate::sample::{healthy, troubled};

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/control/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{name} differs\n--- stored\n{stored}\n--- now\n{text}"
    );
}

fn within_80_columns(text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= 80,
            "{} columns: {line}",
            line.chars().count()
        );
        assert_eq!(line.trim_end(), line, "trailing blanks");
    }
}

#[test]
fn status_of_a_healthy_cluster() {
    let text = render::status(&healthy(), true, &Style::plain(80));
    within_80_columns(&text);
    compare("status-healthy.txt", &text);
}

#[test]
fn status_of_a_troubled_cluster() {
    let text = render::status(&troubled(), false, &Style::plain(80));
    within_80_columns(&text);
    compare("status-troubled.txt", &text);
}

#[test]
fn status_in_ascii_and_of_nothing() {
    let ascii = Style {
        symbols: false,
        ..Style::plain(80)
    };
    assert!(render::status(&healthy(), true, &ascii).is_ascii());
    compare(
        "status-empty.txt",
        &render::status(&StatusReport::default(), true, &Style::plain(80)),
    );
}

#[test]
fn colours_change_nothing_but_the_colours() {
    let coloured = render::status(
        &troubled(),
        true,
        &Style {
            colour: true,
            ..Style::plain(80)
        },
    );
    assert!(coloured.contains("\x1b["));
    let mut bare = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, code)) = rest.split_once("\x1b[") {
        bare.push_str(before);
        rest = code.split_once('m').unwrap().1;
    }
    bare.push_str(rest);
    let trimmed = |text: &str| {
        text.lines()
            .map(|line| line.trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        trimmed(&bare),
        trimmed(&render::status(&troubled(), true, &Style::plain(80)))
    );
}

#[test]
fn status_json_is_stable() {
    let mut text = serde_json::to_string_pretty(&healthy()).unwrap();
    text.push('\n');
    compare("status.json", &text);
    assert_eq!(
        serde_json::from_str::<StatusReport>(&text).unwrap(),
        healthy()
    );
}

#[test]
fn explanations() {
    let (healthy, troubled) = (healthy(), troubled());
    let mut all = String::new();
    for (name, report) in [("healthy", &healthy), ("troubled", &troubled)] {
        for group in ["web", "db"] {
            let text = render::explain(&explain(report, group).unwrap(), &Style::plain(80));
            within_80_columns(&text);
            all.push_str(&format!("# {name} {group}\n{text}\n"));
        }
    }
    compare("explain.txt", &all);
    assert!(explain(&healthy, "wbe").is_none());
}

#[test]
fn event_lines() {
    let log = EventLog::new("n2");
    let wall = |text: &str| text.parse().unwrap();
    let phases = Phases {
        last_heard_ns: Some(1_000_000_000),
        detected_ns: 1_050_000_000,
        claimed_ns: 1_050_200_000,
        agreed_ns: 1_051_000_000,
        address_ns: 1_051_300_000,
        announced_ns: 1_051_350_000,
    };
    log.push_at(
        Draft::new(EventKind::AgentStarted, "agent 0.1.0 is up"),
        1,
        wall("2025-11-20T23:59:59.9994Z"),
    );
    log.push_at(
        Draft::new(EventKind::NodeSilent, "n1 is silent").peer("n1"),
        2,
        wall("2025-11-21T00:00:00Z"),
    );
    let gained = Draft::new(EventKind::Gained, "n2 owns web: owner lost")
        .group("web")
        .epoch(18)
        .with("reason", TakeoverReason::OwnerLost)
        .with("phases", phases);
    log.push_at(gained, 3, wall("2025-11-21T00:00:00.0514Z"));
    let nasty = Draft::new(
        EventKind::GateShutByHigherEpoch,
        "n1 shows web with a higher epoch\x1b[2J",
    );
    log.push_at(nasty, 4, wall("2025-11-21T00:00:01Z"));
    let mut lines = EventLines::in_zone(Style::plain(80), TimeZone::UTC);
    let text: String = log
        .page(None, 10)
        .events
        .iter()
        .map(|event| lines.line(event))
        .collect();
    compare("events.txt", &text);
}

#[test]
fn answers() {
    let style = Style::plain(80);
    let takeover = healthy().groups[0].last_takeover.clone();
    let moved = MoveReply {
        group: "web".into(),
        from: Some("n2".into()),
        to: "n1".into(),
        done: true,
        took_ns: Some(1_700_000),
        epoch: Some(18),
        takeover,
    };
    let pong = |version: &str| Pong {
        node: "n1".into(),
        agent_version: version.into(),
        ..Pong::default()
    };
    let took = std::time::Duration::from_millis(812);
    let text = [
        render::moved(&moved, &style),
        render::moved(
            &MoveReply {
                from: None,
                takeover: None,
                ..moved.clone()
            },
            &style,
        ),
        render::moved(
            &MoveReply {
                done: false,
                ..moved.clone()
            },
            &style,
        ),
        render::moved(
            &MoveReply {
                to: "n2".into(),
                ..moved
            },
            &style,
        ),
        render::done(
            &Done {
                changed: true,
                text: "n1 is drained".into(),
                moving: vec!["web".into(), "db".into()],
            },
            &style,
        ),
        render::reloaded(
            &ReloadReply {
                generation: 3,
                ..ReloadReply::default()
            },
            &style,
        ),
        render::reloaded(
            &ReloadReply {
                generation: 4,
                changed: vec!["log: debug".into()],
                entering: None,
                needs_restart: vec!["port: 4748".into()],
            },
            &style,
        ),
        render::restarted(&pong("0.1.0"), &pong("0.1.0"), took, &style),
        render::restarted(&pong("0.1.0"), &pong("0.2.0"), took, &style),
    ];
    compare("answers.txt", &text.concat());
}
