//! Moves of worlds that could stay: for one that has no place, for groups, to even out load. Bounded by `moves_max`.

use super::Why;
use super::board::{Board, Fit, Step};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A world that makes up less of its node than this part of the imbalance is not worth the pause of a move.
const MOVE_WORTH: f64 = 0.0005;

impl Board<'_> {
    /// Takes steps until none is worth it; says whether `moves_max` ended it before.
    ///
    /// It ends by itself: each kind of step lowers its own measure (worlds without a node, nodes that a group is on, crowding, the fuller of
    /// two nodes) and none of an earlier kind, so nothing goes in circles. The bound on steps is for our own mistakes.
    pub(super) fn rebalance(&mut self) -> bool {
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
}
