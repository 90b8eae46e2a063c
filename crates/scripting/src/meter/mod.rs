//! The counter that scripts are metered by, written into their modules before they are compiled.
//!
//! [`metered`] adds a number to a module: the fuel that it may use before it has to ask for more. Its code takes off that number what it
//! costs (`charges`), and asks by a call of [`EXHAUSTED`] when it is below zero. There a call ends, waits for its next slice, or gets
//! another part of its fuel; so the same module serves scripts that pause and scripts that do not, and the CPU time backstop is looked
//! at where fuel is given out.
//!
//! Why not wasmtime's fuel and epochs: in a loop both may call the engine, and a call takes every register. Here, what a loop still needs
//! is put aside before the call and fetched after it (`liveness`), so that the loop itself keeps its registers.
//!
//! Start with [`metered`]. Not here: giving out fuel (`fuel`), what a call's end means (`crate::metering`).

mod body;
mod charges;
pub(crate) mod fuel;
mod liveness;
mod rewrite;

#[cfg(test)]
mod tests;

pub(crate) use rewrite::{metered, source_place};

use wasmparser::Operator;

/// What the counter's module, imports and exports begin with. No script may use it.
pub(crate) const MODULE: &str = "aether:meter";
/// The import that is called when the counter is below zero.
pub(crate) const EXHAUSTED: &str = "exhausted";
/// The counter.
pub(crate) const COUNTER: &str = "aether:meter left";
/// `on_tick` with the counter's new value as another parameter and what is left of it as its result.
pub(crate) const ON_TICK: &str = "aether:meter on_tick";
/// The module's start function: with a counter of zero it could not run while the instance is made.
pub(crate) const START: &str = "aether:meter start";

/// What instructions cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Costs {
    /// About the same time for a unit in any mix of them. Measured: see `bench/README.md`.
    Measured,
    /// One for each that does anything: a client's `AETHER_SCRIPT_MAX_OPS` counts instructions.
    Equal,
}

impl Costs {
    /// Entering a function.
    fn entry(self) -> u64 {
        1
    }

    /// One instruction.
    fn of(self, operator: &Operator<'_>) -> u64 {
        use Operator::*;
        match (operator, self) {
            // They say where code begins and ends, and are no code.
            (Nop | Drop | Block { .. } | Loop { .. } | Unreachable | Return | Else | End, _) => 0,
            (_, Costs::Equal) => 1,
            (F32Sqrt | F64Sqrt, _) => 60,
            (F32Div | F64Div | I32DivS | I32DivU | I32RemS | I32RemU | I64DivS | I64DivU | I64RemS | I64RemU, _) => 20,
            (CallIndirect { .. }, _) => 10,
            (
                MemoryFill { .. }
                | MemoryCopy { .. }
                | MemoryInit { .. }
                | MemoryGrow { .. }
                | TableFill { .. }
                | TableCopy { .. }
                | TableInit { .. }
                | TableGrow { .. },
                _,
            ) => 255,
            _ => 1,
        }
    }

    /// Each byte, page or element of a bulk operation, on top.
    fn per_unit(self, operator: &Operator<'_>) -> u64 {
        use Operator::*;
        match (operator, self) {
            (MemoryGrow { .. }, Costs::Measured) => 255,
            (MemoryFill { .. } | MemoryCopy { .. } | MemoryInit { .. }, _) => 1,
            (TableFill { .. } | TableCopy { .. } | TableInit { .. } | TableGrow { .. }, _) => 1,
            _ => 0,
        }
    }
}
