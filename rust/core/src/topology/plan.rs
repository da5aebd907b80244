//! Placement as JSON in, JSON out: what Python, the command line and Ansible ask for.
//!
//! Members are nodes as in the document (host and port may be missing, for plans of what does not exist yet). The
//! answer says who holds what, how evenly, and how much would move.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NOBODY;
use super::document::{Group, Node, State, Strangers, TopologyError, from_groups, judge_id, member_of, to_groups};
use super::place::{Placement, Settings, place};
use super::ring::{Member, NORMAL_WEIGHT};
use crate::slot::SLOT_COUNT;

#[derive(Deserialize)]
struct Asked {
    id: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    rack: String,
    #[serde(default)]
    weight: Option<u32>,
}

#[derive(Deserialize)]
struct Before {
    #[serde(default)]
    slots: Vec<Group>,
}

#[derive(Serialize)]
struct Answer {
    /// Slot by slot changes of the main, and copies that have to be made on a node that held none.
    copied: u32,
    loads: BTreeMap<String, Held>,
    moved: u32,
    slots: Vec<Group>,
}

#[derive(Serialize, Default)]
struct Held {
    /// Of `main`: how many come from elsewhere, and how many it had that go elsewhere.
    gained: u32,
    lost: u32,
    main: u32,
    replica: u32,
}

/// Place the slots on `members` (a JSON array); `previous` is a topology or an earlier answer.
pub fn plan(members: &[u8], previous: Option<&[u8]>, settings: &Settings) -> Result<Vec<u8>, TopologyError> {
    let wrong = |what: &str, error: serde_json::Error| TopologyError::new(format!("{what}: {error}"));
    let asked: Vec<Asked> = serde_json::from_slice(members).map_err(|error| wrong("members", error))?;
    let mut nodes = Vec::with_capacity(asked.len());
    for one in asked {
        judge_id(&one.id)?;
        let host = if one.host.is_empty() { one.id.clone() } else { one.host };
        let weight = one.weight.unwrap_or(NORMAL_WEIGHT);
        let unix = String::new();
        let run = String::new();
        nodes.push(Node { host, id: one.id, port: 0, rack: one.rack, run, state: State::Unknown, unix, weight });
    }
    nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let before = match previous {
        None => None,
        Some(bytes) => {
            let mut before: Before =
                serde_json::from_slice(bytes).map_err(|error| wrong("previous placement", error))?;
            for group in &mut before.slots {
                // A copy that is being made counts as one that exists: it would be made twice otherwise.
                let filling = std::mem::take(&mut group.learners);
                let fresh = filling.into_iter().filter(|id| !group.replicas.contains(id)).collect::<Vec<_>>();
                group.replicas.extend(fresh);
            }
            Some(from_groups(&before.slots, &nodes, 0, Strangers::Forgotten)?)
        }
    };
    let members: Vec<Member> = nodes.iter().map(member_of).collect();
    let placement = place(&members, before.as_ref(), settings)?;
    let answer = compare(&placement, before.as_ref(), &nodes);
    Ok(serde_json::to_vec(&answer).expect("strings and numbers always become JSON"))
}

fn compare(placement: &Placement, before: Option<&Placement>, nodes: &[Node]) -> Answer {
    let mut held: Vec<Held> = placement
        .loads(nodes.len())
        .into_iter()
        .map(|(main, replica)| Held { main, replica, ..Held::default() })
        .collect();
    let (mut moved, mut copied) = (0, 0);
    for slot in 0..SLOT_COUNT {
        let Some(before) = before else { break };
        let (old, new) = (before.main(slot), placement.main(slot));
        if old != new {
            moved += 1;
            held[usize::from(new)].gained += 1;
            if old != NOBODY {
                held[usize::from(old)].lost += 1;
            }
        }
        let had = |index: u16| old == index || before.replicas(slot).contains(&index);
        let holders = placement.replicas(slot).iter().copied().chain([new]);
        copied += holders.filter(|&index| !had(index)).count() as u32;
    }
    let loads = nodes.iter().map(|node| node.id.clone()).zip(held).collect();
    Answer { copied, loads, moved, slots: to_groups(placement, None, nodes) }
}
