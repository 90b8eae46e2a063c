//! `aether init script`: a project that builds, in a new folder.
//!
//! The SDK goes into the project: it needs no registry and no network, and a script is built with the SDK of the `aether` that made it,
//! whatever comes later. What is written is in `templates/` and in the SDKs' own folders, all of it part of this program.

use crate::{CommandResult, say};
use aether_scripting::ScriptId;
use clap::{Args, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Commands of `aether init`.
#[derive(Debug, Subcommand)]
pub(crate) enum InitCommand {
    /// Make a script's project: source, manifest, build, tests, and the SDK.
    #[command(
        after_help = "Examples:\n  aether init script lantern --lang rust\n  aether init script bell --lang c --dir scripts\n\nNothing is \
            overwritten: the folder must not exist, or be empty. Exit code: 0, or 1 if nothing was made."
    )]
    Script(ScriptArgs),
}

/// Arguments of `aether init script`.
#[derive(Debug, Args)]
pub(crate) struct ScriptArgs {
    /// Its name: a-z, 0-9, '-' and '_', a letter first. The folder's name, too.
    name: String,
    /// What it is written in.
    #[arg(long, value_enum)]
    lang: Language,
    /// The folder that the project's folder is made in.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Languages with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    C,
    #[value(name = "assemblyscript")]
    AssemblyScript,
}

macro_rules! files {
    ($($to:literal: $from:literal),* $(,)?) => { &[$(($to, include_str!(concat!("../../", $from)))),*] };
}

/// A file's place in the project, and its text; `{{…}}` in both is filled in. Files of the SDKs are taken as they are.
type Files = &'static [(&'static str, &'static str)];

const COMMON: Files = files! {
    "script.toml": "templates/common/script.toml",
    "README.md": "templates/common/README.md",
    ".gitignore": "templates/common/gitignore",
    "tests/{{name}}.toml": "templates/common/tests.toml",
};

const RUST: Files = files! {
    "Cargo.toml": "templates/rust/Cargo.toml",
    ".cargo/config.toml": "templates/rust/config.toml",
    "build.toml": "templates/rust/build.toml",
    "src/lib.rs": "templates/rust/lib.rs",
};

const RUST_SDK: Files = files! {
    "sdk/Cargo.toml": "../sdk/Cargo.toml",
    "sdk/README.md": "../sdk/README.md",
    "sdk/src/audio.rs": "../sdk/src/audio.rs",
    "sdk/src/entity.rs": "../sdk/src/entity.rs",
    "sdk/src/error.rs": "../sdk/src/error.rs",
    "sdk/src/export.rs": "../sdk/src/export.rs",
    "sdk/src/lib.rs": "../sdk/src/lib.rs",
    "sdk/src/network.rs": "../sdk/src/network.rs",
    "sdk/src/physics.rs": "../sdk/src/physics.rs",
    "sdk/src/players.rs": "../sdk/src/players.rs",
    "sdk/src/raw.rs": "../sdk/src/raw.rs",
    "sdk/src/script.rs": "../sdk/src/script.rs",
    "sdk/src/state.rs": "../sdk/src/state.rs",
    "sdk/src/storage.rs": "../sdk/src/storage.rs",
    "sdk/src/types.rs": "../sdk/src/types.rs",
    "sdk/src/ui.rs": "../sdk/src/ui.rs",
};

const C: Files = files! {
    "build.toml": "templates/c/build.toml",
    "src/{{name}}.c": "templates/c/script.c",
};

const C_SDK: Files = files! {
    "sdk/aether.h": "../../sdk/c/aether.h",
    "sdk/README.md": "../../sdk/c/README.md",
};

const ASSEMBLYSCRIPT: Files = files! {
    "package.json": "templates/assemblyscript/package.json",
    "build.toml": "templates/assemblyscript/build.toml",
    "assembly/index.ts": "templates/assemblyscript/index.ts",
    "assembly/tsconfig.json": "templates/assemblyscript/tsconfig.json",
};

const ASSEMBLYSCRIPT_SDK: Files = files! {
    "sdk/assembly/index.ts": "../../sdk/assemblyscript/assembly/index.ts",
    "sdk/assembly/raw.ts": "../../sdk/assemblyscript/assembly/raw.ts",
    "sdk/README.md": "../../sdk/assemblyscript/README.md",
    ".npmrc": "../../sdk/assemblyscript/.npmrc",
};

const ASSEMBLYSCRIPT_LOCK: &str = include_str!("../../../../sdk/assemblyscript/package-lock.json");

impl Language {
    fn templates(self) -> Files {
        match self {
            Language::Rust => RUST,
            Language::C => C,
            Language::AssemblyScript => ASSEMBLYSCRIPT,
        }
    }

    fn sdk(self) -> Files {
        match self {
            Language::Rust => RUST_SDK,
            Language::C => C_SDK,
            Language::AssemblyScript => ASSEMBLYSCRIPT_SDK,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::C => "C",
            Language::AssemblyScript => "AssemblyScript",
        }
    }

    fn source(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::C => "src/{{name}}.c",
            Language::AssemblyScript => "assembly/index.ts",
        }
    }

    /// What must be installed.
    fn needs(self) -> &'static str {
        match self {
            Language::Rust => "It needs Rust 1.95 or newer and its wasm target: `rustup target add wasm32-unknown-unknown`.",
            Language::C => "It needs clang and lld: `apt-get install clang lld`.",
            Language::AssemblyScript => "It needs node 20 or newer with npm; the first build fetches the compiler (`npm ci`).",
        }
    }
}

/// `blue-lantern` as a type: `BlueLantern`.
fn type_name(name: &str) -> String {
    name.split(['-', '_'])
        .map(|part| part.chars().take(1).flat_map(char::to_uppercase).chain(part.chars().skip(1)).collect::<String>())
        .collect()
}

/// Every file of a new project: its place and its text.
fn files(name: ScriptId, language: Language) -> Vec<(String, String)> {
    let filled = |text: &str| {
        text.replace("{{source}}", language.source())
            .replace("{{language}}", language.name())
            .replace("{{needs}}", language.needs())
            .replace("{{crate}}", &name.as_str().replace('-', "_"))
            .replace("{{type}}", &type_name(name.as_str()))
            .replace("{{name}}", name.as_str())
    };
    let templates = COMMON.iter().chain(language.templates()).map(|(path, text)| (filled(path), filled(text)));
    let mut files: Vec<_> =
        templates.chain(language.sdk().iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))).collect();
    if language == Language::AssemblyScript {
        let lock = ASSEMBLYSCRIPT_LOCK.replace("\"name\": \"aether-script-sdk\"", &format!("\"name\": \"{name}\""));
        files.push(("package-lock.json".to_owned(), lock));
    }
    files
}

pub(crate) fn run(command: &InitCommand) -> CommandResult {
    let InitCommand::Script(args) = command;
    let name = ScriptId::new(&args.name).map_err(|error| format!("{:?} is no name for a script: {error}", args.name))?;
    let dir = if args.dir == Path::new(".") { name.as_str().into() } else { args.dir.join(name.as_str()) };
    write(&dir, &files(name, args.lang))?;
    say(&format!("{} is a script in {}. {}", dir.display(), args.lang.name(), args.lang.needs()));
    say("Next:");
    say(&format!("  aether dev {}", dir.display()));
    say(&format!("  aether script test {}", dir.display()));
    Ok(ExitCode::SUCCESS)
}

fn write(dir: &Path, files: &[(String, String)]) -> Result<(), String> {
    let trouble = |what: &Path, error: std::io::Error| format!("could not make {}: {error}", what.display());
    let taken = std::fs::symlink_metadata(dir).is_ok();
    if taken && std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_some()) {
        return Err(format!("{} is there already, and nothing is overwritten: choose another name or --dir", dir.display()));
    }
    for (path, text) in files {
        let path = dir.join(path);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(|error| trouble(folder, error))?;
        std::fs::write(&path, text).map_err(|error| trouble(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(files: Files) -> BTreeSet<String> {
        files.iter().map(|(path, _)| (*path).to_owned()).collect()
    }

    fn in_folder(folder: &str, at: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        std::fs::read_dir(folder).unwrap().map(|e| format!("{at}{}", e.unwrap().file_name().to_string_lossy())).collect()
    }

    #[test]
    fn a_project_gets_every_file_of_its_sdk() {
        assert!(names(RUST_SDK).is_superset(&in_folder("../sdk/src", "sdk/src/")));
        assert!(names(C_SDK).is_superset(&in_folder("../../sdk/c", "sdk/")));
        assert!(names(ASSEMBLYSCRIPT_SDK).is_superset(&in_folder("../../sdk/assemblyscript/assembly", "sdk/assembly/")));
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for language in [Language::Rust, Language::C, Language::AssemblyScript] {
            for (path, text) in files(ScriptId::new("blue-lantern").unwrap(), language) {
                // Sources of the SDK are taken as they are.
                let text = if path.starts_with("sdk/") { "" } else { text.as_str() };
                assert!(!path.contains("{{") && !text.contains("{{"), "{path}");
            }
        }
        assert_eq!(type_name("blue-lantern_2"), "BlueLantern2");
    }
}
