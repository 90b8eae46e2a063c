//! Tells when files change that are worth a build.
//!
//! The system reports changes of folders (`notify`). They are gathered until none has come for [`QUIET`], since editors write a file
//! in several steps. Not here: what follows.

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// No change for so long: the file is as its author wanted it.
const QUIET: Duration = Duration::from_millis(40);
/// Whoever writes all the time is not waited for longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Folders and files whose changes are looked for.
pub(crate) struct Watch {
    _watcher: RecommendedWatcher,
    changes: Receiver<notify::Result<notify::Event>>,
    watched: Vec<PathBuf>,
    ignored: Vec<PathBuf>,
    /// When the first and the last change came that nobody was told of.
    pending: Option<(Instant, Instant)>,
}

impl Watch {
    /// Watch paths below a folder; what is in `ignored` (or hidden) does not count.
    pub fn start(dir: &Path, watched: &[PathBuf], ignored: &[PathBuf]) -> Result<Watch, String> {
        let (send, changes) = channel();
        let mut watcher = notify::recommended_watcher(send).map_err(|error| format!("could not watch files: {error}"))?;
        let dir = dir.canonicalize().map_err(|error| format!("could not watch {}: {error}", dir.display()))?;
        let watched: Vec<_> =
            watched.iter().map(|path| if path == Path::new(".") { dir.clone() } else { dir.join(path) }).collect();
        let ignored: Vec<_> = ignored.iter().map(|path| dir.join(path)).collect();
        let mut folders = std::collections::BTreeSet::new();
        for path in &watched {
            // A file is watched in its folder: editors put another one in its place.
            let (folder, mode) = match path.is_dir() {
                true => (path.as_path(), RecursiveMode::Recursive),
                false => (path.parent().unwrap_or(&dir), RecursiveMode::NonRecursive),
            };
            // The whole project may hold gigabytes of build output: its folders are watched one by one where they are named.
            let mode = if *path == dir { RecursiveMode::NonRecursive } else { mode };
            if folder.is_dir() && folders.insert(folder.to_owned()) {
                watcher.watch(folder, mode).map_err(|error| {
                    format!(
                        "could not watch {}: {error}: raise fs.inotify.max_user_watches if there are too many",
                        folder.display()
                    )
                })?;
            }
        }
        Ok(Watch { _watcher: watcher, changes, watched, ignored, pending: None })
    }

    fn counts(&self, event: &notify::Event) -> bool {
        let changes = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any);
        changes
            && event.paths.iter().any(|path| {
                let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
                !hidden
                    && !self.ignored.iter().any(|ignored| path.starts_with(ignored))
                    && self.watched.iter().any(|watched| path.starts_with(watched))
            })
    }

    /// When the first of some changes came, once they are over. Does not wait.
    pub fn changed(&mut self) -> Option<Instant> {
        while let Ok(event) = self.changes.try_recv() {
            if event.is_ok_and(|event| self.counts(&event)) {
                let now = Instant::now();
                let first = self.pending.map_or(now, |(first, _)| first);
                self.pending = Some((first, now));
            }
        }
        let (first, last) = self.pending?;
        if last.elapsed() < QUIET && first.elapsed() < PATIENCE {
            return None;
        }
        self.pending = None;
        Some(first)
    }
}
