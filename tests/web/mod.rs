//! The admin API and the dashboard of a running node, as clients, validators and a browser see them.
//!
//! Start with [`Served`]. What public validators and a browser check is in `check.py` and `browser.py`; `setup.sh` gets what they need
//! into `target/tmp/web`, where the screenshots go too, and fails with what is missing. Not here: rules of one module, which are
//! beside it in `crates/admin`.

use crate::program::command;
use crate::support::root;
use aether_admin::access::ACCESS;
use aether_admin::{HttpOptions, HttpServer, Role, ServeError, TokenFile, audit_path, serve_http, tokens_path};
use aether_cluster::{Node, NodeConfig};
use aether_scripting::compile::Compiler;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What the validators need, and where the screenshots go.
pub fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let dir = root().join("target/tmp/web");
        let done = Command::new("bash").arg(root().join("tests/web/setup.sh")).arg(&dir).status().unwrap();
        assert!(done.success(), "see above what is missing");
        dir
    })
}

/// The machine's, or the one that was fetched.
pub fn promtool() -> PathBuf {
    let found = Command::new("promtool").arg("--version").output().is_ok();
    if found { PathBuf::from("promtool") } else { tools().join("promtool") }
}

/// Run one of the Python files.
#[track_caller]
pub fn python(file: &str, arguments: &[&str]) {
    let python = tools().join("venv/bin/python");
    let output = Command::new(python).arg(root().join("tests/web").join(file)).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{file}: {out}{err}");
    eprintln!("{out}");
}

fn cluster_file(dir: &Path, more: &str) -> String {
    let scripts = root().join("scripts");
    let (data, cache) = (dir.join("data"), dir.join("cache"));
    format!(
        "[node]\nname = \"yard-node\"\ndata_dir = {data:?}\ninstances_small = 60\ninstances_large = 2\nworld_restart_intensity = 0\n\
         [server]\naot_cache_dir = {cache:?}\n{more}\n\
         [[world]]\nname = \"yard\"\ncount = 3\nscripts_dir = {scripts:?}\n[[world.script]]\nscript = \"greedy\"\ncount = 3\n"
    )
}

/// A node in this process, with its API at an address.
struct Served {
    dir: tempfile::TempDir,
    node: Arc<Node>,
    server: HttpServer,
}

impl Served {
    fn start(require_token: bool) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let config: NodeConfig = toml::from_str(&cluster_file(dir.path(), "")).unwrap();
        let node = Node::start(&config, dir.path(), Compiler::InProcess, |_| ()).unwrap_or_else(|error| panic!("{error:?}"));
        let node = Arc::new(node);
        // The first status of a world that begins has no scripts yet.
        wait("all worlds to say what they run", || node.status().worlds.iter().all(|world| world.scripts.len() == 3));
        let options = options(dir.path(), "127.0.0.1:0", require_token);
        let server = serve_http(Arc::clone(&node), options).unwrap();
        Served { dir, node, server }
    }

    fn token(&self, role: Role) -> String {
        TokenFile::new(tokens_path(&self.dir.path().join("data"))).make(role.name(), role, None).unwrap().1
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Answer {
        ask(self.server.address(), method, path, token, body)
    }

    fn get(&self, path: &str, token: &str) -> Answer {
        self.ask("GET", path, Some(token), &Value::Null)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.node.shut_down();
    }
}

fn options(dir: &Path, listen: &str, require_token: bool) -> HttpOptions {
    let data = dir.join("data");
    HttpOptions {
        listen: listen.parse().unwrap(),
        tls: None,
        tokens: tokens_path(&data),
        audit: audit_path(&data),
        require_token,
        connections_max: 512,
        connections_per_address: 64,
        stall: Duration::from_secs(20),
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// One request over a connection of its own. Of a stream the first message is read.
fn ask(address: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &Value) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n{token}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "no answer to {method} {path}: {head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let lower = head.to_lowercase();
    let mut body = Vec::new();
    if lower.contains("text/event-stream") {
        reader.take(64).read_to_end(&mut body).unwrap();
    } else if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = u64::from_str_radix(size.trim(), 16).unwrap();
            (&mut reader).take(size).read_to_end(&mut body).unwrap();
            reader.read_line(&mut String::new()).unwrap();
            if size == 0 {
                break;
            }
        }
    } else {
        reader.read_to_end(&mut body).unwrap();
    }
    Answer { status, head, body }
}

/// A route's path with names of nothing that is there, so that what is allowed changes nothing.
fn filled(path: &str) -> String {
    path.replace("{world}", "nowhere")
        .replace("{script}", "nobody")
        .replace("{version}", "7")
        .replace("{node}", "none")
        .replace("{file}", "app.js")
}

#[test]
fn no_token_no_answer_but_health_and_the_dashboards_files() {
    let served = Served::start(true);
    for access in ACCESS {
        let answer = served.ask(access.method, &filled(access.path), None, &Value::Null);
        match access.role {
            None => assert_eq!(answer.status, 200, "{access:?}: {answer:?}"),
            Some(_) => {
                // 429 once so many were refused.
                assert!([401, 429].contains(&answer.status), "{access:?}: {answer:?}");
                assert!(answer.head.to_lowercase().contains("application/problem+json"), "{answer:?}");
                assert!(answer.json()["title"].is_string() && answer.json()["status"] == answer.status, "{answer:?}");
            }
        }
    }
    // What is not there is not told to strangers either.
    assert!([401, 429].contains(&served.ask("GET", "/v1/nothing", None, &Value::Null).status));
    let page = served.ask("GET", "/", None, &Value::Null);
    assert!(page.head.to_lowercase().contains("content-security-policy: default-src 'none'"), "{}", page.head);
}

#[test]
fn a_role_may_do_what_the_table_says_and_nothing_else() {
    let served = Served::start(true);
    for role in Role::ALL {
        let token = served.token(role);
        for access in ACCESS {
            let answer = served.ask(access.method, &filled(access.path), Some(&token), &json!({}));
            let allowed = access.role.is_none_or(|needed| role >= needed);
            assert_eq!(answer.status == 403, !allowed, "{role} {access:?}: {answer:?}");
            assert!(![401, 429].contains(&answer.status), "{role} {access:?}: {answer:?}");
        }
    }
}

#[test]
fn before_a_token_is_made_a_development_node_lets_in_who_is_on_its_machine() {
    let served = Served::start(false);
    let me = served.ask("GET", "/v1/me", None, &Value::Null).json();
    assert!(me["role"] == "operator" && me["note"].as_str().unwrap().contains("aether token make"), "{me}");
    let body = json!({ "manifest": "", "wasm": "" });
    let refused = served.ask("POST", "/v1/publish", None, &body);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(refused.status == 403 && detail.contains("without a token") && !detail.contains("your token"), "{detail}");
    let token = served.token(Role::Viewer);
    assert_eq!(served.ask("GET", "/v1/me", None, &Value::Null).status, 401, "the first token ends that");
    assert_eq!(served.get("/v1/me", &token).json()["role"], "viewer");
    TokenFile::new(tokens_path(&served.dir.path().join("data"))).revoke("viewer").unwrap();
    assert_eq!(served.get("/v1/me", &token).status, 401);
    assert_eq!(served.ask("GET", "/v1/me", None, &Value::Null).status, 401, "also when all are revoked");
}

#[test]
fn who_stops_reading_a_stream_is_closed_and_an_address_has_so_many_connections() {
    let served = Served::start(true);
    let token = served.token(Role::Viewer);
    let stall = Duration::from_secs(1);
    let bounds = HttpOptions { connections_per_address: 1, stall, ..options(served.dir.path(), "127.0.0.1:0", true) };
    let bounded = serve_http(Arc::clone(&served.node), bounds).unwrap();
    // A small window: what is not read fills it soon.
    let connect = |window: usize| {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, window).unwrap();
        connect(&socket, &bounded.address()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    };
    let get = |path: &str| {
        let address = bounded.address();
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n")
    };
    // Whoever comes meanwhile from the same address is not answered.
    let is_free = || {
        let mut other = connect(65_536);
        let asked = other.write_all(get("/healthz").as_bytes()).and_then(|()| other.read(&mut [0; 16]));
        asked.is_ok_and(|read| read > 0)
    };
    // Who reads stays, for longer than the deadline.
    let mut reader = connect(65_536);
    reader.write_all(get("/v1/stream").as_bytes()).unwrap();
    let begin = Instant::now();
    while begin.elapsed() < 3 * stall {
        assert!(reader.read(&mut [0; 4_096]).unwrap() > 0, "the stream goes on");
    }
    assert!(!is_free(), "there is one connection of this address");
    drop(reader);
    wait("the place to be free", &is_free);
    // Who asks for much and takes nothing is waited for as long as the deadline says.
    let mut silent = connect(4_096);
    silent.write_all((0..200).map(|_| get("/openapi.json")).collect::<String>().as_bytes()).unwrap();
    silent.write_all(get("/v1/stream").as_bytes()).unwrap();
    wait("the one who takes nothing to be closed", &is_free);
}

#[test]
fn an_address_of_other_machines_needs_tls_and_a_token() {
    let served = Served::start(true);
    let refused = |options| serve_http(Arc::clone(&served.node), options).err();
    let open = || options(served.dir.path(), "0.0.0.0:0", false);
    assert!(matches!(refused(open()), Some(ServeError::NoTls(_))));
    let tls = Some(("no.pem".into(), "no.key".into()));
    assert!(matches!(refused(HttpOptions { tls: tls.clone(), ..open() }), Some(ServeError::NoTokens(_))));
    served.token(Role::Viewer);
    assert!(matches!(refused(HttpOptions { tls, ..open() }), Some(ServeError::Certificate { .. })));
}

#[test]
fn the_api_answers_what_the_node_says_of_itself() {
    let served = Served::start(true);
    let token = served.token(Role::Operator);
    let own = served.node.status();
    let status = served.get("/v1/status", &token).json();
    assert_eq!(status["name"], own.name.as_str());
    let page = served.get("/v1/worlds?limit=2", &token).json();
    assert_eq!((&page["total"], &page["next"]), (&json!(3), &json!(2)));
    for (i, world) in own.worlds.iter().enumerate() {
        let told = &status["worlds"][i];
        assert_eq!((&told["name"], &told["budget_us"]), (&json!(world.name), &json!(world.budget_us)));
        let one = served.get(&format!("/v1/worlds/{}", world.name), &token).json();
        assert_eq!(one["scripts_total"], world.scripts.len());
        assert_eq!((&one["state"], &one["generation"]), (&told["state"], &json!(world.generation)));
    }
    let scripts = served.get("/v1/scripts", &token).json();
    assert_eq!(
        (&scripts[0]["script"], &scripts[0]["instances"], &scripts[0]["worlds"]),
        (&json!("greedy"), &json!(9), &json!(3))
    );
    assert_eq!(served.get("/v1/nodes", &token).json()["nodes"][0]["worlds"], 3);
    let stream = served.get("/v1/stream", &token);
    assert!(stream.status == 200 && String::from_utf8_lossy(&stream.body).contains("event: names"), "{stream:?}");
    assert_eq!(served.get("/v1/worlds/nowhere", &token).status, 404);
    assert_eq!(served.get("/v1/worlds?limit=0", &token).status, 400);
    assert_eq!(served.ask("DELETE", "/v1/status", Some(&token), &Value::Null).status, 405);
}

#[test]
fn a_change_is_carried_out_and_written_down() {
    let served = Served::start(true);
    let token = served.token(Role::Operator);
    let path = "/v1/worlds/yard-1/scripts/greedy-1/suspend";
    assert_eq!(served.ask("POST", path, Some(&token), &Value::Null).status, 200);
    assert_eq!(served.ask("POST", path, Some(&token), &Value::Null).json()["done"], false, "it was so already");
    let nobody = served.ask("POST", "/v1/worlds/yard-1/scripts/nobody/suspend", Some(&token), &Value::Null);
    assert!(nobody.status == 404 && nobody.json()["detail"].as_str().unwrap().contains("greedy-1"), "{nobody:?}");
    let saved = served.ask("POST", "/v1/worlds/yard-1/checkpoints", Some(&token), &json!({ "name": "noon" }));
    assert_eq!(saved.status, 200, "{saved:?}");
    let viewer = served.token(Role::Viewer);
    assert_eq!(served.ask("POST", path, Some(&viewer), &Value::Null).status, 403);
    let log = std::fs::read_to_string(audit_path(&served.dir.path().join("data"))).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["name"].as_str().unwrap(), line["status"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("operator", 200), ("operator", 200), ("operator", 404), ("operator", 200), ("viewer", 403)]);
    assert_eq!((&lines[3]["given"]["name"], &lines[3]["answer"]), (&json!("noon"), &saved.json()));
    assert!(lines[0]["path"] == path && lines[0]["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(!log.contains(token.rsplit('_').next().unwrap()), "no secret in the log");
}

#[test]
fn a_node_is_ready_when_its_worlds_tick_and_not_when_one_is_parked() {
    let served = Served::start(true);
    let ready = || served.ask("GET", "/readyz", None, &Value::Null);
    wait("all worlds to tick", || ready().status == 200);
    assert!(served.node.kill_world("yard-2"));
    wait("the world to be missed", || ready().status == 503);
    wait("it to be parked", || ready().json()["reasons"][0]["reason"].as_str().is_some_and(|reason| reason.contains("parked")));
    assert_eq!(ready().json()["reasons"][0]["world"], "yard-2");
    // What led to it is kept, for whoever comes in the morning.
    let records =
        || std::fs::read_dir(served.dir.path().join("data/flight")).into_iter().flatten().map(|file| file.unwrap().path());
    let of_it = |path: &PathBuf| path.extension().is_some_and(|end| end == "json") && path.to_string_lossy().contains("yard-2-");
    wait("its flight record", || records().any(|path| of_it(&path)));
    let record: Value = serde_json::from_slice(&std::fs::read(records().find(of_it).unwrap()).unwrap()).unwrap();
    assert!(record["reason"].as_str().unwrap().starts_with("world parked: "), "{record:#}");
    assert_eq!(record["events"].as_array().unwrap().last().unwrap()["kind"], "parked");
    assert_eq!(served.ask("GET", "/healthz", None, &Value::Null).status, 200);
    let token = served.token(Role::Operator);
    assert_eq!(served.ask("POST", "/v1/worlds/yard-2/resume", Some(&token), &Value::Null).status, 200);
    wait("it to tick again", || ready().status == 200);
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_stream_ends_when_its_token_is_revoked() {
    let served = Served::start(true);
    let token = served.token(Role::Viewer);
    let mut stream = TcpStream::connect(served.server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /v1/stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n").unwrap();
    let mut begun = [0; 512];
    assert!(stream.read(&mut begun).unwrap() > 0);
    TokenFile::new(tokens_path(&served.dir.path().join("data"))).revoke("viewer").unwrap();
    let begin = Instant::now();
    std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn the_openapi_document_is_valid_and_answers_conform_to_it() {
    let served = Served::start(true);
    let token = served.token(Role::Viewer);
    python("check.py", &["openapi", &format!("http://{}", served.server.address()), &token]);
}

#[test]
fn the_metrics_are_what_promtool_calls_good() {
    let served = Served::start(true);
    let token = served.token(Role::Viewer);
    let text = served.get("/metrics", &token);
    assert_eq!(text.status, 200);
    let mut check =
        Command::new(promtool()).args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(&text.body).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let text = String::from_utf8(text.body).unwrap();
    assert!(text.contains(r#"aether_worlds{state="ticking"} 3"#), "{text}");
    assert!(text.contains(r#"aether_script_fuel_total{script="greedy"}"#), "{text}");
}

#[test]
fn with_a_certificate_the_address_speaks_tls_only() {
    let served = Served::start(true);
    let token = served.token(Role::Viewer);
    tools();
    let (cert, key) = (served.dir.path().join("cert.pem"), served.dir.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tls = Some((cert.clone(), key));
    let secure =
        serve_http(Arc::clone(&served.node), HttpOptions { tls, ..options(served.dir.path(), "127.0.0.1:0", true) }).unwrap();
    assert!(secure.url().starts_with("https://"));
    python("check.py", &["tls", secure.url().trim_end_matches('/'), cert.to_str().unwrap(), &token]);
}

/// A program that runs beside the test and ends with it.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_dashboard_works_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, cluster_file(dir.path(), "[admin]\nlisten = \"127.0.0.1:0\"\n")).unwrap();
    let token = |role: &str| {
        let made =
            command().args(["token", "make", role, "--role", role, "--output", "json", "--cluster"]).arg(&file).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        serde_json::from_slice::<Value>(&made.stdout).unwrap()["token"].as_str().unwrap().to_owned()
    };
    let (operator, viewer) = (token("operator"), token("viewer"));
    tools();
    let mut node = Running(command().args(["run", "--plain"]).arg(&file).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(node.0.stdout.take().unwrap()).lines();
    let url =
        lines.by_ref().find_map(|line| line.unwrap().strip_prefix("dashboard at ").map(str::to_owned)).expect("the node ended");
    // Nobody else reads what it prints.
    std::thread::spawn(move || lines.for_each(drop));
    let (shots, pid) = (root().join("target/tmp/web"), node.0.id().to_string());
    python("browser.py", &[url.trim_end_matches('/'), &operator, &viewer, shots.to_str().unwrap(), &pid]);
}
