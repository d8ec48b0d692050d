//! How far it is, and how long it will take: a bar on a terminal, a line per fault elsewhere.

use std::{
    io::{IsTerminal as _, stderr},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Shared by all lanes.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    /// Estimated seconds: in all, done.
    all: f64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    done: f64,
    told: String,
}

impl Progress {
    /// `all`: estimated seconds of everything.
    pub(crate) fn start(all: f64) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1000);
            if let Ok(style) = ProgressStyle::with_template("  {bar:24} {percent:>3} %  {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            started: Instant::now(),
            all: all.max(0.001),
            state: Mutex::default(),
        }
    }

    /// One more run of `what` is done; it was estimated at `seconds`.
    pub(crate) fn step(&self, what: &str, done: usize, runs: usize, seconds: f64) {
        self.show(what, &format!("{done} of {runs}"), done == runs, seconds);
    }

    /// A share of `what` is done.
    pub(crate) fn part(&self, what: &str, part: f64, seconds: f64) {
        self.show(
            what,
            &format!("{:.0} %", part * 100.0),
            part >= 1.0,
            seconds,
        );
    }

    fn show(&self, what: &str, how_far: &str, over: bool, seconds: f64) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.done += seconds;
        let share = (state.done / self.all).min(1.0);
        let left = left(self.started.elapsed(), share, self.all);
        match &self.bar {
            Some(bar) => {
                bar.set_position((share * 1000.0) as u64);
                bar.set_message(format!("{what}, {how_far}; {left} left"));
            }
            // Not each run: a log is read by people, too.
            None if over || state.told != what => {
                what.clone_into(&mut state.told);
                eprintln!("{:>3.0} %  {what}, {how_far}; {left} left", share * 100.0);
            }
            None => {}
        }
    }

    /// Something to be seen beside it.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The pace so far, once there is one; the estimate before.
fn left(elapsed: Duration, share: f64, all: f64) -> String {
    let estimate = all * (1.0 - share);
    let seconds = if share > 0.05 {
        elapsed.as_secs_f64() / share * (1.0 - share)
    } else {
        estimate
    };
    match seconds.round() as u64 {
        short @ 0..100 => format!("{short} s"),
        long => format!("{} min", (long + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_pace() {
        assert_eq!(left(Duration::ZERO, 0.0, 600.0), "10 min");
        // Twice as slow as estimated.
        assert_eq!(left(Duration::from_secs(600), 0.5, 600.0), "10 min");
        assert_eq!(left(Duration::from_secs(90), 0.9, 100.0), "10 s");
    }
}
