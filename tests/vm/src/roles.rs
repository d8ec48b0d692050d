//! Who is primary, when: `/proc/drbd` of each guest, asked over and over.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use heartline_lab::clock;

use crate::control::Control;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(40);
/// A guest may be frozen for long.
const ANSWER: Duration = Duration::from_secs(60);

/// One look at a guest: its role is that of some moment in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Asked, ns.
    pub asked: u64,
    /// Answered, ns.
    pub answered: u64,
    /// Whether it was primary.
    pub primary: bool,
}

/// Looks at one life of one guest, until dropped or until the guest dies.
#[derive(Debug)]
struct Eye {
    node: String,
    stop: Arc<AtomicBool>,
    looks: Arc<Mutex<Vec<Look>>>,
    _thread: JoinHandle<()>,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Roles {
    eyes: Vec<Eye>,
}

/// A span in which a node was primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The node.
    pub node: String,
    /// First seen, ns.
    pub from: u64,
    /// Last seen, ns.
    pub to: u64,
}

impl Roles {
    /// Also looks at this life of this guest, from now on.
    ///
    /// # Errors
    /// No thread.
    pub fn watch(&mut self, node: &str, control: Control) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(Mutex::new(Vec::new()));
        let (stopped, into) = (Arc::clone(&stop), Arc::clone(&looks));
        let thread = thread::Builder::new()
            .name(format!("roles-{node}"))
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let asked = clock::boot_ns();
                    let Ok(text) = control.read("/proc/drbd", ANSWER) else {
                        // Dead, or the module is not loaded yet; a dead one answers no more.
                        thread::sleep(PAUSE * 5);
                        continue;
                    };
                    let look = Look {
                        asked,
                        answered: clock::boot_ns(),
                        primary: text.contains(" ro:Primary/"),
                    };
                    into.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(look);
                    thread::sleep(PAUSE);
                }
            })?;
        self.eyes.push(Eye {
            node: node.to_owned(),
            stop,
            looks,
            _thread: thread,
        });
        Ok(())
    }

    /// When each node was primary, by life.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<_> = self
            .eyes
            .iter()
            .flat_map(|eye| {
                let looks = eye.looks.lock().unwrap_or_else(PoisonError::into_inner);
                join(&eye.node, &looks)
            })
            .collect();
        spans.sort_by_key(|span| span.from);
        spans
    }

    /// When a node was first seen to have become primary, after this moment, ns.
    #[must_use]
    pub fn primary_since(&self, node: &str, after: u64) -> Option<u64> {
        let spans = self.spans();
        let mut of = spans.iter().filter(|span| span.node == node);
        of.find(|span| span.from > after).map(|span| span.from)
    }

    /// How long two were primary at once, as far as was seen, ns.
    #[must_use]
    pub fn both(&self) -> u64 {
        both(&self.spans())
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        for eye in &self.eyes {
            eye.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Looks that follow each other and saw a primary make a span, if the guest was not long in answering: while it was
/// frozen it was nothing.
fn join(node: &str, looks: &[Look]) -> Vec<Span> {
    const FROZEN: u64 = 1_000_000_000;
    let mut spans: Vec<Span> = Vec::new();
    let mut open = false;
    for look in looks {
        let long = look.answered.saturating_sub(look.asked) > FROZEN;
        if look.primary {
            match spans.last_mut() {
                Some(span) if open && !long => span.to = look.asked,
                _ => spans.push(Span {
                    node: node.to_owned(),
                    from: look.answered,
                    to: look.answered,
                }),
            }
        }
        open = look.primary;
    }
    spans
}

fn both(spans: &[Span]) -> u64 {
    let mut sum = 0;
    for (place, one) in spans.iter().enumerate() {
        for other in spans.iter().skip(place + 1) {
            if one.node != other.node {
                let (from, to) = (one.from.max(other.from), one.to.min(other.to));
                // A single look is a moment; two at the same moment count as one nanosecond.
                if from <= to {
                    sum += (to - from).max(1);
                }
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(asked: u64, answered: u64, primary: bool) -> Look {
        Look {
            asked,
            answered,
            primary,
        }
    }

    fn span(node: &str, from: u64, to: u64) -> Span {
        Span {
            node: node.to_owned(),
            from,
            to,
        }
    }

    #[test]
    fn looks_become_spans() {
        let looks = [
            look(0, 1, false),
            look(10, 11, true),
            look(20, 21, true),
            look(30, 31, false),
            look(40, 41, true),
            // Frozen for three seconds, and still primary.
            look(50, 3_000_000_050, true),
            look(3_000_000_060, 3_000_000_061, true),
        ];
        assert_eq!(
            join("n1", &looks),
            [
                span("n1", 11, 20),
                span("n1", 41, 41),
                span("n1", 3_000_000_050, 3_000_000_060)
            ]
        );
    }

    #[test]
    fn two_at_once_are_seen() {
        assert_eq!(both(&[span("n1", 0, 10), span("n2", 11, 20)]), 0);
        assert_eq!(both(&[span("n1", 0, 10), span("n2", 7, 20)]), 3);
        // Two lives of one node are one node.
        assert_eq!(both(&[span("n1", 0, 10), span("n1", 7, 20)]), 0);
    }
}
