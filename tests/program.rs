//! The program itself, for tests that run it as people do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The `aether` beside this test, built if it is not there.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/PROFILE/deps/all-… → target/PROFILE/aether
        let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let program = profile.join("aether");
        // Cargo looks itself whether it is up to date. Another package's binary has no variable here.
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(root())
            .args(["build", "--offline", "--quiet", "--workspace", "--bin", "aether", "--target-dir"])
            .arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.status().is_ok_and(|status| status.success());
        assert!(built || program.is_file(), "could not build {}", program.display());
        program
    })
}

/// It, with none of our variables.
#[allow(dead_code, reason = "not both test binaries start it so")]
pub fn command() -> Command {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AETHER_")) {
        command.env_remove(name);
    }
    command.current_dir(root());
    command
}
