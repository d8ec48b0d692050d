//! For each part of rule 10, a history in which it matters.

use agent_common::{node_bit, rules::Rule};

use crate::{
    check::Broken,
    directed::Expectation,
    fault::{Fault, PlannedEnd},
    members::{AT_HOME, Generation},
    options::{MS, Options, Shape},
    rng::Rng,
};

const fn sees(rule: Rule) -> Expectation {
    Expectation {
        rule,
        masked_by: None,
        sees: Broken::TwoOwners,
        within: 20,
        strict: false,
    }
}

/// One line per part.
pub const EXPECTED: [Expectation; 7] = [
    sees(Rule::GenerationsApart),
    sees(Rule::OneMember),
    sees(Rule::LeaveHeard),
    sees(Rule::LeaveWaits),
    sees(Rule::JoinerProven),
    sees(Rule::RemovedStands),
    sees(Rule::MovedVipWaits),
];

/// Nodes 1 to 3, one more in each generation.
fn growing(to: u8) -> Vec<Generation> {
    (3..=to)
        .map(|n| Generation {
            members: (1 << n) - 1,
            home: AT_HOME,
        })
        .collect()
}

/// Options under which leaving `rule` out is seen soon. All rules hold in them. Group 0 is node 1's.
pub fn options(rule: Rule, seed: u64) -> Options {
    let mut r = Rng::new(seed, 9);
    let mut o = Options::calm(seed, Shape::new(5, 2));
    let mut script: Vec<(u64, Fault)> = Vec::new();
    let mut at = |ms: u64, f: Fault| script.push((ms * MS + r.between(0, 3 * MS), f));
    let cut = |from: u8, to: u8| Fault::Cut {
        from,
        to,
        links: u8::MAX,
        both: true,
    };
    let long_lease = |down: u64| Fault::Planned {
        node: 1,
        promise: 300 * MS,
        down: down * MS,
        end: PlannedEnd::Restart,
    };
    match rule {
        // Node 1 is heard by node 2 alone and stays behind; the others go on twice. Node 2 must not ack it any more.
        Rule::GenerationsApart => {
            o.generations = growing(5);
            for other in 3..=5 {
                at(350, cut(1, other));
            }
            at(20, Fault::Reload(4, 2));
            at(20, Fault::Reload(5, 3));
            for node in [2, 3] {
                at(420, Fault::Reload(node, 2));
            }
            for node in 2..=4 {
                at(560, Fault::Reload(node, 3));
            }
            at(1_400, Fault::Partition(0b11));
        }
        // Three new nodes at once outvote two of the old three.
        Rule::OneMember => {
            o.shape = Shape::new(6, 2);
            o.generations = vec![growing(3)[0], growing(6)[3]];
            for node in 4..=6 {
                at(20, Fault::Reload(node, 2));
            }
            at(480, Fault::Partition(0b11));
            at(500, Fault::Reload(3, 2));
        }
        // Node 3 comes up anew without nodes 1 and 2, and goes on to the new ones.
        Rule::LeaveHeard => {
            o.generations = growing(5);
            at(20, Fault::Reload(4, 2));
            at(20, Fault::Reload(5, 3));
            at(350, Fault::Partition(0b11));
            at(360, Fault::Reboot(3, 5 * MS));
            at(700, Fault::Reload(3, 2));
            for node in [3, 4] {
                at(760, Fault::Reload(node, 3));
            }
        }
        // Node 1 has a long lease from node 2. Nodes 2, 3, 4 enter the next generation, and without a pause nodes 3, 4 and 5
        // the one after it: nobody of them ever promised anything to node 1.
        Rule::LeaveWaits => {
            o.generations = growing(5);
            at(20, Fault::Reload(4, 2));
            at(20, Fault::Reload(5, 3));
            for other in 3..=5 {
                at(400, cut(1, other));
            }
            at(412, long_lease(260));
            for node in [2, 3] {
                at(450, Fault::Reload(node, 2));
            }
            for node in [3, 4] {
                at(500, Fault::Reload(node, 3));
            }
            at(500, Fault::Partition(0b11));
        }
        // Four new machines with the file of the last generation, and nobody else in sight.
        Rule::JoinerProven => {
            o.shape = Shape::new(7, 2);
            o.generations = growing(7);
            at(10, Fault::Partition(0b111));
            for node in 4..=7 {
                at(20, Fault::Reload(node, 5));
            }
        }
        // Node 1 is removed while its agent is away on a long lease.
        Rule::RemovedStands => {
            o.shape = Shape::new(4, 2);
            o.generations = vec![
                growing(4)[1],
                Generation {
                    members: 0b1111 & !node_bit(1),
                    home: AT_HOME,
                },
            ];
            at(412, long_lease(260));
            for node in 2..=4 {
                at(430, Fault::Reload(node, 2));
            }
        }
        // VIP 0 goes to group 1 while node 1's agent is away, and its gate stays open for group 0 on a long lease.
        _ => {
            o.shape = Shape::new(3, 2);
            let mut home = AT_HOME;
            home[0] = 1;
            o.generations = vec![
                growing(3)[0],
                Generation {
                    members: 0b111,
                    home,
                },
            ];
            at(412, long_lease(260));
            for node in 2..=3 {
                at(430, Fault::Reload(node, 2));
            }
        }
    }
    o.script = script;
    o.heal_at = 2_500 * MS;
    o
}
