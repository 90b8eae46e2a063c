//! What one script may use: fuel, CPU time, memory, system calls.
//!
//! Start with [`ServerResourcePolicy`]. Not here: how often a script may act (`rate`), what may be compiled (`limits`).

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What follows when a script has used up its fuel in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBudget {
    /// The call goes on in the next tick. It runs on a fibre of its own.
    #[default]
    Pause,
    /// The call is dropped and the instance rebuilt.
    Terminate,
}

/// Per-script limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerResourcePolicy {
    /// Fuel of one call (`terminate`) or of one tick (`pause`).
    pub fuel_budget: u64,
    /// Largest linear memory, MiB. Growth past it fails inside the script.
    pub memory_cap_mb: u64,
    /// CPU time of one call or one slice: a backstop for time that fuel does not see. Measured on the thread's CPU clock, so a
    /// busy machine stops nobody innocent; looked at each 100,000 fuel, a few milliseconds of the dearest code.
    pub cpu_time_limit: Duration,
    /// System calls that the script may import.
    pub syscall_policy: SyscallPolicy,
    /// What follows when the fuel is used up.
    pub on_budget: OnBudget,
    /// How many times `fuel_budget` a paused call may take in all before it is dropped.
    pub pause_limit: u64,
}

impl Default for ServerResourcePolicy {
    fn default() -> ServerResourcePolicy {
        ServerResourcePolicy {
            fuel_budget: 1_000_000,
            memory_cap_mb: 64,
            cpu_time_limit: Duration::from_millis(50),
            syscall_policy: SyscallPolicy::deny_all(),
            on_budget: OnBudget::Pause,
            pause_limit: 600,
        }
    }
}

/// A category of WASI preview 1 imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyscallCategory {
    /// Files, in a directory of the script's own.
    Filesystem,
    /// Sockets.
    Network,
    /// Clocks: the world's clock.
    Clock,
    /// Randomness: from the script's seed.
    Random,
    /// Arguments, environment, exit, standard output (which goes to the script's log).
    Process,
}

/// Which categories of WASI preview 1 imports a script may have. Denied ones are refused when the module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyscallPolicy {
    allowed: u8,
}

impl SyscallPolicy {
    /// No system calls at all.
    pub const fn deny_all() -> SyscallPolicy {
        SyscallPolicy { allowed: 0 }
    }

    /// This policy and one category more.
    pub const fn allow(self, category: SyscallCategory) -> SyscallPolicy {
        SyscallPolicy { allowed: self.allowed | 1 << category as u8 }
    }

    /// Whether a category is allowed.
    pub const fn allows(self, category: SyscallCategory) -> bool {
        self.allowed & (1 << category as u8) != 0
    }
}

impl SyscallCategory {
    /// The category of a `wasi_snapshot_preview1` import; `None` if there is no such function.
    pub fn of(import: &str) -> Option<SyscallCategory> {
        Some(match import {
            "clock_res_get" | "clock_time_get" | "poll_oneoff" => SyscallCategory::Clock,
            "random_get" => SyscallCategory::Random,
            "sock_accept" | "sock_recv" | "sock_send" | "sock_shutdown" => SyscallCategory::Network,
            "args_get" | "args_sizes_get" | "environ_get" | "environ_sizes_get" | "proc_exit" | "proc_raise" | "sched_yield" => {
                SyscallCategory::Process
            }
            name if name.starts_with("fd_") || name.starts_with("path_") => SyscallCategory::Filesystem,
            _ => return None,
        })
    }

    /// Its name in configuration and errors.
    pub fn name(self) -> &'static str {
        match self {
            SyscallCategory::Filesystem => "filesystem",
            SyscallCategory::Network => "network",
            SyscallCategory::Clock => "clock",
            SyscallCategory::Random => "random",
            SyscallCategory::Process => "process",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_allows_what_was_allowed_and_nothing_else() {
        let policy = SyscallPolicy::deny_all().allow(SyscallCategory::Clock);
        assert!(policy.allows(SyscallCategory::Clock) && !policy.allows(SyscallCategory::Filesystem));
    }

    #[test]
    fn a_function_that_wasi_does_not_have_has_no_category() {
        assert_eq!(SyscallCategory::of("path_open"), Some(SyscallCategory::Filesystem));
        assert_eq!(SyscallCategory::of("launch_missiles"), None);
    }
}
