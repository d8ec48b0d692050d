//! The real web server behind the VIP: one nginx per node, which answers with its node's name.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{exec, lab::Station};

const NGINX: &str = "/usr/sbin/nginx";

/// A running nginx; ended on drop.
#[derive(Debug)]
pub struct Web {
    child: Child,
}

impl Web {
    /// Starts nginx in a node's namespace, on any address, so that it serves the VIP when the
    /// node has it. Returns at once; see [`Web::wait`].
    ///
    /// # Errors
    /// nginx is not installed or does not start.
    pub fn start(station: &Station, dir: &Path) -> Result<Self> {
        if !Path::new(NGINX).exists() {
            bail!("{NGINX} is missing: apt-get install nginx-light (cargo xtask demo does it)");
        }
        let dir = dir.join(format!("nginx-{}", station.name));
        fs::create_dir_all(&dir)?;
        let config = write_config(&dir, &station.name)?;
        let log = File::create(dir.join("output.log"))?;
        let mut command = Command::new(NGINX);
        command
            .arg("-p")
            .arg(&dir)
            .arg("-e")
            .arg(dir.join("error.log"))
            .arg("-c")
            .arg(config);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        exec::tie_to_lab(&mut command);
        station.ns.apply(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {NGINX}"))?;
        Ok(Self { child })
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// It ended, or does not accept within 5 s.
    pub fn wait(&mut self, station: &Station) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let connected = station
                .ns
                .run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()))?;
            if connected {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("nginx of {} ended: {status}", station.name);
            }
            if Instant::now() > end {
                bail!("nginx of {} accepts no connection after 5 s", station.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        exec::end(&mut self.child, Duration::from_millis(500));
    }
}

fn write_config(dir: &Path, name: &str) -> Result<PathBuf> {
    let shown = dir.display();
    let mut text = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\nuser root;\n\
         pid {shown}/nginx.pid;\nerror_log {shown}/error.log warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  access_log off;\n  keepalive_timeout 0;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {kind}_temp_path {shown}/{kind};")?;
    }
    write!(
        text,
        "  server {{\n    listen 0.0.0.0:80 default_server;\n    \
         listen [::]:80 default_server ipv6only=on;\n    \
         location / {{ default_type text/plain; return 200 \"{name}\\n\"; }}\n  }}\n}}\n"
    )?;
    let path = dir.join("nginx.conf");
    fs::write(&path, text)?;
    Ok(path)
}
