//! The cluster key: 128 bits, kept in a file of 32 hex digits that only its owner may read.
//!
//! During a rotation the file has two lines, a key each: the first one signs, the second one is accepted beside it.
//!
//! ```text
//! one key    A        keygen --rotate add
//! accepting  A, B     every node accepts B, too      keygen --rotate use
//! using      B, A     every node signs with B        keygen --rotate drop
//! one key    B
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent_common::{keys::Keys, siphash::Key};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Hex digits of a key file.
pub const KEY_DIGITS: usize = KEY_BYTES * 2;
/// More than any good key file; a longer one is not read to its end.
const KEY_FILE_MAX: u64 = 4096;

/// The secret that all nodes of a cluster sign their messages with. Never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_BYTES]);

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for ClusterKey {}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(hidden)")
    }
}

/// Why a key file was refused, or a key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("key file {} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file is there but cannot be read.
    #[error("key file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder, pipe or device instead of a file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Others than the owner have rights on it.
    #[error("key file {} has mode {mode:04o}: others than its owner may use it", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to a user who is neither root nor the caller.
    #[error("key file {} belongs to user {uid}, who can read and change it", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Not 32 digits long.
    #[error("key file {}, line {line}, holds {found} characters instead of {KEY_DIGITS} hex digits", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Characters found, white space around them not counted.
        found: usize,
    },
    /// The right length, but something else than a hex digit. (The character is not shown: it may be part of a key.)
    #[error("key file {}, line {line}: character {column} is not a hex digit", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Position of the first wrong character, from 1.
        column: usize,
    },
    /// Every byte is the same: a placeholder, not a key.
    #[error("key file {} holds a placeholder: every byte is the same", .0.display())]
    Placeholder(PathBuf),
    /// More lines than a rotation needs.
    #[error("key file {} holds {found} keys: two are the most, one that signs and one that is accepted", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Keys in it.
        found: usize,
    },
    /// Two keys that messages would name alike.
    #[error("key file {} holds the same key twice, or two whose ids are the same", .0.display())]
    Alike(PathBuf),
    /// The file is at another step of a rotation.
    #[error("key file {} {found}", path.display())]
    Step {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: &'static str,
        /// What to do.
        mend: &'static str,
    },
    /// A new key would overwrite an old one.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The new file could not be written.
    #[error("key file {} cannot be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes: {0}")]
    Random(getrandom::Error),
}

impl KeyError {
    /// Short, stable name for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "key-missing",
            Self::Unreadable { .. } => "key-unreadable",
            Self::NotAFile(_) => "key-not-a-file",
            Self::Permissions { .. } => "key-permissions",
            Self::Owner { .. } => "key-owner",
            Self::Size { .. } => "key-size",
            Self::Format { .. } => "key-format",
            Self::Placeholder(_) => "key-placeholder",
            Self::TooMany { .. } => "key-too-many",
            Self::Alike(_) => "key-alike",
            Self::Step { .. } => "key-step",
            Self::Exists(_) => "key-exists",
            Self::Unwritable { .. } => "key-unwritable",
            Self::Random(_) => "key-random",
        }
    }

    /// The mend.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Missing(path) => format!(
                "make one with `heartline keygen {}` on one node and copy it to all others",
                path.display()
            ),
            Self::Unreadable { .. } => "run as root, or look at the text alone with `--no-local`".into(),
            Self::NotAFile(_) | Self::Size { .. } | Self::Format { .. } | Self::Placeholder(_) => {
                "copy the file from a node that has it, or make a new key for all nodes with `heartline keygen`".into()
            }
            Self::Permissions { path, .. } => format!(
                "`chmod 600 {0}`; if others may have read it, make a new key for all nodes: `heartline keygen --force {0}`",
                path.display()
            ),
            Self::Owner { path, .. } => format!("`chown root {}`", path.display()),
            Self::TooMany { .. } | Self::Alike(_) => {
                "keep one line, the key that all nodes sign with; `heartline keygen --rotate add` adds a new one".into()
            }
            Self::Step { mend, .. } => (*mend).into(),
            Self::Exists(_) => {
                "add --force to replace it; all nodes then need the new key at once, or they stop hearing each other; to change the key of a running cluster: --rotate"
                    .into()
            }
            Self::Unwritable { path, source } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    let folder = path.parent().unwrap_or(Path::new("."));
                    format!("make the folder first: `mkdir -p {}`", folder.display())
                }
                io::ErrorKind::PermissionDenied => "run as root, or name another place".into(),
                _ => "nothing was written; name another place".into(),
            }
            Self::Random(_) => "try again once the machine has booted".into(),
        }
    }
}

impl ClusterKey {
    /// Wraps the bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the signer alone.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A new key from the kernel's random numbers.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut key = Self([0; KEY_BYTES]);
        getrandom::fill(&mut key.0).map_err(KeyError::Random)?;
        Ok(key)
    }

    fn key(&self) -> Key {
        let bytes = u128::from_le_bytes(self.0);
        Key(bytes as u64, (bytes >> 64) as u64)
    }

    /// Writes a key file with this key alone; see [`KeyFile::write`].
    ///
    /// # Errors
    /// As [`KeyFile::write`].
    pub fn write(&self, path: &Path, force: bool) -> Result<(), KeyError> {
        KeyFile::from(self.clone()).write(path, force)
    }

    /// One line of a key file.
    fn parse(digits: &[u8], line: usize, path: &Path) -> Result<Self, KeyError> {
        if digits.len() != KEY_DIGITS {
            return Err(KeyError::Size {
                path: path.into(),
                line,
                found: digits.len(),
            });
        }
        let mut key = Self([0; KEY_BYTES]);
        for (index, digit) in digits.iter().enumerate() {
            let value = char::from(*digit)
                .to_digit(16)
                .ok_or_else(|| KeyError::Format {
                    path: path.into(),
                    line,
                    column: index + 1,
                })?;
            if let Some(byte) = key.0.get_mut(index / 2) {
                *byte = (*byte << 4) | value as u8;
            }
        }
        if key.0.iter().all(|b| Some(b) == key.0.first()) {
            return Err(KeyError::Placeholder(path.into()));
        }
        Ok(key)
    }
}

/// What a key file holds: the key that signs, and during a rotation the other one that is accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    /// The key that signs.
    pub sign: ClusterKey,
    /// Another one that is accepted.
    pub other: Option<ClusterKey>,
}

impl From<ClusterKey> for KeyFile {
    fn from(sign: ClusterKey) -> Self {
        Self { sign, other: None }
    }
}

impl KeyFile {
    /// The keys for programs and senders.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(self.sign.key(), self.other.as_ref().map(ClusterKey::key))
    }

    /// First step of a rotation: a new key is accepted beside the old one, which goes on to sign.
    ///
    /// # Errors
    /// A rotation is under way already (`path` serves the message), or [`KeyError::Random`].
    pub fn add(&mut self, path: &Path) -> Result<(), KeyError> {
        if self.other.is_some() {
            return Err(KeyError::Step {
                path: path.into(),
                found: "holds two keys already: a rotation is under way",
                mend: "go on with `--rotate use`, or end it with `--rotate drop` (`heartline status` says where each node is)",
            });
        }
        // Two ids of 16 bits may be the same by chance.
        while self.other.is_none() || self.are_alike() {
            self.other = Some(ClusterKey::generate()?);
        }
        Ok(())
    }

    /// Second step, or back from it: the other key signs, the one that signed is accepted.
    ///
    /// # Errors
    /// There is one key only.
    pub fn swap(&mut self, path: &Path) -> Result<(), KeyError> {
        let other = self.other.take().ok_or_else(|| Self::alone(path))?;
        self.other = Some(std::mem::replace(&mut self.sign, other));
        Ok(())
    }

    /// Last step: only the key that signs is left.
    ///
    /// # Errors
    /// There is one key only.
    pub fn drop_other(&mut self, path: &Path) -> Result<(), KeyError> {
        self.other.take().map(drop).ok_or_else(|| Self::alone(path))
    }

    fn alone(path: &Path) -> KeyError {
        KeyError::Step {
            path: path.into(),
            found: "holds one key: no rotation is under way",
            mend: "begin one with `--rotate add`",
        }
    }

    fn are_alike(&self) -> bool {
        let keys = self.keys();
        keys.id() == keys.other_id()
    }

    /// Reads a key file, and refuses one that others may read.
    ///
    /// # Errors
    /// Every reason that [`KeyError`] has for an existing or missing file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable {
            path: path.into(),
            source,
        };
        // O_NONBLOCK: a pipe in its place must not make us wait. Rights are asked of the open file, not of the name.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => KeyError::Missing(path.into()),
                _ => unreadable(e),
            })?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(KeyError::NotAFile(path.into()));
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Permissions {
                path: path.into(),
                mode,
            });
        }
        let uid = meta.uid();
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(KeyError::Owner {
                path: path.into(),
                uid,
            });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX as usize + 1));
        file.take(KEY_FILE_MAX)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Reads the text of a key file; `path` only serves the errors.
    ///
    /// # Errors
    /// [`KeyError::Size`], [`KeyError::Format`], [`KeyError::Placeholder`], [`KeyError::TooMany`], [`KeyError::Alike`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, KeyError> {
        let lines: Vec<(usize, &[u8])> = text
            .trim_ascii()
            .split(|b| *b == b'\n')
            .map(<[u8]>::trim_ascii)
            .zip(1..)
            .map(|(line, number)| (number, line))
            .collect();
        let (first, other) = match lines.as_slice() {
            [first] => (first, None),
            [first, other] => (first, Some(other)),
            _ => {
                return Err(KeyError::TooMany {
                    path: path.into(),
                    found: lines.len(),
                });
            }
        };
        let file = Self {
            sign: ClusterKey::parse(first.1, first.0, path)?,
            other: other
                .map(|(number, line)| ClusterKey::parse(line, *number, path))
                .transpose()?,
        };
        if file.are_alike() {
            return Err(KeyError::Alike(path.into()));
        }
        Ok(file)
    }

    /// The text of a key file: for each key 32 hex digits and a newline.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Room for all of it from the start: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(2 * (KEY_DIGITS + 1)));
        for key in [Some(&self.sign), self.other.as_ref()]
            .into_iter()
            .flatten()
        {
            for byte in key.0 {
                for nibble in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                }
            }
            text.push('\n');
        }
        text
    }

    /// Writes a key file with mode 0600. Without `force` an existing file is left as it is.
    ///
    /// # Errors
    /// [`KeyError::Exists`] or [`KeyError::Unwritable`].
    pub fn write(&self, path: &Path, force: bool) -> Result<(), KeyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
            _ => KeyError::Unwritable {
                path: path.into(),
                source,
            },
        };
        if !force {
            return self.write_new(path).map_err(failed);
        }
        // Beside the old one, then over it: at no time is there half a key.
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".new.{}", std::process::id()));
        let beside = path.with_file_name(name);
        self.write_new(&beside)
            .and_then(|()| {
                fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
            })
            .map_err(|source| KeyError::Unwritable {
                path: path.into(),
                source,
            })
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        fill(&mut file, self.to_text().as_bytes()).inspect_err(|_| drop(fs::remove_file(path)))
    }
}

fn fill(file: &mut File, text: &[u8]) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text)?;
    file.sync_all()
}
