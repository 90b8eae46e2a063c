//! The player gateway of a running node, as players' clients see it.
//!
//! Start with [`Site`]: the program with a small town and a gateway on a free port. [`player::Player`] is the client. What a browser sees
//! is in `browser.py`. Not here: a gateway in a cluster (`cluster/gateway.rs`), the protocol's bytes and the limits as plain rules, which
//! are beside the code in `crates/admin/src/gateway`, and that nothing leaves before it is durable, which the gate's own tests keep.

mod figures;
pub mod player;

use crate::program::command;
use crate::support::root;
use aether_admin::gateway::pass::{Pass, PassKeys, secret_path};
use player::{News, PATIENCE, Player, hello, hello_of};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tungstenite::Message;

/// Metres a second that the sample script lets a player walk.
const SPEED: f32 = 4.0;

/// A node of the program, ended with the test.
struct Site {
    dir: tempfile::TempDir,
    node: Child,
    address: SocketAddr,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.dir.path().join("err")).unwrap_or_default());
        }
    }
}

/// A town with a gate and a guard, where players may call the avatars' script.
const TOWN: &str = "[[world]]\nname = \"town\"\nprefabs = \"PREFABS\"\nscripts_dir = \"SCRIPTS\"\n\
    [[world.script]]\nscript = \"avatar\"\n\
    [[world.script]]\nscript = \"door\"\nname = \"gate\"\nprefab = \"door\"\nposition = [0.0, 1.3, 1.5]\n\
    [[world.script]]\nscript = \"patrol\"\nname = \"guard\"\nprefab = \"guard\"\nposition = [-7.0, 0.9, -6.0]\n";

/// A world in which much moves, many times a second: a client has a lot to take.
const SKY: &str = "[[world]]\nname = \"sky\"\nprefabs = \"PREFABS\"\nscripts_dir = \"SCRIPTS\"\nlimits = { tick_hz = 60.0 }\n\
    [[world.script]]\nscript = \"avatar\"\n\
    [[world.script]]\nscript = \"flock\"\ncount = 24\nprefab = \"roost\"\nposition = [0.0, 12.0, 0.0]\n";

impl Site {
    /// `gateway`: more of its table. `worlds`: their tables.
    #[track_caller]
    fn start(gateway: &str, worlds: &str) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("site.toml");
        let prefabs = root().join("cluster-config/town/prefabs.toml");
        let worlds =
            worlds.replace("PREFABS", prefabs.to_str().unwrap()).replace("SCRIPTS", root().join("scripts").to_str().unwrap());
        let text = format!(
            "[node]\nname = \"site\"\ndata_dir = \"data\"\ninstances_small = 60\ninstances_large = 2\n[server]\naot_cache_dir = \"cache\"\n\
             [gateway]\nlisten = \"127.0.0.1:0\"\nscripts = [\"avatar\"]\n{gateway}\n{worlds}"
        );
        std::fs::write(&file, text).unwrap();
        let (node, address) = Site::run(dir.path());
        Site { dir, node, address }
    }

    /// The program in a folder, and where players come in.
    #[track_caller]
    fn run(dir: &Path) -> (Child, SocketAddr) {
        let err = std::fs::File::options().create(true).append(true).open(dir.join("err")).unwrap();
        let mut node = command();
        node.arg("run").arg(dir.join("site.toml")).arg("--plain").stdout(Stdio::piped()).stderr(err);
        let mut node = node.spawn().unwrap();
        let mut out = BufReader::new(node.stdout.take().unwrap());
        let mut address = None;
        let mut line = String::new();
        while address.is_none() && out.read_line(&mut line).unwrap() > 0 {
            address = line.trim().strip_prefix("players at http://").map(|rest| rest.trim_end_matches('/').parse().unwrap());
            line.clear();
        }
        // It goes on talking: nobody must make it wait.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        if address.is_none() {
            let _ = node.kill();
        }
        (node, address.expect("the node says where players come in"))
    }

    /// End the node, saving or not, and wait for that.
    fn end(&mut self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.node.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.node.wait().unwrap();
    }

    /// Start it again at the same address.
    fn start_again(&mut self) {
        let file = self.dir.path().join("site.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("127.0.0.1:0", &self.address.to_string())).unwrap();
        let (node, address) = Site::run(self.dir.path());
        self.node = node;
        assert_eq!(address, self.address);
    }

    fn keys(&self) -> PassKeys {
        PassKeys::open(secret_path(&self.dir.path().join("data"))).unwrap()
    }

    fn join(&self, world: &str, name: &str) -> Player {
        Player::join(self.address, world, name, "")
    }
}

/// As a guest.
const OPEN: &str = "require_token = false";

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Wait for the player's body.
#[track_caller]
fn embodied(player: &mut Player) -> (f32, f32) {
    player.until("a body", |player, _| player.own().is_some_and(|own| own.kind == "player"));
    let own = player.own().unwrap();
    (own.x, own.z)
}

#[test]
fn a_player_is_shown_the_world_then_what_each_tick_changes_and_walks_no_faster_than_allowed() {
    let site = Site::start(OPEN, TOWN);
    let mut ada = site.join("town", "Ada");
    for kind in ["door", "guard"] {
        assert!(ada.entities.values().any(|entity| entity.kind == kind), "the first snapshot has a {kind}: {:?}", ada.entities);
    }
    let (x, _) = embodied(&mut ada);
    ada.until("a greeting", |ada, _| ada.elements.get("greeting").is_some_and(|text| text.contains("Ada")));
    ada.walk(1.0, 0.0);
    ada.until("a first step", |ada, _| ada.own().unwrap().x > x + 0.1);
    let (begin, from) = (ada.last_tick(), ada.own().unwrap().x);
    let step = ada.until("ten metres, with steps that are heard", |ada, news| {
        ada.own().unwrap().x > x + 10.0 && matches!(news, News::Sound { sound } if sound == "step")
    });
    let (ticks, metres) = ((ada.last_tick() - begin) as f32, ada.own().unwrap().x - from);
    assert!(metres <= SPEED * ticks / 20.0 + 0.5, "{metres} metres in {ticks} ticks, {step:?}");
    ada.walk(0.0, 0.0);
    ada.until("it to stand", {
        let mut still = (0, 0.0);
        move |ada, news| {
            let x = ada.own().unwrap().x;
            if matches!(news, News::Tick { .. }) {
                still = if still.1 == x { (still.0 + 1, x) } else { (0, x) };
            }
            still.0 > 3
        }
    });
}

#[test]
fn players_see_each_other_and_what_is_for_one_reaches_one() {
    let site = Site::start(OPEN, TOWN);
    let (mut ada, mut bob) = (site.join("town", "Ada"), site.join("town", "Bob"));
    embodied(&mut ada);
    embodied(&mut bob);
    let greeting = |player: &Player| player.elements.get("greeting").cloned();
    bob.until("Bob's greeting", |bob, _| greeting(bob).is_some());
    assert!(greeting(&bob).unwrap().contains("Bob") && ada.me != bob.me);
    ada.until("a list of both", |ada, news| {
        let text =
            |news: &News| matches!(news, News::Text { element, text, .. } if element == "greeting" && text.contains("Bob"));
        assert!(!text(news), "Bob's greeting reached Ada");
        ada.elements.get("players").is_some_and(|list| list.contains("Ada") && list.contains("Bob"))
    });
    let other = bob.me.unwrap();
    ada.until("Bob's body", |ada, _| ada.entities.values().any(|entity| entity.id == other));
    let at = |player: &Player| player.entities.values().find(|entity| entity.id == other).map(|entity| (entity.x, entity.z));
    let (x, z) = at(&ada).unwrap();
    // Something solid may be in one way or another.
    let (ways, mut ticks) = ([(-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0)], 0);
    ada.until("Bob to walk", |ada, news| {
        if matches!(news, News::Tick { .. }) {
            if ticks % 40 == 0 {
                let (east, south) = ways[ticks / 40 % ways.len()];
                bob.walk(east, south);
            }
            ticks += 1;
        }
        at(ada).is_some_and(|(now_x, now_z)| (now_x - x).hypot(now_z - z) > 1.0)
    });
    drop(bob);
    ada.until("Bob to be gone", |ada, _| at(ada).is_none() && !ada.elements["players"].contains("Bob"));
}

#[test]
fn without_a_good_token_nobody_is_let_in_and_a_player_is_there_once() {
    let site = Site::start("", TOWN);
    let now = seconds_since_1970();
    let pass = |sub: &str| Pass { sub: sub.into(), name: "Ada".into(), world: Some("town".into()), exp: now + 600, nbf: None };
    let refused = |token: &str| Player::greet(site.address, "town", "Ada", token).end();
    assert_eq!(refused(""), (4401, "a token is needed: the game's login server gives it".to_owned()));
    let stranger = tempfile::tempdir().unwrap();
    let forged = PassKeys::open(secret_path(stranger.path())).unwrap().sign(&pass("7")).unwrap();
    let ended = site.keys().sign(&Pass { exp: now - 60, ..pass("7") }).unwrap();
    let elsewhere = site.keys().sign(&Pass { world: Some("sky".into()), ..pass("7") }).unwrap();
    for (token, why) in [(forged.as_str(), "signature"), (&ended, "ended"), (&elsewhere, "this world"), ("nonsense", "no token")]
    {
        let (code, reason) = refused(token);
        assert!(code == 4401 && reason.contains(why), "{code} {reason}");
    }
    // As an operator makes one.
    let file = site.dir.path().join("site.toml");
    let mut made = command();
    made.args(["player", "token", "--player", "7", "--name", "Ada", "--world", "town", "--cluster"]).arg(&file);
    let made = made.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).unwrap();
    let mut first = Player::join(site.address, "town", "", token.trim());
    let before = {
        embodied(&mut first);
        first.me
    };
    let mut second = Player::join(site.address, "town", "", token.trim());
    assert_eq!(first.end(), (4409, "you came in again, elsewhere".to_owned()));
    embodied(&mut second);
    assert_eq!(second.me, before, "the player has one body");
    // The end of the first is not the player's.
    let ticks = second.last_tick() + 40;
    second.until("two seconds more", |second, _| {
        assert!(second.own().is_some());
        second.last_tick() > ticks
    });
}

#[test]
fn what_is_no_frame_ends_its_connection_and_no_other() {
    let site = Site::start(OPEN, TOWN);
    let mut ada = site.join("town", "Ada");
    let end = |send: &dyn Fn(&mut Player)| {
        let mut player = Player::dial(site.address);
        send(&mut player);
        player.end()
    };
    let raw = |frame: Vec<u8>| end(&move |player| player.send_raw(frame.clone()));
    assert_eq!(raw(vec![]).0, 4400);
    assert_eq!(raw(b"\x01GET / HTTP/1.1".to_vec()).0, 4400);
    assert_eq!(raw([hello("town", "", ""), vec![0]].concat()), (4400, "a frame has 1 bytes too many".to_owned()));
    assert_eq!(raw(vec![2, 0, 0, 0, 0, 1, b'a', 1, b'b']), (4400, "the first frame is a hello".to_owned()));
    assert_eq!(end(&|player| player.send_message(Message::text("hello"))).0, 4400);
    assert_eq!(raw(vec![1; 100_000]).0, 1009);
    assert_eq!(raw(hello_of((2, 3), "town", "", "")), (4406, "this gateway speaks version 1, the client 2 to 3".to_owned()));
    assert_eq!(raw(hello("nowhere", "", "")), (4404, "there is no such world".to_owned()));
    // Once in.
    for (bad, code) in [(hello("town", "", ""), 4400), (vec![9], 4400), (vec![2], 4400), (vec![2; 9_000], 1009)] {
        let mut player = site.join("town", "");
        player.send_raw(bad.clone());
        assert_eq!(player.end().0, code, "{:?}", &bad[..1]);
    }
    // Not even a WebSocket, and one that says nothing.
    let mut stream = TcpStream::connect(site.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x16\x03\x01 rubbish \r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400"), "{answer:?}");
    assert_eq!(end(&|_| {}), (4408, "no hello came".to_owned()));
    // Scripts that players may not call.
    ada.input("gate", "open", &[]);
    ada.until("a refusal", |_, news| *news == News::Refused { reason: 4 });
    let tick = ada.last_tick();
    ada.until("Ada to go on", |ada, _| ada.last_tick() > tick + 20);
}

#[test]
fn a_flood_is_refused_then_ended_and_troubles_nobody_else() {
    let site = Site::start(OPEN, TOWN);
    let (mut ada, mut eve) = (site.join("town", "Ada"), site.join("town", "Eve"));
    embodied(&mut ada);
    let send = |eve: &mut Player, count| (0..count).for_each(|_| eve.walk(1.0, 0.0));
    // More than is allowed at once, and less than is put up with.
    send(&mut eve, 150);
    eve.until("a refusal", |_, news| *news == News::Refused { reason: 1 });
    send(&mut eve, 2_000);
    assert_eq!(eve.end(), (4429, "far more was sent than is allowed".to_owned()));
    let x = ada.own().unwrap().x;
    ada.walk(1.0, 0.0);
    ada.until("Ada to walk", |ada, _| ada.own().is_some_and(|own| own.x > x + 1.0));
}

#[test]
fn a_client_that_takes_nothing_is_dropped_and_the_others_miss_nothing() {
    let site = Site::start(OPEN, SKY);
    let (mut ada, mut slow) = (site.join("sky", "Ada"), site.join("sky", "Slow"));
    let begin = Instant::now();
    let dropped = AtomicBool::new(false);
    let mut ticks = 0u64;
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            // It reads nothing until it has been given up: then what was on its way, and the end.
            while !dropped.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(20));
            }
            loop {
                match slow.next() {
                    News::Closed { code, .. } => return code,
                    _ => continue,
                }
            }
        });
        // Its body is gone when it was dropped.
        let mut seen = false;
        ada.until("the slow one to be dropped", |ada, news| {
            assert!(!matches!(news, News::Snapshot { .. } | News::Resync { .. }), "Ada missed something");
            ticks += u64::from(matches!(news, News::Tick { .. }));
            let there = ada.elements.get("players").is_some_and(|list| list.contains("Slow"));
            seen |= there;
            seen && !there
        });
        dropped.store(true, Ordering::Release);
        let code = watch.join().unwrap();
        // The close frame may have found no room any more.
        assert!([4413, 1006].contains(&code), "{code}");
    });
    eprintln!("dropped after {:?}, meanwhile {ticks} ticks reached the other", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(45) && ticks > 100);
}

#[test]
fn a_node_that_stops_tells_its_players() {
    let site = Site::start(OPEN, TOWN);
    let mut ada = site.join("town", "Ada");
    embodied(&mut ada);
    let pid = rustix::process::Pid::from_child(&site.node);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(ada.end(), (1001, "the node stops".to_owned()));
}

#[test]
fn a_gateway_takes_so_many_sessions_and_has_room_again_when_one_ends() {
    let site = Site::start("require_token = false\nsessions_max = 2", TOWN);
    let (first, _second) = (site.join("town", "1"), site.join("town", "2"));
    let third = || Player::greet(site.address, "town", "3", "").next();
    let told = third();
    assert!(matches!(&told, News::Closed { code: 1013, reason } if reason.contains("as many sessions")), "{told:?}");
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while !matches!(third(), News::Welcome { .. }) {
        assert!(Instant::now() < deadline, "there is no room again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn whoever_does_not_say_who_they_are_keeps_nobody_else_out() {
    let site = Site::start("require_token = false\nsessions_max = 2", TOWN);
    // More than there is room for sessions; they say nothing.
    let _silent: Vec<_> = (0..20).map(|_| Player::dial(site.address)).collect();
    embodied(&mut site.join("town", "Ada"));
}

#[test]
fn the_browser_client_walks_hears_and_reads() {
    let site = Site::start("require_token = false\nclient = true", TOWN);
    let shots = crate::web::tools().join("town");
    crate::web::python("../gateway/browser.py", &[&format!("http://{}", site.address), shots.to_str().unwrap()]);
}

#[test]
fn the_browser_client_says_that_it_has_lost_the_node_comes_back_and_walks_on() {
    let mut site = Site::start("require_token = false\nclient = true", TOWN);
    let tools = crate::web::tools();
    let mut browser = std::process::Command::new(tools.join("venv/bin/python"))
        .arg(root().join("tests/gateway/browser.py"))
        .args([&format!("http://{}", site.address), tools.join("town").to_str().unwrap(), "restart"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut tell, told) = (browser.stdin.take().unwrap(), BufReader::new(browser.stdout.take().unwrap()));
    for line in told.lines() {
        match line.unwrap().as_str() {
            "stop" => site.end("-TERM"),
            "kill" => site.end("-KILL"),
            "lost" => {
                site.start_again();
                writeln!(tell, "on").unwrap();
            }
            _ => {}
        }
    }
    let mut err = String::new();
    browser.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(browser.wait().unwrap().success(), "{err}");
}

/// Shows everybody an element and plays a sound that loops, once, when it starts.
const HERALD: &str = r#"(module
  (import "aether:ui" "show" (func $show (param i64 i32 i32 i32 i32) (result i32)))
  (import "aether:audio" "play" (func $play (param i32 i32 f32 f32 f32 f32 f32 f32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "newsoldfountain")
  (func (export "aether_abi_1"))
  (func (export "on_start")
    (drop (call $show (i64.const 0) (i32.const 0) (i32.const 4) (i32.const 4) (i32.const 3)))
    (drop (call $play (i32.const 7) (i32.const 8) (f32.const 0) (f32.const 0) (f32.const 0)
      (f32.const 1) (f32.const 1) (f32.const 20) (i32.const 1))))
  (func (export "on_tick") (param f32)))"#;

#[test]
fn who_comes_late_is_shown_the_elements_that_stand_and_hears_what_loops_also_after_a_restart() {
    let scripts = tempfile::tempdir().unwrap();
    let folder = scripts.path().join("herald");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("herald.wasm"), wat::parse_str(HERALD).unwrap()).unwrap();
    std::fs::write(
        folder.join("script.toml"),
        "name = \"herald\"\n[limits]\nmemory_mb = 1\n[grants]\napis = [\"ui\", \"audio\"]\n",
    )
    .unwrap();
    let world =
        format!("[[world]]\nname = \"square\"\nscripts_dir = {:?}\n[[world.script]]\nscript = \"herald\"\n", scripts.path());
    let mut site = Site::start(OPEN, &world);
    let sees_and_hears = |site: &Site, name: &str| {
        let mut player = site.join("square", name);
        let mut heard = 0;
        player.until("what stands and what loops", |player, news| {
            heard += u32::from(matches!(news, News::Sound { sound } if sound == "fountain"));
            heard > 0 && player.elements.get("news").is_some_and(|text| text == "old")
        });
        player
    };
    // The world has shown it before anybody was there, so the first is late, too; for the second the gateway follows it already.
    let first = sees_and_hears(&site, "Ada");
    let second = sees_and_hears(&site, "Bob");
    drop((first, second));
    // The script does not show it again when it goes on from a checkpoint.
    site.end("-TERM");
    site.start_again();
    drop(sees_and_hears(&site, "Eve"));
}

#[test]
fn pages_are_there_only_if_the_file_says_so_and_load_nothing_from_elsewhere() {
    let get = |site: &Site, path: &str| {
        let mut stream = TcpStream::connect(site.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", site.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let site = Site::start("client = true", TOWN);
    let page = get(&site, "/");
    assert!(
        page.starts_with("HTTP/1.1 200") && page.to_lowercase().contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    assert!(get(&site, "/worlds").ends_with("[\"town\"]"));
    assert!(get(&site, "/client/nothing.js").starts_with("HTTP/1.1 404") && get(&site, "/play").starts_with("HTTP/1.1 400"));
    let bare = Site::start("", TOWN);
    assert!(["/", "/worlds", "/client/app.js"].iter().all(|path| get(&bare, path).starts_with("HTTP/1.1 404")));
    assert!(Path::new(&secret_path(&bare.dir.path().join("data"))).is_file());
}
