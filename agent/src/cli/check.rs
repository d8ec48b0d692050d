//! `heartline check`: is a configuration good, and what does it mean?

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Checks, Config, DEFAULT_CONFIG_FILE, LoadError, Loaded, Local, Report};

/// The configuration is good; there may be warnings.
const GOOD: u8 = 0;
/// The configuration is refused.
const BAD: u8 = 1;
/// There is nothing to judge.
const UNREADABLE: u8 = 2;

/// Check a configuration: exit status 0 good, 1 bad, 2 cannot read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG_FILE)]
    pub file: PathBuf,
    /// This machine is node NAME (otherwise its host name decides): its interfaces must be here.
    #[arg(long, value_name = "NAME", conflicts_with = "no_local")]
    pub node: Option<String>,
    /// Judge the text alone: look neither at the key file nor for interfaces.
    #[arg(long)]
    pub no_local: bool,
    /// Print a JSON list of `{file, line, column, severity, code, message, help}`; empty if there is nothing to say.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command. Findings go to standard error, the summary (or JSON) to standard output.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let hostname = nix::unistd::gethostname()
        .map(|h| h.to_string_lossy().into_owned())
        .unwrap_or_default();
    let colour = crate::config::colour_wanted(io::stderr().is_terminal());
    // Nobody is left to tell if these cannot be written.
    ExitCode::from(judge(
        &args,
        &hostname,
        colour,
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    ))
}

fn judge(
    args: &Args,
    hostname: &str,
    colour: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let local = match &args.node {
        Some(name) => Local::Named(name.clone()),
        None => Local::Hostname(hostname.into()),
    };
    let checks = if args.no_local {
        Checks::default()
    } else {
        Checks {
            key_file: true,
            interfaces_of: Some(local),
        }
    };
    let (code, report, config) = match Config::load_with(&args.file, &checks) {
        Ok(Loaded { config, report }) => (GOOD, report, Some(config)),
        Err(LoadError::Refused(report)) => (BAD, report, None),
        Err(LoadError::Unreadable { path, source }) => {
            let report = Report::unreadable(&path, &source);
            (UNREADABLE, report, None)
        }
    };
    if args.json {
        let _ = writeln!(out, "{}", report.to_json());
        return code;
    }
    let _ = write!(err, "{}", report.render(colour));
    match config {
        Some(config) => {
            let _ = write!(out, "{}", config.summary());
            if !args.no_local && args.node.is_none() && config.node_by_hostname(hostname).is_none()
            {
                let _ = writeln!(
                    out,
                    "local     this machine ({hostname}) is none of the nodes: its interfaces were not looked at (--node NAME)"
                );
            }
            let _ = writeln!(
                out,
                "{} is good{}",
                args.file.display(),
                counted(report.warnings(), "warning", ", with ")
            );
        }
        None if code == BAD => {
            let errors = counted(report.errors(), "error", "");
            let warnings = counted(report.warnings(), "warning", " and ");
            let _ = writeln!(
                err,
                "{} is refused: {errors}{warnings}",
                args.file.display()
            );
        }
        None => {}
    }
    code
}

/// "and 2 warnings", or nothing for none.
fn counted(n: usize, what: &str, before: &str) -> String {
    match n {
        0 => String::new(),
        1 => format!("{before}1 {what}"),
        n => format!("{before}{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Option<&str>, flags: &[&str]) -> (u8, String, String) {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heartline.toml");
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let line = ["check", file.to_str().unwrap()]
            .into_iter()
            .chain(flags.iter().copied());
        let args = <Cli as clap::Parser>::try_parse_from(line).unwrap().args;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = judge(&args, "somewhere", false, &mut out, &mut err);
        (
            code,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    const DEMO: &str = include_str!("../../../config/demo.toml");

    #[test]
    fn good_is_0_and_says_what_it_means() {
        let (code, out, err) = check(Some(DEMO), &["--no-local"]);
        assert_eq!((code, err.as_str()), (0, ""));
        for part in [
            "nodes     3: n1, n2, n3",
            "1 group, 2 VIPs",
            "web: 10.77.0.100, fd77::100 on n1, n2, n3",
            "38ms to 50ms after a failure",
            "survives  the loss of 1 of 3 nodes",
            "is good",
        ] {
            assert!(out.contains(part), "{part:?} is not in:\n{out}");
        }
        assert_eq!(
            check(Some(DEMO), &["--no-local", "--json"]),
            (0, "[]\n".into(), String::new())
        );
    }

    #[test]
    fn bad_is_1_and_shows_all() {
        // Without --no-local the key file is missed.
        let (code, out, err) = check(Some(&DEMO.replace("10.77.0.100", "10.77.0.1")), &[]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(
            err.contains("error[key-missing]") && err.contains("error[vip-is-link]"),
            "{err}"
        );
        assert!(err.ends_with("is refused: 2 errors\n"), "{err}");
        let (code, out, err) = check(Some("cluster = 3"), &["--json"]);
        let list: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        assert_eq!((code, err.as_str()), (1, ""));
        assert!(
            list.iter()
                .any(|d| d["code"] == "wrong-type" && d["line"] == 1 && d["column"] == 11),
            "{out}"
        );
    }

    #[test]
    fn missing_is_2() {
        let (code, out, err) = check(None, &[]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.contains("cannot be read: No such file"), "{err}");
        let (code, out, _) = check(None, &["--json"]);
        let list: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &list[0]["code"], &list[0]["line"]),
            (2, &"cannot-read".into(), &serde_json::Value::Null)
        );
    }
}
