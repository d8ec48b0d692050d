//! `heartline doctor`: can this machine run Heartline well?

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::config::{DEFAULT_CONFIG_FILE, colour_wanted};
use crate::control::{Client, proto::Request};
use crate::doctor::{Finding, Level, Machine, Questions, examine};

/// The agent may take so long to say how it is.
const ASK: std::time::Duration = std::time::Duration::from_secs(2);
/// Width of the table where there is no terminal to ask.
const WIDTH: u16 = 120;

/// Look at kernel, rights, links and configuration: exit status 0 fine (or warnings only), 1 something is bad.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; /etc/heartline/heartline.toml unless named.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This machine is node NAME (otherwise its host name decides).
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where the agent pins its programs and maps.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/heartline")]
    pub bpf_dir: PathBuf,
    /// Print a JSON list of `{level, what, found, mend}`.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
#[must_use]
pub fn run(args: Args, client: &Client) -> ExitCode {
    let questions = Questions {
        config_named: args.config.is_some(),
        config: args.config.unwrap_or_else(|| DEFAULT_CONFIG_FILE.into()),
        node: args.node,
        bpf_dir: args.bpf_dir,
        agent: ask(client),
    };
    let findings = examine(&Machine::this(), &questions);
    let terminal = io::stdout().is_terminal();
    let text = if args.json {
        // Strings and names alone: this cannot fail.
        serde_json::to_string_pretty(&findings).unwrap_or_else(|_| "[]".into())
    } else {
        show(&findings, terminal, colour_wanted(terminal))
    };
    let _ = writeln!(io::stdout(), "{text}");
    if findings.iter().any(|f| f.level == Level::Bad) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What the agent on this machine says, if one runs.
fn ask(client: &Client) -> Option<Box<crate::control::proto::StatusReport>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let status = tokio::time::timeout(ASK, client.call(Request::Status)).await;
        status.ok()?.ok().map(Box::new)
    })
}

/// The findings as a table, and one line that sums them up.
fn show(findings: &[Finding], terminal: bool, colour: bool) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["", "what", "found", "mend"]);
    if !terminal {
        table.set_width(WIDTH);
    }
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for finding in findings {
        let (word, shade) = match finding.level {
            Level::Ok => ("ok", Color::Green),
            Level::Warn => ("warn", Color::Yellow),
            Level::Bad => ("BAD", Color::Red),
        };
        table.add_row([
            Cell::new(word).fg(shade),
            Cell::new(&finding.what),
            Cell::new(&finding.found),
            Cell::new(finding.mend.as_deref().unwrap_or("")),
        ]);
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (bad, warn) = (count(Level::Bad), count(Level::Warn));
    let verdict = match (bad, warn) {
        (0, 0) => "all fine".to_owned(),
        (0, warn) => format!("fine, with {warn} to know about"),
        (bad, warn) => format!("{bad} bad, {warn} to know about"),
    };
    format!("{table}\n{verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_every_finding_and_its_mend() {
        let finding = |level, what: &str, mend: Option<&str>| Finding {
            level,
            what: what.into(),
            found: "seen".into(),
            mend: mend.map(Into::into),
        };
        let all = [
            finding(Level::Ok, "kernel", None),
            finding(Level::Bad, "eth0: mtu", Some("`ip link`")),
        ];
        let text = show(&all, false, false);
        for part in [
            "kernel",
            "eth0: mtu",
            "BAD",
            "`ip link`",
            "1 bad, 0 to know about",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains('\x1b') && show(&all, false, true).contains('\x1b'));
        assert!(
            text.lines()
                .all(|l| l.chars().count() <= usize::from(WIDTH))
        );
    }
}
