//! The cluster file: a node, its worlds, their scripts.
//!
//! Start with [`NodeConfig`]; its `Default` is the documentation's. Reading files and variables is the command line's; [`NodeConfig::check`]
//! compares every field with its range and names all that are wrong. Paths are relative to the file's folder.

use aether_scripting::{ActionRates, AotTarget};
use aether_types::{ScriptId, WorldId};
use aether_world_runtime::{OverloadConfig, ReloadRule, RestartRule, SchedulerConfig, Strategy, WorldConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The `[node]` table.
    pub node: NodeSection,
    /// The `[cluster]` table; without it the node is alone.
    pub cluster: Option<ClusterSection>,
    /// The `[admin]` table.
    pub admin: AdminSection,
    /// The `[gateway]` table.
    pub gateway: GatewaySection,
    /// The `[server]` table: what the `AETHER_SERVER_*` variables override.
    pub server: ServerSection,
    /// The `[limits]` table: what every world gets that says nothing else.
    pub limits: WorldLimits,
    /// The `[[world]]` tables.
    pub world: Vec<WorldSpec>,
}

/// A cluster: nodes that share worlds, through one database and links between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// Its name: in the nodes' certificates.
    pub name: String,
    /// The PostgreSQL database of directory and state, `postgres://USER@HOST:PORT/DATABASE`.
    pub store: String,
    /// The database's schema that holds the tables.
    pub schema: String,
    /// The folder with this node's certificates (`aether cluster issue`); `{node}` becomes its name.
    pub identity: PathBuf,
    /// How long a node that says nothing keeps its worlds. A failover takes as long.
    pub lease_seconds: f64,
    /// Worlds moved in a minute to even out load. What must move (a node is gone or drains) is not bounded.
    pub moves_per_minute: u32,
    /// Worlds on a node at most.
    pub worlds_max: u32,
    /// The `[[cluster.node]]` tables: what differs between nodes that share this file.
    pub node: Vec<MemberSpec>,
    /// Which of them this process is.
    #[serde(skip)]
    pub me: Option<MemberSpec>,
}

impl Default for ClusterSection {
    fn default() -> ClusterSection {
        ClusterSection {
            name: "aether".into(),
            store: "postgres://aether@127.0.0.1:5432/aether".into(),
            schema: "aether".into(),
            identity: "identity/{node}".into(),
            lease_seconds: 10.0,
            moves_per_minute: 30,
            worlds_max: 10_000,
            node: Vec::new(),
            me: None,
        }
    }
}

/// A `[[cluster.node]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSpec {
    /// Its name.
    pub name: String,
    /// Where it listens for other nodes, HOST:PORT.
    pub listen: String,
    /// Where they reach it, if that is another address.
    pub advertise: Option<String>,
    /// Where it keeps what is its own.
    pub data_dir: PathBuf,
    /// Where its admin API and dashboard are, if not where the `[admin]` table says.
    pub admin: Option<SocketAddr>,
    /// Where its player gateway is, if not where the `[gateway]` table says.
    pub gateway: Option<SocketAddr>,
    /// Worlds on it at most, if not as many as the table says.
    pub worlds_max: Option<u32>,
    /// What it has that worlds may require.
    #[serde(default)]
    pub labels: BTreeSet<String>,
}

impl MemberSpec {
    /// What other nodes dial.
    pub fn address(&self) -> &str {
        self.advertise.as_ref().unwrap_or(&self.listen)
    }
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Its name.
    pub name: String,
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// Threads that tick worlds; 0 means one less than there are cores.
    pub tick_threads: usize,
    /// Instances of scripts with up to 4 MiB of memory.
    pub instances_small: u32,
    /// Instances of scripts with up to 64 MiB of memory.
    pub instances_large: u32,
    /// Restarts of one world within `world_restart_period_seconds` after which it is parked.
    pub world_restart_intensity: u32,
    /// See `world_restart_intensity`.
    pub world_restart_period_seconds: f64,
    /// Checkpoints kept of each world, besides those that have a name.
    pub checkpoints_kept: u32,
    /// Ticks that a new version of a script is watched before it is kept.
    pub reload_watch_ticks: u32,
    /// Times that a turn of it may cost of what one of the old version did; past it, it is rolled back.
    pub reload_slower_max: f32,
    /// A file to which everything that leaves worlds is appended, a JSON object a line. For looking at a world from outside: it costs
    /// the tick threads the writing, and grows without end.
    pub outputs: Option<PathBuf>,
    /// An OpenTelemetry collector that traces are sent to, `http://HOST:PORT`: OTLP over HTTP, to `/v1/traces` there. Nobody if it says
    /// nothing.
    pub otlp_endpoint: Option<String>,
}

impl Default for NodeSection {
    fn default() -> NodeSection {
        NodeSection {
            name: "node".into(),
            data_dir: "data".into(),
            tick_threads: 0,
            instances_small: 10_000,
            instances_large: 1_000,
            world_restart_intensity: 5,
            world_restart_period_seconds: 60.0,
            checkpoints_kept: 2,
            reload_watch_ticks: ReloadRule::default().watch_ticks,
            reload_slower_max: ReloadRule::default().slower_max,
            outputs: None,
            otlp_endpoint: None,
        }
    }
}

/// The admin API and dashboard at an address. The socket in the data directory is served whatever this says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    /// Where; nowhere if it says nothing. Port 0: any that is free. What other machines reach needs TLS and a token.
    pub listen: Option<SocketAddr>,
    /// Certificate chain, PEM. Read again when it changes.
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Whether a token is needed also on loopback before any was made. `false`: until the first `aether token make`, whoever is on
    /// this machine may see and operate the node. For development.
    pub require_token: bool,
    /// Connections at a time, streams of events with them.
    pub connections_max: u32,
    /// Of them, those of one address, or of one IPv6 network: more where many come through one proxy.
    pub connections_per_address: u32,
    /// A connection that takes nothing of what is sent to it for so long is closed.
    pub stall_seconds: u32,
}

impl Default for AdminSection {
    fn default() -> AdminSection {
        AdminSection {
            listen: None,
            tls_cert: None,
            tls_key: None,
            require_token: true,
            connections_max: 512,
            connections_per_address: 64,
            stall_seconds: 20,
        }
    }
}

/// The gateway that players connect to. Any node's does for any world of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySection {
    /// Where; nowhere if it says nothing. Port 0: any that is free. What other machines reach needs TLS.
    pub listen: Option<SocketAddr>,
    /// Certificate chain, PEM. Read again when it changes.
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Whether everybody needs a token. `false`: who is on this machine may play as a guest. For development.
    pub require_token: bool,
    /// The file of the secret that players' tokens are signed with, which the game's login server has too; `gateway/secret` in the data
    /// directory if it says nothing. Made if it is not there. All nodes of a cluster need the same: `{node}` becomes a node's name.
    pub secret: Option<PathBuf>,
    /// Scripts that players may call, by their names in a world. All others take calls of scripts alone.
    pub scripts: BTreeSet<String>,
    /// Sessions at a time.
    pub sessions_max: u32,
    /// Inputs a second of one session; twice as many at once.
    pub inputs_per_second: u32,
    /// Whether the small browser client is served at the gateway's address.
    pub client: bool,
}

impl Default for GatewaySection {
    fn default() -> GatewaySection {
        GatewaySection {
            listen: None,
            tls_cert: None,
            tls_key: None,
            require_token: true,
            secret: None,
            scripts: BTreeSet::new(),
            sessions_max: 1_000,
            inputs_per_second: 30,
            client: false,
        }
    }
}

/// The server runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// Directory of AOT artifacts. `AETHER_SERVER_AOT_CACHE_DIR`
    pub aot_cache_dir: PathBuf,
    /// Loaded modules per world. `AETHER_SERVER_MAX_MODULES`
    pub max_modules: usize,
    /// Fuel per script execution, for scripts whose manifest says nothing. `AETHER_SERVER_DEFAULT_FUEL`
    pub default_fuel: u64,
    /// Memory cap per script, MiB, for scripts whose manifest says nothing. `AETHER_SERVER_DEFAULT_MEMORY_MB`
    pub default_memory_mb: u64,
    /// Machines that a published script is compiled for besides this node's own: `linux-x64`, `linux-aarch64`. What cannot be compiled
    /// for all of them is refused.
    pub targets: Vec<AotTarget>,
    /// One bit pattern for NaNs: runs repeat on other machines, float code is up to 1.7 times slower.
    pub canonical_nans: bool,
    /// Whether an end of a script says in which functions it was: for authors. Artifacts are larger and made anew.
    pub traces: bool,
}

impl Default for ServerSection {
    fn default() -> ServerSection {
        ServerSection {
            aot_cache_dir: "/tmp/aether/aot_cache".into(),
            max_modules: 256,
            default_fuel: 1_000_000,
            default_memory_mb: 64,
            targets: Vec::new(),
            canonical_nans: false,
            traces: false,
        }
    }
}

/// What a world may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldLimits {
    /// Ticks a second.
    pub tick_hz: f64,
    /// CPU time of a tick, milliseconds.
    pub tick_budget_ms: f64,
    /// Priority gained for each tick deferred.
    pub ageing: u32,
    /// Scripts paused in the middle of a call at a time.
    pub paused_max: usize,
    /// Scripts at a time.
    pub scripts_max: usize,
    /// Entities at a time.
    pub entities_max: usize,
    /// Memory of all scripts together, MiB.
    pub memory_mb: u64,
    /// Keys and values in storage, MiB.
    pub storage_mb: usize,
    /// Utilisation (0 to 1) of the tick budget over ten seconds above which scripts are suspended.
    pub suspend_above: f32,
    /// Utilisation below which they come back.
    pub resume_below: f32,
    /// Restarts of one script within `restart_period_seconds` after which it is parked.
    pub restart_intensity: u32,
    /// See `restart_intensity`.
    pub restart_period_seconds: f64,
    /// The first restart is at once, the second after so many milliseconds, each further one after twice as long.
    pub restart_backoff_ms: u64,
    /// Whether one script is restarted (`one`) or all of its world's (`all`).
    pub restart_strategy: Strategy,
    /// Whether a world ends, to be restarted from its checkpoint, when one of its scripts is parked.
    pub escalate: bool,
    /// Seconds without anything from outside after which a world is saved and leaves memory until somebody calls it; its clock and its
    /// scripts' ticks stand still meanwhile. 0 means never.
    pub hibernate_seconds: f64,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: f64,
}

impl Default for WorldLimits {
    fn default() -> WorldLimits {
        WorldLimits {
            tick_hz: 20.0,
            tick_budget_ms: 8.0,
            ageing: 10,
            paused_max: 64,
            scripts_max: 20_000,
            entities_max: 20_000,
            memory_mb: 1_024,
            storage_mb: 64,
            suspend_above: 0.9,
            resume_below: 0.6,
            restart_intensity: 5,
            restart_period_seconds: 60.0,
            restart_backoff_ms: 100,
            restart_strategy: Strategy::One,
            escalate: false,
            hibernate_seconds: 0.0,
            checkpoint_seconds: 30.0,
        }
    }
}

/// A `[[world]]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSpec {
    /// Its name.
    pub name: String,
    /// How many of it: more than one are named NAME-1, NAME-2 …
    #[serde(default = "one")]
    pub count: u32,
    /// Its prefabs.
    pub prefabs: Option<PathBuf>,
    /// Where its scripts are: DIR/NAME/NAME.wasm and DIR/NAME/script.toml.
    #[serde(default = "scripts_dir")]
    pub scripts_dir: PathBuf,
    /// Seeds the randomness of its scripts.
    #[serde(default)]
    pub seed: u64,
    /// In a cluster: labels that its node must have.
    #[serde(default)]
    pub requires: BTreeSet<String>,
    /// In a cluster: worlds that name the same group share a node where that is possible.
    pub together: Option<String>,
    /// In a cluster: worlds that name the same group are spread over nodes, as far apart as possible.
    pub apart: Option<String>,
    /// Limits of its own; a field that is left out is the `[limits]` table's.
    #[serde(default)]
    pub limits: Option<WorldLimitsOverride>,
    /// Its scripts.
    #[serde(default)]
    pub script: Vec<ScriptSpec>,
}

fn one() -> u32 {
    1
}

fn scripts_dir() -> PathBuf {
    "scripts".into()
}

/// Limits of one world that differ from the file's.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldLimitsOverride {
    /// Ticks a second.
    pub tick_hz: Option<f64>,
    /// CPU time of a tick, milliseconds.
    pub tick_budget_ms: Option<f64>,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: Option<f64>,
    /// Seconds without anything from outside after which it leaves memory; 0 means never.
    pub hibernate_seconds: Option<f64>,
    /// Whether it ends when one of its scripts is parked.
    pub escalate: Option<bool>,
    /// Whether one script is restarted or all.
    pub restart_strategy: Option<Strategy>,
}

/// A `[[world.script]]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptSpec {
    /// The script.
    pub script: String,
    /// Its name in the world; the script's if it says nothing.
    pub name: Option<String>,
    /// How many of it: more than one are named NAME-1, NAME-2 …
    #[serde(default = "one")]
    pub count: u32,
    /// The prefab of its own entity.
    pub prefab: Option<String>,
    /// Where that begins, metres.
    #[serde(default)]
    pub position: [f32; 3],
}

/// A field that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, allowed is {allowed}")]
pub struct FieldError {
    /// Which field, with its table.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// All fields that are out of range. The operator's to fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<FieldError>);

struct Checker(Vec<FieldError>);

impl Checker {
    fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        field: &str,
        value: T,
        range: std::ops::RangeInclusive<T>,
        allowed: &'static str,
    ) {
        if !range.contains(&value) {
            self.bad(field, value.to_string(), allowed);
        }
    }

    fn bad(&mut self, field: &str, value: String, allowed: &'static str) {
        self.0.push(FieldError { field: field.to_owned(), value, allowed });
    }
}

const NAME: &str = "1 to 47 of a-z, 0-9, '-' and '_', a letter first";

impl NodeConfig {
    /// Compare every field with its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut c = Checker(Vec::new());
        if WorldId::new(&self.node.name).is_err() {
            c.bad("node.name", format!("{:?}", self.node.name), NAME);
        }
        c.range("node.tick_threads", self.node.tick_threads, 0..=256, "0 to 256");
        c.range("node.instances_small", self.node.instances_small, 1..=1_000_000, "1 to 1000000");
        c.range("node.instances_large", self.node.instances_large, 0..=100_000, "0 to 100000");
        c.range("node.world_restart_intensity", self.node.world_restart_intensity, 0..=1_000, "0 to 1000");
        let seconds = self.node.world_restart_period_seconds;
        c.range("node.world_restart_period_seconds", seconds, 1.0..=86_400.0, "1 to 86400");
        c.range("node.checkpoints_kept", self.node.checkpoints_kept, 1..=1_000, "1 to 1000");
        if let Some(endpoint) = self.node.otlp_endpoint.as_ref().filter(|endpoint| !endpoint.starts_with("http://")) {
            c.bad(
                "node.otlp_endpoint",
                format!("{endpoint:?}"),
                "http://HOST:PORT of a collector on this machine or in its network",
            );
        }
        c.range("node.reload_watch_ticks", self.node.reload_watch_ticks, 1..=10_000, "1 to 10000");
        c.range("node.reload_slower_max", self.node.reload_slower_max, 1.0..=1e6, "1 to 1000000");
        if self.admin.tls_cert.is_some() != self.admin.tls_key.is_some() {
            c.bad("admin.tls_key", format!("{:?}", self.admin.tls_key), "set if, and only if, admin.tls_cert is");
        }
        c.range("admin.connections_max", self.admin.connections_max, 1..=100_000, "1 to 100000");
        c.range("admin.connections_per_address", self.admin.connections_per_address, 1..=100_000, "1 to 100000");
        c.range("admin.stall_seconds", self.admin.stall_seconds, 1..=3_600, "1 to 3600");
        check_gateway(&mut c, &self.gateway);
        let nodes = self.cluster.iter().flat_map(|cluster| &cluster.node);
        let gateways = self.gateway.listen.is_some() || nodes.clone().any(|node| node.gateway.is_some());
        if nodes.count() > 1 && gateways && self.gateway.secret.is_none() && self.gateway.require_token {
            c.bad(
                "gateway.secret",
                "none".to_owned(),
                "the path of a file that all nodes share: a token is good at each of them",
            );
        }
        c.range("server.max_modules", self.server.max_modules, 1..=65_536, "1 to 65536");
        c.range("server.default_fuel", self.server.default_fuel, 1_000..=1_000_000_000, "1000 to 1000000000");
        c.range("server.default_memory_mb", self.server.default_memory_mb, 1..=64, "1 to 64");
        if let Some(cluster) = &self.cluster {
            check_cluster(&mut c, cluster);
        }
        check_limits(&mut c, "limits", &self.limits);
        let mut names = std::collections::HashSet::new();
        for (i, world) in self.world.iter().enumerate() {
            let at = format!("world[{i}]");
            c.range(&format!("{at}.count"), world.count, 1..=100_000, "1 to 100000");
            check_names(&mut c, &at, world.names(), &mut names, "a name that no other world has");
            check_limits(&mut c, &format!("{at}.limits"), &world.limits(&self.limits));
            check_scripts(&mut c, &at, world);
        }
        if c.0.is_empty() { Ok(()) } else { Err(ConfigError(c.0)) }
    }
}

fn check_gateway(c: &mut Checker, gateway: &GatewaySection) {
    if gateway.tls_cert.is_some() != gateway.tls_key.is_some() {
        c.bad("gateway.tls_key", format!("{:?}", gateway.tls_key), "set if, and only if, gateway.tls_cert is");
    }
    for script in &gateway.scripts {
        if ScriptId::new(script).is_err() {
            c.bad("gateway.scripts", format!("{script:?}"), NAME);
        }
    }
    c.range("gateway.sessions_max", gateway.sessions_max, 1..=100_000, "1 to 100000");
    c.range("gateway.inputs_per_second", gateway.inputs_per_second, 1..=1_000, "1 to 1000");
}

fn check_cluster(c: &mut Checker, cluster: &ClusterSection) {
    for (field, name) in [("cluster.name", &cluster.name), ("cluster.schema", &cluster.schema)] {
        if WorldId::new(name).is_err() {
            c.bad(field, format!("{name:?}"), NAME);
        }
    }
    if !cluster.store.starts_with("postgres://") && !cluster.store.starts_with("postgresql://") {
        // Its value may hold a password.
        c.bad("cluster.store", "another address".to_owned(), "postgres://USER@HOST:PORT/DATABASE");
    }
    c.range("cluster.lease_seconds", cluster.lease_seconds, 0.5..=300.0, "0.5 to 300");
    c.range("cluster.moves_per_minute", cluster.moves_per_minute, 0..=100_000, "0 to 100000");
    c.range("cluster.worlds_max", cluster.worlds_max, 1..=1_000_000, "1 to 1000000");
    let mut names = std::collections::HashSet::new();
    for (i, node) in cluster.node.iter().enumerate() {
        let at = format!("cluster.node[{i}]");
        check_names(c, &at, vec![node.name.clone()], &mut names, "a name that no other node has");
        for (field, address) in [("listen", Some(&node.listen)), ("advertise", node.advertise.as_ref())] {
            let port = address.and_then(|address| address.rsplit_once(':')).map(|(_, port)| port.parse::<u16>());
            if let (Some(address), false) = (address, matches!(port, Some(Ok(_)))) {
                c.bad(&format!("{at}.{field}"), format!("{address:?}"), "HOST:PORT");
            }
        }
    }
}

fn check_limits(c: &mut Checker, at: &str, limits: &WorldLimits) {
    let field = |name: &str| format!("{at}.{name}");
    c.range(&field("tick_hz"), limits.tick_hz, 0.1..=240.0, "0.1 to 240 ticks a second");
    c.range(&field("tick_budget_ms"), limits.tick_budget_ms, 0.1..=1_000.0, "0.1 to 1000 milliseconds");
    if limits.tick_budget_ms > 1_000.0 / limits.tick_hz {
        c.bad(&field("tick_budget_ms"), limits.tick_budget_ms.to_string(), "at most the time between two ticks, 1000 / tick_hz");
    }
    c.range(&field("ageing"), limits.ageing, 1..=1_000, "1 to 1000");
    c.range(&field("paused_max"), limits.paused_max, 0..=100_000, "0 to 100000");
    c.range(&field("scripts_max"), limits.scripts_max, 1..=1_000_000, "1 to 1000000");
    c.range(&field("entities_max"), limits.entities_max, 1..=1_000_000, "1 to 1000000");
    c.range(&field("memory_mb"), limits.memory_mb, 1..=1_048_576, "1 to 1048576");
    c.range(&field("storage_mb"), limits.storage_mb, 1..=16_384, "1 to 16384");
    c.range(&field("suspend_above"), limits.suspend_above, 0.1..=2.0, "0.1 to 2");
    c.range(&field("resume_below"), limits.resume_below, 0.0..=1.5, "0 to 1.5");
    if limits.resume_below >= limits.suspend_above {
        c.bad(&field("resume_below"), limits.resume_below.to_string(), "less than suspend_above");
    }
    c.range(&field("restart_intensity"), limits.restart_intensity, 0..=1_000, "0 to 1000");
    c.range(&field("restart_period_seconds"), limits.restart_period_seconds, 1.0..=86_400.0, "1 to 86400");
    c.range(&field("restart_backoff_ms"), limits.restart_backoff_ms, 1..=60_000, "1 to 60000");
    c.range(&field("hibernate_seconds"), limits.hibernate_seconds, 0.0..=86_400.0, "0 to 86400");
    c.range(&field("checkpoint_seconds"), limits.checkpoint_seconds, 1.0..=86_400.0, "1 to 86400");
}

/// Names with their numbers: NAME-1 of one table may be another's NAME.
fn check_names(
    c: &mut Checker,
    at: &str,
    names: Vec<String>,
    taken: &mut std::collections::HashSet<String>,
    unique: &'static str,
) {
    for name in names {
        if WorldId::new(&name).is_err() {
            return c.bad(&format!("{at}.name"), format!("{name:?}"), NAME);
        }
        if let Some(name) = taken.replace(name) {
            return c.bad(&format!("{at}.name"), format!("{name:?}"), unique);
        }
    }
}

fn check_scripts(c: &mut Checker, at: &str, world: &WorldSpec) {
    let mut names = std::collections::HashSet::new();
    for (i, script) in world.script.iter().enumerate() {
        let at = format!("{at}.script[{i}]");
        if ScriptId::new(&script.script).is_err() {
            c.bad(&format!("{at}.script"), format!("{:?}", script.script), NAME);
        }
        check_names(c, &at, script.names(), &mut names, "a name that no other script of the world has");
        c.range(&format!("{at}.count"), script.count, 1..=100_000, "1 to 100000");
        if script.position.iter().any(|v| v.is_nan() || v.abs() > 8_192.0) {
            c.bad(&format!("{at}.position"), format!("{:?}", script.position), "coordinates from -8192 to 8192");
        }
    }
}

impl NodeConfig {
    /// The configuration of one of a cluster's nodes.
    pub fn for_member(mut self, name: &str) -> Result<NodeConfig, ConfigError> {
        let bad =
            |allowed| ConfigError(vec![FieldError { field: "the node's name".to_owned(), value: format!("{name:?}"), allowed }]);
        let Some(cluster) = &mut self.cluster else {
            return Err(bad("a name from [[cluster.node]]: the file has no [cluster] table"));
        };
        let Some(me) = cluster.node.iter().find(|node| node.name == name).cloned() else {
            return Err(bad("the name of one of the file's [[cluster.node]] tables"));
        };
        let with_name = |path: &PathBuf| PathBuf::from(path.to_string_lossy().replace("{node}", name));
        cluster.identity = with_name(&cluster.identity);
        self.node.name = name.to_owned();
        self.node.data_dir = with_name(&me.data_dir);
        self.admin.listen = me.admin.or(self.admin.listen);
        self.gateway.listen = me.gateway.or(self.gateway.listen);
        self.gateway.secret = self.gateway.secret.as_ref().map(with_name);
        self.server.aot_cache_dir = with_name(&self.server.aot_cache_dir);
        self.node.outputs = self.node.outputs.as_ref().map(with_name);
        cluster.me = Some(me);
        Ok(self)
    }
}

impl WorldSpec {
    /// The file's limits with this world's own over them.
    pub fn limits(&self, base: &WorldLimits) -> WorldLimits {
        let own = self.limits.unwrap_or_default();
        WorldLimits {
            tick_hz: own.tick_hz.unwrap_or(base.tick_hz),
            tick_budget_ms: own.tick_budget_ms.unwrap_or(base.tick_budget_ms),
            checkpoint_seconds: own.checkpoint_seconds.unwrap_or(base.checkpoint_seconds),
            hibernate_seconds: own.hibernate_seconds.unwrap_or(base.hibernate_seconds),
            escalate: own.escalate.unwrap_or(base.escalate),
            restart_strategy: own.restart_strategy.unwrap_or(base.restart_strategy),
            ..base.clone()
        }
    }

    /// Whether one of its copies has this name.
    pub fn has(&self, name: &str) -> bool {
        if self.count == 1 {
            return self.name == name;
        }
        let number = name.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('-'));
        let number = number.and_then(|number| number.parse().ok().filter(|n: &u32| n.to_string() == number));
        number.is_some_and(|number| (1..=self.count).contains(&number))
    }

    /// The names of its copies.
    pub fn names(&self) -> Vec<String> {
        numbered(&self.name, self.count)
    }
}

impl ScriptSpec {
    /// The names of its instances.
    pub fn names(&self) -> Vec<String> {
        numbered(self.name.as_ref().unwrap_or(&self.script), self.count)
    }
}

fn numbered(name: &str, count: u32) -> Vec<String> {
    if count == 1 { vec![name.to_owned()] } else { (1..=count.min(100_000)).map(|n| format!("{name}-{n}")).collect() }
}

impl WorldLimits {
    /// As the world runtime takes them.
    pub fn world_config(&self, id: WorldId, seed: u64, modules_max: usize) -> WorldConfig {
        WorldConfig {
            scheduler: SchedulerConfig {
                budget_ns: (self.tick_budget_ms * 1e6) as u64,
                ageing: self.ageing,
                quantum: aether_scripting::sandbox::FIBRE_QUANTUM,
                paused_max: self.paused_max,
            },
            overload: OverloadConfig {
                suspend_above: self.suspend_above,
                resume_below: self.resume_below,
                ..OverloadConfig::default()
            },
            memory_bytes_max: self.memory_mb << 20,
            rates: ActionRates::world(),
            scripts_max: self.scripts_max,
            modules_max,
            restarts: RestartRule {
                intensity: self.restart_intensity,
                period_ns: (self.restart_period_seconds * 1e9) as u64,
                backoff_ns: self.restart_backoff_ms * 1_000_000,
                ..RestartRule::default()
            },
            strategy: self.restart_strategy,
            escalates: self.escalate,
            seed,
            ..WorldConfig::new(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(NodeConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_world_has_the_names_of_its_copies_and_no_others() {
        let spec: WorldSpec = toml::from_str("name = \"town\"\ncount = 12").unwrap();
        assert!(spec.names().iter().all(|name| spec.has(name)));
        for other in ["town", "town-0", "town-13", "town-01", "town-+1", "town-", "inn-1"] {
            assert!(!spec.has(other), "{other}");
        }
    }

    #[test]
    fn every_bad_field_is_named_with_what_is_allowed() {
        let text = r#"
            [limits]
            tick_hz = 0.0
            resume_below = 1.0
            [gateway]
            tls_cert = "town.pem"
            scripts = ["avatar", "No Script"]
            inputs_per_second = 0
            [[world]]
            name = "Town Hall"
            [[world.script]]
            script = "thief"
            count = 0
            [[world.script]]
            script = "guard"
            count = 2
            [[world.script]]
            script = "guard"
            name = "guard-2"
        "#;
        let error = toml::from_str::<NodeConfig>(text).unwrap().check().unwrap_err();
        let fields: Vec<_> = error.0.iter().map(|e| e.field.as_str()).collect();
        for wanted in ["gateway.tls_key", "gateway.scripts", "gateway.inputs_per_second"] {
            assert!(fields.contains(&wanted), "{wanted} in {fields:?}");
        }
        for wanted in
            ["limits.tick_hz", "limits.resume_below", "world[0].name", "world[0].script[0].count", "world[0].script[2].name"]
        {
            assert!(fields.contains(&wanted), "{wanted} in {fields:?}");
        }
        assert!(error.to_string().contains("limits.tick_hz is 0, allowed is 0.1 to 240 ticks a second"), "{error}");
    }
}
