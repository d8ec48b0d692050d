//! SQLite behind a few lines of TCP: a number per line comes in, `ok NUMBER` goes out when the row is committed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};

use super::{ANSWER, CONNECT};

const OPEN: &str = ".bail off\nPRAGMA journal_mode=DELETE;\nPRAGMA synchronous=EXTRA;\n\
                    CREATE TABLE IF NOT EXISTS rows(number INTEGER PRIMARY KEY);\n.print open\n";

/// SQLite, which is asked and answers over pipes.
#[derive(Debug)]
struct Store {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Store {
    fn open(file: &Path) -> Result<Self> {
        let folder = file.parent().context("the file has no folder")?;
        fs::metadata(folder).with_context(|| folder.display().to_string())?;
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start sqlite3")?;
        let input = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut store = Self {
            child,
            input,
            output,
        };
        store.say(OPEN, "open")?;
        Ok(store)
    }

    /// Sends statements; returns the lines before the word that ends them.
    fn say(&mut self, text: &str, end: &str) -> Result<Vec<String>> {
        self.input.write_all(text.as_bytes())?;
        self.input.flush()?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                bail!("sqlite3 has ended: {:?}", self.child.wait()?);
            }
            if line.trim() == end {
                return Ok(said);
            }
            said.push(line.trim().to_owned());
        }
    }

    /// Whether the row is committed. It is looked for in a statement of its own, after the commit.
    fn insert(&mut self, number: u32) -> Result<bool> {
        let said = self.say(
            &format!(
                "INSERT INTO rows VALUES({number});\nSELECT 'row '||number FROM rows WHERE number={number};\n.print end\n"
            ),
            "end",
        )?;
        Ok(said.iter().any(|line| *line == format!("row {number}")))
    }
}

/// The service: does not return unless something is wrong.
///
/// # Errors
/// The address is in use, or SQLite cannot open the file.
pub fn serve(address: &str, file: &Path) -> Result<()> {
    let store = Arc::new(Mutex::new(Store::open(file)?));
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    for stream in listener.incoming() {
        let (stream, store) = (stream?, Arc::clone(&store));
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let Ok(mut out) = stream.try_clone() else {
                return;
            };
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let Ok(number) = line.trim().parse::<u32>() else {
                    return;
                };
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                match store.insert(number) {
                    Ok(true) => drop(writeln!(out, "ok {number}")),
                    Ok(false) => drop(writeln!(out, "no {number}")),
                    Err(error) => {
                        eprintln!("rows: {error:#}");
                        // A service without its database is no service.
                        std::process::exit(1);
                    }
                }
            }
        });
    }
    bail!("no more connections")
}

/// A connection of the client to the service.
#[derive(Debug)]
pub(super) struct Session {
    out: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Session {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let out = TcpStream::connect_timeout(&address, CONNECT)?;
        out.set_nodelay(true)?;
        out.set_read_timeout(Some(ANSWER))?;
        out.set_write_timeout(Some(ANSWER))?;
        let answers = BufReader::new(out.try_clone()?);
        Ok(Self { out, answers })
    }

    /// Whether the row was acknowledged.
    pub(super) fn insert(&mut self, number: u32) -> Result<bool> {
        writeln!(self.out, "{number}")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("closed");
        }
        Ok(line.trim() == format!("ok {number}"))
    }
}
