//! `aether run`: a node from a cluster file, a live view, a clean stop.

use crate::progress::Progress;
use crate::view::{self, View};
use crate::{CommandResult, compiler, config_file, say, telemetry};
use aether_admin::gateway::pass::secret_path;
use aether_admin::gateway::{Gateway, GatewayError, GatewayOptions, serve_gateway};
use aether_admin::{HttpOptions, HttpServer, ServeError, audit_path, serve_http, tokens_path};
use aether_cluster::{Node, NodeConfig, WorldState};
use aether_types::counted;
use clap::Args;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Arguments of `aether run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The cluster file.
    file: PathBuf,
    #[command(flatten)]
    show: ShowArgs,
}

/// How a running node is shown, and for how long.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Plain lines instead of the live view. Always so when standard output is not a terminal.
    #[arg(long)]
    plain: bool,
    /// Stop by itself after this many seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    seconds: Option<u32>,
    /// Also print one JSON object a second with everything that the view shows (implies --plain).
    #[arg(long)]
    json: bool,
}

/// Between two looks at the node.
const REFRESH: Duration = Duration::from_millis(250);

pub(crate) fn run(args: &RunArgs) -> CommandResult {
    let config = config_file::load(&args.file)?;
    show(&config, config_file::folder(&args.file), &args.show)
}

/// The admin API and the dashboard at the address of the `[admin]` table.
pub(crate) fn serve_admin(node: &Arc<Node>, config: &NodeConfig, base: &Path) -> Result<Option<HttpServer>, ServeError> {
    let Some(listen) = config.admin.listen else { return Ok(None) };
    let data_dir = base.join(&config.node.data_dir);
    let tls = config.admin.tls_cert.as_ref().zip(config.admin.tls_key.as_ref());
    let options = HttpOptions {
        listen,
        tls: tls.map(|(cert, key)| (base.join(cert), base.join(key))),
        tokens: tokens_path(&data_dir),
        audit: audit_path(&data_dir),
        require_token: config.admin.require_token,
        connections_max: config.admin.connections_max,
        connections_per_address: config.admin.connections_per_address,
        stall: Duration::from_secs(config.admin.stall_seconds.into()),
    };
    serve_http(Arc::clone(node), options).map(Some)
}

/// The player gateway at the address of the `[gateway]` table.
fn serve_players(node: &Arc<Node>, config: &NodeConfig, base: &Path) -> Result<Option<Gateway>, GatewayError> {
    let section = &config.gateway;
    let Some(listen) = section.listen else { return Ok(None) };
    let tls = section.tls_cert.as_ref().zip(section.tls_key.as_ref());
    let options = GatewayOptions {
        listen,
        tls: tls.map(|(cert, key)| (base.join(cert), base.join(key))),
        require_token: section.require_token,
        secret: players_secret(config, base),
        scripts: section.scripts.iter().cloned().collect(),
        sessions_max: section.sessions_max,
        inputs_per_second: section.inputs_per_second,
        client: section.client,
    };
    serve_gateway(Arc::clone(node), options).map(Some)
}

/// The file of the secret that players' tokens are signed with.
pub(crate) fn players_secret(config: &NodeConfig, base: &Path) -> PathBuf {
    match &config.gateway.secret {
        Some(path) => base.join(path),
        None => secret_path(&base.join(&config.node.data_dir)),
    }
}

/// Start a node, show it, stop it.
pub(crate) fn show(config: &NodeConfig, base: &Path, args: &ShowArgs) -> CommandResult {
    let _telemetry = telemetry::start(Some(config))?;
    let signals = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&signals);
    ctrlc::set_handler(move || {
        // The first asks for a clean stop; who presses twice more does not want to wait for it.
        if seen.fetch_add(1, Ordering::Relaxed) >= 2 {
            std::process::exit(130);
        }
    })?;
    let begin = Instant::now();
    let terminal = std::io::stdout().is_terminal() && !args.plain && !args.json;
    let starting = Progress::new("starting");
    let node = Node::start(config, base, compiler(), |what| {
        tracing::info!(what, "starting");
        starting.say(what);
    });
    drop(starting);
    let node = Arc::new(node?);
    let server = aether_admin::serve(Arc::clone(&node), aether_admin::socket_path(&base.join(&config.node.data_dir)));
    let server = server.inspect_err(|_| drop(node.shut_down()))?;
    let http = serve_admin(&node, config, base).inspect_err(|_| drop(node.shut_down()))?;
    if let Some(http) = &http {
        say(&format!("dashboard at {}", http.url()));
    }
    let gateway = serve_players(&node, config, base).inspect_err(|_| drop(node.shut_down()))?;
    if let Some(gateway) = &gateway {
        server.observe(gateway);
        http.iter().for_each(|http| http.observe(gateway));
        say(&format!("players at {}", gateway.url()));
    }
    say(&format!(
        "node {} up in {:.0} ms: {}, {}. Ctrl-C saves and stops.",
        config.node.name,
        begin.elapsed().as_secs_f64() * 1e3,
        counted(crate::worlds(config) as usize, "world"),
        counted(crate::scripts(config) as usize, "script")
    ));
    let deadline = args.seconds.map(|seconds| begin + Duration::from_secs(seconds.into()));
    let mut view: Box<dyn View> = if terminal {
        Box::new(view::Terminal::open(http.as_ref().map(|http| http.url()))?)
    } else {
        Box::new(view::Lines::new(args.json))
    };
    let mut all_ended = false;
    // Also when all are parked: an operator may resume or restore them.
    while signals.load(Ordering::Relaxed) == 0 && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let status = node.status();
        all_ended =
            !status.worlds.is_empty() && status.worlds.iter().all(|world| matches!(world.state, WorldState::Parked { .. }));
        // Also when the screen is gone: what follows saves the worlds.
        if view.show(&status, node.cluster().as_ref(), node.events()).unwrap_or(true) {
            break;
        }
        std::thread::sleep(REFRESH);
    }
    drop(view);
    say("stopping: on_stop for every script, then a checkpoint of every world");
    let events = node.events().clone();
    let (_, seen) = events.since(0);
    drop((gateway, server, http));
    let begin = Instant::now();
    let report = node.shut_down();
    for event in events.since(seen).0 {
        say(&format!("  {event}"));
    }
    for (world, cause) in &report.failed {
        say(&format!("world {world} was NOT saved: {cause}"));
    }
    let seconds = begin.elapsed().as_secs_f64();
    if report.moved > 0 {
        let (moved, run) = (counted(report.moved, "world"), if report.moved == 1 { "runs" } else { "run" });
        say(&format!("{moved} {run} on other nodes now."));
    }
    say(&format!("{} saved in {:.0} ms. Run the same command to go on.", counted(report.saved, "world"), seconds * 1e3));
    Ok(if report.failed.is_empty() && !all_ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
