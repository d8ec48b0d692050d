//! Services behind the group, with real agents: scripts that say in one file what they do on which node, in the order
//! in which it happens (all nodes are on one machine, so one file has one order). No times are asserted. Needs root.

mod bad_luck;
mod fencing;
mod groups;
mod maintenance;
mod moves;
mod outdate;
mod owner;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::until,
    trial::with_cluster,
};
use serde_json::Value;

/// A service starts and stops by then, however busy the machine is.
const LATE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A service is a file `NAME.NODE.up`. `NAME.hold-start` and `NAME.hold-stop` keep the verb from ending while they are
/// there, `NAME.NODE.no-stop` makes it fail, `NAME.NODE.bad` makes the probe say CRITICAL.
const SCRIPT: &str = r#"
dir=$1 name=$2 verb=$3
address=$(ip -4 -o address show dev eth0 | sed -n 's/.* 10\.77\.0\.\([1-9]\)\/.*/\1/p' | head -n 1)
node=n$address
up=$dir/$name.$node.up
say() { read -r uptime _ < /proc/uptime; echo "$uptime $node $name $1" >> "$dir/log"; }
case $verb in
    start)
        say start
        while [ -e "$dir/$name.hold-start" ]; do sleep 0.02; done
        : > "$up"
        say started
        ;;
    stop)
        [ -e "$up" ] || exit 0
        say stop
        while [ -e "$dir/$name.hold-stop" ]; do sleep 0.02; done
        [ -e "$dir/$name.$node.no-stop" ] && { say stuck; exit 1; }
        rm -f "$up"
        say stopped
        ;;
    status) [ -e "$up" ] || exit 3 ;;
    probe)
        [ -e "$dir/$name.$node.bad" ] && { echo "CRITICAL - asked to be bad"; exit 2; }
        echo "OK - fine"
        ;;
esac
exit 0
"#;

/// Where the services of a test leave their traces.
#[derive(Clone, Debug)]
struct Traces(PathBuf);

impl Traces {
    /// `node name verb` of each line, in order.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("log")).unwrap_or_default();
        let line = |l: &str| l.split_once(' ').map(|(_, rest)| rest.to_owned());
        text.lines().filter_map(line).collect()
    }

    /// How often a line is there.
    fn count(&self, line: &str) -> usize {
        self.log().iter().filter(|l| *l == line).count()
    }

    /// Where a line is for the last time.
    fn last(&self, line: &str) -> Option<usize> {
        self.log().iter().rposition(|l| l == line)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn make(&self, name: &str) -> Result<()> {
        fs::write(self.path(name), "").with_context(|| name.to_owned())
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.path(name)).with_context(|| name.to_owned())
    }

    fn is_up(&self, name: &str, node: &str) -> bool {
        self.path(&format!("{name}.{node}.up")).exists()
    }

    fn up(&self, name: &str) -> Vec<&'static str> {
        ["n1", "n2", "n3"]
            .into_iter()
            .filter(|n| self.is_up(name, n))
            .collect()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Traces) -> bool) -> Result<()> {
        if until(LATE, POLL, || Ok(holds(self)))? {
            return Ok(());
        }
        bail!(
            "never came: {what}; the services' log:\n{}",
            self.log().join("\n")
        )
    }

    /// Never does one node begin to start what another has not stopped.
    fn never_both(&self, name: &str) -> Result<()> {
        let mut holder: Option<String> = None;
        for line in self.log() {
            let words: Vec<&str> = line.split(' ').collect();
            let &[node, of, verb] = words.as_slice() else {
                bail!("a strange line: {line}")
            };
            if of != name {
                continue;
            }
            match verb {
                "start" => {
                    ensure!(
                        holder.as_deref().is_none_or(|h| h == node),
                        "{node} starts {name} while it is up on {holder:?}:\n{}",
                        self.log().join("\n")
                    );
                    holder = Some(node.to_owned());
                }
                "stopped" if holder.as_deref() == Some(node) => holder = None,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A resource of the group that the section is put into.
fn resource(dir: &Path, name: &str, more: &str) -> String {
    let (dir, script) = (dir.display(), dir.join("service.sh"));
    let verb = |verb: &str| {
        format!(
            "{verb} = [\"/bin/sh\", \"{}\", \"{dir}\", \"{name}\", \"{verb}\"]",
            script.display()
        )
    };
    format!(
        "\n[[group.resource]]\nname = \"{name}\"\nexec = {{ {}, {}, {} }}\nstatus_interval = \"100ms\"\n{more}\n",
        verb("start"),
        verb("stop"),
        verb("status")
    )
}

/// A second group.
fn second(more: &str) -> String {
    format!(
        "\n[[group]]\nname = \"late\"\nid = 1\nprefer = [\"n1\", \"n2\", \"n3\"]\n{more}\n\
         [[group.vip]]\naddress = \"10.77.0.101\"\ndevice = \"eth0\"\n"
    )
}

/// A cluster of three with these sections behind its group, and the traces of its services.
fn with_services(
    sections: impl FnOnce(&Path) -> String,
    before: impl FnOnce(&Traces) -> Result<()>,
    test: impl FnOnce(&mut Rig, &Traces) -> Result<()>,
) -> Result<()> {
    let spec = LabSpec::default();
    let lab = Lab::up(&spec)?;
    let traces = Traces(lab.dir().join("services"));
    fs::create_dir(&traces.0)?;
    fs::write(traces.path("service.sh"), SCRIPT)?;
    before(&traces)?;
    let text = config::text(&spec, &ConfigSpec::default()) + &sections(&traces.0);
    let cluster = Cluster::start(lab, &text, "cluster.key")?;
    with_cluster(cluster, |rig| {
        test(rig, &traces).with_context(|| format!("services:\n{}", traces.log().join("\n")))
    })
}

fn nothing(_: &Traces) -> Result<()> {
    Ok(())
}

fn group<'a>(status: &'a Value, name: &str) -> &'a Value {
    let groups = status["groups"].as_array().into_iter().flatten();
    groups
        .into_iter()
        .find(|g| g["name"] == name)
        .unwrap_or(&Value::Null)
}

fn phase(status: &Value, name: &str) -> String {
    group(status, name)["services"]["phase"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Waits until all agents say that the group is with somebody other than `not`, and runs there.
fn runs(rig: &mut Rig, name: &str, not: &str) -> Result<String> {
    rig.cluster
        .wait_for(&format!("{name} runs, and not on {not:?}"), LATE, |said| {
            !said.is_empty()
                && said.iter().all(|(node, s)| {
                    node == not
                        || s.as_ref().is_ok_and(|s| {
                            let owner = &group(s, name)["owner"];
                            owner.is_string() && owner != not && phase(s, name) == "running"
                        })
                })
        })?;
    let said = rig.cluster.statuses();
    let owner = said
        .iter()
        .filter(|(node, _)| node != not)
        .find_map(|(_, s)| {
            group(s.as_ref().ok()?, name)["owner"]
                .as_str()
                .map(str::to_owned)
        });
    owner.context("an owner")
}

fn another(node: &str) -> &'static str {
    if node == "n2" { "n3" } else { "n2" }
}

fn app(dir: &Path) -> String {
    resource(dir, "app", "")
}
