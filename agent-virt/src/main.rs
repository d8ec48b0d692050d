//! `heartline-libvirt`: what of Heartline speaks with libvirt, in a process of its own. The agent starts it when its
//! configuration has a resource of the kind `domain`, and links no libvirt itself: a node without libvirt needs none, and a
//! call that hangs or crashes in the library ends this process, not the agent.
//!
//! ```text
//! agent ──requests──▶ stdin ─▶ a thread each ─▶ act ─▶ virt ─▶ libvirtd
//!       ◀──lines──── stdout ◀─ answers, events, progress
//! ```
//!
//! The lines are those of `agent_virt_proto::message`. It ends with its standard input.

use std::{
    env,
    io::{self, BufRead as _, Read as _, Write as _},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use agent_virt_proto::message::{AT_ONCE, LINE, Line, Outcome, Refusal, Request, VERSION, Why};
use virt::{connect::Connect, error::clear_error_callback};

use crate::link::{Link, Say};

mod act;
mod events;
mod host;
mod job;
mod link;
mod migrate;

/// sysexits(3): wrong arguments, and input that is none of ours.
const USAGE: u8 = 64;
const DATA: u8 = 65;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let uri = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--uri", uri] => uri.to_owned(),
        ["--version"] => {
            println!("heartline-libvirt {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("heartline-libvirt is started by the agent: heartline-libvirt --uri URI");
            return ExitCode::from(USAGE);
        }
    };
    // It would print all errors.
    clear_error_callback();
    if let Err(error) = events::run_loop() {
        eprintln!("libvirt's event loop: {}", error.message());
        return ExitCode::FAILURE;
    }
    let say = sayer();
    say(Line::Hello {
        version: VERSION,
        libvirt: Connect::get_version().unwrap_or_default(),
    });
    serve(&Link::open(&uri, Arc::clone(&say)), &say)
}

/// Says lines, one at a time. When nobody reads them any more, all ends.
fn sayer() -> Say {
    let out = Mutex::new(io::stdout());
    Arc::new(move |line| {
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(&text).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    })
}

/// Takes requests until there are no more. Calls that hang are not waited for: the process ends over them.
fn serve(link: &Arc<Link>, say: &Say) -> ExitCode {
    let busy = Arc::new(AtomicUsize::new(0));
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = u64::try_from(LINE).unwrap_or(u64::MAX);
        match (&mut input).take(most).read_until(b'\n', &mut line) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(_) => {}
            Err(error) => {
                eprintln!("standard input: {error}");
                return ExitCode::FAILURE;
            }
        }
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                eprintln!("not a request: {error}");
                return ExitCode::from(DATA);
            }
        };
        if busy.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
            busy.fetch_sub(1, Ordering::Relaxed);
            let text = format!("{AT_ONCE} requests are under way already");
            let outcome = Outcome::Refused(Refusal {
                why: Why::Busy,
                text,
            });
            say(Line::Answer {
                id: request.id,
                outcome,
            });
            continue;
        }
        let (link, say, busy) = (Arc::clone(link), Arc::clone(say), Arc::clone(&busy));
        thread::spawn(move || {
            let Request { id, within_ms, ask } = request;
            let within = Duration::from_millis(within_ms);
            let outcome = match act::answer(&link, id, ask, within, &say) {
                Ok(answer) => Outcome::Done(answer),
                Err(refusal) => Outcome::Refused(refusal),
            };
            busy.fetch_sub(1, Ordering::Relaxed);
            say(Line::Answer { id, outcome });
        });
    }
}
