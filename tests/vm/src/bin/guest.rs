//! Inside of a guest: `heartline-guest serve` answers the lab on the virtio-serial port, `heartline-guest rows` is the
//! service whose data must not be lost.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use heartline_vm::{
    rows,
    wire::{Answer, Ask, MOST_OUTPUT, PORT, Ran, Reply, Request},
};
use nix::{
    sys::signal::{Signal, killpg},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve"] => serve(),
        ["rows", address, file] => rows::serve(address, Path::new(file)),
        _ => Err(anyhow::anyhow!(
            "usage: heartline-guest serve | heartline-guest rows ADDRESS:PORT FILE"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heartline-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The device of the port of our name. There is no udev that would name it.
fn port() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").context("no virtio-serial")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("no port called {PORT}")
}

fn serve() -> Result<()> {
    let path = port()?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("{}", path.display()))?;
    let out = Arc::new(Mutex::new(port.try_clone()?));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    say(
        &out,
        &Reply {
            id: 0,
            answer: Answer::Hello {
                boot: boot.trim().to_owned(),
            },
        },
    );
    let mut lines = BufReader::new(port);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            // Nobody at the other end.
            thread::sleep(Duration::from_millis(50));
            continue;
        }
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                let out = Arc::clone(&out);
                thread::spawn(move || {
                    let answer = answer(request.ask)
                        .unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
                    say(
                        &out,
                        &Reply {
                            id: request.id,
                            answer,
                        },
                    );
                });
            }
            Err(error) => eprintln!("heartline-guest: {error}: {line:?}"),
        }
    }
}

fn say(out: &Mutex<File>, reply: &Reply) {
    let Ok(mut line) = serde_json::to_string(reply) else {
        return;
    };
    line.push('\n');
    if let Ok(mut out) = out.lock() {
        // The lab misses the answer and says so.
        let _ = out.write_all(line.as_bytes());
    }
}

fn answer(ask: Ask) -> Result<Answer> {
    match ask {
        Ask::Run { script, limit_ms } => {
            run(&script, Duration::from_millis(limit_ms)).map(Answer::Ran)
        }
        Ask::Clock => {
            let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
            Ok(Answer::Clock(u64::try_from(now.as_nanos())?))
        }
        Ask::Read { path } => fs::read_to_string(&path)
            .map(Answer::Text)
            .with_context(|| path.clone()),
        Ask::Write { path, text, mode } => {
            let path = Path::new(&path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, text).with_context(|| path.display().to_string())?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            Ok(Answer::Done)
        }
    }
}

fn run(script: &str, limit: Duration) -> Result<Ran> {
    let start = Instant::now();
    let mut child = Command::new("/bin/sh")
        .args(["-c", script])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start sh")?;
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let (code, late) = wait(&mut child, start + limit)?;
    let spent = start.elapsed();
    // What a daemon that the script left keeps open is not waited for.
    let text = |bytes: &Mutex<Vec<u8>>| {
        bytes.lock().map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    };
    for handle in [&out, &err] {
        let end = Instant::now() + Duration::from_millis(200);
        while !handle.1.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(Ran {
        code,
        stdout: text(&out.0),
        stderr: text(&err.0),
        late,
        spent_ns: u64::try_from(spent.as_nanos())?,
    })
}

type Drained = (Arc<Mutex<Vec<u8>>>, thread::JoinHandle<()>);

fn drain(pipe: Option<impl Read + Send + 'static>) -> Drained {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&kept);
    let handle = thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = [0; 8192];
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 {
                break;
            }
            if let Ok(mut kept) = into.lock() {
                let room = MOST_OUTPUT.saturating_sub(kept.len());
                kept.extend(buffer.iter().take(count.min(room)));
            }
        }
    });
    (kept, handle)
}

/// Exit status, and whether its time was over.
fn wait(child: &mut Child, end: Instant) -> Result<(Option<i32>, bool)> {
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status.code(), false));
        }
        if Instant::now() >= end {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            child.wait()?;
            return Ok((None, true));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
