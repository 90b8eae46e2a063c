//! This node's part in a cluster: it holds a lease, runs the worlds that are meant for it, and gives away those that are not.
//!
//! Start with [`Member`]. Everything follows from the directory: a round reads it ([`view`]), starts and releases what it says, and, on the
//! one node that leads, says where worlds should run. First start, move, drain and failover are one path. Links only make it quick: a
//! node that changed something tells the others to look, and what they would see anyway they see at once. Two threads of its own: one
//! renews the lease ([`keeper`]) and does nothing else, one makes rounds. Not here: the other nodes (`peers`), what people ask (`operate`),
//! links themselves (`link`), who should run what (`placement`).

mod answer;
mod keeper;
pub(crate) mod lease;
mod operate;
mod peers;
pub(crate) mod stage;
pub(crate) mod status;
mod traces;
mod view;
pub(crate) mod wire;

use crate::config::{ClusterSection, MemberSpec};
use crate::events::NodeEvent;
use crate::link::{LinkConfig, LinkEvent, LinkLimits, Links, Peer};
use crate::node::supervisor::NodeMessage;
use crate::node::{NodeError, Services};
use crate::placement::{self, NodeInput, Plan, Rules, WorldInput};
use crate::trace;
use crate::world::mailbox::Mailbox;
use crate::world::start::WorldPlan;
use aether_store::{Directory, NodeId, NodeInfo, NodeRow, NodeState, Store, StoreError};
use aether_types::WorldId;
use lease::{Lease, boottime_ns};
use ractor::ActorRef;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use traces::Traces;
use view::View;
use wire::{Answer, Frame, TraceOf};

/// Worlds that are being released at a time.
const RELEASES_MAX: usize = 16;
/// Before one that could not be released is tried again.
const RELEASE_AGAIN: Duration = Duration::from_secs(10);
/// Between two reports of what worlds need.
const REPORT: Duration = Duration::from_secs(5);
/// Between two looks at whether versions or reloads were missed.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Questions of other nodes that are worked on at a time: each may compile.
const ANSWERS_MAX: usize = 32;
/// Before a peer whose link broke is asked whether anybody listens there, again and again.
const PROBE: Duration = Duration::from_millis(80);
const PROBES: usize = 3;
/// That much of all capacity is shared out to worlds for being there, whatever they need: idle worlds are spread too, and a node that
/// comes gets some.
const SPREAD: f64 = 0.25;
/// What a world needs that was never measured: a hundredth of a core.
const LOAD_UNKNOWN: f64 = 0.01;

/// Moves of one round whose trace is told to the other nodes.
const ANNOUNCED_MAX: usize = 64;

/// The parts of a node that it moves worlds in and out of.
struct Parts {
    services: Arc<Services>,
    supervisor: ActorRef<NodeMessage>,
    plans: HashMap<WorldId, WorldPlan>,
}

/// See the file.
pub(crate) struct Member {
    section: ClusterSection,
    me: MemberSpec,
    directory: Arc<dyn Directory>,
    store: Arc<dyn Store>,
    lease: Arc<Lease>,
    capacity: f64,
    id_file: PathBuf,
    id: Mutex<Option<NodeId>>,
    /// Since when every renewal was granted; 0 while the last one was not.
    unbroken_ns: AtomicU64,
    view: RwLock<Arc<View>>,
    links: OnceLock<Links>,
    /// Where its certificates are, and when they were written.
    identity: OnceLock<PathBuf>,
    identity_written: Mutex<Option<std::time::SystemTime>>,
    linked: Mutex<HashSet<String>>,
    parts: OnceLock<Parts>,
    runtime: tokio::runtime::Handle,
    look: Mutex<bool>,
    looked: Condvar,
    stopping: AtomicBool,
    /// An operator drains it: also in its next life.
    draining: AtomicBool,
    /// It has begun a life that no round has seen yet.
    reentered: AtomicBool,
    /// Its registry coordinates a reload.
    pub coordinating: AtomicBool,
    releasing: Mutex<HashSet<WorldId>>,
    /// Questions that wait for an answer, and whose.
    asks: Mutex<HashMap<u64, (String, oneshot::Sender<Answer>)>>,
    next_ask: AtomicU64,
    answering: Arc<tokio::sync::Semaphore>,
    /// Somebody looks for missed versions.
    catching_up: AtomicBool,
    /// Reloads whose end this node waits for.
    holding: Mutex<HashMap<u64, crate::registry::cluster::Holding>>,
    /// Worlds that are shown to gateways of other nodes, and worlds of other nodes that are shown here.
    stages: stage::Stages,
    /// Frames that this build does not know.
    pub unknown_frames: AtomicU64,
    /// When the last renewal of the lease that was granted was asked for.
    renewed_ns: AtomicU64,
    /// Renewals that failed, or came late.
    renewals_late: AtomicU64,
    traces: Mutex<Traces>,
    /// Held as long as the process lives: its data directory is nobody else's.
    _lock: std::fs::File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// Enter the cluster. From now on the lease is renewed; worlds come with [`Member::start`].
    pub fn join<S: Store + Directory + 'static>(
        section: &ClusterSection,
        me: &MemberSpec,
        store: Arc<S>,
        data_dir: &Path,
        capacity: f64,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Member>, NodeError> {
        let failed = |source| NodeError::Read { path: data_dir.to_owned(), source };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let lock_file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join("lock"));
        let lock_file = lock_file.map_err(failed)?;
        if lock_file.try_lock().is_err() {
            return Err(StoreError::Locked(data_dir.to_owned()).into());
        }
        let id_file = data_dir.join("node-id");
        // The directory was locked by whoever wrote it, who therefore is no more.
        if let Ok(former) = std::fs::read_to_string(&id_file) {
            store.bury(&NodeId(former.trim().to_owned()))?;
        }
        let alive = |row: &NodeRow| row.info.name == me.name && row.state != NodeState::Dead && !row.lease_left.is_zero();
        if let Some(other) = store.nodes()?.into_iter().find(alive) {
            return Err(NodeError::NameTaken { name: me.name.clone(), address: other.info.address, left: other.lease_left });
        }
        let member = Member {
            section: section.clone(),
            me: me.clone(),
            directory: Arc::clone(&store) as Arc<dyn Directory>,
            store,
            lease: Arc::new(Lease::none()),
            capacity,
            id_file,
            id: Mutex::default(),
            unbroken_ns: AtomicU64::new(0),
            view: RwLock::default(),
            links: OnceLock::new(),
            identity: OnceLock::new(),
            identity_written: Mutex::default(),
            linked: Mutex::default(),
            parts: OnceLock::new(),
            runtime,
            look: Mutex::new(false),
            looked: Condvar::new(),
            stopping: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            reentered: AtomicBool::new(false),
            coordinating: AtomicBool::new(false),
            releasing: Mutex::default(),
            asks: Mutex::default(),
            next_ask: AtomicU64::new(1),
            answering: Arc::new(tokio::sync::Semaphore::new(ANSWERS_MAX)),
            catching_up: AtomicBool::new(false),
            holding: Mutex::default(),
            stages: stage::Stages::default(),
            unknown_frames: AtomicU64::new(0),
            renewed_ns: AtomicU64::new(0),
            renewals_late: AtomicU64::new(0),
            traces: Mutex::default(),
            _lock: lock_file,
        };
        let member = Arc::new(member);
        member.enter()?;
        keeper::start(&member).map_err(NodeError::Thread)?;
        Ok(member)
    }

    /// A new life in the directory.
    fn enter(&self) -> Result<(), StoreError> {
        let info = NodeInfo {
            name: self.me.name.clone(),
            address: self.me.address().to_owned(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            worlds_max: self.me.worlds_max.unwrap_or(self.section.worlds_max),
            capacity: self.capacity,
        };
        let asked_ns = boottime_ns();
        let id = self.directory.join(&info, self.lease_time())?;
        if let Err(error) = std::fs::write(&self.id_file, &id.0) {
            tracing::warn!(%error, path = %self.id_file.display(), "a restart will wait for the lease of this life");
        }
        *lock(&self.id) = Some(id);
        self.reentered.store(true, Ordering::Release);
        self.unbroken_ns.store(asked_ns, Ordering::Release);
        self.renewed_ns.store(asked_ns, Ordering::Release);
        self.lease.granted(asked_ns, self.lease_time());
        Ok(())
    }

    pub fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.lease)
    }

    fn lease_time(&self) -> Duration {
        Duration::from_secs_f64(self.section.lease_seconds)
    }

    fn id(&self) -> Option<NodeId> {
        lock(&self.id).clone()
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Link to the other nodes and run what is meant for this one.
    pub fn start(
        self: &Arc<Self>,
        base: &Path,
        services: Arc<Services>,
        supervisor: ActorRef<NodeMessage>,
        plans: Vec<WorldPlan>,
    ) -> Result<(), NodeError> {
        let plans: HashMap<_, _> =
            plans.into_iter().map(|plan| Ok((plan.world_id()?, plan))).collect::<Result<_, NodeError>>()?;
        let mut worlds: Vec<_> = plans.keys().cloned().collect();
        worlds.sort();
        self.directory.add_worlds(&worlds)?;
        let config = LinkConfig {
            cluster: self.section.name.clone(),
            node: self.me.name.clone(),
            listen: self.me.listen.clone(),
            identity: base.join(&self.section.identity),
            limits: LinkLimits::default(),
        };
        let written = std::fs::metadata(config.identity.join("node.pem")).and_then(|file| file.modified()).ok();
        *lock(&self.identity_written) = written;
        let _ = self.identity.set(config.identity.clone());
        // Links that outlive the node would keep it alive.
        let (of_bytes, of_events) = (Arc::downgrade(self), Arc::downgrade(self));
        let inbound = move |peer: &str, bytes: Vec<u8>| {
            if let Some(member) = of_bytes.upgrade() {
                member.receive(peer, &bytes);
            }
        };
        let events = move |event: LinkEvent| {
            if let Some(member) = of_events.upgrade() {
                member.linked(event);
            }
        };
        let links = self.runtime.block_on(Links::start(config, inbound, events)).map_err(NodeError::Link)?;
        let (here, there) = (links.local_addr(), self.me.address());
        services.events.push(NodeEvent::Cluster { text: format!("listening on {here} for other nodes, which dial {there}") });
        let _ = self.links.set(links);
        let weak = Arc::downgrade(self);
        services.post.connect(weak.clone());
        let _ = services.member.set(weak);
        let _ = self.parts.set(Parts { services, supervisor, plans });
        let member = Arc::clone(self);
        std::thread::Builder::new().name("member".into()).spawn(move || member.run()).map_err(NodeError::Thread)?;
        Ok(())
    }

    /// Something has changed: the next round is now.
    pub fn look(&self) {
        *lock(&self.look) = true;
        self.looked.notify_all();
    }

    fn wait(&self, time: Duration) {
        let look = lock(&self.look);
        let mut look = self.looked.wait_timeout_while(look, time, |look| !*look).unwrap_or_else(PoisonError::into_inner).0;
        *look = false;
    }

    fn run(self: Arc<Self>) {
        let period = (self.lease_time() / 20).clamp(Duration::from_millis(50), Duration::from_millis(500));
        // What was published while it was away: its worlds must not start in an older version than the others run.
        self.catch_up_now();
        let (mut reported, mut caught_up, mut moves) = (Instant::now(), Instant::now(), MoveRate::default());
        while !self.stopping.load(Ordering::Acquire) {
            self.wait(period);
            if !self.lease.holds() {
                continue;
            }
            if let Err(error) = self.round(&mut moves) {
                tracing::warn!(%error, "could not read the directory, worlds go on while the lease holds");
            }
            if reported.elapsed() > REPORT {
                reported = Instant::now();
                self.report_loads();
            }
            if caught_up.elapsed() > CATCH_UP {
                caught_up = Instant::now();
                self.renew_identity();
                self.catch_up();
            }
        }
    }

    fn round(self: &Arc<Self>, moves: &mut MoveRate) -> Result<(), StoreError> {
        let (Some(parts), Some(id)) = (self.parts.get(), self.id()) else { return Ok(()) };
        let mut view = self.read()?;
        let Some(me) = view.node(&id).cloned() else { return Ok(()) };
        let entered = self.reentered.swap(false, Ordering::AcqRel);
        if entered && self.draining.load(Ordering::Acquire) && me.state == NodeState::Up {
            self.directory.set_state(&id, NodeState::Draining)?;
        } else if me.state != NodeState::Dead {
            self.draining.store(me.state == NodeState::Draining, Ordering::Release);
        }
        if let Some(links) = self.links.get() {
            let peer = |row: &NodeRow| Peer { name: row.info.name.clone(), address: row.info.address.clone() };
            links.set_peers(view.living().filter(|row| row.id != id).map(peer).collect());
        }
        // Not only the leader: it may be the one that is gone.
        let lapsed = view.living().any(|row| row.lease_left.is_zero());
        if lapsed && self.has_held_for_long() && !self.directory.bury_lapsed()?.is_empty() {
            view = self.read()?;
        }
        if self.directory.lead(&id)? {
            // A world that moves while a version is tried out in it would undo that everywhere; evening out can wait.
            let rebalance = if self.directory.open_reloads()?.is_empty() { moves.left(self.section.moves_per_minute) } else { 0 };
            let plan = self.solve(&view, rebalance);
            if !plan.moves.is_empty() {
                let _span =
                    tracing::info_span!(parent: None, "placement", moves = plan.moves.len(), unplaced = plan.unplaced.len())
                        .entered();
                let rebalanced = plan.moves.iter().filter(|step| step.why == placement::Why::Rebalance).count();
                moves.spend(rebalanced);
                let target = |step: &placement::Move| Some((WorldId::new(&step.world).ok()?, Some(step.to.clone())));
                let targets: Vec<_> = plan.moves.iter().filter_map(target).collect();
                if self.directory.set_targets(Some(&id), &targets, false)? {
                    view = self.read()?;
                    self.announce(plan.moves.iter().filter_map(|step| WorldId::new(&step.world).ok()));
                    self.tell_all();
                }
            }
        }
        if self.stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        let here: HashSet<_> = parts.services.post.names().iter().filter_map(|name| WorldId::new(name).ok()).collect();
        let steps = view.steps(&me, &here);
        for world in steps.start {
            self.begin(parts, &world);
        }
        for (world, generation) in steps.release {
            // One in which a version is tried out would undo that everywhere.
            if !self.with_holding(|all| all.values().any(|holding| holding.keeps(world.as_str()))) {
                self.release(parts, world, generation);
            }
        }
        for world in steps.forget {
            let _ = parts.supervisor.cast(NodeMessage::Forget(world.to_string()));
        }
        for (world, generation) in steps.orphans {
            // Refused if it is not so any more.
            let _ = self.store.release(&world, generation);
        }
        Ok(())
    }

    /// After an outage of the database the first node to come back must not bury the others.
    fn has_held_for_long(&self) -> bool {
        let unbroken_ns = self.unbroken_ns.load(Ordering::Acquire);
        unbroken_ns != 0 && boottime_ns() - unbroken_ns > self.lease_time().as_nanos() as u64
    }

    fn read(&self) -> Result<Arc<View>, StoreError> {
        let view = Arc::new(View::new(self.directory.nodes()?, self.directory.worlds()?));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        Ok(view)
    }

    fn begin(&self, parts: &Parts, world: &WorldId) {
        // Of a newer configuration than this node's.
        let Some(plan) = parts.plans.get(world) else { return };
        let mailbox = Mailbox::new(&plan.name);
        parts.services.post.insert(&plan.name, Arc::clone(&mailbox));
        // Spread over a tick, the same way every time.
        let phase =
            (world.as_str().bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % 1_000) as f64;
        let _ = parts.supervisor.cast(NodeMessage::Start(Box::new(plan.clone()), mailbox, phase / 1e3));
    }

    fn release(self: &Arc<Self>, parts: &Parts, world: WorldId, generation: aether_types::Generation) {
        {
            // The others stand still no sooner than they are saved: each end looks for the next.
            let mut releasing = lock(&self.releasing);
            if releasing.len() >= RELEASES_MAX || !releasing.insert(world.clone()) {
                return;
            }
        }
        let (send, receive) = oneshot::channel();
        let _ = parts.supervisor.cast(NodeMessage::Release { name: world.to_string(), generation, reply: send });
        let member = Arc::clone(self);
        self.runtime.spawn(async move {
            if !matches!(receive.await, Ok(Ok(()))) {
                tokio::time::sleep(RELEASE_AGAIN).await;
            }
            lock(&member.releasing).remove(&world);
            member.tell_all();
            member.look();
        });
    }

    /// The others should look at the directory now.
    fn tell_all(&self) {
        if let (Some(links), Ok(bytes)) = (self.links.get(), Frame::Look.encode()) {
            for peer in lock(&self.linked).iter() {
                let _ = links.try_send(peer, bytes.clone());
            }
        }
    }

    /// Moves of these worlds belong to the trace that the caller is in, on all nodes.
    fn announce(&self, worlds: impl Iterator<Item = WorldId>) {
        let Some(parent) = trace::current() else { return };
        // More than these are not looked at one by one by anybody.
        for world in worlds.take(ANNOUNCED_MAX) {
            let of = TraceOf::World(world);
            lock(&self.traces).announce("", of.clone(), parent.clone(), Instant::now());
            if let (Some(links), Ok(bytes)) = (self.links.get(), Frame::Trace { of, parent: parent.clone() }.encode()) {
                for peer in lock(&self.linked).iter() {
                    let _ = links.try_send(peer, bytes.clone());
                }
            }
        }
    }

    /// The trace that a world's move belongs to.
    pub fn trace_of(&self, world: &WorldId) -> Option<String> {
        lock(&self.traces).of(&TraceOf::World(world.clone()), Instant::now())
    }

    fn inputs(&self, view: &View) -> (Vec<NodeInput>, Vec<WorldInput>) {
        let nodes = view.living().map(|row| NodeInput {
            name: row.info.name.clone(),
            capacity: row.info.capacity,
            worlds_max: row.info.worlds_max,
            draining: row.state == NodeState::Draining,
            // The file is the same on all nodes.
            labels: self
                .section
                .node
                .iter()
                .find(|node| node.name == row.info.name)
                .map_or_else(Default::default, |n| n.labels.clone()),
        });
        let capacity: f64 = view.living().map(|row| row.info.capacity).sum();
        let presence = SPREAD * capacity / view.worlds.len().max(1) as f64;
        let worlds = view.worlds.iter().map(|row| {
            let owner = view.owner(&row.world).map(|node| node.info.name.clone());
            let spec = self.parts.get().and_then(|parts| parts.plans.get(&row.world)).map(|plan| &plan.spec);
            WorldInput {
                name: row.world.to_string(),
                load: presence + if row.load > 0.0 { row.load } else { LOAD_UNKNOWN },
                current: row.target.clone().or(owner),
                pinned: row.target.clone().filter(|_| row.pinned),
                requires: spec.map_or_else(Default::default, |spec| spec.requires.clone()),
                with: spec.and_then(|spec| spec.together.clone()),
                apart: spec.and_then(|spec| spec.apart.clone()),
            }
        });
        (nodes.collect(), worlds.collect())
    }

    fn solve(&self, view: &View, moves_max: usize) -> Plan {
        let (nodes, worlds) = self.inputs(view);
        let rules = Rules::default();
        let utilisation_max = rules.utilisation_max + SPREAD;
        placement::solve(&nodes, &worlds, &Rules { moves_max, utilisation_max, ..rules })
    }

    /// Certificates that were replaced are used from now on.
    fn renew_identity(&self) {
        let (Some(links), Some(folder)) = (self.links.get(), self.identity.get()) else { return };
        let written = std::fs::metadata(folder.join("node.pem")).and_then(|file| file.modified()).ok();
        if std::mem::replace(&mut *lock(&self.identity_written), written) == written {
            return;
        }
        match links.reload_identity() {
            Ok(()) => self.event("new certificates are used for new links".to_owned()),
            Err(error) => self.event(format!("the new certificates are not used: {error}")),
        }
    }

    fn report_loads(&self) {
        let (Some(parts), Some(id)) = (self.parts.get(), self.id()) else { return };
        let load = |name: &String| {
            let status = parts.services.post.find(name)?.status();
            let hz = parts.plans.get(&WorldId::new(name).ok()?)?.spec.limits(&parts.services.config.limits).tick_hz;
            Some((WorldId::new(name).ok()?, f64::from(status.utilisation) * status.budget_us * 1e-6 * hz))
        };
        let loads: Vec<_> = parts.services.post.names().iter().filter_map(load).collect();
        if let Err(error) = self.directory.report_loads(&id, &loads) {
            tracing::debug!(%error, "loads not reported");
        }
    }

    fn event(&self, text: String) {
        if let Some(parts) = self.parts.get() {
            parts.services.events.push(NodeEvent::Cluster { text });
        }
    }

    /// The lease is lost: whatever runs here is somebody else's from now on.
    fn fence(&self, why: &str) {
        self.lease.end();
        let Some(parts) = self.parts.get() else { return };
        self.event(format!("this node gives up its worlds: {why}"));
        let (send, receive) = oneshot::channel();
        let _ = parts.supervisor.cast(NodeMessage::Fence(send));
        let _ = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), receive).await });
        lock(&self.holding).clear();
    }

    /// The node stops. Other nodes take its worlds, if there are any; gives whether all of them have left in time.
    pub fn leave_worlds(&self, time: Duration) -> bool {
        let (Some(parts), Some(id)) = (self.parts.get(), self.id()) else { return true };
        let others =
            |view: &View| view.living().any(|row| row.id != id && row.state == NodeState::Up && !row.lease_left.is_zero());
        if !others(&self.view()) || self.directory.set_state(&id, NodeState::Draining).is_err() {
            return false;
        }
        self.tell_all();
        self.look();
        let deadline = Instant::now() + time;
        while !parts.services.post.names().is_empty() {
            if Instant::now() > deadline || !self.lease.holds() || !others(&self.view()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// From now on it starts and releases nothing; its lease is renewed still.
    pub fn stop_rounds(&self) {
        self.stopping.store(true, Ordering::Release);
        self.look();
    }

    /// All that it had is saved: others may have it at once.
    pub fn leave(&self) {
        self.stop_rounds();
        if let Some(id) = lock(&self.id).take() {
            // Dead nodes' worlds are free.
            if let Err(error) = self.directory.bury(&id) {
                tracing::warn!(%error, "this node did not leave the directory: its worlds wait for its lease to end");
            }
        }
        self.lease.end();
        if let Some(links) = self.links.get() {
            self.tell_all();
            let _ = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(3), links.stop()).await });
        }
    }
}

/// Moves to even out load in the last minute.
#[derive(Default)]
struct MoveRate(Vec<Instant>);

impl MoveRate {
    fn left(&mut self, per_minute: u32) -> usize {
        self.0.retain(|at| at.elapsed() < Duration::from_secs(60));
        (per_minute as usize).saturating_sub(self.0.len())
    }

    fn spend(&mut self, moves: usize) {
        self.0.extend(std::iter::repeat_n(Instant::now(), moves));
    }
}
