//! Hooks: telling others what has happened, never in the way of anything.
//!
//! Each hook follows the event log in its own task, one event after the other. A slow one misses events and is told so;
//! nobody waits for it.

use std::sync::Arc;

use agent_services::{command::Run, post};
use tokio::task::JoinSet;

use crate::{
    config::{Hook, Tell},
    events::{Draft, Event, EventKind, EventLog, Followed, Follower},
};

/// The tasks of all hooks; they end with this.
#[derive(Default)]
pub struct Hooks {
    hooks: Vec<Hook>,
    tasks: JoinSet<()>,
}

impl Hooks {
    /// Tells these from now on. Those that stay go on where they are.
    pub fn set(&mut self, hooks: &[Hook], log: &Arc<EventLog>) {
        if self.hooks == hooks {
            return;
        }
        self.hooks = hooks.to_vec();
        self.tasks.abort_all();
        self.tasks = JoinSet::new();
        for hook in hooks {
            let (_, follower) = log.follow(None, 0);
            self.tasks
                .spawn(follow(hook.clone(), Arc::clone(log), follower));
        }
    }
}

async fn follow(hook: Hook, log: Arc<EventLog>, mut follower: Follower) {
    loop {
        match follower.next().await {
            Followed::Event(event) => {
                // What a hook does is not told to hooks: that would never end.
                let wanted = event.kind != EventKind::HookFailed
                    && (hook.events.is_empty() || hook.events.contains(&event.kind));
                if wanted && let Err(why) = tell(&hook, &event).await {
                    failed(
                        &hook,
                        &log,
                        format!(
                            "hook {} was not told of event {} ({}): {why}",
                            hook.name,
                            event.seq,
                            event.kind.name()
                        ),
                    );
                }
            }
            Followed::Missed(n) => {
                failed(
                    &hook,
                    &log,
                    format!("hook {} is too slow and has missed {n} events", hook.name),
                );
            }
            Followed::Closed => return,
        }
    }
}

fn failed(hook: &Hook, log: &EventLog, text: String) {
    tracing::warn!(hook = hook.name, "{text}");
    log.push(Draft::new(EventKind::HookFailed, text));
}

async fn tell(hook: &Hook, event: &Event) -> Result<(), String> {
    let mut body = serde_json::to_vec(event).map_err(|e| e.to_string())?;
    body.push(b'\n');
    match &hook.tell {
        Tell::Command(argv) => {
            let mut run = Run::new(argv, hook.timeout);
            run.stdin = body;
            let ended = run.output().await.map_err(|e| e.to_string())?;
            if ended.status.success() {
                return Ok(());
            }
            let line = ended.first_line();
            Err(if line.is_empty() {
                ended.how()
            } else {
                format!("{}: {line}", ended.how())
            })
        }
        Tell::Url(url) => post::json(url, body, hook.timeout, hook.ca.as_deref()).await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn hook(name: &str, script: &str, events: Vec<EventKind>, timeout: Duration) -> Hook {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook {
            name: name.into(),
            tell: Tell::Command(argv),
            events,
            timeout,
            ca: None,
        }
    }

    #[tokio::test]
    async fn events_go_to_those_who_want_them_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("told");
        let log = EventLog::new("n1");
        let mut hooks = Hooks::default();
        let script = format!("cat >> {}", file.display());
        hooks.set(
            &[hook(
                "h",
                &script,
                vec![EventKind::Gained, EventKind::Lost],
                Duration::from_secs(20),
            )],
            &log,
        );
        for kind in [EventKind::Gained, EventKind::Note, EventKind::Lost] {
            log.push(Draft::new(kind, "x").group("web"));
        }
        let lines = until(|| {
            let text = std::fs::read_to_string(&file).ok()?;
            (text.lines().count() == 2).then_some(text)
        })
        .await;
        let kinds: Vec<_> = lines
            .lines()
            .map(|l| serde_json::from_str::<Event>(l).unwrap().kind)
            .collect();
        assert_eq!(kinds, [EventKind::Gained, EventKind::Lost]);
    }

    #[tokio::test]
    async fn a_hook_that_hangs_or_fails_is_reported_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("told");
        let log = EventLog::new("n1");
        let mut hooks = Hooks::default();
        let good = format!("cat >> {}", file.display());
        let all = [
            hook(
                "hangs",
                "sleep 1000",
                Vec::new(),
                Duration::from_millis(300),
            ),
            hook(
                "fails",
                "echo no pager >&2; exit 3",
                Vec::new(),
                Duration::from_secs(20),
            ),
            hook("good", &good, Vec::new(), Duration::from_secs(20)),
        ];
        hooks.set(&all, &log);
        log.push(Draft::new(EventKind::Gained, "x"));
        until(|| {
            std::fs::read_to_string(&file)
                .ok()
                .filter(|t| !t.is_empty())
        })
        .await;
        let told = until(|| {
            let texts: Vec<_> = log
                .page(None, 99)
                .events
                .into_iter()
                .filter(|e| e.kind == EventKind::HookFailed)
                .map(|e| e.text)
                .collect();
            (texts.len() >= 2).then_some(texts)
        })
        .await;
        assert!(
            told.iter()
                .any(|t| t.contains("hangs") && t.contains("did not end")),
            "{told:?}"
        );
        assert!(
            told.iter()
                .any(|t| t.contains("fails") && t.contains("ended with 3: no pager")),
            "{told:?}"
        );
        assert_eq!(
            std::fs::read_to_string(&file).unwrap().lines().count(),
            1,
            "failures of hooks are not told to hooks"
        );
    }
}
