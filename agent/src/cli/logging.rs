//! The log. Under systemd it goes to the journal by its native protocol (systemd.journal-fields(7),
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>), with fields such as `HEARTLINE_GROUP`; if that cannot be reached, as lines on
//! stderr with the priority prefix of sd-daemon(3). Elsewhere as lines with local time, coloured on a terminal.
//!
//! Writing can block on a slow reader: the real-time threads do not log.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use anyhow::Context;
use jiff::Zoned;
use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{
    DefaultFields, Format, FormatEvent, FormatFields, Full, Writer,
};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, SubscriberBuilder};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    let native = journal_reads_stderr().then(journal);
    let control = if let Some(Ok(layer)) = native {
        start_with(layer, filter)?
    } else if native.is_some() {
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

/// The journal's own socket.
fn journal() -> std::io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let layer = tracing_journald::layer()?;
    Ok(layer
        .with_field_prefix(Some("HEARTLINE".into()))
        .with_syslog_identifier("heartline".into())
        .with_priority_mappings(priorities))
}

fn start_with(layer: tracing_journald::Layer, filter: EnvFilter) -> anyhow::Result<Control> {
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    Ok(Box::new(move |filter| Ok(handle.reload(filter)?)))
}

/// An event as a line of the log. Its members are fields of the journal: `HEARTLINE_KIND`, `HEARTLINE_NODE`,
/// `HEARTLINE_GROUP`, `HEARTLINE_PEER`, `HEARTLINE_EPOCH`, `HEARTLINE_REASON`, `HEARTLINE_SEQ`.
pub fn event(e: &crate::events::Event) {
    use crate::events::Severity;

    let (kind, node, seq) = (e.kind.name(), e.node.as_str(), e.seq);
    let (group, peer, epoch) = (e.group.as_deref(), e.peer.as_deref(), e.epoch);
    let reason = e.extra.get("reason").and_then(|r| r.as_str());
    match e.kind.severity() {
        Severity::Bad => {
            tracing::error!(kind, node, group, peer, epoch, reason, seq, "{}", e.text);
        }
        Severity::Warn => {
            tracing::warn!(kind, node, group, peer, epoch, reason, seq, "{}", e.text);
        }
        Severity::Good | Severity::Plain => {
            tracing::info!(kind, node, group, peer, epoch, reason, seq, "{}", e.text);
        }
    }
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

    /// Speaks to what is at the journal's place, which a test must not change for its own process.
    #[test]
    #[ignore = "run in a child process by `the_journal_has_fields`"]
    fn speaks() {
        use crate::events::{Draft, EventKind, EventLog};

        assert!(journal_reads_stderr());
        init(None).unwrap();
        let log = EventLog::new("n1");
        let gained = Draft::new(EventKind::Gained, "web is ours\nSECOND=line").group("web");
        let gained = gained.epoch(17).with("reason", "owner_lost").with("n", 3);
        event(&log.push(gained));
        let silent = Draft::new(EventKind::NodeSilent, "n2 is silent").peer("n2");
        event(&log.push(silent));
        apply_config_level("error").unwrap();
        event(&log.push(Draft::new(EventKind::Note, "too quiet to be heard")));
        tracing::error!("the last");
    }

    /// What the native protocol carries (its document: a name, and a value after `=`, or with its length in front of it).
    fn fields(mut entry: &[u8]) -> std::collections::BTreeMap<String, String> {
        let mut all = std::collections::BTreeMap::new();
        while let Some(end) = entry.iter().position(|b| *b == b'\n') {
            let line = String::from_utf8(entry[..end].to_vec()).unwrap();
            entry = &entry[end + 1..];
            if let Some((name, value)) = line.split_once('=') {
                all.insert(name.to_owned(), value.to_owned());
                continue;
            }
            let (length, rest) = entry.split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            all.insert(line, String::from_utf8(rest[..length].to_vec()).unwrap());
            assert_eq!(rest[length], b'\n');
            entry = &rest[length + 1..];
        }
        assert!(entry.is_empty());
        all
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test has its runner's deadline"
    )]
    #[test]
    fn the_journal_has_fields() {
        let directory = tempfile::tempdir().unwrap();
        let journal = std::os::unix::net::UnixDatagram::bind(directory.path().join("socket"));
        let journal = journal.unwrap();
        // In a /run of its own, where the journal's socket is ours. Needs root.
        let script = r#"
            mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind "$1" /run/systemd/journal || exit 9
            JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$0" --exact cli::logging::tests::speaks --ignored
        "#;
        let child = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(directory.path())
            .output()
            .unwrap();
        let (out, err) = (&child.stdout, &child.stderr);
        let said = [out, err].map(|s| String::from_utf8_lossy(s).into_owned());
        assert!(child.status.success(), "{said:?}");
        journal.set_nonblocking(true).unwrap();
        let mut entries = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = journal.recv(&mut buffer) {
            // The library knocks with an empty one.
            if length > 0 {
                entries.push(fields(&buffer[..length]));
            }
        }
        let [gained, silent, last] = entries.as_slice() else {
            panic!("{entries:#?}")
        };
        let expected = [
            ("MESSAGE", "web is ours\nSECOND=line"),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "heartline"),
            ("HEARTLINE_KIND", "gained"),
            ("HEARTLINE_NODE", "n1"),
            ("HEARTLINE_GROUP", "web"),
            ("HEARTLINE_EPOCH", "17"),
            ("HEARTLINE_REASON", "owner_lost"),
            ("HEARTLINE_SEQ", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(gained.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!gained.contains_key("SECOND") && !gained.contains_key("HEARTLINE_PEER"));
        assert_eq!(
            (&*silent["HEARTLINE_PEER"], &*silent["PRIORITY"]),
            ("n2", "4")
        );
        assert!(!silent.contains_key("HEARTLINE_GROUP"));
        assert_eq!((&*last["MESSAGE"], &*last["PRIORITY"]), ("the last", "3"));
    }

    #[test]
    fn levels_and_filters_are_read_and_nonsense_is_named() {
        for level in ["info", "warn", "info,heartline::control=debug"] {
            assert!(read(level).is_ok(), "{level}");
        }
        let error = read("loud=quiet=1").unwrap_err();
        assert!(format!("{error:#}").contains("loud=quiet=1"));
    }
}
