//! Where a script was when it was stopped: the functions on its stack, by number and place in their bodies.
//!
//! Collected only by engines that keep address maps (those of authors: [`crate::sandbox::EngineProfile::traces`] and the client
//! runtime); elsewhere there is none, and nothing is paid for it. Not here: names and source lines (`symbols`).

use crate::module::ScriptModule;
use std::fmt;
use wasmtime::WasmBacktrace;

/// Frames kept: enough to see where recursion began to repeat.
pub(crate) const FRAMES_MAX: usize = 32;

/// A function that was being called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFrame {
    /// Its number in the module, imports counted.
    pub function: u32,
    /// Where in its body, bytes from the body's beginning.
    pub offset: Option<u32>,
    /// Its name, if the module says.
    pub name: Option<String>,
}

/// The stack of a call that ended badly, the innermost function first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// [`FRAMES_MAX`] at most.
    pub frames: Vec<TraceFrame>,
}

impl Trace {
    /// What an error of the engine brings with it, in places of the author's module.
    pub(crate) fn of(error: &wasmtime::Error, module: &ScriptModule) -> Option<Box<Trace>> {
        let backtrace = error.downcast_ref::<WasmBacktrace>()?;
        let frames: Vec<_> = backtrace
            .frames()
            .iter()
            .take(FRAMES_MAX)
            .filter_map(|frame| {
                let offset = frame.func_offset().and_then(|offset| u32::try_from(offset).ok());
                let (function, offset, name) = module.source_place(frame.func_index(), offset)?;
                Some(TraceFrame { function, offset, name })
            })
            .collect();
        (!frames.is_empty()).then(|| Box::new(Trace { frames }))
    }
}

/// In one line, for what has no symbols: `step [12+0x34] < on_tick [3+0x10]`, with numbers and places of functions.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, frame) in self.frames.iter().enumerate() {
            if i > 0 {
                f.write_str(" < ")?;
            }
            match &frame.name {
                Some(name) => f.write_str(&crate::symbols::demangled(name))?,
                None => write!(f, "function {}", frame.function)?,
            }
            if let Some(offset) = frame.offset {
                write!(f, " [{}+{offset:#x}]", frame.function)?;
            }
        }
        Ok(())
    }
}
