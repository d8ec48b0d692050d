//! The log: lines on stderr. Under systemd without time (the journal has its own) and with the priority
//! prefix of sd-daemon(3); elsewhere with local time, coloured on a terminal.
//!
//! Writing can block on a slow reader: the real-time threads do not log.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context;
use jiff::Zoned;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{
    DefaultFields, Format, FormatEvent, FormatFields, Full, Writer,
};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, SubscriberBuilder};
use tracing_subscriber::registry::LookupSpan;

/// What is logged until the configuration says otherwise.
const FIRST_LEVEL: &str = "info";

type Control = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>;

struct Log {
    /// Set on the command line: the configuration does not change it.
    fixed: bool,
    control: Control,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts the log. `level` is what the command line demands, if anything.
///
/// # Errors
/// If the level cannot be read, or the log is already running.
pub fn init(level: Option<&str>) -> anyhow::Result<()> {
    let filter = read(level.unwrap_or(FIRST_LEVEL)).context("--log")?;
    let fixed = level.is_some();
    let control = if journal_reads_stderr() {
        start(tracing_subscriber::fmt().event_format(Journal), filter)?
    } else {
        let colours = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        start(
            tracing_subscriber::fmt()
                .event_format(plain())
                .with_ansi(colours),
            filter,
        )?
    };
    if LOG.set(Log { fixed, control }).is_err() {
        anyhow::bail!("the log is already running");
    }
    Ok(())
}

/// Applies the level from the configuration (at start and on reload), unless the command line set one.
///
/// # Errors
/// If the level cannot be read; the old one stays.
pub fn apply_config_level(level: &str) -> anyhow::Result<()> {
    let filter = read(level)?;
    match LOG.get() {
        Some(log) if !log.fixed => (log.control)(filter),
        _ => Ok(()),
    }
}

fn read(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(level)
        .with_context(|| format!("{level:?} is no log level (error, warn, info, debug, trace)"))
}

fn start<E>(
    builder: SubscriberBuilder<DefaultFields, E>,
    filter: EnvFilter,
) -> anyhow::Result<Control>
where
    E: FormatEvent<tracing_subscriber::Registry, DefaultFields> + Send + Sync + 'static,
{
    let builder = builder
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    Ok(Box::new(move |filter| Ok(handle.reload(filter)?)))
}

fn plain() -> Format<Full, LocalTime> {
    tracing_subscriber::fmt::format()
        .with_target(false)
        .with_timer(LocalTime)
}

struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", Zoned::now().strftime("%H:%M:%S%.3f"))
    }
}

struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        // A line each: a second one would be logged without its priority.
        let mut text = String::new();
        ctx.field_format()
            .format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "<{priority}>{}", text.replace('\n', " "))
    }
}

/// Whether stderr is the journal's stream, as systemd.exec(5) says to find out.
fn journal_reads_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_read_and_nonsense_is_named() {
        for level in ["info", "warn", "info,heartline::control=debug"] {
            assert!(read(level).is_ok(), "{level}");
        }
        let error = read("loud=quiet=1").unwrap_err();
        assert!(format!("{error:#}").contains("loud=quiet=1"));
    }
}
