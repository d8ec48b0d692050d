//! `heartline keygen`: a new cluster key.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{ClusterKey, DEFAULT_KEY_FILE, KeyError};

/// Make a cluster key: 128 random bits, in a file of mode 0600.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to write; `-` prints the key instead.
    #[arg(value_name = "PATH", default_value = DEFAULT_KEY_FILE)]
    pub path: PathBuf,
    /// Replace an existing file. All nodes then need the new key at once.
    #[arg(long)]
    pub force: bool,
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
    let key = ClusterKey::generate()?;
    if args.path == Path::new("-") {
        let text = key.to_text();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keygen(path: &Path, force: bool) -> (Result<(), KeyError>, String) {
        let mut out = Vec::new();
        let result = make(
            &Args {
                path: path.into(),
                force,
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
        ClusterKey::load(&path).unwrap();

        assert_eq!(keygen(&path, false).0.unwrap_err().code(), "key-exists");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        keygen(&path, true).0.unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), first);
    }

    #[test]
    fn dash_prints_it() {
        let (result, said) = keygen(Path::new("-"), false);
        result.unwrap();
        assert_eq!(said.len(), 33);
        assert!(said.trim().chars().all(|c| c.is_ascii_hexdigit()));
    }
}
