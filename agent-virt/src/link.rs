//! The connection to the daemon: opened by one thread, which opens it anew when it has gone; all others get it or are told at
//! once why not.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use agent_virt_proto::message::{Line, Refusal, Why};
use virt::{connect::Connect, error::Error};

use crate::events::{Ended, Tell, Watch};

/// A daemon that says nothing is asked after so many seconds,
const KEEPALIVE_S: i32 = 3;
/// and given up after so many questions without an answer.
const KEEPALIVE_COUNT: u32 = 3;
/// Before the first new attempt, and the longest pause.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A connection that nobody complains of is looked at so often.
const LOOK: Duration = Duration::from_secs(5);

/// Says a line to the agent.
pub type Say = Arc<dyn Fn(Line) + Send + Sync>;

/// See the module.
pub struct Link {
    uri: String,
    say: Say,
    state: Mutex<State>,
    changed: Condvar,
    /// Somebody had an answer that sounds like a lost connection, or it was told.
    doubt: SyncSender<&'static str>,
}

enum State {
    /// The first attempt is under way.
    First,
    Up(Connect),
    Down(String),
}

impl Link {
    /// Begins to connect.
    pub fn open(uri: &str, say: Say) -> Arc<Link> {
        // One is enough: the keeper looks itself.
        let (doubt, doubts) = sync_channel(1);
        let link = Arc::new(Link {
            uri: uri.to_owned(),
            say,
            state: Mutex::new(State::First),
            changed: Condvar::new(),
            doubt,
        });
        let keeper = Arc::clone(&link);
        thread::spawn(move || keeper.keep(&doubts));
        link
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection; waits for the first attempt only.
    pub fn get(&self, wait: Duration) -> Result<Connect, Refusal> {
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, wait, |s| matches!(s, State::First))
            .unwrap_or_else(PoisonError::into_inner);
        let text = match &*state {
            State::Up(connect) => return Ok(connect.clone()),
            State::Down(why) => why.clone(),
            State::First => format!("no connection to {} within {wait:?}", self.uri),
        };
        Err(Refusal {
            why: Why::Unreachable,
            text,
        })
    }

    /// An answer sounded like a lost connection.
    pub fn suspect(&self) {
        // The keeper lives as long as the process.
        let _ = self.doubt.try_send("the connection to libvirtd is broken");
    }

    fn set(&self, state: State) {
        let line = match &state {
            State::Up(_) => Some((true, String::new())),
            State::Down(why) => Some((false, why.clone())),
            State::First => None,
        };
        let before = {
            let mut held = self.state();
            let same = matches!((&*held, &state), (State::Down(a), State::Down(b)) if a == b);
            let before = std::mem::replace(&mut *held, state);
            self.changed.notify_all();
            (before, same)
        };
        if let (Some((up, why)), false) = (line, before.1) {
            (self.say)(Line::Link { up, why });
        }
        // Closed here, where nobody waits for it.
        drop(before.0);
    }

    fn keep(&self, doubts: &Receiver<&'static str>) {
        let mut pause = AGAIN.0;
        loop {
            while doubts.try_recv().is_ok() {}
            match self.connect() {
                Ok((connect, watch)) => {
                    pause = AGAIN.0;
                    self.set(State::Up(connect.clone()));
                    let why = loop {
                        let heard = doubts.recv_timeout(LOOK);
                        if !matches!(connect.is_alive(), Ok(true)) {
                            break heard.unwrap_or("the connection to libvirtd has ended");
                        }
                    };
                    self.set(State::Down(why.to_owned()));
                    drop(watch);
                }
                Err(error) => {
                    let why = format!("{} cannot be reached: {}", self.uri, error.message());
                    self.set(State::Down(why));
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    fn connect(&self) -> Result<(Connect, Watch), Error> {
        let connect = Connect::open(Some(&self.uri))?;
        // Drivers without a daemon have none.
        let _ = connect.set_keep_alive(KEEPALIVE_S, KEEPALIVE_COUNT);
        let say = Arc::clone(&self.say);
        let tell: Tell = Arc::new(move |event| say(Line::Event(event)));
        let doubt = self.doubt.clone();
        let ended: Ended = Arc::new(move |why| {
            let _ = doubt.try_send(why);
        });
        let watch = Watch::new(&connect, &tell, &ended)?;
        Ok((connect, watch))
    }
}
