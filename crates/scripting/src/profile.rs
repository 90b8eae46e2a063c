//! Where a script's fuel goes: exact, by function and by who called it.
//!
//! Not sampled: a [`Recorder`] is told when each function begins and ends (`instrument`), and reads the fuel that is
//! left; the telling itself costs nothing. So a profile repeats to the unit, and its sum is what the script uses without it. Start with
//! [`Recorder`], then [`Profile`]. Not here: drawing it.

use crate::data::ScriptData;
use crate::host::Guest;
use crate::instrument::PROBE_MODULE;
use crate::meter::fuel;
use crate::symbols::Symbols;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wasmtime::Linker;

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
    /// What was recorded of the call that runs.
    recorded: u64,
    /// Fuel that was left when somebody began or ended last.
    last: u64,
}

/// No parent: called by the host.
const ROOT: usize = usize::MAX;

impl State {
    fn charge(&mut self, left: u64) {
        if let Some(node) = self.stack.last().and_then(|at| self.nodes.get_mut(*at)) {
            let used = self.last.saturating_sub(left);
            node.fuel += used;
            self.recorded += used;
        }
        self.last = left;
    }

    fn enter(&mut self, function: u32, left: u64) {
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
    }

    fn exit(&mut self, left: u64) {
        self.charge(left);
        self.stack.pop();
    }
}

/// Is told what an instrumented script does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<State>>);

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self, linker: &mut Linker<ScriptData>) -> wasmtime::Result<()> {
        let (enter, exit) = (self.clone(), self.clone());
        linker.func_wrap(PROBE_MODULE, "enter", move |mut guest: Guest<'_>, function: i32| {
            enter.state().enter(function as u32, fuel::left(&mut guest));
        })?;
        linker.func_wrap(PROBE_MODULE, "exit", move |mut guest: Guest<'_>| exit.state().exit(fuel::left(&mut guest)))?;
        Ok(())
    }

    /// A call is over that used so much: what of it was recorded. If it was stopped, what it used since a function last began or ended
    /// is the innermost one's.
    pub fn end_call(&self, fuel: u64) -> u64 {
        let mut state = self.state();
        let rest = fuel.saturating_sub(state.recorded);
        if let Some(at) = state.stack.last().copied() {
            state.recorded += rest;
            if let Some(node) = state.nodes.get_mut(at) {
                node.fuel += rest;
            }
        }
        state.stack.clear();
        std::mem::take(&mut state.recorded)
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
