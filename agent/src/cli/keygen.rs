//! `heartline keygen`: a new cluster key.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{ClusterKey, DEFAULT_KEY_FILE, KeyError, KeyFile};

/// Make a cluster key: 128 random bits, in a file of mode 0600. Or change the key of a running cluster, in three steps.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to write; `-` prints the key instead.
    #[arg(value_name = "PATH", default_value = DEFAULT_KEY_FILE)]
    pub path: PathBuf,
    /// Replace an existing file. All nodes then need the new key at once.
    #[arg(long, conflicts_with = "rotate")]
    pub force: bool,
    /// Take a step of a key rotation in an existing file; after each step copy it to all nodes and `heartline reload` them
    #[arg(long, value_enum, value_name = "STEP")]
    pub rotate: Option<Step>,
}

/// A step of a key rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Add a new key: nodes accept it, and go on to sign with the old one
    Add,
    /// Sign with the other key of the file (a second time: back again)
    Use,
    /// Leave only the key that signs
    Drop,
}

/// Runs the command: exit status 0 written, 1 refused or failed. The key is shown only for `-`.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    match make(&args, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}\n  help: {}", error.help());
            ExitCode::FAILURE
        }
    }
}

fn make(args: &Args, out: &mut dyn Write) -> Result<(), KeyError> {
    if let Some(step) = args.rotate {
        return rotate(&args.path, step, out);
    }
    let key = ClusterKey::generate()?;
    if args.path == Path::new("-") {
        let text = KeyFile::from(key).to_text();
        return out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|source| KeyError::Unwritable {
                path: "(standard output)".into(),
                source,
            });
    }
    if args.path == Path::new(DEFAULT_KEY_FILE)
        && let Some(folder) = args.path.parent()
    {
        // On a fresh machine the folder is not there yet; another place is the caller's to make.
        std::fs::create_dir_all(folder).map_err(|source| KeyError::Unwritable {
            path: args.path.clone(),
            source,
        })?;
    }
    key.write(&args.path, args.force)?;
    let path = args.path.display();
    let _ = writeln!(
        out,
        "wrote {path} (mode 0600)\ncopy it to all other nodes, over a safe way: scp -p {path} root@NODE:{path}"
    );
    Ok(())
}

fn rotate(path: &Path, step: Step, out: &mut dyn Write) -> Result<(), KeyError> {
    let mut file = KeyFile::load(path)?;
    match step {
        Step::Add => file.add(path)?,
        Step::Use => file.swap(path)?,
        Step::Drop => file.drop_other(path)?,
    }
    file.write(path, true)?;
    let (keys, path) = (file.keys(), path.display());
    let says = match keys.other_id() {
        0 => format!("key {:04x} signs, and no other is accepted", keys.id()),
        other => format!("key {:04x} signs, {other:04x} is accepted", keys.id()),
    };
    let next = match step {
        Step::Add => {
            "then, once `heartline status` says that all nodes know both: heartline keygen --rotate use"
        }
        Step::Use => "then, once all nodes sign with it: heartline keygen --rotate drop",
        Step::Drop => "the rotation is over once all nodes have it",
    };
    let _ = writeln!(
        out,
        "{path}: {says}\ncopy it to all other nodes (scp -p {path} root@NODE:{path}), and on each: heartline reload\n{next}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keygen(path: &Path, force: bool) -> (Result<(), KeyError>, String) {
        let mut out = Vec::new();
        let result = make(
            &Args {
                path: path.into(),
                force,
                rotate: None,
            },
            &mut out,
        );
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn writes_once_and_never_shows_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        let (result, said) = keygen(&path, false);
        result.unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(!said.contains(first.trim()));
        KeyFile::load(&path).unwrap();

        assert_eq!(keygen(&path, false).0.unwrap_err().code(), "key-exists");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        keygen(&path, true).0.unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), first);
    }

    #[test]
    fn each_step_says_the_next_and_never_shows_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        keygen(&path, false).0.unwrap();
        for (step, lines, next) in [
            (Step::Add, 2, "--rotate use"),
            (Step::Use, 2, "--rotate drop"),
            (Step::Drop, 1, "over"),
        ] {
            let mut out = Vec::new();
            rotate(&path, step, &mut out).unwrap();
            let said = String::from_utf8(out).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), lines);
            assert!(said.contains(next), "{said}");
            for line in text.lines() {
                assert!(!said.contains(&line[..8]), "{said}");
            }
        }
        let refused = rotate(&path, Step::Drop, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.code(), "key-step");
        assert!(refused.help().contains("--rotate add"));
    }

    #[test]
    fn dash_prints_it() {
        let (result, said) = keygen(Path::new("-"), false);
        result.unwrap();
        assert_eq!(said.len(), 33);
        assert!(said.trim().chars().all(|c| c.is_ascii_hexdigit()));
    }
}
