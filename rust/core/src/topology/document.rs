//! The topology document: the one value that says who is in the cluster and who holds which slot.
//!
//! As bytes it is JSON. The canonical bytes have no spaces, sorted keys, UTF-8 unescaped, members sorted by id and
//! slots grouped by holders; the digest is the SHA-256 of them in hex. Unknown fields are ignored, so that an older
//! reader survives a newer writer during an upgrade. `tests/vectors/topology.json` pins bytes and digests.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::place::{MOST_REPLICAS, NONE, Placement, Settings, place};
use super::ring::{Member, NORMAL_WEIGHT, VIRTUAL_NODES};
use super::{MOST_MEMBERS, NOBODY, ranges};
use crate::slot::{SLOT_COUNT, slot_of};

/// The newest form of the document this code writes; a higher one is refused rather than half understood.
pub const FORMAT: u32 = 1;

/// What is wrong with a topology, in words for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyError(String);

impl TopologyError {
    pub fn new(why: impl Into<String>) -> TopologyError {
        TopologyError(why.into())
    }
}

impl fmt::Display for TopologyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for TopologyError {}

/// What the health service last saw of a node or proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Up,
    Down,
    /// Not judged yet. It is used like one that is up: a cluster without a health service knows no other state.
    #[default]
    Unknown,
}

/// A node or a proxy. Fields stand in alphabetical order, here and below, because that is the canonical order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub host: String,
    pub id: String,
    pub port: u16,
    #[serde(default)]
    pub rack: String,
    /// The life of its process that is meant, where data depends on it (with replication): after a restart it holds
    /// nothing of what it held, so it serves no slot until a topology names its new run. Empty: any run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    #[serde(default)]
    pub state: State,
    /// Path of its Unix socket for neighbours on the same host; empty when there is none.
    #[serde(default)]
    pub unix: String,
    /// Per cent of a normal share; 0 drains it.
    #[serde(default = "normal_weight")]
    pub weight: u32,
}

fn normal_weight() -> u32 {
    NORMAL_WEIGHT
}

/// Which cluster this is: a topology of another one must never be taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    pub id: String,
    pub name: String,
}

/// Slots on their way from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub from: String,
    pub id: String,
    pub ranges: String,
    pub state: String,
    pub to: String,
}

/// Slots with the same holders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Learners that hold all that was acknowledged, since nobody could acknowledge anything without them. What the
    /// health service remembers; nodes do not ask for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keepers: Vec<String>,
    /// Being filled, so they must not be promoted. One that is also among the replicas is joining: the main waits for
    /// it already, but the health service has not yet seen that it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<String>,
    pub main: String,
    pub ranges: String,
    /// In sync: the main acknowledges a strict write once all of them hold it.
    #[serde(default)]
    pub replicas: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default)]
    cluster: Cluster,
    epoch: u64,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default = "newest_format")]
    format: u32,
    #[serde(default)]
    health: Vec<String>,
    #[serde(default)]
    moves: Vec<Move>,
    nodes: Vec<Node>,
    #[serde(default)]
    proxies: Vec<Node>,
    #[serde(default)]
    replicas: usize,
    #[serde(default)]
    slots: Vec<Group>,
    #[serde(default = "normal_virtual_nodes")]
    virtual_nodes: u32,
}

fn newest_format() -> u32 {
    FORMAT
}

fn normal_virtual_nodes() -> u32 {
    VIRTUAL_NODES
}

/// A topology that holds together: every name in it is known, every slot has one main at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub cluster: Cluster,
    /// Rises with every change; the higher one is obeyed. 0 is a static configuration that any published one outranks.
    pub epoch: u64,
    /// Features that are switched on, such as `replication`.
    pub flags: Vec<String>,
    /// Addresses (`http://host:port`) of the health services.
    pub health: Vec<String>,
    pub moves: Vec<Move>,
    /// Copies of every slot besides the main that are wanted.
    pub replicas: usize,
    pub virtual_nodes: u32,
    nodes: Vec<Node>,
    proxies: Vec<Node>,
    placement: Placement,
    /// Without mains: what stands there as replicas are the learners.
    learners: Placement,
    /// As `learners`.
    keepers: Placement,
}

impl Document {
    /// A topology without a health service: the ring alone decides, so all who know these nodes agree.
    pub fn of_static_nodes(cluster: Cluster, nodes: Vec<Node>, settings: &Settings) -> Result<Document, TopologyError> {
        let mut document = Document {
            cluster,
            epoch: 0,
            flags: Vec::new(),
            health: Vec::new(),
            moves: Vec::new(),
            replicas: settings.replicas,
            virtual_nodes: settings.virtual_nodes,
            nodes: judged(nodes, "nodes")?,
            proxies: Vec::new(),
            placement: Placement::empty(settings.replicas),
            learners: Placement::empty(0),
            keepers: Placement::empty(0),
        };
        document.placement = place(&document.members(), None, settings)?;
        Ok(document)
    }

    pub fn parse(bytes: &[u8]) -> Result<Document, TopologyError> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|error| TopologyError::new(format!("topology: {error}")))?;
        let refuse = |why: String| Err(TopologyError::new(why));
        if wire.format > FORMAT {
            return refuse(format!(
                "topology: format {} is newer than {FORMAT}, which this release reads",
                wire.format
            ));
        }
        if wire.replicas > MOST_REPLICAS {
            return refuse(format!("replicas: {} are more than {MOST_REPLICAS}", wire.replicas));
        }
        let nodes = judged(wire.nodes, "nodes")?;
        let proxies = judged(wire.proxies, "proxies")?;
        let placement = from_groups(&wire.slots, &nodes, wire.replicas, Strangers::Refused)?;
        let learners = others_from(&wire.slots, &nodes, "learner", |group| &group.learners)?;
        let keepers = others_from(&wire.slots, &nodes, "keeper", |group| &group.keepers)?;
        for one in &wire.moves {
            ranges::from_text(&one.ranges)?;
        }
        let mut flags = wire.flags;
        flags.sort_unstable();
        flags.dedup();
        let mut moves = wire.moves;
        moves.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(Document {
            cluster: wire.cluster,
            epoch: wire.epoch,
            flags,
            health: wire.health,
            moves,
            replicas: wire.replicas,
            virtual_nodes: wire.virtual_nodes,
            nodes,
            proxies,
            placement,
            learners,
            keepers,
        })
    }

    /// The bytes everybody agrees on.
    pub fn canonical(&self) -> Vec<u8> {
        let wire = Wire {
            cluster: self.cluster.clone(),
            epoch: self.epoch,
            flags: self.flags.clone(),
            format: FORMAT,
            health: self.health.clone(),
            moves: self.moves.clone(),
            nodes: self.nodes.clone(),
            proxies: self.proxies.clone(),
            replicas: self.replicas,
            slots: to_groups(&self.placement, Some((&self.learners, &self.keepers)), &self.nodes),
            virtual_nodes: self.virtual_nodes,
        };
        serde_json::to_vec(&wire).expect("strings and numbers always become JSON")
    }

    /// SHA-256 of the canonical bytes, in hex.
    pub fn digest(&self) -> String {
        digest_of(&self.canonical())
    }

    /// Sorted by id; the indexes of [`Document::main`] and [`Document::replicas_of`] point here.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn proxies(&self) -> &[Node] {
        &self.proxies
    }

    /// The index of the node that is the main of `slot`, or [`NOBODY`].
    #[inline]
    pub fn main(&self, slot: u16) -> u16 {
        self.placement.main(slot)
    }

    /// The indexes of the nodes that hold replicas of `slot`.
    pub fn replicas_of(&self, slot: u16) -> &[u16] {
        self.placement.replicas(slot)
    }

    /// The indexes of the nodes that are being filled with `slot`; one that is a replica as well is joining.
    pub fn learners_of(&self, slot: u16) -> &[u16] {
        self.learners.replicas(slot)
    }

    /// The node that owns `key`, unless its slot has none.
    #[inline]
    pub fn node_of(&self, key: &[u8]) -> Option<&Node> {
        self.nodes.get(usize::from(self.main(slot_of(key))))
    }

    pub fn index_of(&self, id: &str) -> Option<u16> {
        self.nodes.binary_search_by(|node| node.id.as_str().cmp(id)).ok().map(|index| index as u16)
    }

    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    pub fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    pub fn members(&self) -> Vec<Member> {
        self.nodes.iter().map(member_of).collect()
    }
}

pub(super) fn member_of(node: &Node) -> Member {
    Member { id: node.id.clone(), host: node.host.clone(), rack: node.rack.clone(), weight: node.weight }
}

pub fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sorted by id, with ids that can stand in logs, labels and ring labels, each once.
fn judged(mut nodes: Vec<Node>, field: &str) -> Result<Vec<Node>, TopologyError> {
    let refuse = |why: String| Err(TopologyError::new(format!("{field}: {why}")));
    if nodes.len() > MOST_MEMBERS {
        return refuse(format!("{} are more than {MOST_MEMBERS}", nodes.len()));
    }
    nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    for node in &nodes {
        judge_id(&node.id).map_err(|why| TopologyError::new(format!("{field}: {why}")))?;
        if node.host.is_empty() || node.host.len() > 253 || node.host.contains(|c: char| c.is_whitespace()) {
            return refuse(format!("{}: {:?} is no host", node.id, node.host));
        }
        if node.port == 0 && node.unix.is_empty() {
            return refuse(format!("{}: neither a port nor a Unix socket is given", node.id));
        }
        if node.weight > 100_000 {
            return refuse(format!("{}: weight {} is above 100000", node.id, node.weight));
        }
    }
    if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return refuse(format!("{} is listed twice", pair[0].id));
    }
    Ok(nodes)
}

pub(super) fn judge_id(id: &str) -> Result<(), TopologyError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-@".contains(&byte);
    if id.is_empty() || id.len() > 128 || !id.bytes().all(plain) {
        return Err(TopologyError::new(format!(
            "{id:?} is no id: use 1 to 128 letters, digits, dots, colons, dashes, underscores or @"
        )));
    }
    Ok(())
}

/// What to make of a holder that is not among the nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strangers {
    Refused,
    /// In a previous placement, members may have left since.
    Forgotten,
}

pub(super) fn from_groups(
    groups: &[Group],
    nodes: &[Node],
    replicas: usize,
    strangers: Strangers,
) -> Result<Placement, TopologyError> {
    let refuse = |why: String| Err(TopologyError::new(format!("slots: {why}")));
    let by_id: HashMap<&str, u16> =
        nodes.iter().enumerate().map(|(index, node)| (node.id.as_str(), index as u16)).collect();
    let find = |id: &str| match by_id.get(id) {
        Some(&index) => Ok(index),
        None if id.is_empty() || strangers == Strangers::Forgotten => Ok(NOBODY),
        None => Err(TopologyError::new(format!("slots: {id:?} is not among the nodes"))),
    };
    let stride = groups.iter().map(|group| group.replicas.len()).max().unwrap_or(0).max(replicas);
    if stride > MOST_REPLICAS {
        return refuse(format!("{stride} replicas of one slot are more than {MOST_REPLICAS}"));
    }
    let mut placement = Placement::empty(stride);
    let mut given = vec![false; usize::from(SLOT_COUNT)];
    for group in groups {
        let main = find(&group.main)?;
        let mut copies = Vec::with_capacity(group.replicas.len());
        for id in &group.replicas {
            let index = find(id)?;
            if index != NOBODY && (index == main || copies.contains(&index)) {
                return refuse(format!("{id} holds two copies of {}", group.ranges));
            }
            if index != NOBODY {
                copies.push(index);
            }
        }
        for slot in ranges::from_text(&group.ranges)? {
            if std::mem::replace(&mut given[usize::from(slot)], true) {
                return refuse(format!("slot {slot} is given twice, the second time to {}", group.main));
            }
            placement.mains[usize::from(slot)] = main;
            placement.replicas[usize::from(slot) * stride..][..copies.len()].copy_from_slice(&copies);
        }
    }
    Ok(placement)
}

/// The learners alone, or the keepers, as replicas of a placement without mains.
fn others_from(
    groups: &[Group],
    nodes: &[Node],
    what: &str,
    of: impl Fn(&Group) -> &Vec<String>,
) -> Result<Placement, TopologyError> {
    let mut only = Vec::new();
    for group in groups.iter().filter(|group| !of(group).is_empty()) {
        if of(group).contains(&group.main) {
            return Err(TopologyError::new(format!("slots: {} is its own {what} of {}", group.main, group.ranges)));
        }
        let (ranges, replicas) = (group.ranges.clone(), of(group).clone());
        only.push(Group { ranges, replicas, ..Group::default() });
    }
    from_groups(&only, nodes, 0, Strangers::Refused)
}

/// Main, replicas, learners, keepers.
type Holders<'a> = (u16, &'a [u16], &'a [u16], &'a [u16]);

/// Whether two are the same. Most have no copies at all, and nothing need not be compared.
fn same(a: &Holders<'_>, b: &Holders<'_>) -> bool {
    let alike = |a: &[u16], b: &[u16]| a.len() == b.len() && (a.is_empty() || a == b);
    a.0 == b.0 && alike(a.1, b.1) && alike(a.2, b.2) && alike(a.3, b.3)
}

/// `others`: learners and keepers, where there are any.
pub(super) fn to_groups(placement: &Placement, others: Option<(&Placement, &Placement)>, nodes: &[Node]) -> Vec<Group> {
    let mut groups: Vec<(Holders<'_>, Vec<u16>)> = Vec::new();
    let mut known: HashMap<Holders<'_>, usize, foldhash::fast::RandomState> = HashMap::default();
    // Slots lie scattered over the nodes, but those of one main mostly have the same copies as the one before.
    let mut latest = vec![usize::MAX; nodes.len() + 1];
    for slot in 0..SLOT_COUNT {
        let (main, replicas) = (placement.main(slot), placement.replicas(slot));
        let (learners, keepers) = others
            .map_or((&NONE[..0], &NONE[..0]), |(learners, keepers)| (learners.replicas(slot), keepers.replicas(slot)));
        if main != NOBODY || !replicas.is_empty() || !learners.is_empty() {
            let holders = (main, replicas, learners, keepers);
            let latest = &mut latest[usize::from(main).min(nodes.len())];
            if groups.get(*latest).is_none_or(|(of, _)| !same(of, &holders)) {
                *latest = *known.entry(holders).or_insert(groups.len());
                if *latest == groups.len() {
                    groups.push((holders, Vec::new()));
                }
            }
            groups[*latest].1.push(slot);
        }
    }
    let mut ordered = groups;
    ordered.sort_unstable();
    let name = |index: u16| nodes.get(usize::from(index)).map_or(String::new(), |node| node.id.clone());
    ordered
        .into_iter()
        .map(|((main, replicas, learners, keepers), slots)| Group {
            keepers: keepers.iter().map(|&index| name(index)).collect(),
            learners: learners.iter().map(|&index| name(index)).collect(),
            main: name(main),
            ranges: ranges::to_text(slots),
            replicas: replicas.iter().map(|&index| name(index)).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Node {
        Node {
            host: format!("host-{id}"),
            id: id.into(),
            port: 7001,
            rack: String::new(),
            run: String::new(),
            state: State::Unknown,
            unix: String::new(),
            weight: 100,
        }
    }

    fn sample(replicas: usize) -> Document {
        let nodes = (0..5).map(|n| node(&format!("n{n}"))).collect();
        let cluster = Cluster { id: "c1".into(), name: "Küche".into() };
        Document::of_static_nodes(cluster, nodes, &Settings { replicas, ..Settings::default() }).unwrap()
    }

    #[test]
    fn canonical_bytes_come_back_as_the_same_document() {
        for replicas in 0..3 {
            let document = sample(replicas);
            let again = Document::parse(&document.canonical()).unwrap();
            assert_eq!(again, document);
            assert_eq!(again.digest(), document.digest());
        }
    }

    #[test]
    fn every_key_has_a_node_and_its_replica_is_another_one() {
        let document = sample(1);
        for key in [&b"a"[..], b"{user7}.name", b""] {
            assert!(document.node_of(key).is_some());
            let slot = slot_of(key);
            assert_eq!(document.replicas_of(slot).len(), 1);
            assert_ne!(document.replicas_of(slot)[0], document.main(slot));
        }
    }

    #[test]
    fn what_does_not_hold_together_is_refused_with_a_reason() {
        let cases = [
            ("", "topology: "),
            (r#"{"epoch":1}"#, "missing field `nodes`"),
            (r#"{"epoch":-1,"nodes":[]}"#, "topology: "),
            (r#"{"epoch":1,"format":99,"nodes":[]}"#, "format 99 is newer"),
            (r#"{"epoch":1,"nodes":[{"id":"a b","host":"h","port":1}]}"#, "is no id"),
            (r#"{"epoch":1,"nodes":[{"id":"a","host":"","port":1}]}"#, "is no host"),
            (r#"{"epoch":1,"nodes":[{"id":"a","host":"h","port":0}]}"#, "neither a port"),
            (r#"{"epoch":1,"nodes":[{"id":"a","host":"h","port":1},{"id":"a","host":"h","port":2}]}"#, "twice"),
            (r#"{"epoch":1,"nodes":[],"slots":[{"main":"x","ranges":"0"}]}"#, "\"x\" is not among the nodes"),
            (
                r#"{"epoch":1,"nodes":[{"id":"a","host":"h","port":1}],"slots":[{"main":"a","ranges":"0-5"},{"main":"a","ranges":"5"}]}"#,
                "slot 5 is given twice",
            ),
            (
                r#"{"epoch":1,"nodes":[{"id":"a","host":"h","port":1}],"slots":[{"main":"a","ranges":"0","replicas":["a"]}]}"#,
                "holds two copies",
            ),
            (
                r#"{"epoch":1,"nodes":[{"id":"a","host":"h","port":1}],"slots":[{"main":"a","ranges":"0","learners":["a"]}]}"#,
                "its own learner",
            ),
        ];
        for (text, reason) in cases {
            let error = Document::parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn learners_stand_beside_replicas_and_cost_nothing_where_there_are_none() {
        let text = r#"{"epoch":3,"nodes":[{"id":"a","host":"h","port":1},{"id":"b","host":"i","port":1}],
            "slots":[{"main":"a","ranges":"0-9","replicas":["b"],"learners":["b"]},{"main":"b","ranges":"10"}]}"#;
        let document = Document::parse(text.as_bytes()).unwrap();
        assert_eq!((document.replicas_of(9), document.learners_of(9)), (&[1][..], &[1][..]), "b is joining");
        assert!(document.learners_of(10).is_empty());
        let kept = text.replace(r#""learners":["b"]"#, r#""keepers":["b"],"learners":["b"]"#);
        let kept = String::from_utf8(Document::parse(kept.as_bytes()).unwrap().canonical()).unwrap();
        assert!(kept.contains(r#"{"keepers":["b"],"learners":["b"],"main":"a","ranges":"0-9","replicas":["b"]}"#));
        assert_eq!(Document::parse(&document.canonical()).unwrap(), document);
        assert!(!String::from_utf8(sample(1).canonical()).unwrap().contains("learners"));
    }

    #[test]
    fn unknown_fields_of_a_newer_writer_are_ignored() {
        let text = r#"{"epoch":3,"nodes":[{"id":"a","host":"h","port":1,"colour":"red"}],"later":[1,2]}"#;
        let document = Document::parse(text.as_bytes()).unwrap();
        assert_eq!((document.epoch, document.nodes().len()), (3, 1));
        assert!(document.node_of(b"key").is_none(), "no slots were given");
    }
}
