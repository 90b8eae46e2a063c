//! Who is in a cluster and who runs which world: what nodes agree on, in one database.
//!
//! A process is a new node at every start ([`NodeId`]), and has a lease that it renews; one that is declared dead never comes back. A world
//! has one owner at a time, and a generation that rises with every claim ([`crate::Store::claim`]). Where a world should run (its target)
//! is written by the one node that leads; the others only look at it. No clock of one machine is compared with another's: leases are
//! measured by the database's clock, and a node's own deadline by its own. Not here: deciding where worlds run, and carrying it out.

use crate::StoreError;
use aether_types::{Generation, ScriptId, Version, WorldId};
use std::time::Duration;

/// One life of a node's process. Never used twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub String);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node says about itself when it joins.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    /// The name that its operator gave it: the same after a restart.
    pub name: String,
    /// Where other nodes reach it, HOST:PORT.
    pub address: String,
    /// The version of its program.
    pub build: String,
    /// Worlds that it may run at most.
    pub worlds_max: u32,
    /// CPU seconds a second that it has for ticks.
    pub capacity: f64,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It takes worlds.
    Up,
    /// It gives its worlds away and takes none.
    Draining,
    /// It is gone. Final.
    Dead,
}

/// A node in the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// Which life of it.
    pub id: NodeId,
    /// What it said.
    pub info: NodeInfo,
    /// What it is doing.
    pub state: NodeState,
    /// What is left of its lease by the database's clock; zero if it is over.
    pub lease_left: Duration,
}

/// A world in the directory.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldRow {
    /// Its name.
    pub world: WorldId,
    /// Who runs it.
    pub owner: Option<NodeId>,
    /// The generation of the last claim.
    pub generation: Generation,
    /// The name of the node that should run it.
    pub target: Option<String>,
    /// An operator chose the target: placement leaves it alone while that node is up.
    pub pinned: bool,
    /// CPU seconds a second that its ticks need, as its owner last measured.
    pub load: f64,
}

/// How far a reload over the cluster has come. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReloadPhase {
    /// Nodes load and rehearse the version.
    Prepare,
    /// Worlds swap to it and watch it.
    Activate,
    /// It serves. Final.
    Committed,
    /// The version before goes on. Final.
    Aborted,
}

/// A reload that was written down before it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadRow {
    /// Its number, larger than those before it.
    pub id: u64,
    /// What is reloaded.
    pub script: ScriptId,
    /// To which version.
    pub version: Version,
    /// Who coordinates it.
    pub coordinator: NodeId,
    /// How far it is.
    pub phase: ReloadPhase,
    /// Why it was aborted.
    pub reason: String,
}

/// What the nodes of a cluster agree on. Everything is durable when it returns; every call has a deadline.
pub trait Directory: Send + Sync {
    /// Enter a new life, with a lease from now on. From then on the store's claims and releases are this node's.
    fn join(&self, info: &NodeInfo, lease: Duration) -> Result<NodeId, StoreError>;
    /// Hold the lease for as long again. [`StoreError::DeclaredDead`] if the others have given this node up. On a connection of its own:
    /// never behind other work.
    fn renew(&self, me: &NodeId, lease: Duration) -> Result<(), StoreError>;
    /// Up or draining, of a node that is not dead.
    fn set_state(&self, node: &NodeId, state: NodeState) -> Result<(), StoreError>;
    /// All nodes that are not dead, and those that died in the last hour, by name and start.
    fn nodes(&self) -> Result<Vec<NodeRow>, StoreError>;
    /// Declare dead every node whose lease is over; gives those that were not dead before. Only for a node whose own lease has held without
    /// a break for one lease's time: after an outage of the database the first to come back must not bury the others.
    fn bury_lapsed(&self) -> Result<Vec<NodeId>, StoreError>;
    /// Declare one node dead: oneself when one leaves, or a former life of oneself that certainly has ended.
    fn bury(&self, node: &NodeId) -> Result<(), StoreError>;

    /// Worlds that are to exist; those that do already stay as they are.
    fn add_worlds(&self, worlds: &[WorldId]) -> Result<(), StoreError>;
    /// All worlds, by name.
    fn worlds(&self) -> Result<Vec<WorldRow>, StoreError>;
    /// What the ticks of these worlds need; ignored for those that are not this node's.
    fn report_loads(&self, me: &NodeId, loads: &[(WorldId, f64)]) -> Result<(), StoreError>;
    /// Become or stay the one node that places worlds. `false`: another one that is not dead is.
    fn lead(&self, me: &NodeId) -> Result<bool, StoreError>;
    /// Where worlds should run. `pinned`: an operator says so. Placement itself (`leader`) is refused with `false`, and changes nothing, if
    /// that node does not lead; it does not touch worlds that are pinned to a node that is up. `None` as leader: an operator.
    fn set_targets(
        &self,
        leader: Option<&NodeId>,
        targets: &[(WorldId, Option<String>)],
        pinned: bool,
    ) -> Result<bool, StoreError>;

    /// Write down that a reload begins. `None`: one of the same script is not finished yet.
    fn begin_reload(&self, coordinator: &NodeId, script: ScriptId, version: Version) -> Result<Option<u64>, StoreError>;
    /// Go from one phase to the next; with [`ReloadPhase::Committed`] the version becomes the script's active one in the same transaction.
    /// `false`: it was not in that phase any more.
    fn advance_reload(&self, id: u64, from: ReloadPhase, to: ReloadPhase, reason: &str) -> Result<bool, StoreError>;
    /// A reload by its number, finished or not. Those that ended a day ago may be gone.
    fn reload(&self, id: u64) -> Result<Option<ReloadRow>, StoreError>;
    /// Reloads that are not finished.
    fn open_reloads(&self) -> Result<Vec<ReloadRow>, StoreError>;
}
