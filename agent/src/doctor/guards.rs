//! What must end a node when it is to be ended: this machine's watchdog, and the devices that fence others.

use agent_services::{command::find, watchdog};

use super::{Finding, Machine, system::hypervisor};
use crate::config::{Config, Fence, Node, Role};
use crate::control::proto::{FenceStanding, StatusReport};

/// How the agent is called where a process is named.
const AGENT: &str = "(heartline)";

pub(super) fn watchdog(machine: &Machine, config: &Config, node: &Node) -> Vec<Finding> {
    if !config.holds_state(node.id) {
        return Vec::new();
    }
    let what = "watchdog";
    let Some(dog) = &config.watchdog else {
        return vec![Finding::warn(
            what,
            "none: should this node lose its lease and something stateful not stop, nothing ends it here",
            "add [watchdog] to the configuration, or make sure that [[fence]] reaches this node",
        )];
    };
    let device = dog.device.display();
    let look = match watchdog::look(&dog.device) {
        Ok(look) => look,
        Err(error) if dog.sysrq => {
            return vec![Finding::warn(
                what,
                error.to_string(),
                "until then the agent resets this machine by sysrq, unless it stands still itself",
            )];
        }
        Err(error) => {
            return vec![Finding::bad(
                what,
                error.to_string(),
                "without it nothing stateful is started here; `sysrq = true` in [watchdog] is the last resort",
            )];
        }
    };
    let identity = look
        .identity
        .as_deref()
        .unwrap_or("of a driver that the kernel does not show");
    let strangers: Vec<_> = look
        .held_by
        .iter()
        .filter(|p| !p.ends_with(AGENT))
        .cloned()
        .collect();
    if !strangers.is_empty() {
        return vec![Finding::bad(
            what,
            format!("{device} is in use by {}", strangers.join(", ")),
            "let it have another device, or stop it (systemd: RuntimeWatchdogSec=)",
        )];
    }
    let state = match (look.held_by.is_empty(), look.armed) {
        (false, _) => "armed by the agent",
        (true, true) => "armed, and nobody has it open",
        (true, false) => "not armed",
    };
    let mut all = vec![Finding::ok(what, format!("{device} ({identity}), {state}"))];
    if look.no_way_out {
        all.push(Finding::warn(
            "watchdog: nowayout",
            "once armed it cannot be disarmed: stopping the agent resets this machine",
            "load its driver without nowayout=1",
        ));
    }
    let host = hypervisor(machine);
    let against = watchdog::no_proof(identity, host.as_deref());
    if let Some(why) = against.filter(|_| dog.proof) {
        all.push(Finding::bad(
            "watchdog: proof",
            format!("`proof = true`, but {why}"),
            "remove `proof` from [watchdog] on all nodes, and fence by [[fence]]; until then nothing stateful is started here",
        ));
    }
    all
}

/// The devices that this node would use.
pub(super) fn fences(config: &Config, node: &Node, agent: Option<&StatusReport>) -> Vec<Finding> {
    if node.role == Role::Witness {
        return Vec::new();
    }
    let others = config.fences.iter().filter(|f| f.node != node.id);
    others.map(|f| fence(config, f, agent)).collect()
}

fn fence(config: &Config, fence: &Fence, agent: Option<&StatusReport>) -> Finding {
    let device = &fence.device;
    let what = format!("fence device {}", device.name);
    let ends = config
        .node_by_id(fence.node)
        .map_or("?", |n| n.name.as_str());
    let mend = format!("`heartline fence {ends} --test` asks it and touches nothing");
    if let Err(why) = find(&device.agent) {
        return Finding::bad(what, why, "install fence-agents, or correct `agent`");
    }
    if let Some(error) = device.secrets.iter().find_map(|s| s.read().err()) {
        return Finding::bad(what, error.to_string(), "see `secrets` of [[fence]]");
    }
    let said = agent.and_then(|a| a.fences.iter().find(|f| f.name == device.name));
    let Some(said) = said else {
        return Finding::warn(what, "not asked: no agent runs here that does", mend);
    };
    let ago = said.age_ms.map_or(0, |ms| ms / 1000);
    match said.state {
        FenceStanding::Good => Finding::ok(
            what,
            format!("answered {ago} s ago, within {} ms", said.took_ms),
        ),
        FenceStanding::Failing => Finding::bad(
            what,
            format!(
                "did not answer {ago} s ago, {} times in a row: {}",
                said.failures, said.text
            ),
            mend,
        ),
        FenceStanding::NotAsked | FenceStanding::Unknown => {
            Finding::warn(what, "the agent has not asked it yet", mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Level,
        tests::{Fake, expect},
    };
    use super::*;
    use crate::control::proto::FenceStatus;

    fn config(more: &str) -> Config {
        let node = |id| {
            format!(
                "[[node]]\nname = \"n{id}\"\nid = {id}\nlink = [{{ device = \"eth0\", address = \"10.77.0.{id}\" }}]\n"
            )
        };
        let nodes: String = (1..=3).map(node).collect();
        let text = format!(
            "cluster = \"c\"\n{nodes}[[group]]\nname = \"db\"\nid = 7\nprefer = [\"n1\", \"n2\"]\n\
             [[group.vip]]\naddress = \"10.77.0.100\"\ndevice = \"eth0\"\n\
             [[group.resource]]\nname = \"fs\"\nfilesystem = {{ device = \"/dev/x\", mount = \"/srv\", type = \"ext4\" }}\n{more}"
        );
        match Config::from_str(&text, "t.toml") {
            Ok(loaded) => loaded.config,
            Err(error) => panic!("{error}\n{text}"),
        }
    }

    fn node(config: &Config, id: u8) -> Node {
        config.node_by_id(id).expect("a node").clone()
    }

    #[test]
    fn watchdogs() {
        let fake = Fake::new(&[]);
        let look = |lines: &str, id: u8| {
            let config = config(lines);
            watchdog(&fake.machine(), &config, &node(&config, id))
        };
        expect(&look("", 1)[0], Level::Warn, &["none", "[watchdog]"]);
        assert_eq!(look("", 3), [], "n3 may own nothing");
        let absent = "[watchdog]\ndevice = \"/dev/no-such-watchdog\"\n";
        expect(
            &look(absent, 1)[0],
            Level::Bad,
            &["there is no", "nothing stateful"],
        );
        let sysrq = format!("{absent}sysrq = true\n");
        expect(&look(&sysrq, 1)[0], Level::Warn, &["there is no", "sysrq"]);
        let none = "[watchdog]\ndevice = \"/etc/passwd\"\n";
        expect(&look(none, 2)[0], Level::Bad, &["no watchdog"]);
    }

    #[test]
    fn fence_devices_are_as_the_agent_says() {
        let section = |node: &str, agent: &str| {
            format!("[[fence]]\nname = \"ipmi-{node}\"\nnode = \"{node}\"\nagent = \"{agent}\"\n")
        };
        let both = config(&(section("n1", "/bin/true") + &section("n2", "/bin/true")));
        let one = node(&both, 1);
        let said = |state, text: &str| StatusReport {
            fences: vec![FenceStatus {
                name: "ipmi-n2".into(),
                state,
                text: text.into(),
                failures: 3,
                age_ms: Some(9_000),
                ..FenceStatus::default()
            }],
            ..StatusReport::default()
        };
        let look = |said: Option<&StatusReport>| {
            let all = fences(&both, &one, said);
            assert_eq!(all.len(), 1, "not that which ends this node: {all:?}");
            all[0].clone()
        };
        expect(
            &look(None),
            Level::Warn,
            &["no agent runs here", "heartline fence n2 --test"],
        );
        expect(
            &look(Some(&said(FenceStanding::Good, ""))),
            Level::Ok,
            &["9 s ago"],
        );
        let dead = said(FenceStanding::Failing, "no route");
        expect(
            &look(Some(&dead)),
            Level::Bad,
            &["9 s ago", "3 times", "no route"],
        );
        let missing = config(&section("n2", "/no/such/agent"));
        let found = fences(&missing, &node(&missing, 1), None);
        expect(&found[0], Level::Bad, &["/no/such/agent", "fence-agents"]);
    }
}
