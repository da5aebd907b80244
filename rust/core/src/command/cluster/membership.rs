//! What this node knows of the cluster it belongs to: the topology in force, and which slots are its own.
//!
//! A node that was never given a topology serves every key. One that has one obeys the highest epoch it has
//! seen, and no other cluster's. What changed is carried out by [`obey`]: who waits for a key that now lives
//! elsewhere is sent there.

use super::super::client::Token;
use super::super::fault::Fault;
use super::super::settings::Name;
use super::super::{Engine, blocking};
use crate::replication;
use crate::replication::moves::{self, Moving};
use crate::slot::slot_of;
use crate::stream::SlotSet;
use crate::topology::document::{Document, Node};

/// The flag of a topology by which nodes copy to one another.
const REPLICATION: &str = "replication";

/// See the module's page.
pub struct Membership {
    /// The topology in force.
    pub document: Document,
    /// Of its canonical bytes.
    pub digest: String,
    /// Where we stand among its nodes; `None` when it does not name us.
    pub me: Option<u16>,
    /// Slots whose main we are.
    pub own: SlotSet,
    /// Slots of which we hold a copy that is in sync.
    pub copied: SlotSet,
    /// Whether the topology means this run of our process; otherwise we hold nothing of what it believes.
    pub in_force: bool,
    /// Whether all requests are strict.
    pub strict: bool,
    /// Moves of slots from us or to us.
    pub moves: Vec<Moving>,
}

impl Membership {
    /// The part that the node called `id` plays in a topology, in the run of its process that is called `run`.
    pub fn new(document: Document, digest: String, id: &str, run: &str) -> Membership {
        let me = document.index_of(id);
        let meant = me.map_or("", |me| document.nodes()[usize::from(me)].run.as_str());
        // Restarted since: we hold nothing of what the topology believes that we hold.
        let holds = me.filter(|_| meant.is_empty() || meant == run);
        let mut own = SlotSet::default();
        let mut copied = SlotSet::default();
        if let Some(me) = holds {
            for slot in 0..crate::slot::SLOT_COUNT {
                if document.main(slot) == me {
                    own.insert(slot);
                } else if document.flag(REPLICATION)
                    && document.replicas_of(slot).contains(&me)
                    && !document.learners_of(slot).contains(&me)
                {
                    copied.insert(slot);
                }
            }
        }
        let strict = document.flag("strict");
        let moves = holds.map_or_else(Vec::new, |me| moves::of(&document, me));
        Membership { document, digest, me, own, copied, in_force: holds.is_some(), strict, moves }
    }

    /// Whether nodes copy to one another.
    pub fn replicates(&self) -> bool {
        self.document.flag(REPLICATION)
    }

    /// Whether a node holds a copy of a slot, or is being filled with it.
    pub fn copies(&self, slot: u16, node: u16) -> bool {
        self.document.replicas_of(slot).contains(&node) || self.document.learners_of(slot).contains(&node)
    }

    /// Whether a slot moves from us to a node.
    pub fn moves_to(&self, slot: u16, node: u16) -> bool {
        self.moves.iter().any(|one| !one.incoming && one.peer == node && one.slots.contains(slot))
    }

    /// The node that is the main of a slot.
    pub fn main_of(&self, slot: u16) -> Option<&Node> {
        self.document.nodes().get(usize::from(self.document.main(slot)))
    }

    /// Where a client finds a slot, as `MOVED` says it.
    pub fn moved(&self, slot: u16) -> Fault {
        match self.main_of(slot) {
            Some(_) if self.me == Some(self.document.main(slot)) => {
                Fault::new("CLUSTERDOWN Hash slot not served: this node was restarted and does not hold it any more")
            }
            Some(node) => Fault::new(format!("MOVED {slot} {}:{}", node.host, node.port)),
            None => Fault::new("CLUSTERDOWN Hash slot not served"),
        }
    }

    /// Slots that have a main.
    pub fn assigned(&self) -> usize {
        (0..crate::slot::SLOT_COUNT).filter(|&slot| self.main_of(slot).is_some()).count()
    }
}

/// What a topology came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// It is in force now.
    Taken,
    /// It was in force already.
    Known,
}

/// This node's name in the cluster.
pub fn own_id(engine: &Engine) -> String {
    match engine.settings.text(Name::node_id) {
        "" => format!("node-{}", engine.settings.number(Name::port)),
        id => id.to_owned(),
    }
}

/// Whether a topology outranks the one in force; an error when it never may.
fn judge(engine: &Engine, document: &Document, digest: &str) -> Result<Obeyed, Fault> {
    let Some(now) = &engine.membership else {
        return Ok(Obeyed::Taken);
    };
    let (old, new) = (&now.document.cluster.id, &document.cluster.id);
    if !old.is_empty() && !new.is_empty() && old != new {
        return Err(Fault::new(format!("ERR this topology is of cluster {new}, and this node belongs to {old}")));
    }
    if document.epoch < now.document.epoch {
        let (theirs, ours) = (document.epoch, now.document.epoch);
        return Err(Fault::new(format!("STALE epoch {theirs} is older than {ours}")));
    }
    if document.epoch > now.document.epoch {
        return Ok(Obeyed::Taken);
    }
    if digest == now.digest {
        return Ok(Obeyed::Known);
    }
    Err(Fault::new(format!("STALE epoch {} is known with other contents; raise the epoch", document.epoch)))
}

/// Take a topology over, unless it is older than the one in force.
pub fn obey(engine: &mut Engine, document: Document) -> Result<Obeyed, Fault> {
    obey_after(engine, document, None)
}

/// The same, when a main of before is known to have obeyed it.
pub fn obey_after(engine: &mut Engine, document: Document, relieved: Option<&str>) -> Result<Obeyed, Fault> {
    let digest = document.digest();
    obey_digested(engine, document, digest, relieved)
}

/// The same, of one whose digest was worked out before: clients wait for us, and it takes longer than all the rest.
pub fn obey_digested(
    engine: &mut Engine,
    document: Document,
    digest: String,
    relieved: Option<&str>,
) -> Result<Obeyed, Fault> {
    if judge(engine, &document, &digest)? == Obeyed::Known {
        return Ok(Obeyed::Known);
    }
    let membership = Membership::new(document, digest, &own_id(engine), &engine.run_id);
    let before = engine.membership.replace(Box::new(membership));
    replication::reconcile(engine, before.as_deref(), relieved);
    send_on(engine);
    Ok(Obeyed::Taken)
}

/// Tell those who wait for keys that are not ours any more where to go.
fn send_on(engine: &mut Engine) {
    let Some(membership) = &engine.membership else { return };
    let lost: Vec<(Token, Fault)> = engine
        .clients
        .iter()
        .filter_map(|client| {
            let blocked = client.blocked.as_ref()?;
            let slot = blocked.keys.iter().map(|key| slot_of(key)).find(|&slot| !membership.own.contains(slot))?;
            Some((client.token, membership.moved(slot)))
        })
        .collect();
    for (token, fault) in lost {
        blocking::unblock(engine, token, Some(&fault));
    }
}
