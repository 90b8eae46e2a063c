//! Tells when files change that are worth a build.
//!
//! The system reports changes of folders (`notify`). They are gathered until none has come for [`QUIET`], since editors write a file
//! in several steps. Not here: what follows.

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// No change for so long: the file is as its author wanted it.
const QUIET: Duration = Duration::from_millis(40);
/// Whoever writes all the time is not waited for longer.
const PATIENCE: Duration = Duration::from_millis(500);

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

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
        let mut folders = BTreeMap::new();
        for path in &watched {
            if *path == dir {
                // The whole project, but for what is hidden or made: build output is large and changes all the time.
                folders.insert(dir.clone(), RecursiveMode::NonRecursive);
                let entries = std::fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
                let counts = |path: &PathBuf| path.is_dir() && !is_hidden(path) && !ignored.contains(path);
                folders.extend(entries.filter(counts).map(|path| (path, RecursiveMode::Recursive)));
            } else if path.is_dir() {
                folders.insert(path.clone(), RecursiveMode::Recursive);
            } else if let Some(folder) = path.parent() {
                // A file is watched in its folder: editors put another one in its place.
                folders.entry(folder.to_owned()).or_insert(RecursiveMode::NonRecursive);
            }
        }
        for (folder, mode) in folders.iter().filter(|(folder, _)| folder.is_dir()) {
            watcher.watch(folder, *mode).map_err(|error| {
                format!("could not watch {}: {error}: raise fs.inotify.max_user_watches if there are too many", folder.display())
            })?;
        }
        Ok(Watch { _watcher: watcher, changes, watched, ignored, pending: None })
    }

    fn counts(&self, event: &notify::Event) -> bool {
        let changes = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any);
        changes
            && event.paths.iter().any(|path| {
                !is_hidden(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_of_and_what_a_build_makes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(at.join("src/deep")).unwrap();
        let mut watch = Watch::start(&at, &[".".into()], &["target".into(), "made.wasm".into()]).unwrap();
        let counts = |file: &str| watch.counts(&notify::Event::new(EventKind::Any).add_path(at.join(file)));
        assert!(counts("src/deep/main.c") && counts("script.toml"));
        assert!(!counts("target/x") && !counts("made.wasm") && !counts(".made.wasm.new") && !counts("/elsewhere"));

        let begun = Instant::now();
        std::fs::write(at.join("src/deep/main.c"), "x").unwrap();
        while watch.changed().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing is told");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
