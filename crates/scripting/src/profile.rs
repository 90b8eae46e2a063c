//! Where a script's fuel goes: exact, by function and by who called it.
//!
//! Not sampled: a [`Recorder`] is told when each function begins and ends (`instrument`), reads the fuel that is left, and takes off what
//! the telling itself has used. So a profile repeats to the unit, and its sum is what the script uses without it. Start with
//! [`Recorder`], then [`Profile`]. Not here: drawing it.

use crate::data::ScriptData;
use crate::instrument::{BEFORE_ENTER, BEFORE_EXIT, PROBE_MODULE, before_function};
use crate::symbols::Symbols;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wasmtime::{AsContext, Caller, Linker};

/// Different stacks kept. Recursion deeper than that is counted where it was last known.
const NODES_MAX: usize = 100_000;

/// A function under one way of getting there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    function: u32,
    parent: usize,
    /// Used by itself.
    fuel: u64,
    calls: u64,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Node>,
    by_parent: HashMap<(usize, u32), usize>,
    stack: Vec<usize>,
    params: Vec<u32>,
    /// Fuel that the probes have used in the call that runs.
    probes: u64,
    /// Fuel that was left when somebody began or ended last, without that of the probes.
    last: i128,
}

/// No parent: called by the host.
const ROOT: usize = usize::MAX;

impl State {
    fn charge(&mut self, left: u64) {
        let left = i128::from(left) + i128::from(self.probes);
        if let Some(node) = self.stack.last().and_then(|at| self.nodes.get_mut(*at)) {
            node.fuel += u64::try_from(self.last - left).unwrap_or(0);
        }
        self.last = left;
    }

    fn enter(&mut self, function: u32, left: u64) {
        self.probes += BEFORE_ENTER;
        self.charge(left);
        let parent = self.stack.last().copied().unwrap_or(ROOT);
        let node = match self.by_parent.get(&(parent, function)) {
            Some(node) => *node,
            None if self.nodes.len() >= NODES_MAX && parent != ROOT => parent,
            None => {
                self.nodes.push(Node { function, parent, fuel: 0, calls: 0 });
                self.by_parent.insert((parent, function), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        if let Some(node) = self.nodes.get_mut(node).filter(|node| node.function == function) {
            node.calls += 1;
        }
        self.stack.push(node);
        self.probes += before_function(self.params.get(function as usize).copied().unwrap_or(0));
    }

    fn exit(&mut self, left: u64) {
        self.probes += BEFORE_EXIT;
        self.charge(left);
        self.stack.pop();
    }
}

/// Is told what an instrumented script does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<State>>);

impl Recorder {
    pub(crate) fn new(params: Vec<u32>) -> Recorder {
        Recorder(Arc::new(Mutex::new(State { params, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self, linker: &mut Linker<ScriptData>) -> wasmtime::Result<()> {
        // Host work that was not taken off the fuel yet is used all the same.
        let left = |caller: &Caller<'_, ScriptData>| -> wasmtime::Result<u64> {
            Ok(caller.as_context().get_fuel()?.saturating_sub(caller.data().own.charged))
        };
        let (enter, exit) = (self.clone(), self.clone());
        linker.func_wrap(
            PROBE_MODULE,
            "enter",
            move |caller: Caller<'_, ScriptData>, function: i32| -> wasmtime::Result<()> {
                enter.state().enter(function as u32, left(&caller)?);
                Ok(())
            },
        )?;
        linker.func_wrap(PROBE_MODULE, "exit", move |caller: Caller<'_, ScriptData>| -> wasmtime::Result<()> {
            exit.state().exit(left(&caller)?);
            Ok(())
        })?;
        Ok(())
    }

    /// A call begins; whatever the last one left on the stack (it was stopped) is over. Gives what the probes used in the last one.
    pub fn begin_call(&self) -> u64 {
        let mut state = self.state();
        state.stack.clear();
        std::mem::take(&mut state.probes)
    }

    /// What was recorded.
    pub fn profile(&self) -> Profile {
        Profile { nodes: self.state().nodes.clone() }
    }
}

/// Fuel by function and by who called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    nodes: Vec<Node>,
}

/// A function's part of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionFuel {
    /// Its name.
    pub function: String,
    /// How often it was called.
    pub calls: u64,
    /// Fuel that it used itself.
    pub own: u64,
    /// With what it called.
    pub total: u64,
}

impl Profile {
    /// All fuel.
    pub fn fuel(&self) -> u64 {
        self.nodes.iter().map(|node| node.fuel).sum()
    }

    /// From a node to its root.
    fn path(&self, at: usize) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.nodes.get(at), |node| self.nodes.get(node.parent))
    }

    /// One line a stack, `outer;inner fuel`: what flame graph tools read.
    pub fn folded(&self, symbols: &Symbols) -> Vec<String> {
        let line = |(at, node): (usize, &Node)| {
            let mut names: Vec<_> = self.path(at).map(|node| symbols.name(node.function).replace(';', ":")).collect();
            names.reverse();
            (node.fuel > 0).then(|| format!("{} {}", names.join(";"), node.fuel))
        };
        self.nodes.iter().enumerate().filter_map(line).collect()
    }

    /// Each function, the dearest first.
    pub fn functions(&self, symbols: &Symbols) -> Vec<FunctionFuel> {
        let mut found: HashMap<u32, FunctionFuel> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let mut seen = HashSet::new();
            for above in self.path(at) {
                // One that calls itself counts once.
                if seen.insert(above.function) {
                    let entry = found.entry(above.function).or_insert_with(|| FunctionFuel {
                        function: symbols.name(above.function).to_owned(),
                        calls: 0,
                        own: 0,
                        total: 0,
                    });
                    entry.total += node.fuel;
                }
            }
            if let Some(entry) = found.get_mut(&node.function) {
                (entry.calls, entry.own) = (entry.calls + node.calls, entry.own + node.fuel);
            }
        }
        let mut functions: Vec<_> = found.into_values().collect();
        functions.sort_by(|a, b| (b.own, b.total, &a.function).cmp(&(a.own, a.total, &b.function)));
        functions
    }
}
