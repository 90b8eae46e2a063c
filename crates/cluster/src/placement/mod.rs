//! Which world belongs on which node: a pure function of what is measured and what was asked for.
//!
//! Start with [`solve`], [`Rules`] and [`Plan`]; `table` is the input by index, `board` puts worlds on nodes, `rebalance` moves some.
//! Worlds stay where they are unless something forces them away. Those without a place go, fewest choices first and then heaviest first, to
//! the node that ends up least utilised: greedy longest-processing-time, within 4/3 of the best possible on equal nodes (R. L. Graham,
//! "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17, 1969). Where that overloads a node, first fit decreasing is tried,
//! which packs tighter (Johnson et al., "Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms", SIAM J. Comput. 3,
//! 1974). Then a bounded number of moves heals groups and evens out load.
//!
//! For W worlds and N nodes, groups being small: O(W log W + W·N) to place, at most O(W·N) for each rebalance step; 5,000 worlds on 50
//! nodes take about 12 ms from nothing and 2 ms when little changes. Each world sees another order of nodes (labels, groups), so nodes are
//! scanned; a heap of them would serve only worlds without rules.
//!
//! Not here: who is alive, leases, measuring, carrying a plan out, time. The caller spreads plans over time and bounds moves by it.

mod board;
mod rebalance;
mod table;
#[cfg(test)]
mod tests;

use board::{Board, Fit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use table::Table;

/// A live node. Names are unique.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInput {
    /// Its name.
    pub name: String,
    /// What it has for ticks: CPU seconds a second.
    pub capacity: f64,
    /// Most worlds it may hold, whatever they use.
    pub worlds_max: u32,
    /// It is being emptied: nothing is placed on it and what is there leaves.
    pub draining: bool,
    /// What worlds may require of it.
    pub labels: BTreeSet<String>,
}

/// A world that has to be somewhere. Names are unique.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorldInput {
    /// Its name.
    pub name: String,
    /// What it uses: CPU seconds a second. 0: not known, [`Rules::load_unknown`] is taken.
    pub load: f64,
    /// The node that it is on or is meant to be on. One that is not in the list is gone.
    pub current: Option<String>,
    /// The operator's choice. It holds while that node is in the list, is not draining, has the labels and has not too many of such.
    pub pinned: Option<String>,
    /// Labels that its node must have.
    pub requires: BTreeSet<String>,
    /// Affinity group: its worlds share a node where that is possible.
    pub with: Option<String>,
    /// Spread group: its worlds are on as many nodes as possible, evenly.
    pub apart: Option<String>,
}

/// What a plan keeps to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Part of a node's capacity above which nothing is put on it, as long as there is another way.
    pub utilisation_max: f64,
    /// Two nodes are left alone until their utilisations differ by more than this. Once one move is worth it, evening out goes on down to
    /// half of this, so that jitter does not set it off again.
    pub imbalance: f64,
    /// Most [`Why::Rebalance`] moves in one plan. Other moves are not bounded by it.
    pub moves_max: usize,
    /// Load of a world that was not measured yet: CPU seconds a second.
    pub load_unknown: f64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { utilisation_max: 0.8, imbalance: 0.2, moves_max: 10, load_unknown: 0.02 }
    }
}

/// Where worlds go, and what could not be had.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The most urgent first; within one reason by name.
    pub moves: Vec<Move>,
    /// Worlds that no node may take, and why. One that still runs somewhere is best left there.
    pub unplaced: Vec<(String, String)>,
    /// Nodes above [`Rules::utilisation_max`] once the plan is carried out, and their utilisation (1 is all of the capacity).
    pub overloaded: Vec<(String, f64)>,
    /// Worlds whose pin could not be kept, and why.
    pub pins_ignored: Vec<(String, String)>,
    /// [`Rules::moves_max`] ended rebalancing early: the next plan goes on. If not, planning again changes nothing.
    pub cut_short: bool,
}

/// One world goes to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The world.
    pub world: String,
    /// Where it was, which may be a node that is gone.
    pub from: Option<String>,
    /// Where it goes.
    pub to: String,
    /// Why.
    pub why: Why,
}

/// Why a world moves; the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It was nowhere.
    First,
    /// Its node is not among the live ones.
    NodeGone,
    /// Its node is being emptied.
    Draining,
    /// The operator wants it elsewhere.
    Pinned,
    /// Its node lacks a label that it requires, or holds too many worlds.
    Rule,
    /// It evens out load, brings a group together or apart, or makes room for a world that could be nowhere else.
    Rebalance,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::First => "it has no node yet",
            Why::NodeGone => "its node is gone",
            Why::Draining => "its node is draining",
            Why::Pinned => "it is pinned to another node",
            Why::Rule => "its node may not hold it",
            Why::Rebalance => "to balance nodes",
        })
    }
}
/// Plans. The same for any order of the input; ties go to the first name.
///
/// Labels and `worlds_max` are never broken. Availability comes next: rather than leave a world out, a node is overloaded, and the plan
/// says so. Then groups, then load.
pub fn solve(nodes: &[NodeInput], worlds: &[WorldInput], rules: &Rules) -> Plan {
    let table = Table::new(nodes, worlds, rules);
    let mut plan = Plan::default();
    let mut kept = Board::new(&table);
    kept.keep(&mut plan.pins_ignored);
    let mut board = kept.clone().place(Fit::LeastUtilised);
    for fit in [Fit::First, Fit::FirstSingly] {
        if board.shortfall() > (0, 0) {
            let other = kept.clone().place(fit);
            board = if other.shortfall() < board.shortfall() { other } else { board };
        }
    }
    plan.cut_short = board.rebalance();
    board.write(&mut plan);
    plan
}
