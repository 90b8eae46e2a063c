//! Reads a cluster file and the `AETHER_*` variables over it.
//!
//! A variable is `AETHER_<TABLE>__<FIELD>` (two underscores), or one of the six of the design's section 12. A bad value names where it
//! came from. Ranges are checked by `aether_cluster::config`.

use aether_cluster::NodeConfig;
use figment::Figment;
use figment::providers::{Env, Format, Toml};
use std::path::Path;

/// The variables of one underscore, and the fields that they are.
const NAMED: [(&str, &str); 4] = [
    ("SERVER_AOT_CACHE_DIR", "server.aot_cache_dir"),
    ("SERVER_MAX_MODULES", "server.max_modules"),
    ("SERVER_DEFAULT_FUEL", "server.default_fuel"),
    ("SERVER_DEFAULT_MEMORY_MB", "server.default_memory_mb"),
];

/// The folder that a file's paths are relative to.
pub(crate) fn folder(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Read and check a cluster file.
pub(crate) fn load(file: &Path) -> Result<NodeConfig, Box<dyn std::error::Error>> {
    if !file.is_file() {
        return Err(format!("there is no cluster file {}: see cluster-config/ for examples", file.display()).into());
    }
    refuse_unknown()?;
    let env = Env::prefixed("AETHER_").map(|key| {
        let key = key.as_str().to_uppercase();
        match NAMED.iter().find(|(name, _)| *name == key) {
            Some((_, field)) => (*field).into(),
            None => key.replace("__", ".").to_lowercase().into(),
        }
    });
    // Others (AETHER_LOG, AETHER_SCRIPT_*) are not the file's.
    let env = env.filter(|key| key.as_str().contains('.'));
    let config: NodeConfig =
        Figment::new().merge(Toml::file_exact(file)).merge(env).extract().map_err(|error| explain(&error))?;
    config.check().map_err(|error| blame_source(file, &error))?;
    Ok(config)
}

/// A variable that looks like a setting and is none: a typing error, which would be ignored without a word.
fn refuse_unknown() -> Result<(), String> {
    let named = |key: &str| NAMED.iter().any(|(name, _)| *name == key);
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy();
        let Some(key) = variable.strip_prefix("AETHER_") else { continue };
        let table = ["NODE_", "ADMIN_", "GATEWAY_", "SERVER_", "LIMITS_", "WORLD_"].iter().any(|table| key.starts_with(table));
        if table && !key.contains("__") && !named(key) {
            return Err(format!(
                "variable {variable} is not a setting: a field's variable is AETHER_<TABLE>__<FIELD>, with two underscores"
            ));
        }
    }
    Ok(())
}

/// Say of each field that is out of range whether a variable or the file set it.
fn blame_source(file: &Path, error: &aether_cluster::ConfigError) -> String {
    let lines = error.0.iter().map(|field| {
        let variable = variable_of(&field.field);
        match std::env::var_os(&variable) {
            Some(_) => format!("variable {variable}: {field}"),
            None => format!("{}: {field}", file.display()),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn explain(error: &figment::Error) -> String {
    let lines = error.clone().into_iter().map(|error| {
        let path = error.path.join(".");
        let from = match &error.metadata {
            Some(metadata) if metadata.name.contains("environment") => format!("variable {}", variable_of(&path)),
            Some(metadata) => metadata.source.as_ref().map_or_else(|| metadata.name.to_string(), ToString::to_string),
            None => "the cluster file".to_owned(),
        };
        if path.is_empty() { format!("{from}: {}", error.kind) } else { format!("{from}: {path}: {}", error.kind) }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn variable_of(field: &str) -> String {
    match NAMED.iter().find(|(_, named)| *named == field) {
        Some((name, _)) => format!("AETHER_{name}"),
        None => format!("AETHER_{}", field.replace('.', "__").to_uppercase()),
    }
}
