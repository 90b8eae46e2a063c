//! A script's folder: `script.toml`, the code or how to build it (`build.toml`), tests.
//!
//! Start with [`Project::open`], then [`Project::code`]. Not here: running the build (`build`).

use aether_scripting::manifest::ScriptManifest;
use aether_scripting::symbols::{NamedFrame, without_debug};
use aether_scripting::{Digest, ScriptId, Symbols, Trace, TraceFrame, compile};
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// How a script is built: the `build.toml` beside its manifest. Paths are relative to its folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuildFile {
    /// A program and its arguments; no shell.
    pub command: Vec<String>,
    /// The .wasm that it makes, with names and debug information if the compiler can.
    pub output: PathBuf,
    /// Files and folders whose changes are worth a build.
    #[serde(default = "everything")]
    pub watch: Vec<PathBuf>,
    /// A build that takes longer is ended.
    #[serde(default = "ten_minutes")]
    pub deadline_seconds: u64,
    /// What must be done once, before the first build.
    pub setup: Option<Setup>,
    /// Another build for `aether script test`, with exports `test_…` that the script itself should not have.
    pub test: Option<TestBuild>,
}

/// Run if what it makes is not there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    /// A program and its arguments.
    pub command: Vec<String>,
    /// A file or folder that it makes.
    pub creates: PathBuf,
}

/// See [`BuildFile::test`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestBuild {
    /// A program and its arguments.
    pub command: Vec<String>,
    /// The .wasm that it makes.
    pub output: PathBuf,
}

fn everything() -> Vec<PathBuf> {
    vec![".".into()]
}

fn ten_minutes() -> u64 {
    600
}

/// A script's folder.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub dir: PathBuf,
    pub name: ScriptId,
    /// The manifest's text; one that grants everything if there is none.
    pub manifest_text: String,
    pub manifest: ScriptManifest,
    /// Whether there is a script.toml.
    pub has_manifest: bool,
    pub build: Option<BuildFile>,
    /// The code that is run when nothing is built.
    file: PathBuf,
}

/// Code, and what is known about it.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    /// What nodes get: binary, without debug information.
    pub wasm: Vec<u8>,
    pub digest: Digest,
    pub symbols: Arc<Symbols>,
}

impl Code {
    pub fn new(bytes: &[u8]) -> Result<Code, Failure> {
        Code::with_map(bytes, None)
    }

    /// A file, and the source map beside it if there is one.
    pub fn read(file: &Path) -> Result<Code, Failure> {
        let map = std::fs::read(file.with_added_extension("map")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Code::with_map(&read(file)?, map)
    }

    fn with_map(bytes: &[u8], map: Option<SourceMap>) -> Result<Code, Failure> {
        let binary = compile::to_binary(bytes)?;
        let wasm = without_debug(&binary);
        let mut symbols = Symbols::read(&binary);
        if let Some(map) = map {
            symbols.add_source_map(map.sources, &map.mappings);
        }
        Ok(Code { digest: Digest::of(&wasm), symbols: Arc::new(symbols), wasm })
    }
}

/// What is read of a `.wasm.map`.
#[derive(Deserialize)]
struct SourceMap {
    sources: Vec<String>,
    mappings: String,
}

pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| format!("could not read {}: {error}", file.display()).into())
}

fn is_code(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm" || extension == "wat")
}

impl Project {
    /// Of a folder, or of a .wasm or .wat file and what lies beside it.
    pub fn open(path: &Path) -> Result<Project, Failure> {
        let dir = if path.is_dir() { path.to_owned() } else { crate::config_file::folder(path).to_owned() };
        if !path.exists() {
            return Err(format!("there is no {}: `aether init script NAME --lang rust` makes a project", path.display()).into());
        }
        let build = dir.join("build.toml");
        let build: Option<BuildFile> = match std::fs::read_to_string(&build) {
            Ok(text) => Some(toml::from_str(&text).map_err(|error| format!("{}: {error}", build.display()))?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{}: {error}", build.display()).into()),
        };
        if build.as_ref().is_some_and(|build| build.command.is_empty()) {
            return Err(
                format!("{}: command is empty: give a program and its arguments", dir.join("build.toml").display()).into()
            );
        }
        let manifest = dir.join("script.toml");
        let (manifest_text, parsed) = match std::fs::read_to_string(&manifest) {
            Ok(text) => {
                let parsed = ScriptManifest::parse(&text).map_err(|error| format!("{}: {error}", manifest.display()))?;
                (Some(text), Some(parsed))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (None, None),
            // Without a manifest everything is granted: one that cannot be read is not none.
            Err(error) => return Err(format!("{}: {error}", manifest.display()).into()),
        };
        let file = match &build {
            _ if !path.is_dir() => path.to_owned(),
            Some(build) => dir.join(&build.output),
            None => code_in(&dir, parsed.as_ref().map(|manifest| manifest.name))?,
        };
        let has_manifest = parsed.is_some();
        let manifest = match parsed {
            Some(manifest) => manifest,
            None => {
                let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
                ScriptManifest::permissive(ScriptId::new(&stem).or_else(|_| ScriptId::new("script"))?)
            }
        };
        let manifest_text = match manifest_text {
            Some(text) => text,
            None => toml::to_string(&manifest)?,
        };
        Ok(Project { name: manifest.name, dir, manifest_text, manifest, has_manifest, build, file })
    }

    /// The same folder again, for a manifest that may have changed.
    pub fn reopen(&self) -> Result<Project, Failure> {
        Project::open(if self.build.is_some() || self.has_manifest { &self.dir } else { &self.file })
    }

    /// Where the code is: what the build makes, or the file itself.
    pub fn code_file(&self) -> PathBuf {
        match &self.build {
            Some(build) => self.dir.join(&build.output),
            None => self.file.clone(),
        }
    }

    /// Where `aether publish` and others expect the code.
    pub fn published_file(&self) -> PathBuf {
        self.dir.join(format!("{}.wasm", self.name))
    }

    /// The code as it was built last.
    pub fn code(&self) -> Result<Code, Failure> {
        let file = self.code_file();
        if self.build.is_some() && !file.is_file() {
            return Err(format!("{} is not built: `aether script build {}` makes it", file.display(), self.dir.display()).into());
        }
        Code::read(&file)
    }

    /// The code of one file, with the symbols of the build that made it if that is there.
    pub fn code_of(&self, file: &Path) -> Result<Code, Failure> {
        let mut code = Code::read(file)?;
        if !code.symbols.has_lines()
            && let Some(built) = self.build.as_ref().and_then(|build| Code::read(&self.dir.join(&build.output)).ok())
            && built.symbols.same_code(&code.symbols)
        {
            code.symbols = built.symbols;
        }
        Ok(code)
    }
}

/// The code in a folder without a build.
fn code_in(dir: &Path, name: Option<ScriptId>) -> Result<PathBuf, Failure> {
    let named = |extension: &str| name.map(|name| dir.join(format!("{name}.{extension}"))).filter(|path| path.is_file());
    // The module is made from the text, if both are there.
    if let Some(found) = named("wat").or_else(|| named("wasm")) {
        return Ok(found);
    }
    let mut found: Vec<_> =
        std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_code(path)).collect();
    found.sort();
    match &found[..] {
        [only] => Ok(only.clone()),
        [] => Err(format!(
            "{} holds no script: it needs a .wasm or .wat file, or a build.toml that says how to build one (`aether init script` makes \
             a whole project)",
            dir.display()
        )
        .into()),
        _ => Err(format!("{} holds {} modules: name the file, or add a script.toml", dir.display(), found.len()).into()),
    }
}

/// A trace for people, a line a frame. Files of the project are relative to its folder, else to where we are; what a language's own
/// library does between the author's code and the trap is left out.
pub(crate) fn trace_lines(trace: &Trace, symbols: &Symbols, dir: &Path) -> Vec<String> {
    let bases = [dir.canonicalize().ok(), std::env::current_dir().ok()];
    let frames = symbols.describe(trace);
    let library = |frame: &&NamedFrame| frame.place.as_ref().is_some_and(|(file, _)| is_library(file));
    let mut hidden = frames.iter().take_while(library).count();
    if hidden == frames.len() {
        hidden = 0;
    }
    let mut lines = Vec::new();
    if hidden > 1 {
        lines.push(format!("in {hidden} functions of the language's own library"));
    } else {
        hidden = 0;
    }
    lines.extend(frames.into_iter().skip(hidden).map(|mut frame| {
        if let Some((file, _)) = &mut frame.place {
            let inside = bases.iter().flatten().find_map(|base| Path::new(file.as_str()).strip_prefix(base).ok());
            if let Some(inside) = inside {
                *file = inside.display().to_string();
            }
        }
        format!("at {frame}")
    }));
    lines
}

/// Whether a source file is one of a compiler's library.
fn is_library(file: &str) -> bool {
    file.starts_with("/rustc/") || file.starts_with("~lib/")
}

/// A text that may end with a trace ([`Trace`]'s `Display`, after `, in `): what is before it, and its frames.
pub(crate) fn head_and_trace(text: &str) -> (&str, Trace) {
    let frame = |part: &str| {
        let (function, offset) = part.split_once(']')?.0.split_once("+0x")?;
        let (function, offset) = (function.parse().ok()?, u32::from_str_radix(offset, 16).ok()?);
        Some(TraceFrame { function, offset: Some(offset), name: None })
    };
    let begin = text.match_indices('[').find(|(at, _)| frame(&text[at + 1..]).is_some()).map(|(at, _)| at);
    let begin = begin.and_then(|first| text[..first].rfind(", in "));
    let Some(begin) = begin else { return (text, Trace::default()) };
    let frames = text[begin..].split('[').skip(1).filter_map(frame).collect();
    (&text[..begin], Trace { frames })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_at_the_end_of_a_text_is_found_and_other_brackets_are_none() {
        let (head, trace) = head_and_trace("world a[0], in short: trapped, in step [12+0x34] < on_tick [3+0x1]");
        assert_eq!(head, "world a[0], in short: trapped");
        assert_eq!(
            trace.frames.iter().map(|frame| (frame.function, frame.offset)).collect::<Vec<_>>(),
            [(12, Some(0x34)), (3, Some(1))]
        );
        for text in ["", "list[0] [a+b] [", "at once, in [1+2]"] {
            assert_eq!(head_and_trace(text), (text, Trace::default()));
        }
    }

    #[test]
    fn a_folder_without_a_manifest_is_a_script_if_it_holds_one_module() {
        let dir = tempfile::tempdir().unwrap();
        let error = Project::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("holds no script") && error.contains("aether init script"), "{error}");
        std::fs::write(dir.path().join("Walk.wat"), "(module)").unwrap();
        let project = Project::open(dir.path()).unwrap();
        assert_eq!((project.name.as_str(), project.has_manifest), ("walk", false));
        assert!(ScriptManifest::parse(&project.manifest_text).is_ok());
        std::fs::write(dir.path().join("run.wasm"), "").unwrap();
        assert!(Project::open(dir.path()).unwrap_err().to_string().contains("2 modules"));
        std::fs::write(dir.path().join("build.toml"), "command = []\noutput = \"x\"").unwrap();
        assert!(Project::open(dir.path()).unwrap_err().to_string().contains("command is empty"));
    }
}
