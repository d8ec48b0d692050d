//! `heartline events`.

use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::output::{Failure, as_failure, duration, print, print_json};
use super::render::{self, EventLines, Style};
use crate::control::proto::{Event, EventPage, Request, StreamLine};
use crate::control::{Client, ClientError};

/// How many old events `--follow` shows unless told otherwise.
const FOLLOW_OLD: u32 = 10;

/// How long `--follow` waits for an agent that went away (a planned restart takes less).
const COME_BACK: Duration = Duration::from_secs(10);

/// Arguments of `heartline events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on and show each new event until Ctrl-C
    #[arg(long, short)]
    pub follow: bool,
    /// Print JSON, a line per event
    #[arg(long)]
    pub json: bool,
    /// Only from here on: a sequence number, a time ago (10m), or a time (2025-11-21T06:43:12Z)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub since: Option<Since>,
    /// Only the newest so many [default: all; with --follow 10]
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub limit: Option<u32>,
}

/// From where on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A sequence number.
    Seq(u64),
    /// A time.
    Time(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(seq) = text.parse() {
        return Ok(Since::Seq(seq));
    }
    if let Ok(ago) = duration(text) {
        return Timestamp::now()
            .checked_sub(ago)
            .map(Since::Time)
            .map_err(|error| error.to_string());
    }
    text.parse().map(Since::Time).map_err(|_| {
        "give a sequence number, a time ago like 10m, or a time like 2025-11-21T06:43:12Z"
            .to_owned()
    })
}

/// Asks and prints, and with `--follow` goes on.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let mut printer = Printer {
        json: args.json,
        lines: EventLines::new(Style::of_stdout()),
        last_boot_ns: 0,
    };
    let since_seq = match args.since {
        Some(Since::Seq(seq)) => Some(seq),
        _ => None,
    };
    // A time is compared here, so all must come; the limit then counts what is left.
    let by_time = matches!(args.since, Some(Since::Time(_)));
    let old = args
        .limit
        .or((args.follow && args.since.is_none()).then_some(FOLLOW_OLD));
    let asked = if by_time { None } else { old };
    if !args.follow {
        let request = Request::Events {
            follow: false,
            since_seq,
            limit: asked,
        };
        let page: EventPage = client.call(request).await.map_err(as_failure(args.json))?;
        return printer.page(page, &args, old);
    }
    let mut signals = Signals::new()?;
    let (page, mut stream) = client
        .follow(since_seq, asked)
        .await
        .map_err(as_failure(args.json))?;
    printer.page(page, &args, old)?;
    loop {
        let line = tokio::select! {
            () = signals.any() => return Ok(()),
            line = stream.next() => line.map_err(as_failure(args.json))?,
        };
        match line {
            Some(StreamLine::Event(event)) => printer.event(&event)?,
            Some(StreamLine::Missed(count)) => printer.missed(count),
            Some(StreamLine::End) | None => {
                let (page, next) = tokio::select! {
                    () = signals.any() => return Ok(()),
                    back = come_back(&client) => back.map_err(as_failure(args.json))?,
                };
                stream = next;
                // Sequence numbers began anew; the boot clock did not.
                let seen = printer.last_boot_ns;
                for event in page.events.iter().filter(|event| event.boot_ns > seen) {
                    printer.event(event)?;
                }
            }
        }
    }
}

async fn come_back(client: &Client) -> Result<(EventPage, crate::control::Following), ClientError> {
    let begin = Instant::now();
    loop {
        match client.follow(None, None).await {
            Err(ClientError::NotRunning(_) | ClientError::Broken { .. })
                if begin.elapsed() < COME_BACK =>
            {
                sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

struct Printer {
    json: bool,
    lines: EventLines,
    last_boot_ns: u64,
}

impl Printer {
    fn page(&mut self, page: EventPage, args: &Args, limit: Option<u32>) -> Result<(), Failure> {
        if page.missed > 0 && matches!(args.since, Some(Since::Seq(_))) {
            self.missed(page.missed);
        }
        let wanted: Vec<_> = page
            .events
            .iter()
            .filter(|event| is_since(event, args.since))
            .collect();
        let most = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        for event in wanted.iter().skip(wanted.len().saturating_sub(most)) {
            self.event(event)?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        self.last_boot_ns = self.last_boot_ns.max(event.boot_ns);
        if self.json {
            print_json(event)
        } else {
            print(&self.lines.line(event))
        }
    }

    /// On stderr, so that stdout stays events alone (a gap in `seq` shows it there).
    fn missed(&self, count: u64) {
        eprintln!(
            "heartline: {} are no longer kept or came too fast",
            render::count(count, "event")
        );
    }
}

fn is_since(event: &Event, since: Option<Since>) -> bool {
    match since {
        Some(Since::Time(from)) => event
            .time
            .parse::<Timestamp>()
            .is_ok_and(|time| time >= from),
        Some(Since::Seq(from)) => event.seq >= from,
        None => true,
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_a_number_an_age_or_a_time() {
        assert_eq!(since("17"), Ok(Since::Seq(17)));
        assert!(matches!(since("10m"), Ok(Since::Time(_))));
        assert_eq!(
            since("2025-11-21T06:43:12Z"),
            Ok(Since::Time("2025-11-21T06:43:12Z".parse().unwrap()))
        );
        assert!(since("soon").is_err());
    }
}
