//! Which world belongs on which node: a pure function of what is measured and what was asked for.
//!
//! Start with [`solve`], [`Rules`] and [`Plan`]. Worlds stay where they are unless something forces them away. Those without a place go,
//! fewest choices first and then heaviest first, to the node that ends up least utilised: greedy longest-processing-time, within 4/3 of
//! the best possible on equal nodes (R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17, 1969). Where
//! that overloads a node, first fit decreasing is tried, which packs tighter (Johnson et al., "Worst-Case Performance Bounds for Simple
//! One-Dimensional Packing Algorithms", SIAM J. Comput. 3, 1974). Then a bounded number of moves heals groups and evens out load.
//!
//! For W worlds and N nodes, groups being small: O(W log W + W·N) to place, at most O(W·N) for each rebalance step; 5,000 worlds on 50
//! nodes take about 12 ms from nothing and 2 ms when little changes. Each world sees another order of nodes (labels, groups), so nodes are
//! scanned; a heap of them would serve only worlds without rules.
//!
//! Not here: who is alive, leases, measuring, carrying a plan out, time. The caller spreads plans over time and bounds moves by it.

use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

/// A world that makes up less of its node than this part of the imbalance is not worth the pause of a move.
const MOVE_WORTH: f64 = 0.0005;

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

/// How nodes are chosen for worlds that have none.
#[derive(Clone, Copy, PartialEq)]
enum Fit {
    LeastUtilised,
    First,
    /// Groups may be torn apart: they are wishes, `utilisation_max` is more.
    FirstSingly,
}

/// Worlds that are alike in something.
struct Classes {
    of: Vec<Option<usize>>,
    members: Vec<Vec<usize>>,
}

impl Classes {
    fn new<K: Ord>(keys: impl Iterator<Item = Option<K>>) -> Classes {
        let (mut known, mut members) = (BTreeMap::new(), Vec::<Vec<usize>>::new());
        let mut class = |world, key| {
            let class = *known.entry(key).or_insert(members.len());
            members.resize_with(members.len().max(class + 1), Vec::new);
            members[class].push(world);
            class
        };
        let of = keys.enumerate().map(|(world, key)| key.map(|key| class(world, key))).collect();
        Classes { of, members }
    }
}

/// The input by index, in the order of names.
struct Table<'a> {
    nodes: Vec<&'a NodeInput>,
    worlds: Vec<&'a WorldInput>,
    rules: &'a Rules,
    /// CPU nanoseconds a second. Whole numbers: a sum does not depend on its order, so neither does a plan.
    load: Vec<u64>,
    capacity: Vec<f64>,
    home: Vec<Option<usize>>,
    requires: Classes,
    /// By class of `requires`, then node: whether such worlds may be there.
    open: Vec<Vec<bool>>,
    with: Classes,
    apart: Classes,
}

impl<'a> Table<'a> {
    fn new(nodes: &'a [NodeInput], worlds: &'a [WorldInput], rules: &'a Rules) -> Table<'a> {
        let (mut nodes, mut worlds): (Vec<_>, Vec<_>) = (nodes.iter().collect(), worlds.iter().collect());
        nodes.sort_by_key(|node| &node.name);
        worlds.sort_by_key(|world| &world.name);
        let requires = Classes::new(worlds.iter().map(|world| Some(&world.requires)));
        let open = |members: &Vec<usize>| {
            nodes.iter().map(|node| !node.draining && worlds[members[0]].requires.is_subset(&node.labels)).collect()
        };
        let load = |world: &&WorldInput| {
            let load = if world.load.is_finite() && world.load > 0.0 { world.load } else { rules.load_unknown };
            // One thread at a time ticks a world, so 10,000 CPUs is a mistake; the bound keeps sums from overflowing.
            ((load.min(1e4) * 1e9).round() as u64).max(1)
        };
        Table {
            load: worlds.iter().map(load).collect(),
            capacity: nodes.iter().map(|node| (node.capacity * 1e9).max(1.0)).collect(),
            home: worlds.iter().map(|world| index_of(&nodes, &world.current)).collect(),
            open: requires.members.iter().map(open).collect(),
            with: Classes::new(worlds.iter().map(|world| world.with.as_ref())),
            apart: Classes::new(worlds.iter().map(|world| world.apart.as_ref())),
            nodes,
            worlds,
            rules,
            requires,
        }
    }

    fn open(&self, world: usize, node: usize) -> bool {
        self.requires.of[world].is_some_and(|class| self.open[class][node])
    }
}

fn index_of(nodes: &[&NodeInput], name: &Option<String>) -> Option<usize> {
    nodes.binary_search_by_key(&name.as_ref()?, |node| &node.name).ok()
}

/// Worlds that go to nodes, all or none of them.
type Step = Vec<(usize, usize)>;

/// Who is where, while planning.
#[derive(Clone)]
struct Board<'a> {
    table: &'a Table<'a>,
    at: Vec<Option<usize>>,
    on: Vec<BTreeSet<usize>>,
    used: Vec<u64>,
    /// By group, then node: how many of its worlds are there.
    with: Vec<Vec<u32>>,
    apart: Vec<Vec<u32>>,
    /// Why a world moves, if it does. Once it has to move, moving it elsewhere while planning costs nothing.
    why: Vec<Option<Why>>,
    /// Pinned to where it is.
    held: Vec<bool>,
}

impl<'a> Board<'a> {
    fn new(table: &'a Table<'a>) -> Board<'a> {
        let (nodes, worlds) = (table.nodes.len(), table.worlds.len());
        Board {
            table,
            at: vec![None; worlds],
            on: vec![BTreeSet::new(); nodes],
            used: vec![0; nodes],
            with: vec![vec![0; nodes]; table.with.members.len()],
            apart: vec![vec![0; nodes]; table.apart.members.len()],
            why: vec![None; worlds],
            held: vec![false; worlds],
        }
    }

    fn put(&mut self, world: usize, to: Option<usize>) {
        let table = self.table;
        let from = std::mem::replace(&mut self.at[world], to);
        for (node, there) in [(from, false), (to, true)].into_iter().filter_map(|(node, there)| Some((node?, there))) {
            let one = |count: &mut u32| *count = if there { *count + 1 } else { *count - 1 };
            table.with.of[world].into_iter().for_each(|group| one(&mut self.with[group][node]));
            table.apart.of[world].into_iter().for_each(|group| one(&mut self.apart[group][node]));
            if there {
                self.on[node].insert(world);
                self.used[node] += table.load[world];
            } else {
                self.on[node].remove(&world);
                self.used[node] -= table.load[world];
            }
        }
    }

    /// Puts worlds where they may stay, and those that are pinned where they are pinned.
    fn keep(&mut self, pins_ignored: &mut Vec<(String, String)>) {
        let table = self.table;
        let mut pinned = vec![Vec::new(); table.nodes.len()];
        for (index, world) in table.worlds.iter().enumerate() {
            self.why[index] = match (table.home[index], &world.current) {
                (None, None) => Some(Why::First),
                (None, Some(_)) => Some(Why::NodeGone),
                (Some(home), _) if table.nodes[home].draining => Some(Why::Draining),
                (Some(home), _) if !table.open(index, home) => Some(Why::Rule),
                (Some(home), _) => {
                    self.put(index, Some(home));
                    None
                }
            };
            match index_of(&table.nodes, &world.pinned) {
                Some(node) if table.open(index, node) => pinned[node].push(index),
                Some(node) if !table.nodes[node].draining => {
                    pins_ignored.push((world.name.clone(), format!("{} lacks a label that it requires", table.nodes[node].name)))
                }
                Some(_) | None => {}
            }
        }
        for (node, mut wanted) in pinned.into_iter().enumerate() {
            // Of too many, those that are there already: a swap would gain nothing.
            wanted.sort_by_key(|&world| (self.at[world] != Some(node), world));
            let room = wanted.len().min(table.nodes[node].worlds_max as usize);
            for world in wanted.split_off(room) {
                let reason = format!("{} is full of pinned worlds (worlds_max)", table.nodes[node].name);
                pins_ignored.push((table.worlds[world].name.clone(), reason));
            }
            for world in wanted {
                if self.at[world] != Some(node) {
                    self.why[world] = self.why[world].or(Some(Why::Pinned));
                }
                self.held[world] = true;
                self.put(world, Some(node));
            }
        }
        for (node, input) in table.nodes.iter().enumerate() {
            let mut there: Vec<_> = self.on[node].iter().copied().collect();
            there.sort_by_key(|&world| (!self.held[world], Reverse(table.load[world]), world));
            for &world in there.iter().skip(input.worlds_max as usize) {
                self.put(world, None);
                self.why[world] = Some(Why::Rule);
            }
        }
    }

    /// Finds a node for every world that has none.
    fn place(mut self, fit: Fit) -> Board<'a> {
        let table = self.table;
        let homeless = |world: &usize| self.at[*world].is_none();
        let alone = |world: &usize| fit == Fit::FirstSingly || table.with.of[*world].is_none();
        let groups: &[Vec<usize>] = if fit == Fit::FirstSingly { &[] } else { &table.with.members };
        let groups = groups.iter().map(|group| group.iter().copied().filter(homeless).collect::<Vec<_>>());
        let singles = (0..table.worlds.len()).filter(|world| homeless(world) && alone(world)).map(|world| vec![world]);
        let mut units: Vec<_> = groups.chain(singles).filter(|unit| !unit.is_empty()).collect();
        let choices: Vec<usize> = table.open.iter().map(|open| open.iter().filter(|open| **open).count()).collect();
        // Fewest choices first: a world that goes anywhere must not take the last place of one that does not.
        units.sort_by_cached_key(|unit| {
            let choices = unit.iter().filter_map(|&world| table.requires.of[world]).map(|class| choices[class]).min();
            (choices, Reverse(unit.iter().map(|&world| table.load[world]).sum::<u64>()), unit[0])
        });
        for mut unit in units {
            if let Some(node) = self.choose(&unit, fit) {
                unit.into_iter().for_each(|world| self.put(world, Some(node)));
                continue;
            }
            unit.sort_by_key(|&world| (Reverse(table.load[world]), world));
            for world in unit {
                let node = self.choose(&[world], fit).or_else(|| self.last_resort(world));
                self.put(world, node);
            }
        }
        self
    }

    /// Utilisation of a node if worlds were there too.
    fn utilisation(&self, worlds: &[usize], node: usize) -> f64 {
        let more: u64 = worlds.iter().filter(|&&world| self.at[world] != Some(node)).map(|&world| self.table.load[world]).sum();
        (self.used[node] + more) as f64 / self.table.capacity[node]
    }

    /// Whether the hard rules let worlds be on a node.
    fn room(&self, worlds: &[usize], node: usize) -> bool {
        let more = worlds.iter().filter(|&&world| self.at[world] != Some(node)).count();
        self.on[node].len() + more <= self.table.nodes[node].worlds_max as usize
            && worlds.iter().all(|&world| self.table.open(world, node))
    }

    fn fits(&self, worlds: &[usize], node: usize) -> bool {
        self.room(worlds, node) && self.utilisation(worlds, node) <= self.table.rules.utilisation_max
    }

    /// How much less evenly spread groups are if worlds went to a node: half of the change of the sum of squares.
    fn crowding(&self, worlds: &[usize], node: usize) -> i64 {
        let apart = |world: usize| self.table.apart.of[world];
        let one = |&world: &usize| {
            let counts = &self.apart[apart(world)?];
            let same = worlds.iter().filter(|&&other| apart(other) == apart(world)).count() as i64;
            Some(i64::from(counts[node]) + same - self.at[world].map_or(0, |from| i64::from(counts[from])))
        };
        worlds.iter().filter_map(one).sum()
    }

    /// A node where worlds are not, and fit: with their group, then away from their spread group, then the least utilised.
    fn choose(&self, worlds: &[usize], fit: Fit) -> Option<usize> {
        let mut nodes =
            (0..self.on.len()).filter(|&node| self.at[worlds[0]] != Some(node) && self.fits(worlds, node)).map(|node| {
                let group = self.table.with.of[worlds[0]].is_some_and(|group| self.with[group][node] > 0);
                (!group, self.crowding(worlds, node), self.utilisation(worlds, node), node)
            });
        match fit {
            Fit::LeastUtilised => nodes.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2))),
            Fit::First | Fit::FirstSingly => nodes.next(),
        }
        .map(|(.., node)| node)
    }

    /// The node that ends up least overloaded.
    fn last_resort(&self, world: usize) -> Option<usize> {
        let nodes = (0..self.on.len()).filter(|&node| self.room(&[world], node));
        nodes.min_by(|&a, &b| self.utilisation(&[world], a).total_cmp(&self.utilisation(&[world], b)))
    }

    /// Worlds without a node, and load above `utilisation_max` (CPU nanoseconds a second).
    fn shortfall(&self) -> (usize, u64) {
        let most = |node: usize| (self.table.capacity[node] * self.table.rules.utilisation_max) as u64;
        let over = |(node, used): (usize, &u64)| used.saturating_sub(most(node));
        (self.at.iter().filter(|at| at.is_none()).count(), self.used.iter().enumerate().map(over).sum())
    }

    /// Takes steps until none is worth it; says whether `moves_max` ended it before.
    ///
    /// It ends by itself: each kind of step lowers its own measure (worlds without a node, nodes that a group is on, crowding, the fuller of
    /// two nodes) and none of an earlier kind, so nothing goes in circles. The bound on steps is for our own mistakes.
    fn rebalance(&mut self) -> bool {
        let (moves_max, mut part) = (self.table.rules.moves_max, 1.0);
        let mut left = moves_max;
        for _ in 0..=3 * self.at.len() {
            let step = self.admit().or_else(|| self.unite()).or_else(|| self.spread());
            let Some(step) = step.or_else(|| self.balance(part).inspect(|_| part = 0.5)) else { return false };
            let cost = step.iter().filter(|(world, _)| self.why[*world].is_none()).count();
            // Only a group that no plan could unite at once is moved in parts.
            if cost > left && cost <= moves_max {
                return true;
            }
            for (world, node) in step {
                if self.why[world].is_none() {
                    if left == 0 {
                        return true;
                    }
                    left -= 1;
                    self.why[world] = Some(Why::Rebalance);
                }
                self.put(world, Some(node));
            }
        }
        true
    }

    /// A world without a node gets one, if need be where another world can make room.
    fn admit(&self) -> Option<Step> {
        let table = self.table;
        let mut waiting: Vec<usize> = (0..self.at.len()).filter(|&world| self.at[world].is_none()).collect();
        // In the order in which worlds may stay on a node that has too many, or the next plan would choose others.
        let may_stay = |world: usize| table.home[world].is_some_and(|home| table.open(world, home));
        waiting.sort_by_key(|&world| (!may_stay(world), Reverse(table.load[world]), world));
        let mut seen = BTreeSet::new();
        for world in waiting.into_iter().filter(|&world| seen.insert(table.requires.of[world])) {
            if let Some(node) = self.choose(&[world], Fit::LeastUtilised).or_else(|| self.last_resort(world)) {
                return Some(vec![(world, node)]);
            }
            let nodes = (0..self.on.len()).filter(|&node| table.open(world, node));
            let others = nodes.flat_map(|node| self.on[node].iter().map(move |&other| (other, node)));
            let mut others: Vec<_> = others.filter(|&(other, _)| self.movable(&[other])).collect();
            others.sort_by_key(|&(other, _)| (table.load[other], other));
            let mut steps =
                others.into_iter().filter_map(|(other, node)| Some((other, node, self.choose(&[other], Fit::LeastUtilised)?)));
            if let Some((other, node, to)) = steps.next() {
                return Some(vec![(other, to), (world, node)]);
            }
        }
        None
    }

    /// A group that is on more nodes than it has to be comes together.
    fn unite(&self) -> Option<Step> {
        self.table.with.members.iter().zip(&self.with).find_map(|(members, counts)| {
            let before = counts.iter().filter(|count| **count > 0).count();
            if before < 2 {
                return None;
            }
            let (held, free): (Vec<usize>, Vec<usize>) =
                members.iter().filter(|&&world| self.at[world].is_some()).partition(|&&world| self.held[world]);
            let held: BTreeSet<usize> = held.into_iter().filter_map(|world| self.at[world]).collect();
            let after = |node: usize| held.len() + usize::from(!held.contains(&node));
            // Room for all of it does not depend on where its parts are, so a group that is moved in parts keeps its aim.
            let nodes = (0..counts.len()).filter(|&node| after(node) < before && self.fits(&free, node));
            let order = |&a: &usize, &b: &usize| {
                let counts = counts[b].cmp(&counts[a]);
                after(a).cmp(&after(b)).then(counts).then(self.utilisation(&free, a).total_cmp(&self.utilisation(&free, b)))
            };
            let to = nodes.min_by(order)?;
            Some(free.into_iter().filter(|&world| self.at[world] != Some(to)).map(|world| (world, to)).collect())
        })
    }

    /// A spread group becomes more even.
    fn spread(&self) -> Option<Step> {
        let apart = |block: &Vec<usize>| block.iter().any(|&world| self.table.apart.of[world].is_some());
        let blocks: Vec<_> = (0..self.on.len()).flat_map(|node| self.blocks(node)).filter(apart).collect();
        let steps = blocks.iter().filter_map(|block| {
            let nodes = (0..self.on.len()).filter(|&node| self.crowding(block, node) < 0 && self.fits(block, node));
            let steps = nodes.map(|node| (self.crowding(block, node), self.utilisation(block, node), block, node));
            steps.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))
        });
        let (.., block, to) = steps.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
        Some(block.iter().map(|&world| (world, to)).collect())
    }

    /// Load goes from a fuller to an emptier node: the two furthest apart for which a move is worth it, and the move that helps most.
    fn balance(&self, part: f64) -> Option<Step> {
        let gap_min = self.table.rules.imbalance.max(0.0) * part;
        let mut nodes: Vec<(f64, usize)> = (0..self.on.len()).map(|node| (self.utilisation(&[], node), node)).collect();
        nodes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut full = nodes.clone();
        full.sort_by(|a, b| b.0.total_cmp(&a.0));
        full.into_iter().find_map(|(before, from)| {
            let targets: Vec<usize> = nodes.iter().take_while(|(low, _)| before - low > gap_min).map(|&(_, node)| node).collect();
            let blocks = if targets.is_empty() { Vec::new() } else { self.blocks(from) };
            targets.into_iter().find_map(|to| {
                let gain = |block: &Vec<usize>| {
                    let lower = block.iter().map(|&world| self.table.load[world]).sum::<u64>() as f64 / self.table.capacity[from];
                    let after = self.utilisation(block, to);
                    let worth = lower > gap_min * MOVE_WORTH && after < before - gap_min / 2.0;
                    (worth && self.fits(block, to) && self.crowding(block, to) <= 0).then(|| lower.min(before - after))
                };
                let best = blocks.iter().filter_map(|block| Some((gain(block)?, block))).min_by(|a, b| b.0.total_cmp(&a.0))?;
                Some(best.1.iter().map(|&world| (world, to)).collect())
            })
        })
    }

    /// What moves as one: the worlds of a group on this node, or one world without a group.
    fn blocks(&self, node: usize) -> Vec<Vec<usize>> {
        let there = |world: &usize| self.at[*world] == Some(node);
        let first = |group: usize| self.table.with.members[group].iter().copied().find(there);
        let block = |&world: &usize| match self.table.with.of[world] {
            Some(group) if first(group) != Some(world) => None,
            Some(group) => Some(self.table.with.members[group].iter().copied().filter(there).collect()),
            None => Some(vec![world]),
        };
        self.on[node].iter().filter_map(block).filter(|block: &Vec<usize>| self.movable(block)).collect()
    }

    /// Whether a plan may move worlds that could stay, all at once.
    fn movable(&self, worlds: &[usize]) -> bool {
        let cost = worlds.iter().filter(|&&world| self.why[world].is_none()).count();
        cost <= self.table.rules.moves_max && !worlds.iter().any(|&world| self.held[world])
    }

    fn write(&self, plan: &mut Plan) {
        let table = self.table;
        for (index, world) in table.worlds.iter().enumerate() {
            match (self.at[index], self.why[index]) {
                (None, _) => plan.unplaced.push((world.name.clone(), self.reason(index))),
                (Some(to), Some(why)) if table.home[index] != Some(to) => {
                    let (world, from, to) = (world.name.clone(), world.current.clone(), table.nodes[to].name.clone());
                    plan.moves.push(Move { world, from, to, why })
                }
                (Some(_), _) => {}
            }
        }
        plan.moves.sort_by(|a, b| (a.why, &a.world).cmp(&(b.why, &b.world)));
        plan.pins_ignored.sort();
        let utilisation = table.nodes.iter().enumerate().map(|(index, node)| (node.name.clone(), self.utilisation(&[], index)));
        plan.overloaded = utilisation.filter(|(_, utilisation)| *utilisation > table.rules.utilisation_max).collect();
    }

    fn reason(&self, world: usize) -> String {
        let (table, requires) = (self.table, &self.table.worlds[world].requires);
        if table.nodes.iter().all(|node| node.draining) {
            "there is no node that is not draining".into()
        } else if !(0..table.nodes.len()).any(|node| table.open(world, node)) {
            let labels: Vec<&str> = requires.iter().map(String::as_str).collect();
            format!("no node that is not draining has all of the labels {}", labels.join(", "))
        } else {
            "every node that may hold it is full (worlds_max)".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(name: &str, capacity: f64) -> NodeInput {
        NodeInput { name: name.into(), capacity, worlds_max: 100, draining: false, labels: BTreeSet::new() }
    }

    /// Worlds w00, w01 and so on, of so many hundredths of a CPU, on one node or on none.
    fn worlds(loads: &[u32], current: Option<&str>) -> Vec<WorldInput> {
        let world = |(index, load): (usize, &u32)| WorldInput {
            name: format!("w{index:02}"),
            load: f64::from(*load) / 100.0,
            current: current.map(String::from),
            pinned: None,
            requires: BTreeSet::new(),
            with: None,
            apart: None,
        };
        loads.iter().enumerate().map(world).collect()
    }

    /// Plans and carries it out.
    fn follow(nodes: &[NodeInput], worlds: &mut [WorldInput], rules: &Rules) -> Plan {
        let plan = solve(nodes, worlds, rules);
        for step in &plan.moves {
            let world = worlds.iter_mut().find(|world| world.name == step.world).unwrap();
            assert_eq!(world.current, step.from);
            world.current = Some(step.to.clone());
        }
        plan
    }

    fn at<'a>(worlds: &'a [WorldInput], node: &str) -> Vec<&'a WorldInput> {
        worlds.iter().filter(|world| world.current.as_deref() == Some(node)).collect()
    }

    fn rebalance(moves_max: usize) -> Rules {
        Rules { moves_max, ..Rules::default() }
    }

    fn some(letters: &'static str) -> impl Strategy<Value = BTreeSet<String>> {
        proptest::sample::subsequence(letters.chars().map(String::from).collect::<Vec<_>>(), 0..=letters.len())
            .prop_map(|labels| labels.into_iter().collect())
    }

    fn any_node() -> impl Strategy<Value = NodeInput> {
        (1..5u32, 0..9u32, proptest::bool::weighted(0.15), some("ab")).prop_map(|(capacity, worlds_max, draining, labels)| {
            NodeInput { name: String::new(), capacity: f64::from(capacity), worlds_max, draining, labels }
        })
    }

    fn any_world() -> impl Strategy<Value = WorldInput> {
        // Nodes are n0 to n5 at most: n6 and n7 are always gone.
        let node = |part| proptest::option::weighted(part, (0..8u32).prop_map(|index| format!("n{index}")));
        let group = || proptest::option::weighted(0.3, (0..3u32).prop_map(|index| format!("g{index}")));
        let requires = prop_oneof![3 => Just(BTreeSet::new()), 1 => some("ab")];
        (0..80u32, node(0.7), node(0.15), requires, group(), group()).prop_map(
            |(load, current, pinned, requires, with, apart)| WorldInput {
                name: String::new(),
                load: f64::from(load) / 100.0,
                current,
                pinned,
                requires,
                with,
                apart,
            },
        )
    }

    fn any_cluster() -> impl Strategy<Value = (Vec<NodeInput>, Vec<WorldInput>, Rules)> {
        let nodes = proptest::collection::vec(any_node(), 0..6);
        (nodes, proptest::collection::vec(any_world(), 0..30), 0..6usize).prop_map(|(mut nodes, mut worlds, moves_max)| {
            nodes.iter_mut().enumerate().for_each(|(index, node)| node.name = format!("n{index}"));
            worlds.iter_mut().enumerate().for_each(|(index, world)| world.name = format!("w{index:02}"));
            (nodes, worlds, Rules { moves_max, ..Rules::default() })
        })
    }

    fn names<T>(of: &[(String, T)]) -> BTreeSet<&str> {
        of.iter().map(|(name, _)| name.as_str()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn planning_comes_to_an_end_and_then_changes_nothing((nodes, mut worlds, rules) in any_cluster()) {
            let mut plan = follow(&nodes, &mut worlds, &rules);
            for _ in 0..100 {
                if !plan.cut_short || rules.moves_max == 0 {
                    break;
                }
                plan = follow(&nodes, &mut worlds, &rules);
            }
            prop_assert!(!plan.cut_short || rules.moves_max == 0, "it goes on for ever");
            let again = solve(&nodes, &worlds, &rules);
            prop_assert_eq!((again.moves, again.unplaced, again.overloaded), (vec![], plan.unplaced, plan.overloaded));
        }

        #[test]
        fn the_order_of_the_input_does_not_matter(((nodes, worlds, rules), (other_nodes, other_worlds)) in any_cluster().prop_flat_map(
            |cluster| (Just(cluster.clone()), (Just(cluster.0).prop_shuffle(), Just(cluster.1).prop_shuffle()))
        )) {
            prop_assert_eq!(solve(&nodes, &worlds, &rules), solve(&other_nodes, &other_worlds, &rules));
        }

        #[test]
        fn hard_rules_hold((nodes, mut worlds, rules) in any_cluster()) {
            let plan = follow(&nodes, &mut worlds, &rules);
            prop_assert!(plan.moves.iter().filter(|step| step.why == Why::Rebalance).count() <= rules.moves_max);
            let (out, pins_ignored) = (names(&plan.unplaced), names(&plan.pins_ignored));
            let may = |world: &WorldInput, node: &NodeInput| !node.draining && world.requires.is_subset(&node.labels);
            let (out, placed): (Vec<_>, Vec<_>) = worlds.into_iter().partition(|world| out.contains(&*world.name));
            for world in &placed {
                let find = |name: &Option<String>| nodes.iter().find(|node| Some(&node.name) == name.as_ref());
                prop_assert!(find(&world.current).is_some_and(|node| may(world, node)));
                let pinned = find(&world.pinned).is_some_and(|node| !node.draining) && !pins_ignored.contains(&*world.name);
                prop_assert!(!pinned || world.pinned == world.current);
            }
            for node in &nodes {
                let (there, worlds_max) = (at(&placed, &node.name).len(), node.worlds_max as usize);
                prop_assert!(there <= worlds_max);
                prop_assert!(there == worlds_max || !out.iter().any(|world| may(world, node)), "a world is left out, {} has room", node.name);
            }
        }

        #[test]
        fn no_node_is_overloaded_where_first_fit_finds_a_way(
            capacities in proptest::collection::vec(1..5u32, 1..6), mut loads in proptest::collection::vec(1..150u32, 0..30)
        ) {
            let nodes: Vec<_> = capacities.iter().enumerate().map(|(index, c)| node(&format!("n{index}"), f64::from(*c))).collect();
            let plan = solve(&nodes, &worlds(&loads, None), &Rules::default());
            let mut left: Vec<u32> = capacities.iter().map(|capacity| capacity * 80).collect();
            loads.sort_by_key(|load| Reverse(*load));
            let possible = loads.iter().all(|load| left.iter_mut().find(|left| **left >= *load).map(|left| *left -= load).is_some());
            prop_assert!(plan.unplaced.is_empty() && (!possible || plan.overloaded.is_empty()), "{:?}", plan);
        }

        #[test]
        fn a_node_that_goes_away_moves_only_its_own_worlds((mut nodes, mut worlds, rules) in any_cluster()) {
            let before = (0..50).map(|_| follow(&nodes, &mut worlds, &rules)).last().unwrap();
            let gone = nodes.pop().map(|node| node.name);
            for step in solve(&nodes, &worlds, &rebalance(0)).moves {
                prop_assert!(step.from == gone || names(&before.unplaced).contains(&*step.world), "{:?}", step);
            }
        }

        #[test]
        fn draining_empties_a_node(loads in proptest::collection::vec(1..150u32, 1..30)) {
            let (mut nodes, mut worlds) = ([node("a", 1.0), node("b", 2.0), node("c", 3.0)], worlds(&loads, None));
            follow(&nodes, &mut worlds, &Rules::default());
            nodes[2].draining = true;
            let plan = follow(&nodes, &mut worlds, &rebalance(0));
            prop_assert!(plan.moves.iter().all(|step| step.why == Why::Draining) && at(&worlds, "c").is_empty());
        }

        #[test]
        fn jitter_after_rebalancing_moves_nothing(
            loads in proptest::collection::vec(1..20u32, 8..30), jitter in proptest::collection::vec(-2..=2i32, 30)
        ) {
            let (nodes, mut worlds) = ([node("a", 2.0), node("b", 2.0), node("c", 4.0)], worlds(&loads, Some("a")));
            prop_assume!(!follow(&nodes, &mut worlds, &rebalance(100)).moves.is_empty());
            worlds.iter_mut().zip(jitter).for_each(|(world, percent)| world.load *= 1.0 + f64::from(percent) / 100.0);
            prop_assert_eq!(solve(&nodes, &worlds, &Rules::default()).moves, vec![]);
        }

        #[test]
        fn nodes_no_further_apart_than_the_imbalance_are_left_alone(loads in proptest::collection::vec((1..30u32, 0..3usize), 0..30)) {
            let nodes = [node("a", 2.0), node("b", 2.0), node("c", 4.0)];
            let mut worlds = worlds(&loads.iter().map(|(load, _)| *load).collect::<Vec<_>>(), None);
            worlds.iter_mut().zip(&loads).for_each(|(world, (_, at))| world.current = Some(nodes[*at].name.clone()));
            let used = nodes.each_ref().map(|node| at(&worlds, &node.name).iter().map(|world| world.load).sum::<f64>() / node.capacity);
            let imbalance = used.into_iter().fold(0.0, f64::max) - used.into_iter().fold(f64::MAX, f64::min) + 1e-6;
            prop_assert_eq!(solve(&nodes, &worlds, &Rules { imbalance, ..Rules::default() }).moves, vec![]);
        }
    }

    #[test]
    fn a_new_node_gets_its_share_a_few_moves_at_a_time() {
        let (nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0)], worlds(&[5; 13], Some("a")));
        let plan = follow(&nodes, &mut worlds, &rebalance(4));
        assert_eq!((plan.moves.len(), plan.cut_short), (4, true));
        follow(&nodes, &mut worlds, &rebalance(4));
        // From 0.65 and 0 until they are no more than 0.1 apart.
        assert_eq!((at(&worlds, "a").len(), at(&worlds, "b").len()), (7, 6));
    }

    #[test]
    fn worlds_of_an_affinity_group_follow_each_other_and_those_of_a_spread_group_do_not() {
        let (nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0), node("c", 1.0)], worlds(&[10, 10, 10, 1, 1, 1], None));
        worlds[..3].iter_mut().for_each(|world| world.with = Some("city".into()));
        worlds[3..].iter_mut().for_each(|world| world.apart = Some("lobby".into()));
        worlds[1].pinned = Some("b".into());
        let plan = follow(&nodes, &mut worlds, &Rules::default());
        assert!(worlds[..3].iter().all(|world| world.current.as_deref() == Some("b")), "{plan:?}");
        assert_eq!(["a", "b", "c"].map(|node| at(&worlds[3..], node).len()), [1, 1, 1]);
        // Torn apart and crowded together by something else, they find back, a bounded number of moves a plan.
        worlds.iter_mut().zip(["a", "b", "c", "c", "c", "c"]).for_each(|(world, node)| world.current = Some(node.into()));
        let plans = [(); 4].map(|()| follow(&nodes, &mut worlds, &rebalance(1)).moves.len());
        assert_eq!((plans, at(&worlds[..3], "b").len()), ([1, 1, 1, 1], 3));
        assert_eq!(["a", "b", "c"].map(|node| at(&worlds[3..], node).len()), [1, 1, 1]);
    }

    #[test]
    fn a_world_with_fewer_choices_chooses_first() {
        let (mut nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0)], worlds(&[60, 30], None));
        nodes[0].labels.insert("gpu".into());
        worlds[1].requires.insert("gpu".into());
        follow(&nodes, &mut worlds, &Rules::default());
        assert_eq!((worlds[0].current.as_deref(), worlds[1].current.as_deref()), (Some("b"), Some("a")));
    }

    #[test]
    fn an_overloaded_node_is_reported_and_a_world_without_a_node_says_why() {
        let (nodes, mut worlds) = ([node("a", 1.0)], worlds(&[90, 10], None));
        worlds[1].requires.insert("gpu".into());
        let plan = solve(&nodes, &worlds, &Rules::default());
        assert_eq!(plan.overloaded, [("a".to_string(), 0.9)]);
        assert_eq!(plan.unplaced, [("w01".to_string(), "no node that is not draining has all of the labels gpu".to_string())]);
    }

    #[test]
    fn a_world_that_could_go_anywhere_makes_room_for_one_that_could_not() {
        let (mut nodes, mut worlds) = ([node("a", 1.0), node("b", 1.0)], worlds(&[10, 10], None));
        (nodes[0].worlds_max, worlds[0].current) = (1, Some("a".into()));
        nodes[0].labels.insert("gpu".into());
        worlds[1].requires.insert("gpu".into());
        let plan = follow(&nodes, &mut worlds, &Rules::default());
        assert_eq!(
            plan.moves.iter().map(|step| (&*step.to, step.why)).collect::<Vec<_>>(),
            [("a", Why::First), ("b", Why::Rebalance)]
        );
    }
}
