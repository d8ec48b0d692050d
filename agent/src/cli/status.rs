//! `heartline status`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::{cursor, execute, queue, terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::output::{Failure, as_failure, duration, print, print_json};
use super::render::{self, Style};
use crate::control::proto::{Request, StatusReport};
use crate::control::{Client, ClientError};

/// Arguments of `heartline status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON (with --watch: a line each time)
    #[arg(long)]
    pub json: bool,
    /// Show it again and again until Ctrl-C
    #[arg(long, short)]
    pub watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s", requires = "watch")]
    pub interval: Duration,
    /// Show the counters too
    #[arg(long, short)]
    pub verbose: bool,
}

/// Asks and prints, once or again and again.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    if args.watch {
        return watch(&args, &client).await;
    }
    let report: StatusReport = client
        .call(Request::Status)
        .await
        .map_err(as_failure(args.json))?;
    if args.json {
        print_json(&report)
    } else {
        print(&render::status(&report, args.verbose, &Style::of_stdout()))
    }
}

async fn watch(args: &Args, client: &Client) -> Result<(), Failure> {
    let full_screen = !args.json && io::stdout().is_terminal();
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut ticks = interval(args.interval.max(Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let screen = full_screen.then(Screen::enter).transpose()?;
    loop {
        tokio::select! {
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let answer = tokio::select! {
            answer = client.call::<StatusReport>(Request::Status) => answer,
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        };
        match (&screen, answer) {
            (Some(screen), Ok(report)) => {
                screen.draw(&render::status(&report, args.verbose, &Style::of_stdout()))?
            }
            // Somebody watches a restart, maybe: say so and go on.
            (
                Some(screen),
                Err(
                    error @ (ClientError::NotRunning(_)
                    | ClientError::Timeout { .. }
                    | ClientError::Broken { .. }),
                ),
            ) => {
                screen.draw(&format!("{}\n", render::clean(&error.to_string())))?;
            }
            (_, Err(error)) => return Err(as_failure(args.json)(error)),
            (None, Ok(report)) if args.json => print_json(&report)?,
            (None, Ok(report)) => {
                print(&format!(
                    "{}\n",
                    render::status(&report, args.verbose, &Style::of_stdout())
                ))?;
            }
        }
    }
}

/// The terminal's other screen; dropping it brings back what was there.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        // Made first, so that a failure half way is undone too.
        let screen = Screen;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Redraws without clearing first (no flicker), cut to the height of the terminal.
    fn draw(&self, text: &str) -> io::Result<()> {
        let height = terminal::size()
            .map_or(24, |(_, rows)| usize::from(rows))
            .max(2);
        let lines: Vec<_> = text.lines().collect();
        let shown = if lines.len() > height {
            height - 1
        } else {
            lines.len()
        };
        let mut stdout = io::stdout().lock();
        queue!(stdout, cursor::MoveTo(0, 0))?;
        for (row, line) in lines.iter().take(shown).enumerate() {
            if row > 0 {
                stdout.write_all(b"\r\n")?;
            }
            stdout.write_all(line.as_bytes())?;
            queue!(stdout, terminal::Clear(terminal::ClearType::UntilNewLine))?;
        }
        if shown < lines.len() {
            write!(stdout, "\r\n({} more lines)", lines.len() - shown)?;
            queue!(stdout, terminal::Clear(terminal::ClearType::UntilNewLine))?;
        }
        queue!(stdout, terminal::Clear(terminal::ClearType::FromCursorDown))?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
    }
}
