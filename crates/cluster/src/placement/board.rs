//! Who is where while a plan is made: worlds stay where they may, and those without a place get one. Not here: moves that only make
//! things better (`rebalance`).

use super::table::{Table, index_of};
use super::{Move, Plan, Why};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How nodes are chosen for worlds that have none.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fit {
    LeastUtilised,
    First,
    /// Groups may be torn apart: they are wishes, `utilisation_max` is more.
    FirstSingly,
}
/// Worlds that go to nodes, all or none of them.
pub(super) type Step = Vec<(usize, usize)>;

/// Who is where, while planning.
#[derive(Clone)]
pub(super) struct Board<'a> {
    pub(super) table: &'a Table<'a>,
    pub(super) at: Vec<Option<usize>>,
    pub(super) on: Vec<BTreeSet<usize>>,
    pub(super) used: Vec<u64>,
    /// By group, then node: how many of its worlds are there.
    pub(super) with: Vec<Vec<u32>>,
    pub(super) apart: Vec<Vec<u32>>,
    /// Why a world moves, if it does. Once it has to move, moving it elsewhere while planning costs nothing.
    pub(super) why: Vec<Option<Why>>,
    /// Pinned to where it is.
    pub(super) held: Vec<bool>,
}

impl<'a> Board<'a> {
    pub(super) fn new(table: &'a Table<'a>) -> Board<'a> {
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

    pub(super) fn put(&mut self, world: usize, to: Option<usize>) {
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
    pub(super) fn keep(&mut self, pins_ignored: &mut Vec<(String, String)>) {
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
    pub(super) fn place(mut self, fit: Fit) -> Board<'a> {
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
    pub(super) fn utilisation(&self, worlds: &[usize], node: usize) -> f64 {
        let more: u64 = worlds.iter().filter(|&&world| self.at[world] != Some(node)).map(|&world| self.table.load[world]).sum();
        (self.used[node] + more) as f64 / self.table.capacity[node]
    }

    /// Whether the hard rules let worlds be on a node.
    pub(super) fn room(&self, worlds: &[usize], node: usize) -> bool {
        let more = worlds.iter().filter(|&&world| self.at[world] != Some(node)).count();
        self.on[node].len() + more <= self.table.nodes[node].worlds_max as usize
            && worlds.iter().all(|&world| self.table.open(world, node))
    }

    pub(super) fn fits(&self, worlds: &[usize], node: usize) -> bool {
        self.room(worlds, node) && self.utilisation(worlds, node) <= self.table.rules.utilisation_max
    }

    /// How much less evenly spread groups are if worlds went to a node: half of the change of the sum of squares.
    pub(super) fn crowding(&self, worlds: &[usize], node: usize) -> i64 {
        let apart = |world: usize| self.table.apart.of[world];
        let one = |&world: &usize| {
            let counts = &self.apart[apart(world)?];
            let same = worlds.iter().filter(|&&other| apart(other) == apart(world)).count() as i64;
            Some(i64::from(counts[node]) + same - self.at[world].map_or(0, |from| i64::from(counts[from])))
        };
        worlds.iter().filter_map(one).sum()
    }

    /// A node where worlds are not, and fit: with their group, then away from their spread group, then the least utilised.
    pub(super) fn choose(&self, worlds: &[usize], fit: Fit) -> Option<usize> {
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
    pub(super) fn last_resort(&self, world: usize) -> Option<usize> {
        let nodes = (0..self.on.len()).filter(|&node| self.room(&[world], node));
        nodes.min_by(|&a, &b| self.utilisation(&[world], a).total_cmp(&self.utilisation(&[world], b)))
    }

    /// Worlds without a node, and load above `utilisation_max` (CPU nanoseconds a second).
    pub(super) fn shortfall(&self) -> (usize, u64) {
        let most = |node: usize| (self.table.capacity[node] * self.table.rules.utilisation_max) as u64;
        let over = |(node, used): (usize, &u64)| used.saturating_sub(most(node));
        (self.at.iter().filter(|at| at.is_none()).count(), self.used.iter().enumerate().map(over).sum())
    }

    pub(super) fn write(&self, plan: &mut Plan) {
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

    pub(super) fn reason(&self, world: usize) -> String {
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
