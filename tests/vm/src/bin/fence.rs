//! `fence_heartline_qmp`: a fence agent (FenceAgentAPI of ClusterLabs) for the lab's guests. It asks the lab's fence
//! device over TCP, and that ends the guest through QEMU's monitor.
//!
//! Parameters come as `key=value` lines on standard input: `action`, `ip` and `ipport` of the device, `plug`, the guest's name.
//! Exit status: 0 done (status: on), 2 status: off, 1 anything else.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

const DEADLINE: Duration = Duration::from_secs(10);
const OFF: u8 = 2;

const METADATA: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_heartline_qmp" shortdesc="Fence agent for Heartline's lab of QEMU guests">
<longdesc>Ends a guest of the lab through QEMU's monitor.</longdesc>
<vendor-url></vendor-url>
<parameters>
	<parameter name="action" unique="0" required="1"><getopt mixed="-o, --action=[action]"/><content type="string" default="reboot"/><shortdesc lang="en">Fencing action</shortdesc></parameter>
	<parameter name="ip" unique="0" required="1" obsoletes="ipaddr"><getopt mixed="-a, --ip=[ip]"/><content type="string"/><shortdesc lang="en">IP address of the fence device</shortdesc></parameter>
	<parameter name="ipport" unique="0" required="0"><getopt mixed="-u, --ipport=[port]"/><content type="integer" default="7100"/><shortdesc lang="en">TCP port of the fence device</shortdesc></parameter>
	<parameter name="plug" unique="0" required="1" obsoletes="port"><getopt mixed="-n, --plug=[id]"/><content type="string"/><shortdesc lang="en">Name of the guest</shortdesc></parameter>
</parameters>
<actions>
	<action name="off" automatic="0"/>
	<action name="reboot" automatic="0"/>
	<action name="status"/>
	<action name="monitor"/>
	<action name="metadata"/>
	<action name="validate-all"/>
</actions>
</resource-agent>"#;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("fence_heartline_qmp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8> {
    let mut text = String::new();
    std::io::stdin().take(1 << 16).read_to_string(&mut text)?;
    let value = |names: &[&str]| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(key, _)| names.contains(&key.trim()))
            .map(|(_, value)| value.trim().to_owned())
            .next_back()
    };
    let action = value(&["action", "option"]).unwrap_or_else(|| "reboot".to_owned());
    if action == "metadata" {
        println!("{METADATA}");
        return Ok(0);
    }
    let ip = value(&["ip", "ipaddr"]).context("no ip")?;
    let port = value(&["ipport"]).map_or(Ok(7100), |port| port.parse().context("ipport"))?;
    let plug = value(&["plug", "port", "nodename"]);
    let ask = |line: String| ask(&ip, port, &line);
    match action.as_str() {
        "validate-all" => Ok(0),
        "monitor" => ask("monitor".to_owned()).map(|_| 0),
        "status" | "off" | "reboot" => {
            let answer = ask(format!("{action} {}", plug.context("no plug")?))?;
            // As fencing.py does: the number alone also means wrong arguments.
            if action == "status" {
                println!("Status: {}", answer.to_uppercase());
            }
            Ok(if action == "status" && answer == "off" {
                OFF
            } else {
                0
            })
        }
        _ => bail!("no action {action:?}"),
    }
}

/// The word behind `ok`.
fn ask(ip: &str, port: u16, line: &str) -> Result<String> {
    let address = (ip, port)
        .to_socket_addrs()?
        .next()
        .with_context(|| format!("no address in {ip:?}"))?;
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)
        .with_context(|| format!("the fence device at {address}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match answer.trim().split_once(' ').unwrap_or((answer.trim(), "")) {
        ("ok", word) => Ok(word.to_owned()),
        ("error", why) => bail!("{why}"),
        _ => bail!("the fence device at {address} does not answer"),
    }
}
