//! `aether dev`: watch, build, check, reload, and show what the script does.
//!
//! One thread looks at everything in turn, each [`LOOK`]: changed files, the build, the reload, the node's events. Only one build and one
//! reload run at a time; what changes meanwhile is built after it. Whatever fails, the last good version goes on.
//! Start with [`run`], then [`Session::look`]. Not here: what is shown of it (`show`), the node (`world`), building (`build`), watching
//! (`watch`).

mod show;

use super::build::{self, Build, Built};
use super::children;
use super::project::{Code, Project};
use super::report::{Report, Tone};
use super::watch::Watch;
use super::world::{self, Local, Place};
use crate::{CommandResult, say};
use aether_cluster::{RegistryError, ReloadReport, Source};
use aether_scripting::{Digest, Symbols, Version};
use aether_types::counted;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub(crate) const HELP: &str = "Examples:
  aether dev my-script
  aether dev my-script --prefabs cluster-config/town/prefabs.toml --prefab guard
  aether dev scripts/door --world cluster-config/dev.toml --port 8080

The folder holds script.toml and build.toml (`aether init script` makes both), or just a .wasm or .wat file. Each good build becomes the
next version, with save_state and restore_state; a bad one changes nothing. What the world knows is kept in the folder's .aether.

Exit code: 0 after Ctrl-C if everything was saved, else 1.";

/// Arguments of `aether dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// The script's folder, or a .wasm or .wat file.
    dir: PathBuf,
    /// A cluster file whose worlds run the script. Without it: a small world of its own.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prefabs", "prefab"])]
    world: Option<PathBuf>,
    /// For a world of its own: the prefabs that the script can spawn.
    #[arg(long)]
    prefabs: Option<PathBuf>,
    /// For a world of its own: the prefab of the script's own entity.
    #[arg(long, requires = "prefabs")]
    prefab: Option<String>,
    /// The dashboard's port on this machine; 0: any that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Begin with an empty world.
    #[arg(long)]
    fresh: bool,
    /// Show the log lines of all scripts, not only of this one.
    #[arg(long)]
    all: bool,
    /// Stop by itself after this many seconds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    seconds: Option<u32>,
}

/// Between two looks: what an author does not notice.
const LOOK: Duration = Duration::from_millis(10);
/// Between two lines about fuel that say nothing new.
const FUEL_EVERY: Duration = Duration::from_secs(10);
/// Builds whose symbols are kept, for traces of older versions.
const SYMBOLS_MAX: usize = 16;

/// A good build that is not a version yet.
struct Ready {
    project: Project,
    code: Code,
    saved: Instant,
    build_took: Duration,
}

/// A version on its way.
struct Reload {
    published: Receiver<Result<ReloadReport, RegistryError>>,
    saved: Instant,
    build_took: Duration,
    live: bool,
}

struct Session {
    project: Project,
    place: Place,
    all: bool,
    report: Report,
    watch: Watch,
    /// When the change came that is to be built.
    dirty: Option<Instant>,
    building: Option<(Build, Instant)>,
    ready: Option<Ready>,
    reload: Option<Reload>,
    local: Option<Local>,
    /// Events seen.
    seen: u64,
    /// Of the builds that became versions, the newest last.
    symbols: Vec<(Digest, Arc<Symbols>)>,
    /// What the node runs, as far as it is known here.
    running: Option<(Digest, String)>,
    /// The version that is live.
    current: Option<Version>,
    fuel_shown: Option<(Instant, u64)>,
    /// The trace that was shown last: who ends in the same place again and again is shown once.
    shown: Vec<String>,
}

pub(crate) fn run(args: &DevArgs) -> CommandResult {
    let signals = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&signals);
    ctrlc::set_handler(move || {
        // A build would go on for minutes, and keep a setup from hearing of it.
        children::end_all();
        // The first asks for a clean stop; who presses twice more does not want to wait for it.
        if seen.fetch_add(1, Ordering::Relaxed) >= 2 {
            std::process::exit(130);
        }
    })?;
    let begin = Instant::now();
    let deadline = args.seconds.map(|seconds| begin + Duration::from_secs(seconds.into()));
    let mut session = Session::open(args)?;
    while signals.load(Ordering::Relaxed) == 0 && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        session.look()?;
        std::thread::sleep(LOOK);
    }
    session.close()
}

impl Session {
    fn open(args: &DevArgs) -> Result<Session, Box<dyn std::error::Error>> {
        let project = Project::open(&args.dir)?;
        let place =
            Place { file: args.world.clone(), prefabs: args.prefabs.clone(), prefab: args.prefab.clone(), port: args.port };
        if args.fresh {
            world::forget(&project, &place)?;
        }
        let code = project.code_file();
        let code = code.strip_prefix(&project.dir).map_or(code.clone(), PathBuf::from);
        let (watched, mut ignored) = match &project.build {
            Some(build) => (build.watch.clone(), vec![code, build_output_folder(&build.output)]),
            None => (vec![code, "script.toml".into()], Vec::new()),
        };
        if project.build.is_some() {
            ignored.push(format!("{}.wasm", project.name).into());
        }
        ignored.push(".aether".into());
        let watch = Watch::start(&project.dir, &watched, &ignored)?;
        let report = Report::new();
        report.line(Tone::Faint, "watch", &format!("{} ({}); Ctrl-C saves and stops", project.dir.display(), project.name));
        Ok(Session {
            project,
            place,
            all: args.all,
            report,
            watch,
            dirty: Some(Instant::now()),
            building: None,
            ready: None,
            reload: None,
            local: None,
            seen: 0,
            symbols: Vec::new(),
            running: None,
            current: None,
            fuel_shown: None,
            shown: Vec::new(),
        })
    }

    /// Look at everything once. An error is one that nothing can go on after.
    fn look(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(saved) = self.watch.changed() {
            self.dirty.get_or_insert(saved);
        }
        if self.building.is_none()
            && let Some(saved) = self.dirty.take()
        {
            self.begin_build(saved);
        }
        if let Some((build, saved)) = &mut self.building
            && let Some(built) = build.poll()
        {
            let saved = *saved;
            self.building = None;
            self.built(built, saved);
        }
        if self.reload.is_none()
            && let Some(ready) = self.ready.take()
        {
            self.bring_in(ready)?;
        }
        self.show_events();
        self.end_reload();
        self.show_fuel();
        Ok(())
    }

    fn begin_build(&mut self, saved: Instant) {
        match self.project.reopen() {
            Ok(project) => self.project = project,
            Err(error) => return self.report.line(Tone::Bad, "manifest", &format!("{error}{}", self.goes_on())),
        }
        let report = self.report;
        match build::start(&self.project, &mut |line| report.line(Tone::Faint, "setup", line)) {
            Ok(Some(build)) => self.building = Some((build, saved)),
            Ok(None) => self.built(Built { outcome: Ok(()), output: Vec::new(), took: Duration::ZERO }, saved),
            Err(reason) => self.report.line(Tone::Bad, "build", &format!("{reason}{}", self.goes_on())),
        }
    }

    fn goes_on(&self) -> &'static str {
        if self.current.is_some() { "; the last good version goes on" } else { "; waiting for a change" }
    }

    fn built(&mut self, built: Built, saved: Instant) {
        let tone = if built.outcome.is_ok() { Tone::Odd } else { Tone::Plain };
        for line in &built.output {
            self.report.line(tone, "build", line);
        }
        if let Err(reason) = built.outcome {
            return self.report.line(Tone::Bad, "build", &format!("{reason}{}", self.goes_on()));
        }
        let code = match self.project.code() {
            Ok(code) => code,
            Err(error) => return self.report.line(Tone::Bad, "build", &format!("{error}{}", self.goes_on())),
        };
        if self.project.build.is_some() {
            self.report.line(Tone::Faint, "build", &format!("{} bytes in {} ms", code.wasm.len(), built.took.as_millis()));
            let published = self.project.published_file();
            if published != self.project.code_file()
                && let Err(error) = world::put(&published, &code.wasm)
            {
                self.report.line(Tone::Bad, "build", &error.to_string());
            }
        }
        self.ready = Some(Ready { project: self.project.clone(), code, saved, build_took: built.took });
    }

    fn bring_in(&mut self, ready: Ready) -> Result<(), Box<dyn std::error::Error>> {
        let Ready { project, code, saved, build_took } = ready;
        let wanted = (code.digest, project.manifest_text.clone());
        if self.running.as_ref() == Some(&wanted) {
            self.report.line(Tone::Faint, "same", "code and manifest are those that run: nothing to reload");
            return Ok(());
        }
        self.symbols.retain(|(digest, _)| *digest != wanted.0);
        self.symbols.push((wanted.0, Arc::clone(&code.symbols)));
        if self.symbols.len() > SYMBOLS_MAX {
            self.symbols.remove(0);
        }
        let Some(local) = &self.local else { return self.start(&project, code, saved, build_took) };
        let (send, published) = channel();
        let (node, source) = (Arc::clone(&local.node), Source { manifest: project.manifest_text.clone(), wasm: code.wasm });
        std::thread::spawn(move || send.send(node.publish(source)));
        self.reload = Some(Reload { published, saved, build_took, live: false });
        self.running = Some(wanted);
        Ok(())
    }

    fn start(
        &mut self,
        project: &Project,
        code: Code,
        saved: Instant,
        build_took: Duration,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let local = world::start(project, &code, &self.place)?;
        if let Some(url) = local.url() {
            self.report.line(Tone::Faint, "world", &format!("dashboard at {url}"));
        }
        let name = project.name.as_str();
        let worlds = local.node.status().worlds;
        for world in &worlds {
            self.report.line(Tone::Faint, "world", &format!("{} is at tick {}", world.name, world.tick));
        }
        let versions = local.node.versions()?;
        let active = versions.iter().find(|version| version.script.as_str() == name && version.active);
        let runs_it = active.is_some_and(|active| active.source == code.digest);
        if let Some(active) = active.filter(|_| runs_it) {
            self.current = Some(active.version);
            let ms = millis(saved.elapsed().saturating_sub(build_took));
            self.report.line(
                Tone::Good,
                "live",
                &format!("v{} in {}, {ms} ms after the build", active.version, counted(local.worlds as usize, "world")),
            );
        }
        self.running = runs_it.then(|| (code.digest, project.manifest_text.clone()));
        self.local = Some(local);
        if !runs_it {
            // What an earlier session published goes on until this one is in.
            self.ready = Some(Ready { project: project.clone(), code, saved, build_took });
        }
        Ok(())
    }

    fn end_reload(&mut self) {
        let Some(published) = self.reload.as_ref().and_then(|reload| reload.published.try_recv().ok()) else { return };
        // What happened before it ended is to be read before it.
        self.show_events();
        let live = self.reload.take().is_some_and(|reload| reload.live);
        match published {
            Ok(report) if !live => {
                self.current = Some(report.to);
                self.report.line(Tone::Good, "live", &format!("v{} in {}", report.to, counted(report.worlds, "world")));
            }
            Ok(_) => {}
            Err(error) => {
                // Its next build is tried again, even if it is the one that ran before.
                (self.running, self.current) = (None, self.active());
                self.show_refused(&error);
                let follows = match self.current {
                    Some(version) => format!("the last good version goes on: v{version}, its state as it was"),
                    None => "waiting for a change".to_owned(),
                };
                self.report.line(Tone::Odd, "refused", &follows);
            }
        }
    }

    /// The version that serves now.
    fn active(&self) -> Option<Version> {
        let versions = self.local.as_ref()?.node.versions().ok()?;
        versions.into_iter().find(|info| info.script == self.project.name && info.active).map(|info| info.version)
    }

    fn close(mut self) -> CommandResult {
        // Ends its processes.
        self.building = None;
        let Some(local) = self.local.take() else { return Ok(ExitCode::SUCCESS) };
        let report = local.node.shut_down();
        for (world, cause) in &report.failed {
            self.report.line(Tone::Bad, "world", &format!("{world} was NOT saved: {cause}"));
        }
        say(&format!("{} saved. Run the same command to go on, with --fresh to begin anew.", counted(report.saved, "world")));
        Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The folder of a build's output, if it is not the project's own.
fn build_output_folder(output: &std::path::Path) -> PathBuf {
    output.components().next().map_or_else(|| output.to_owned(), |first| PathBuf::from(first.as_os_str()))
}

fn millis(time: Duration) -> u128 {
    time.as_millis()
}
