//! The engine's settings: what density, speed and safety rest on, and the fingerprint that names them.
//!
//! Start with [`EngineProfile`]. Every setting that is part of an artifact is in [`EngineProfile::config`], and every one of
//! them changes [`EngineProfile::fingerprint`]. Not here: compiling (`compile`), loading (`native`), limits of one script (`policy`).

use crate::abi;
use crate::trace::FRAMES_MAX;
use aether_types::Digest;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use wasmtime::{Config, InstanceAllocationStrategy, ModuleVersionStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures};

/// The exact engine. Other patches of the same version may generate other code, so this is part of every fingerprint.
pub const ENGINE_VERSION: &str = "48.0.8";
/// One step of the clock of the CPU time backstop.
pub const CLOCK_STEP_MS: u64 = 1;
/// Fuel that a script on a fibre gets at a time: the grain of slices. A yield costs about 0.1 µs, this much fuel 2 to 3 µs.
pub const FIBRE_QUANTUM: u64 = 50_000;

/// Machines that artifacts are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AotTarget {
    /// Linux on x86-64.
    LinuxX64,
    /// Linux on 64-bit ARM.
    LinuxAArch64,
}

impl AotTarget {
    /// The machine that this runs on.
    pub const fn host() -> AotTarget {
        if cfg!(target_arch = "aarch64") { AotTarget::LinuxAArch64 } else { AotTarget::LinuxX64 }
    }

    /// Its target triple.
    pub const fn triple(self) -> &'static str {
        match self {
            AotTarget::LinuxX64 => "x86_64-unknown-linux-gnu",
            AotTarget::LinuxAArch64 => "aarch64-unknown-linux-gnu",
        }
    }
}

impl std::fmt::Display for AotTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AotTarget::LinuxX64 => "linux-x64",
            AotTarget::LinuxAArch64 => "linux-aarch64",
        })
    }
}

/// The address space reserved for a script's memory. Small slots are what makes ticks fast: page tables and TLB, not the
/// memory itself, decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotClass {
    /// Up to 4 MiB.
    Small,
    /// Up to 64 MiB.
    Large,
}

impl SlotClass {
    /// The smallest class that holds this much memory; `None` if none does.
    pub fn holding(memory_mb: u64) -> Option<SlotClass> {
        [SlotClass::Small, SlotClass::Large].into_iter().find(|class| memory_mb <= class.mebibytes())
    }

    /// The setting of how many instances it holds, in the cluster file's `[node]`.
    pub const fn setting(self) -> &'static str {
        match self {
            SlotClass::Small => "instances_small",
            SlotClass::Large => "instances_large",
        }
    }

    /// How much memory a script in it can have.
    pub const fn mebibytes(self) -> u64 {
        match self {
            SlotClass::Small => 4,
            SlotClass::Large => 64,
        }
    }
}

/// How many instances of each class a process can hold. Address space is reserved at once, memory is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// Instances in [`SlotClass::Small`].
    pub small: u32,
    /// Instances in [`SlotClass::Large`].
    pub large: u32,
}

impl Default for PoolSize {
    fn default() -> PoolSize {
        // Five mappings each stay below the kernel's default limit of 65,530.
        PoolSize { small: 10_000, large: 1_000 }
    }
}

/// Settings that are part of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EngineProfile {
    /// The slot that its instances live in.
    pub class: SlotClass,
    /// Whether NaNs have one bit pattern, so that float code gives equal bits on all machines. Costs up to 1.7 times on float code.
    pub canonical_nans: bool,
    /// Whether calls that end badly say where they were ([`crate::trace`]), for authors. The code is the same; artifacts are larger by an
    /// address map, and an end takes microseconds more.
    pub traces: bool,
}

impl EngineProfile {
    /// Names engine, ABI and every setting that generated code depends on.
    pub fn fingerprint(self, target: AotTarget) -> Digest {
        // `5`: raise it when `config` below or the counter (`meter`) changes.
        Digest::of(format!("wasmtime {ENGINE_VERSION}, abi {}, config 5, {target}, {self:?}", abi::ABI_VERSION).as_bytes())
    }

    /// The settings that all uses share.
    fn config(self, target: AotTarget) -> wasmtime::Result<Config> {
        let mut config = Config::new();
        config
            // Metered by a counter of our own (`meter`), which says what branches are not likely.
            .consume_fuel(false)
            .epoch_interruption(false)
            .wasm_branch_hinting(true)
            .cranelift_opt_level(OptLevel::Speed)
            .cranelift_nan_canonicalization(self.canonical_nans)
            .wasm_simd(true)
            .wasm_relaxed_simd(false)
            .wasm_features(WasmFeatures::REFERENCE_TYPES, true)
            .wasm_bulk_memory(true)
            .wasm_multi_value(true)
            .wasm_memory64(false)
            .wasm_multi_memory(false)
            .wasm_tail_call(false)
            .wasm_features(WasmFeatures::EXTENDED_CONST, true)
            .wasm_backtrace_max_frames(if self.traces { NonZeroUsize::new(FRAMES_MAX) } else { None })
            .max_wasm_stack(128 << 10)
            .async_stack_size(256 << 10)
            .memory_reservation(self.class.mebibytes() << 20)
            .memory_guard_size(64 << 10)
            .memory_may_move(false)
            .memory_reservation_for_growth(0)
            .guard_before_linear_memory(false)
            .native_unwind_info(false)
            .generate_address_map(self.traces)
            .gc_support(false)
            .concurrency_support(false);
        let fingerprint = self.fingerprint(target).short();
        config.module_version(ModuleVersionStrategy::Custom(format!("{ENGINE_VERSION}+{fingerprint}")))?;
        Ok(config)
    }

    /// For making artifacts.
    pub(crate) fn compiler(self, target: AotTarget) -> wasmtime::Result<Config> {
        let mut config = self.config(target)?;
        if target != AotTarget::host() {
            // The host's own artifacts use what its processor can do; others get the architecture's baseline.
            config.target(target.triple())?;
        }
        Ok(config)
    }

    /// For running artifacts made for this machine.
    pub(crate) fn runner(self, instances: u32) -> wasmtime::Result<Config> {
        let mut config = self.config(AotTarget::host())?;
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(instances)
            .total_memories(instances)
            .total_tables(instances)
            .total_stacks(instances)
            .max_memory_size((self.class.mebibytes() << 20) as usize)
            .table_elements(10_000)
            .max_core_instance_size(1 << 20)
            // When an instance goes, this much of its memory is cleared by hand and the rest given back to the kernel: small scripts
            // find their pages again, and what one never touched is not touched for it. Clearing only what was written (`pagemap_scan`)
            // would be quicker still, but overlooks pages that are swapped out: the next script would find them.
            .linear_memory_keep_resident(16 << 10)
            .table_keep_resident(4 << 10)
            // So many are given back at once.
            .decommit_batch_size(64);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Ok(config)
    }

    /// For compiling and running at once, on a player's device or an author's machine. Traps say where.
    pub(crate) fn client() -> wasmtime::Result<Config> {
        let profile = EngineProfile { class: SlotClass::Large, canonical_nans: false, traces: true };
        let mut config = profile.config(AotTarget::host())?;
        config.memory_reservation(4 << 30);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_and_target_has_a_fingerprint_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for class in [SlotClass::Small, SlotClass::Large] {
            for canonical_nans in [false, true] {
                for target in [AotTarget::LinuxX64, AotTarget::LinuxAArch64] {
                    for traces in [false, true] {
                        assert!(seen.insert(EngineProfile { class, canonical_nans, traces }.fingerprint(target)));
                    }
                }
            }
        }
    }

    #[test]
    fn a_script_gets_the_smallest_class_that_holds_its_memory() {
        assert_eq!(SlotClass::holding(1), Some(SlotClass::Small));
        assert_eq!(SlotClass::holding(4), Some(SlotClass::Small));
        assert_eq!(SlotClass::holding(5), Some(SlotClass::Large));
        assert_eq!(SlotClass::holding(65), None);
    }
}
