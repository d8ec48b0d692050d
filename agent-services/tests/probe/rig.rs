//! A namespace per test, servers as child processes, and servers made of a few lines.

use std::{
    fs::File,
    future::Future,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent_services::probe::{Kind, On, Probe, Verdict};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::net::{TcpListener, UdpSocket};

/// For what should not take long, on a machine that does much else.
pub const GENEROUS: Duration = Duration::from_secs(60);

/// Runs a test in a network namespace of its own: on a thread that dies with it, as do the threads that it starts.
pub fn alone<F: Future>(test: impl FnOnce() -> F + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a network namespace of its own, which needs root");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("the program ip").success());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.unwrap();
        let most = Duration::from_secs(300);
        let done = runtime.block_on(async { tokio::time::timeout(most, test()).await });
        runtime.shutdown_background();
        assert!(done.is_ok(), "the test hangs");
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What a test that runs elsewhere is given, in its environment.
pub const GIVEN: &str = "HEARTLINE_TEST_GIVEN";

/// Runs an ignored test of this program in a process of its own, in this thread's namespace.
pub fn elsewhere(test: &str, given: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored"])
        .env(GIVEN, given);
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A server in the foreground, killed with all that it started when this goes out of scope.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it says goes to a file in `dir`.
    pub fn start(dir: &Path, argv: &[&str]) -> Server {
        let log = dir.join("log");
        let out = File::create(&log).unwrap();
        let mut command = Command::new(argv[0]);
        command
            .args(&argv[1..])
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .process_group(0);
        // SAFETY: prctl alone is called between fork and exec; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let child = command.spawn().unwrap_or_else(|e| {
            panic!(
                "{} is needed for this test (cargo xtask test installs it): {e}",
                argv[0]
            )
        });
        Server { child, log }
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Stops it as a frozen machine would.
    pub fn freeze(&self) {
        killpg(self.group(), Signal::SIGSTOP).unwrap();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        killpg(self.group(), Signal::SIGCONT).unwrap();
    }

    /// Asks until the answer is good.
    pub async fn ready(&mut self, probe: &Probe) {
        let until = Instant::now() + GENEROUS;
        loop {
            let verdict = probe.run().await;
            if matches!(verdict, Verdict::Good(_)) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < until,
                "{ended:?}, {verdict:?}: {}",
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A folder that the servers' own users may enter.
pub fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Writes a file into a folder, for its owner only, and says where.
pub fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A probe that waits for as long as it takes.
pub fn patient(kind: Kind) -> Probe {
    Probe {
        name: "p".into(),
        kind,
        interval: Duration::from_secs(1),
        timeout: GENEROUS,
        rise: 1,
        fall: 1,
        on: On::Owner,
    }
}

/// One that is soon through with it, for servers that never will be.
pub fn hasty(kind: Kind) -> Probe {
    Probe {
        timeout: Duration::from_millis(400),
        ..patient(kind)
    }
}

/// Asks; the answer must be good. Gives its text.
pub async fn good(probe: &Probe) -> String {
    match probe.run().await {
        Verdict::Good(answer) => answer.text,
        other => panic!("{other:?} of {probe:?}"),
    }
}

/// Asks; the verdict must be bad, with all of these in its text. A hasty probe may have been kept from running.
pub async fn bad(probe: &Probe, with: &[&str]) {
    let until = Instant::now() + GENEROUS;
    loop {
        match probe.run().await {
            Verdict::Bad(text) if with.iter().all(|w| text.contains(w)) => return,
            // The machine was too slow to see in time what there was to see.
            Verdict::Bad(text)
                if text.starts_with("no answer within 400ms") && Instant::now() < until => {}
            Verdict::Bad(text) => panic!("{text:?}, wanted {with:?}"),
            Verdict::Unknown(text) if text.contains("too busy") && Instant::now() < until => {}
            other => panic!("{other:?} of {probe:?}"),
        }
    }
}

/// Asks until nobody listens any more: of a server with several processes, some may take a question with them.
pub async fn gone(probe: &Probe) {
    let until = Instant::now() + GENEROUS;
    let probe = hasty(probe.kind.clone());
    loop {
        match probe.run().await {
            Verdict::Bad(text) if text.contains("refused") => return,
            other => assert!(Instant::now() < until, "{other:?}"),
        }
    }
}

/// Asks; nothing can be told, with all of these in the text.
pub async fn unknown(probe: &Probe, with: &[&str]) {
    match probe.run().await {
        Verdict::Unknown(text) => assert!(
            with.iter().all(|w| text.contains(w)),
            "{text:?}, wanted {with:?}"
        ),
        other => panic!("{other:?} of {probe:?}"),
    }
}

/// A server that does this with each connection.
pub async fn tcp<F: Future + Send + 'static>(
    serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> SocketAddr
where
    F::Output: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that answers each datagram with these.
pub async fn udp(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            for reply in answer(&buffer[..n]) {
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    address
}

/// A port where nobody listens.
pub async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
