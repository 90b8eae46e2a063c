//! Players in a cluster: a gateway of any node shows a world of any other, and follows it when it moves or its node dies.
//!
//! Two nodes share one town, with the sample scripts: what is asked here is what a player sees. Who runs the town is asked of the program.
//! Not here: what the world keeps (`faults.rs`, `operate.rs`), a gateway by itself (`../gateway`).

use super::database::{Database, SCHEMA};
use super::player::{News, Player};
use super::rig::{DEADLINE, LOOK, Running, free_port};
use crate::program::root;
use aether_admin::gateway::pass::{Pass, PassKeys};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NODES: [&str; 2] = ["a", "b"];

/// Two nodes and a town between them.
struct Pair {
    dir: tempfile::TempDir,
    nodes: BTreeMap<&'static str, Running>,
    gateways: BTreeMap<&'static str, SocketAddr>,
    _database: Database,
}

impl Pair {
    #[track_caller]
    fn start() -> Pair {
        let (dir, database) = (tempfile::tempdir().unwrap(), Database::start());
        let gateways: BTreeMap<_, _> = NODES.iter().map(|name| (*name, (Ipv4Addr::LOCALHOST, free_port()).into())).collect();
        let mut text = format!(
            "[node]\ntick_threads = 1\ninstances_small = 60\ninstances_large = 2\n[server]\naot_cache_dir = \"cache-{{node}}\"\n\
             [limits]\ncheckpoint_seconds = 1.0\n[gateway]\nsecret = \"players.secret\"\nscripts = [\"avatar\"]\n\
             [cluster]\nname = \"pair\"\nstore = {:?}\nschema = \"{SCHEMA}\"\nidentity = \"identity/{{node}}\"\nlease_seconds = 3.0\n",
            database.url(database.port())
        );
        for (name, gateway) in &gateways {
            let listen = free_port();
            write!(
                text,
                "[[cluster.node]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{listen}\"\ngateway = \"{gateway}\"\ndata_dir = \"data-{name}\"\n"
            )
            .unwrap();
        }
        let (prefabs, scripts) = (root().join("cluster-config/town/prefabs.toml"), root().join("scripts"));
        write!(
            text,
            "[[world]]\nname = \"town\"\nprefabs = {prefabs:?}\nscripts_dir = {scripts:?}\n[[world.script]]\nscript = \"avatar\"\n\
             [[world.script]]\nscript = \"patrol\"\nname = \"guard\"\nprefab = \"guard\"\nposition = [-7.0, 0.9, -6.0]\n"
        )
        .unwrap();
        fs::write(dir.path().join("pair.toml"), text).unwrap();
        let mut pair = Pair { dir, nodes: BTreeMap::new(), gateways, _database: database };
        let ca = pair.path("ca");
        pair.program(&["cluster", "init-ca", ca.to_str().unwrap(), "--name", "pair"]).unwrap();
        for name in NODES {
            let out = pair.path("identity").join(name);
            let arguments =
                ["cluster", "issue", name, "--ca", ca.to_str().unwrap(), "--out", out.to_str().unwrap(), "--host", "127.0.0.1"];
            pair.program(&arguments).unwrap();
        }
        for name in NODES {
            pair.start_node(name);
        }
        let deadline = Instant::now() + DEADLINE;
        let says = |name: &str| fs::read_to_string(pair.path(&format!("out-{name}"))).unwrap().contains("players at ");
        while !NODES.iter().all(|name| says(name)) {
            assert!(Instant::now() < deadline, "no gateways");
            sleep(LOOK);
        }
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_node(&mut self, name: &'static str) {
        let log = |what: &str| File::options().create(true).append(true).open(self.path(&format!("{what}-{name}"))).unwrap();
        let (file, out, err) = (self.path("pair.toml"), log("out"), log("err"));
        let node = Running::spawn(&["node", file.to_str().unwrap(), "--name", name, "--plain"], &[], out, err);
        self.nodes.insert(name, node);
    }

    fn program(&self, arguments: &[&str]) -> Result<String, String> {
        let [mut out, mut err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let mut process = Running::spawn(arguments, &[], out.try_clone().unwrap(), err.try_clone().unwrap());
        let status = process.wait(&format!("{arguments:?}"));
        let read = |file: &mut File| {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).unwrap();
            text
        };
        let (out, err) = (read(&mut out), read(&mut err));
        if status.success() { Ok(out) } else { Err(format!("{arguments:?}: {status}\n{out}{err}")) }
    }

    fn ask(&self, node: &str, arguments: &[&str]) -> Result<Value, String> {
        let file = self.path("pair.toml");
        let asked = [&["--cluster", file.to_str().unwrap(), "--node", node, "--output", "json"], arguments].concat();
        serde_json::from_str(&self.program(&asked)?).map_err(|error| error.to_string())
    }

    /// Which node runs the town, once both agree.
    #[track_caller]
    fn owner(&self) -> &'static str {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let says = |node: &&str| {
                let answer = self.ask(node, &["placement"]).ok()?;
                let rows = answer.as_array().or_else(|| answer["worlds"].as_array())?.clone();
                rows.iter().find(|row| row["name"] == "town")?["owner"].as_str().map(str::to_owned)
            };
            let said: Vec<_> = NODES.iter().map(says).collect();
            if let Some(owner) = NODES.into_iter().find(|node| said.iter().all(|said| said.as_deref() == Some(node))) {
                return owner;
            }
            assert!(Instant::now() < deadline, "nobody runs the town: {said:?}");
            sleep(LOOK * 25);
        }
    }

    fn token(&self, player: u64, name: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let pass = Pass { sub: player.to_string(), name: name.into(), world: None, exp: now + 600, nbf: None };
        PassKeys::open(self.path("players.secret")).unwrap().sign(&pass).unwrap()
    }

    #[track_caller]
    fn join(&self, node: &str, player: u64, name: &str) -> Player {
        let mut player = Player::join(self.gateways[node], "town", "", &self.token(player, name));
        player.until("a body", |player, _| player.own().is_some());
        player
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for file in ["out-a", "err-a", "out-b", "err-b"] {
                let text = fs::read_to_string(self.path(file)).unwrap_or_default();
                let end: Vec<_> = text.lines().rev().take(15).collect();
                eprintln!("{file}:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// Walk east until some metres are behind; nothing is asked for again on the way.
#[track_caller]
fn walks(player: &mut Player, metres: f32) {
    let x = player.own().unwrap().x;
    player.walk(if x > 0.0 { -1.0 } else { 1.0 }, 0.0);
    player.until("some metres", |player, news| {
        assert!(!matches!(news, News::Resync { .. }), "{news:?}");
        player.own().is_some_and(|own| (own.x - x).abs() > metres)
    });
    player.walk(0.0, 0.0);
}

#[test]
fn a_player_follows_a_world_that_moves_and_one_whose_node_dies() {
    let mut pair = Pair::start();
    let owner = pair.owner();
    let other = NODES.into_iter().find(|node| *node != owner).unwrap();
    // One where the world is, one by the other node, over its link.
    let (mut near, mut far) = (pair.join(owner, 7, "Near"), pair.join(other, 8, "Far"));
    walks(&mut far, 3.0);
    walks(&mut near, 2.0);
    let body = far.me.unwrap();
    near.until("the other's body", |near, _| near.entities.values().any(|entity| entity.id == body));
    // A player is there once, whichever gateway was first.
    let mut again = pair.join(owner, 8, "Far");
    assert_eq!(far.end(), (4409, "you came in again, elsewhere".to_owned()));
    assert_eq!(again.me, Some(body));
    let mut far = pair.join(other, 8, "Far");
    assert_eq!(again.end().0, 4409);
    let (x, before) = (far.own().unwrap().x, far.last_tick());
    let begin = Instant::now();
    pair.ask(owner, &["move", "town", other]).unwrap();
    for player in [&mut near, &mut far] {
        player.until("that the world moves", |_, news| *news == News::Resync { reason: 1 });
        player.until("the world", |_, news| matches!(news, News::Snapshot { .. }));
        player.until("its body", |player, _| player.own().is_some());
    }
    eprintln!("moved: both players see it again after {:?}", begin.elapsed());
    assert_eq!(pair.owner(), other);
    assert!((far.own().unwrap().x - x).abs() < 0.2 && far.me == Some(body), "the body is where it was");
    assert!(far.last_tick() > before, "a world that was handed over goes on");
    walks(&mut near, 2.0);
    walks(&mut far, 2.0);
    // Now the far one's node runs it. It dies, with that player's session; the near one's follows to its own node.
    let begin = Instant::now();
    drop(pair.nodes.remove(other));
    assert_ne!(far.end().0, 4409);
    near.until("that the world is away", |_, news| *news == News::Resync { reason: 1 });
    near.until("the world", |_, news| matches!(news, News::Snapshot { .. }));
    near.until("its body", |near, _| near.own().is_some());
    eprintln!("killed: the player sees it again after {:?}", begin.elapsed());
    walks(&mut near, 2.0);
    near.until("the dead node's player to be gone", |near, _| {
        near.elements.get("players").is_some_and(|list| !list.contains("Far")) && !near.entities.values().any(|e| e.id == body)
    });
    assert!(begin.elapsed() < Duration::from_secs(60));
}
