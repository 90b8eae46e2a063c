//! The contract between a script and its host as tables: imports, exports, what each call costs, how large things may be.
//!
//! `wit/aether.wit` is the source; a test compares [`IMPORTS`] with it, and the linker with [`IMPORTS`].
//! Not here: what the functions do (`host/`).

use crate::policy::SyscallCategory;

/// The version of the ABI that this host offers.
pub const ABI_VERSION: u32 = 1;
/// The export that says that a script was written for [`ABI_VERSION`].
pub const ABI_EXPORT: &str = "aether_abi_1";
/// The import module of WASI preview 1.
pub const WASI_MODULE: &str = "wasi_snapshot_preview1";

/// A group of host functions that a manifest can grant. `aether:script` needs no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostGroup {
    /// `aether:entity`
    Entity,
    /// `aether:physics`
    Physics,
    /// `aether:ui`
    Ui,
    /// `aether:audio`
    Audio,
    /// `aether:network`
    Network,
    /// `aether:storage`
    Storage,
    /// `aether:script`
    Script,
}

impl HostGroup {
    /// All groups, in the order of their numbers.
    pub const ALL: [HostGroup; 7] = [
        HostGroup::Entity,
        HostGroup::Physics,
        HostGroup::Ui,
        HostGroup::Audio,
        HostGroup::Network,
        HostGroup::Storage,
        HostGroup::Script,
    ];

    /// Its name in manifests, metrics and CLI.
    pub fn name(self) -> &'static str {
        ["entity", "physics", "ui", "audio", "network", "storage", "script"][self as usize]
    }
}

/// Every import of the ABI: module, name, signature.
pub const IMPORTS: &[(&str, &str, &str)] = &[
    ("aether:entity", "self_entity", "()->i64"),
    ("aether:entity", "spawn", "(i32,i32,f32,f32,f32)->i64"),
    ("aether:entity", "destroy", "(i64)->i32"),
    ("aether:entity", "get_kind", "(i64,i32,i32)->i32"),
    ("aether:entity", "get_position", "(i64,i32)->i32"),
    ("aether:entity", "set_position", "(i64,f32,f32,f32)->i32"),
    ("aether:entity", "set_yaw", "(i64,f32)->i32"),
    ("aether:entity", "read_bodies", "(i32,i32,i32,i32)->i32"),
    ("aether:entity", "write_bodies", "(i32,i32)->i32"),
    ("aether:entity", "get_component", "(i64,i32,i32,i32,i32)->i32"),
    ("aether:entity", "set_component", "(i64,i32,i32,i32,i32)->i32"),
    ("aether:entity", "remove_component", "(i64,i32,i32)->i32"),
    ("aether:entity", "query_kind", "(i32,i32,i32,i32)->i32"),
    ("aether:entity", "query_radius", "(f32,f32,f32,f32,i32,i32,i32,i32)->i32"),
    ("aether:entity", "nearest", "(f32,f32,f32,f32,i32,i32)->i64"),
    ("aether:physics", "apply_force", "(i64,f32,f32,f32)->i32"),
    ("aether:physics", "apply_impulse", "(i64,f32,f32,f32)->i32"),
    ("aether:physics", "set_velocity", "(i64,f32,f32,f32)->i32"),
    ("aether:physics", "get_velocity", "(i64,i32)->i32"),
    ("aether:physics", "raycast", "(f32,f32,f32,f32,f32,f32,f32,i64,i32)->i32"),
    ("aether:physics", "overlap_sphere", "(f32,f32,f32,f32,i32,i32)->i32"),
    ("aether:physics", "overlap_box", "(f32,f32,f32,f32,f32,f32,i32,i32)->i32"),
    ("aether:ui", "show", "(i64,i32,i32,i32,i32)->i32"),
    ("aether:ui", "hide", "(i64,i32,i32)->i32"),
    ("aether:ui", "set_text", "(i64,i32,i32,i32,i32)->i32"),
    ("aether:audio", "play", "(i32,i32,f32,f32,f32,f32,f32,f32,i32)->i64"),
    ("aether:audio", "stop", "(i64)->i32"),
    ("aether:audio", "set_source", "(i64,f32,f32,f32)->i32"),
    ("aether:audio", "set_parameters", "(i64,f32,f32,f32)->i32"),
    ("aether:network", "rpc", "(i32,i32,i32,i32,i32,i32)->i64"),
    ("aether:network", "reply", "(i64,i32,i32)->i32"),
    ("aether:network", "broadcast", "(i32,i32,i32,i32)->i32"),
    ("aether:network", "subscribe", "(i32,i32)->i32"),
    ("aether:network", "send_player", "(i64,i32,i32,i32,i32)->i32"),
    ("aether:storage", "get", "(i32,i32,i32,i32)->i32"),
    ("aether:storage", "set", "(i32,i32,i32,i32)->i32"),
    ("aether:storage", "delete", "(i32,i32)->i32"),
    ("aether:storage", "keys", "(i32,i32,i32,i32)->i32"),
    ("aether:script", "log", "(i32,i32,i32)->i32"),
    ("aether:script", "time", "()->i64"),
    ("aether:script", "tick", "()->i64"),
    ("aether:script", "random", "()->i64"),
    ("aether:script", "fuel_left", "()->i64"),
    ("aether:script", "allowances_left", "(i32)->i32"),
    ("aether:script", "version", "()->i32"),
];

/// The functions that a script may export, and their signatures.
pub const EXPORTS: &[(&str, &str)] = &[
    ("on_start", "()->"),
    ("on_tick", "(f32)->"),
    ("on_message", "(i64,i64,i32,i32,i32)->"),
    ("on_event", "(i32,i64,i64,i32,i32,i32)->"),
    ("on_stop", "()->"),
    ("save_state", "()->i64"),
    ("restore_state", "(i32,i32,i32)->i32"),
    ("aether_alloc", "(i32)->i32"),
];

/// The signature of an import; `None` if there is no such function.
pub fn signature(module: &str, name: &str) -> Option<&'static str> {
    IMPORTS.iter().find(|(m, n, _)| *m == module && *n == name).map(|(_, _, s)| *s)
}

/// The WASI preview 1 functions that this host links, and their signatures. Those of an allowed category that do nothing
/// useful here answer `ENOSYS`.
pub const WASI_IMPORTS: &[(&str, &str)] = &[
    ("args_get", "(i32,i32)->i32"),
    ("args_sizes_get", "(i32,i32)->i32"),
    ("environ_get", "(i32,i32)->i32"),
    ("environ_sizes_get", "(i32,i32)->i32"),
    ("clock_res_get", "(i32,i32)->i32"),
    ("clock_time_get", "(i32,i64,i32)->i32"),
    ("fd_advise", "(i32,i64,i64,i32)->i32"),
    ("fd_allocate", "(i32,i64,i64)->i32"),
    ("fd_close", "(i32)->i32"),
    ("fd_datasync", "(i32)->i32"),
    ("fd_fdstat_get", "(i32,i32)->i32"),
    ("fd_fdstat_set_flags", "(i32,i32)->i32"),
    ("fd_filestat_get", "(i32,i32)->i32"),
    ("fd_filestat_set_size", "(i32,i64)->i32"),
    ("fd_pread", "(i32,i32,i32,i64,i32)->i32"),
    ("fd_prestat_dir_name", "(i32,i32,i32)->i32"),
    ("fd_prestat_get", "(i32,i32)->i32"),
    ("fd_pwrite", "(i32,i32,i32,i64,i32)->i32"),
    ("fd_read", "(i32,i32,i32,i32)->i32"),
    ("fd_readdir", "(i32,i32,i32,i64,i32)->i32"),
    ("fd_seek", "(i32,i64,i32,i32)->i32"),
    ("fd_sync", "(i32)->i32"),
    ("fd_tell", "(i32,i32)->i32"),
    ("fd_write", "(i32,i32,i32,i32)->i32"),
    ("path_create_directory", "(i32,i32,i32)->i32"),
    ("path_filestat_get", "(i32,i32,i32,i32,i32)->i32"),
    ("path_open", "(i32,i32,i32,i32,i32,i64,i64,i32,i32)->i32"),
    ("path_remove_directory", "(i32,i32,i32)->i32"),
    ("path_rename", "(i32,i32,i32,i32,i32,i32)->i32"),
    ("path_unlink_file", "(i32,i32,i32)->i32"),
    ("poll_oneoff", "(i32,i32,i32,i32)->i32"),
    ("proc_exit", "(i32)->"),
    ("random_get", "(i32,i32)->i32"),
    ("sched_yield", "()->i32"),
    ("sock_accept", "(i32,i32,i32)->i32"),
    ("sock_recv", "(i32,i32,i32,i32,i32,i32)->i32"),
    ("sock_send", "(i32,i32,i32,i32,i32)->i32"),
    ("sock_shutdown", "(i32,i32)->i32"),
];

/// The signature of a WASI import; `None` if this host does not have it.
pub fn wasi_signature(name: &str) -> Option<&'static str> {
    debug_assert!(WASI_IMPORTS.iter().all(|(n, _)| SyscallCategory::of(n).is_some()));
    WASI_IMPORTS.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
}

/// What host functions cost, in fuel: about 20 for each nanosecond that they take here, so that a unit buys the same time
/// inside and outside of wasm.
pub mod cost {
    /// Any call: crossing the border.
    pub const CALL: u64 = 40;
    /// Looking one entity up or changing one.
    pub const ENTITY: u64 = 60;
    /// Changing a body that physics must learn of.
    pub const PHYSICS: u64 = 200;
    /// Making or destroying an entity.
    pub const SPAWN: u64 = 10_000;
    /// A query: starting it. What it looks at and finds comes on top ([`FOUND`]).
    pub const QUERY: u64 = 1_000;
    /// One entity that a query found, sorted and wrote.
    pub const FOUND: u64 = 100;
    /// One entity that a query looked at.
    pub const LOOKED: u64 = 60;
    /// A cast of a ray or a shape through the physics world.
    pub const CAST: u64 = 10_000;
    /// A command that leaves the world: UI, audio.
    pub const COMMAND: u64 = 2_000;
    /// A message to be queued and delivered.
    pub const MESSAGE: u64 = 4_000;
    /// A storage read or write in memory, its share of the commit included.
    pub const STORAGE: u64 = 4_000;
    /// A log line.
    pub const LOG: u64 = 2_000;
    /// Each byte that is copied between script and host.
    pub const BYTE: u64 = 2;
}

/// How large things may be.
pub mod limit {
    /// Entities in one batch call or query.
    pub const BATCH: usize = 1_024;
    /// Bytes of a component's, element's, sound's, topic's, method's, kind's or prefab's name.
    pub const NAME_BYTES: usize = 64;
    /// Bytes of an RPC's target: world and script.
    pub const TARGET_BYTES: usize = 128;
    /// Bytes of a component's value.
    pub const COMPONENT_BYTES: usize = 4_096;
    /// Components of one entity.
    pub const COMPONENTS: usize = 32;
    /// Bytes of a UI text or a log line.
    pub const TEXT_BYTES: usize = 1_024;
    /// Bytes of an RPC's or an event's payload.
    pub const PAYLOAD_BYTES: usize = 4_096;
    /// Bytes of a storage key.
    pub const KEY_BYTES: usize = 128;
    /// Bytes of a stored value.
    pub const VALUE_BYTES: usize = 65_536;
    /// Keys in one listing.
    pub const KEYS: usize = 1_024;
    /// Bytes of a script's saved state.
    pub const STATE_BYTES: usize = 1 << 20;
    /// Metres of a query's or a ray's reach.
    pub const REACH: f32 = 1_000.0;
    /// Metres from the origin to the end of the world, in each direction: half a millimetre is still exact in an `f32`.
    pub const WORLD: f32 = 8_192.0;
    /// Topics that one script may subscribe to.
    pub const TOPICS: usize = 16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wasi_function_offered_has_a_category() {
        for (name, _) in WASI_IMPORTS {
            assert!(SyscallCategory::of(name).is_some(), "{name}");
        }
    }
}
