//! Services behind the group, with real agents: scripts that say in one file what they do on which node, in the order
//! in which it happens (all nodes are on one machine, so that one file has one order). No times are asserted. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec, agent,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    exec,
    interrupt::{pass, until},
    trial::{says, with_cluster},
};
use nix::sys::signal::Signal;
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

#[test]
fn a_move_stops_everything_before_it_starts_elsewhere() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "disk", "") + &resource(dir, "app", "");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        let before = t.log().len();
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        let log: Vec<_> = t.log().split_off(before);
        let expected = [
            format!("{old} app stop"),
            format!("{old} app stopped"),
            format!("{old} disk stop"),
            format!("{old} disk stopped"),
            format!("{new} disk start"),
            format!("{new} disk started"),
            format!("{new} app start"),
            format!("{new} app started"),
        ];
        ensure!(log == expected, "another order: {log:#?}");
        t.never_both("app")?;
        t.never_both("disk")?;
        rig.settle()?;
        ensure!(
            rig.wire_owner().as_deref() == Some(new),
            "the VIP did not follow"
        );
        Ok(())
    })
}

#[test]
fn what_dies_is_started_again_and_in_the_end_moves() -> Result<()> {
    let sections = |dir: &Path| {
        "\n[group.policy]\nrestarts = 2\nwindow = \"10min\"\nfailure_memory = \"10min\"\n"
            .to_owned()
            + &app(dir)
    };
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.remove(&format!("app.{old}.up"))?;
        t.wait("started again where it died", |t| {
            t.count(&format!("{old} app started")) == 2
        })?;
        ensure!(runs(rig, "web", "")? == old, "one death moved it");
        t.wait("given up there, and up elsewhere", |t| {
            let _ = fs::remove_file(t.path(&format!("app.{old}.up")));
            t.up("app").iter().any(|n| *n != old)
        })?;
        let new = runs(rig, "web", &old)?;
        rig.settle()?;
        ensure!(t.is_up("app", &new), "not up on {new}");
        says(rig, &new, "the old node has failed", |s| {
            group(s, "web")["unfit"][0]["node"] == *old
        })?;
        // It may go back once that is forgotten.
        ensure!(
            rig.cluster.agent(&new)?.cli(&["move", "web", &old])?.code == Some(1),
            "moved to where it failed"
        );
        rig.cluster.agent(&new)?.cli_ok(&["clear", "web"])?;
        says(rig, &new, "nobody is unfit", |s| {
            group(s, "web")["unfit"]
                .as_array()
                .is_some_and(Vec::is_empty)
        })?;
        rig.cluster.agent(&new)?.cli_ok(&["move", "web", &old])?;
        ensure!(runs(rig, "web", &new)? == old, "not back");
        rig.settle()
    })
}

#[test]
fn a_bad_probe_of_a_living_process_restarts_it_and_then_moves() -> Result<()> {
    let sections = |dir: &Path| {
        let (script, dir_text) = (dir.join("service.sh"), dir.display());
        let probe = format!(
            "\n[[group.probe]]\nname = \"ask\"\nexec = [\"/bin/sh\", \"{}\", \"{dir_text}\", \"app\", \"probe\"]\n\
             interval = \"100ms\"\ntimeout = \"5s\"\nfall = 2\nrise = 1\n",
            script.display()
        );
        "\n[group.policy]\nrestarts = 1\nwindow = \"10min\"\nfailure_memory = \"10min\"\n"
            .to_owned()
            + &app(dir)
            + &probe
    };
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.make(&format!("app.{old}.bad"))?;
        let new = runs(rig, "web", &old)?;
        ensure!(
            t.count(&format!("{old} app started")) == 2,
            "not tried once more where it was"
        );
        t.never_both("app")?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        rig.settle()
    })
}

#[test]
fn a_killed_agent_stops_what_is_left_when_it_is_back() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        rig.cluster.agent(&old)?.kill()?;
        let new = runs(rig, "web", &old)?;
        ensure!(t.is_up("app", &old), "nobody was there to stop it");
        rig.cluster.agent(&old)?.start()?;
        t.wait("what was left over is stopped", |t| !t.is_up("app", &old))?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        rig.settle()
    })
}

#[test]
fn an_owner_cut_off_stops_by_itself_and_another_starts() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        rig.cluster.lab.switch.cut(&old)?;
        let new = runs(rig, "web", &old)?;
        t.wait("the one cut off has stopped", |t| !t.is_up("app", &old))?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        Ok(())
    })
}

#[test]
fn something_stateful_waits_for_a_word_after_a_cut_and_not_after_a_move() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stateful = true");
    with_services(sections, nothing, |rig, t| {
        let first = runs(rig, "web", "")?;
        let old = another(&first).to_owned();
        rig.cluster.agent(&first)?.cli_ok(&["move", "web", &old])?;
        ensure!(
            runs(rig, "web", &first)? == old,
            "a planned move waits for nobody"
        );
        rig.cluster.lab.switch.cut(&old)?;
        rig.cluster
            .wait_for("another has it, and waits", LATE, |said| {
                said.iter().filter(|(node, _)| *node != old).all(|(_, s)| {
                    s.as_ref().is_ok_and(|s| {
                        let g = group(s, "web");
                        g["owner"].is_string() && g["owner"] != *old && phase(s, "web") == "blocked"
                    })
                })
            })?;
        let said = rig.cluster.statuses();
        let owner = said
            .iter()
            .filter(|(node, _)| *node != old)
            .find_map(|(_, s)| {
                group(s.as_ref().ok()?, "web")["owner"]
                    .as_str()
                    .map(str::to_owned)
            });
        let new = owner.context("an owner")?;
        says(rig, &new, "it says why, and what to do", |s| {
            let text = group(s, "web")["services"]["text"].as_str().unwrap_or("");
            text.contains(&old) && text.contains("heartline clear web --stopped-elsewhere")
        })?;
        pass(Duration::from_secs(1))?;
        ensure!(
            t.count(&format!("{new} app start")) == usize::from(new == first),
            "it started"
        );
        // The word counts where the group is; said elsewhere it is refused, with the place.
        let third = ["n1", "n2", "n3"]
            .into_iter()
            .find(|n| *n != old && *n != new);
        let third = third.context("a third")?;
        let out = rig
            .cluster
            .agent(third)?
            .cli(&["clear", "web", "--stopped-elsewhere"])?;
        ensure!(
            out.code == Some(1) && out.stderr.contains(&new),
            "said where it does nothing: {out:?}"
        );
        rig.cluster
            .agent(&new)?
            .cli_ok(&["clear", "web", "--stopped-elsewhere"])?;
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        ensure!(t.is_up("app", &new), "not up");
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        Ok(())
    })
}

#[test]
fn something_stateful_that_does_not_stop_stays_where_it_is() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stateful = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        t.make(&format!("app.{old}.no-stop"))?;
        let _ = rig
            .cluster
            .agent(&old)?
            .cli(&["move", "web", new, "--no-wait"])?;
        rig.cluster
            .wait_for("all say that it is stuck where it was", LATE, |said| {
                said.len() == 3
                    && said.iter().all(|(_, s)| {
                        s.as_ref().is_ok_and(|s| {
                            phase(s, "web") == "stuck" && group(s, "web")["owner"] == *old
                        })
                    })
            })?;
        pass(Duration::from_secs(1))?;
        ensure!(t.up("app") == [old.as_str()], "up: {:?}", t.up("app"));
        ensure!(
            t.log().iter().all(|l| l.starts_with(&old)),
            "something was started elsewhere"
        );
        // Mended: it runs on where it is, or where it was to go; never on both.
        t.remove(&format!("app.{old}.no-stop"))?;
        rig.cluster.agent(new)?.cli_ok(&["clear", "web"])?;
        runs(rig, "web", "")?;
        t.never_both("app")?;
        rig.settle()
    })
}

#[test]
fn what_keeps_running_runs_everywhere_and_a_move_stops_nothing() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "keep_running = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.wait("it runs on all nodes", |t| t.up("app").len() == 3)?;
        let new = another(&old);
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        rig.settle()?;
        ensure!(t.up("app").len() == 3, "up: {:?}", t.up("app"));
        ensure!(
            !t.log().iter().any(|l| l.ends_with(" stop")),
            "something was stopped"
        );
        // Where it dies on a standby it is started there, and nothing moves.
        t.remove(&format!("app.{old}.up"))?;
        t.wait("it is back", |t| t.is_up("app", &old))?;
        ensure!(runs(rig, "web", &old)? == new, "it moved");
        Ok(())
    })
}

#[test]
fn a_group_starts_after_the_one_it_waits_for() -> Result<()> {
    let sections =
        |dir: &Path| app(dir) + &second("after = [\"web\"]") + &resource(dir, "rest", "");
    let hold = |t: &Traces| t.make("app.hold-start");
    with_services(sections, hold, |rig, t| {
        rig.cluster.wait_for("the later one waits", LATE, |said| {
            said.iter().all(|(_, s)| {
                s.as_ref()
                    .is_ok_and(|s| phase(s, "late") == "blocked" && phase(s, "web") == "starting")
            })
        })?;
        let owner = rig.cluster.owner("late").context("an owner")?;
        says(rig, &owner, "it says what for", |s| {
            group(s, "late")["services"]["text"] == "waits for group web"
        })?;
        ensure!(t.up("rest").is_empty(), "started too early");
        t.remove("app.hold-start")?;
        runs(rig, "web", "")?;
        runs(rig, "late", "")?;
        let log = t.log();
        let at = |end: &str| log.iter().position(|l| l.ends_with(end));
        let (app, rest) = (at("app started"), at("rest start"));
        ensure!(app.is_some() && app < rest, "another order");
        Ok(())
    })
}

#[test]
fn a_reload_that_removes_a_group_stops_it() -> Result<()> {
    let sections = |dir: &Path| app(dir) + &second("") + &resource(dir, "rest", "");
    with_services(sections, nothing, |rig, t| {
        runs(rig, "web", "")?;
        runs(rig, "late", "")?;
        let path = rig.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let cut = text
            .find("\n[[group]]\nname = \"late\"")
            .context("the group")?;
        fs::write(&path, &text[..cut])?;
        for node in rig.cluster.answering() {
            rig.cluster.agent(&node)?.signal(Signal::SIGHUP)?;
        }
        t.wait("the service of the removed group has stopped", |t| {
            t.up("rest").is_empty()
        })?;
        rig.settle()?;
        runs(rig, "web", "")?;
        ensure!(
            !t.log().iter().any(|l| l.ends_with("app stop")),
            "the other group's was stopped, too"
        );
        Ok(())
    })
}

#[test]
fn a_hook_is_told_as_json() -> Result<()> {
    let sections = |dir: &Path| {
        let command = format!("cat >> {0}/hooked; echo >> {0}/hooked", dir.display());
        format!(
            "\n[[hook]]\nname = \"note\"\ncommand = [\"/bin/sh\", \"-c\", \"{command}\"]\nevents = [\"gained\"]\n"
        )
    };
    with_services(sections, nothing, |rig, t| {
        let old = rig.cluster.owner("web").context("an owner")?;
        let new = another(&old);
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        let told = |t: &Traces| {
            let text = fs::read_to_string(t.path("hooked")).unwrap_or_default();
            text.lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok())
                .any(|e| e["kind"] == "gained" && e["node"] == new && e["group"] == "web")
        };
        t.wait("the gain is told to the hook", told)?;
        rig.settle()
    })
}

#[test]
fn a_drain_waits_for_what_takes_long_to_stop() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        // Longer than any command waits for addresses alone.
        let slow = t.path("service.sh");
        fs::write(
            &slow,
            SCRIPT.replace("say stop\n", "say stop\n        sleep 11\n"),
        )?;
        rig.cluster.agent(&old)?.cli_ok(&["drain", &old])?;
        ensure!(
            t.last(&format!("{old} app stopped")).is_some(),
            "the drain did not wait"
        );
        runs(rig, "web", &old)?;
        t.never_both("app")?;
        rig.cluster.agent(&old)?.cli_ok(&["undrain", &old])?;
        rig.settle()
    })
}

/// `heartline` with more time than a question needs; its output and exit status.
fn slow_cli(socket: &Path, args: &[&str]) -> Result<exec::Output> {
    let mut command = Command::new(agent::binary()?);
    command.args(args).env("HEARTLINE_SOCKET", socket);
    exec::run(command, "", Duration::from_secs(120))
}

/// What `plan --node-down` says of each group: `group from to`.
#[test]
fn a_plan_without_the_owner_is_what_then_happens() -> Result<()> {
    let sections = |dir: &Path| app(dir) + &resource(dir, "base", "keep_running = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let asked = another(&old);
        let args = ["plan", "--node-down", &old, "--json"];
        let said: Value = serde_json::from_str(&rig.cluster.agent(asked)?.cli_ok(&args)?)?;
        let plan = &said["groups"][0];
        ensure!(
            said["quorum"] == true && plan["group"] == "web" && plan["from"] == *old,
            "{said}"
        );
        ensure!(plan["starts"] == 1 && plan["runs_there"] == 1, "{said}");
        let to = plan["to"].as_str().context("a node")?.to_owned();
        let text = rig
            .cluster
            .agent(asked)?
            .cli_ok(&["plan", "--node-down", &old])?;
        ensure!(text.contains(&format!("web: from {old} to {to}")), "{text}");
        // Who owns nothing is not missed; who is not there is refused.
        let idle = rig
            .cluster
            .agent(&old)?
            .cli_ok(&["plan", "--node-down", asked])?;
        ensure!(idle.contains("nothing moves"), "{idle}");
        let out = rig
            .cluster
            .agent(asked)?
            .cli(&["plan", "--node-down", "n9"])?;
        ensure!(out.code == Some(1) && out.stderr.contains("n9"), "{out:?}");
        ensure!(
            t.log().iter().all(|l| !l.ends_with(" stop")),
            "it did something"
        );
        rig.cluster.agent(&old)?.kill()?;
        ensure!(runs(rig, "web", &old)? == to, "it went elsewhere");
        let out = rig
            .cluster
            .agent(&to)?
            .cli(&["plan", "--node-down", &to, "--json"])?;
        ensure!(out.stdout.contains("\"quorum\":false"), "{out:?}");
        rig.cluster.agent(&old)?.start()?;
        rig.settle()
    })
}

#[test]
fn maintenance_waits_for_a_node_that_goes_and_comes_back() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let pid = rig.cluster.agent(&old)?.pid()?.to_string();
        let socket = rig.cluster.agent(another(&old))?.socket();
        let state = t.path("state").display().to_string();
        let node = old.clone();
        let command = std::thread::spawn(move || {
            // As a reboot does: the connection ends, and then the node is away.
            let line = format!("kill -9 {pid}; exit 255");
            slow_cli(
                &socket,
                &[
                    "maintain",
                    &node,
                    "--state-dir",
                    &state,
                    "--via",
                    "env VIA={node} sh -c",
                    "--settle",
                    "2s",
                    "--timeout",
                    "60s",
                    "--",
                    &line,
                ],
            )
        });
        let dead = until(LATE, POLL, || Ok(!rig.cluster.agent(&old)?.running()))?;
        if !dead {
            bail!("the command did not run: {:?}", command.join());
        }
        // It has run when the node owned nothing any more.
        ensure!(t.up("app").iter().all(|n| *n != old), "not drained first");
        ensure!(
            t.path("state").join("maintain.json").exists(),
            "nothing is written down"
        );
        let _ = rig.cluster.agent(&old)?.ended(Duration::from_secs(5))?;
        rig.cluster.agent(&old)?.start()?;
        let out = command.join().map_err(|_| anyhow::anyhow!("panic"))??;
        ensure!(out.code == Some(0), "{out:?}");
        let steps = [
            format!("draining {old}: gives up web"),
            format!("the connection to {old} has ended"),
            format!("{old} is away"),
            format!("{old} is back in use"),
            "maintenance is done".to_owned(),
        ];
        let mut rest = out.stdout.as_str();
        for step in &steps {
            let at = rest.find(step.as_str());
            let at = at.with_context(|| format!("no {step:?} in its place: {out:?}"))?;
            rest = &rest[at..];
        }
        ensure!(
            !t.path("state").join("maintain.json").exists(),
            "it is not forgotten"
        );
        t.never_both("app")?;
        rig.settle()
    })
}

#[test]
fn maintenance_of_all_goes_on_after_it_was_stopped() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        runs(rig, "web", "")?;
        let socket = rig.cluster.agent("n1")?.socket();
        let state = t.path("state").display().to_string();
        let ran = t.path("ran").display().to_string();
        let line = format!(
            "echo $HEARTLINE_MAINTAIN >> {ran}; [ $HEARTLINE_MAINTAIN != n3 ] || [ -e {ran}.ok ]"
        );
        let with = [
            "maintain",
            "--state-dir",
            &state,
            "--settle",
            "500ms",
            "--timeout",
            "60s",
        ];
        let first = [&with[..], &["--via", "env sh -c", "--all", "--", &line]].concat();
        let out = slow_cli(&socket, &first)?;
        ensure!(
            out.code == Some(1)
                && out.stderr.contains("on n3 the command failed")
                && out.stderr.contains("n3 is out of use")
                && out.stderr.contains("1 of 3 nodes are done"),
            "{out:?}"
        );
        // Nothing new over an old one, and no command twice unless somebody says so.
        let out = slow_cli(&socket, &first)?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("--resume"),
            "{out:?}"
        );
        let out = slow_cli(&socket, &[&with[..], &["--resume"]].concat())?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("--rerun"),
            "{out:?}"
        );
        fs::write(format!("{ran}.ok"), "")?;
        let out = slow_cli(&socket, &[&with[..], &["--resume", "--rerun"]].concat())?;
        ensure!(out.code == Some(0), "{out:?}");
        let nodes = fs::read_to_string(&ran)?;
        ensure!(nodes == "n2\nn3\nn3\nn1\n", "another order: {nodes:?}");
        // Not while it is not whole.
        rig.cluster.agent("n3")?.cli_ok(&["drain", "n3"])?;
        let out = slow_cli(&socket, &first)?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("not whole: n3 is drained"),
            "{out:?}"
        );
        rig.cluster.agent("n3")?.cli_ok(&["undrain", "n3"])?;
        t.never_both("app")?;
        rig.settle()
    })
}
