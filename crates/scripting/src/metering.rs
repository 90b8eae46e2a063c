//! What a call cost and how it ended, as values.
//!
//! Start with [`MeteringOutcome`]. Not here: how fuel is charged (`instance`, `host/`).

use serde::{Deserialize, Serialize};

/// Which budget ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// The call's fuel.
    Fuel,
    /// CPU time that fuel did not see: host calls, memory that is not in the cache.
    CpuTime,
}

/// Why wasm code stopped by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrapKind {
    /// `unreachable`: a panic or an abort.
    Unreachable,
    /// Recursion without end.
    StackOverflow,
    /// A load or store outside the memory.
    MemoryOutOfBounds,
    /// An access outside a table.
    TableOutOfBounds,
    /// A call through a table entry that is empty or of another type.
    BadIndirectCall,
    /// Integer division by zero, or a result that does not fit.
    Arithmetic,
    /// `aether_alloc` gave an address outside the memory.
    BadAllocation,
    /// `save_state` gave an address outside the memory, or more than is allowed.
    BadState,
    /// The script called WASI's `proc_exit`.
    Exit,
    /// Anything else.
    Other,
}

impl std::fmt::Display for TrapKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TrapKind::Unreachable => "unreachable code was reached (a panic or an abort)",
            TrapKind::StackOverflow => "the stack overflowed (recursion without end)",
            TrapKind::MemoryOutOfBounds => "a load or store outside the memory",
            TrapKind::TableOutOfBounds => "an access outside a table",
            TrapKind::BadIndirectCall => "an indirect call to an empty or wrongly typed entry",
            TrapKind::Arithmetic => "a division by zero or a result that does not fit",
            TrapKind::BadAllocation => "aether_alloc gave an address outside the memory",
            TrapKind::BadState => "save_state gave an address outside the memory or more than 1 MiB",
            TrapKind::Exit => "the script called proc_exit",
            TrapKind::Other => "a trap",
        })
    }
}

/// Whether a call completed within its budget, or how it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeteringOutcome {
    /// It returned.
    Completed,
    /// It used up its budget.
    BudgetExceeded {
        /// Which one.
        budget: Budget,
        /// Whether it is paused, to go on with the next slice; else it was dropped.
        paused: bool,
    },
    /// It trapped.
    Trapped(TrapKind),
}

impl MeteringOutcome {
    /// Whether the call goes on when it is resumed.
    pub fn is_pause(self) -> bool {
        matches!(self, MeteringOutcome::BudgetExceeded { paused: true, .. })
    }

    /// Whether the instance must be rebuilt before it can be called again: its memory is as the cut left it.
    pub fn is_end(self) -> bool {
        !matches!(self, MeteringOutcome::Completed | MeteringOutcome::BudgetExceeded { paused: true, .. })
    }
}

impl std::fmt::Display for MeteringOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MeteringOutcome::Completed => f.write_str("completed"),
            MeteringOutcome::BudgetExceeded { paused: true, .. } => f.write_str("paused: out of fuel, goes on next tick"),
            MeteringOutcome::BudgetExceeded { budget: Budget::Fuel, .. } => f.write_str("stopped: out of fuel"),
            MeteringOutcome::BudgetExceeded { budget: Budget::CpuTime, .. } => f.write_str("stopped: out of CPU time"),
            MeteringOutcome::Trapped(kind) => write!(f, "trapped: {kind}"),
        }
    }
}
