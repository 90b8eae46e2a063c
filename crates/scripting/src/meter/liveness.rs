//! Which locals a loop still needs: what is put aside while a script waits for fuel in it.
//!
//! Start with [`needed`]. It walks over a body from its end, as often as it takes until no loop needs more than it was known to.
//! A local that is missed stays where the compiler keeps it: that costs speed and nothing else. Not here: putting them aside (`body`).

use crate::limits::ModuleError;
use crate::patch::invalid;
use std::collections::BTreeMap;
use wasmparser::{FunctionBody, Operator};

/// Numbers of locals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Locals(Vec<u64>);

impl Locals {
    fn insert(&mut self, local: u32) {
        let word = local as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (local % 64);
    }

    fn remove(&mut self, local: u32) {
        if let Some(word) = self.0.get_mut(local as usize / 64) {
            *word &= !(1 << (local % 64));
        }
    }

    fn extend(&mut self, other: &Locals) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    pub fn contains(&self, local: u32) -> bool {
        self.0.get(local as usize / 64).is_some_and(|word| word >> (local % 64) & 1 == 1)
    }
}

/// What an instruction has to do with locals and with the order of things.
enum Step {
    Get(u32),
    Set(u32),
    Block,
    Loop,
    If,
    Else,
    /// Of what began there; `None`: of the function.
    End(Option<usize>),
    Jump(Vec<u32>),
    MayJump(u32),
    /// It returns or traps.
    Leave,
}

/// Steps, and where each of them is.
fn steps(body: &FunctionBody<'_>) -> Result<Vec<(Step, usize)>, ModuleError> {
    let (mut steps, mut open) = (Vec::new(), Vec::new());
    for operator in body.get_operators_reader().map_err(invalid)?.into_iter_with_offsets() {
        let (operator, at) = operator.map_err(invalid)?;
        let step = match operator {
            Operator::LocalGet { local_index } => Step::Get(local_index),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => Step::Set(local_index),
            Operator::Block { .. } => Step::Block,
            Operator::Loop { .. } => Step::Loop,
            Operator::If { .. } => Step::If,
            Operator::Else => Step::Else,
            Operator::End => Step::End(open.pop()),
            Operator::Br { relative_depth } => Step::Jump(vec![relative_depth]),
            Operator::BrIf { relative_depth } => Step::MayJump(relative_depth),
            Operator::BrTable { targets } => {
                let mut depths = targets.targets().collect::<Result<Vec<_>, _>>().map_err(invalid)?;
                depths.push(targets.default());
                depths.sort_unstable();
                depths.dedup();
                Step::Jump(depths)
            }
            Operator::Return | Operator::Unreachable => Step::Leave,
            _ => continue,
        };
        if matches!(step, Step::Block | Step::Loop | Step::If) {
            open.push(steps.len());
        }
        steps.push((step, at));
    }
    Ok(steps)
}

/// What is open, seen from its end.
struct Frame {
    /// Where it began, if it is a loop: what a jump to it needs is what it needs there.
    header: Option<usize>,
    at_end: Locals,
    other_arm: Option<Locals>,
}

/// What each loop of a body needs when a round begins, by where its `loop` is.
pub(super) fn needed(body: &FunctionBody<'_>) -> Result<BTreeMap<usize, Locals>, ModuleError> {
    let steps = steps(body)?;
    let mut headers = BTreeMap::<usize, Locals>::new();
    // Each time over, what a loop needs reaches at least one loop further out or in: there are at most as many as are nested.
    while walk(&steps, &mut headers) {}
    Ok(headers.into_iter().map(|(step, locals)| (steps[step].1, locals)).collect())
}

/// Once over the body; whether a loop was found to need more.
fn walk(steps: &[(Step, usize)], headers: &mut BTreeMap<usize, Locals>) -> bool {
    let (mut live, mut frames, mut grew) = (Locals::default(), Vec::<Frame>::new(), false);
    for (number, (step, _)) in steps.iter().enumerate().rev() {
        let target = |depth: u32, headers: &BTreeMap<usize, Locals>| {
            let frame = frames.len().checked_sub(depth as usize + 1).and_then(|at| frames.get(at));
            frame.map_or_else(Locals::default, |frame| match frame.header {
                Some(header) => headers.get(&header).cloned().unwrap_or_default(),
                None => frame.at_end.clone(),
            })
        };
        match step {
            Step::Get(local) => live.insert(*local),
            Step::Set(local) => live.remove(*local),
            Step::Leave => live = Locals::default(),
            Step::Jump(depths) => {
                live = Locals::default();
                depths.iter().for_each(|depth| live.extend(&target(*depth, headers)));
            }
            Step::MayJump(depth) => live.extend(&target(*depth, headers)),
            Step::End(opener) => {
                let header = opener.filter(|at| matches!(steps.get(*at), Some((Step::Loop, _))));
                frames.push(Frame { header, at_end: live.clone(), other_arm: None });
            }
            Step::Else => {
                if let Some(frame) = frames.last_mut() {
                    frame.other_arm = Some(std::mem::replace(&mut live, frame.at_end.clone()));
                }
            }
            Step::If => {
                if let Some(frame) = frames.pop() {
                    live.extend(frame.other_arm.as_ref().unwrap_or(&frame.at_end));
                }
            }
            Step::Block => drop(frames.pop()),
            Step::Loop => {
                frames.pop();
                let known = headers.entry(number).or_default();
                let before = known.clone();
                known.extend(&live);
                grew |= *known != before;
            }
        }
    }
    grew
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmparser::{Parser, Payload};

    /// The locals of up to eight that each loop of the first function needs, in order.
    fn of(text: &str) -> Vec<Vec<u32>> {
        let wasm = wat::parse_str(text).unwrap();
        let body = Parser::new(0).parse_all(&wasm).find_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
        let loops = needed(&body.unwrap()).unwrap();
        loops.into_values().map(|locals| (0..8).filter(|local| locals.contains(*local)).collect()).collect()
    }

    #[test]
    fn a_loop_needs_what_it_reads_before_it_writes_and_what_comes_after_reads() {
        let read_first = "(local.set 1 (i32.add (local.get 0) (local.get 1)))";
        let text = format!(
            "(module (func (param i32) (result i32) (local i32 i32 i32 i32)
               (loop (local.set 2 (i32.const 1)) {read_first} (br_if 0 (local.get 2)))
               (i32.add (local.get 1) (local.get 3))))"
        );
        assert_eq!(of(&text), [vec![0, 1, 3]], "0 and 1 are read, 2 is written first, 3 is read later, 4 never");
    }

    #[test]
    fn what_an_inner_loop_reads_before_it_is_written_is_needed_around_the_outer_one_too() {
        let text = "(module (func (local i32 i32 i32)
            (loop (loop (drop (local.get 1)) (br_if 0 (local.get 0))) (local.set 1 (local.get 2)) (br_if 0 (i32.const 1)))))";
        assert_eq!(of(text), [vec![0, 1, 2], vec![0, 1, 2]]);
    }

    #[test]
    fn either_arm_counts_and_a_jump_brings_what_its_target_needs() {
        let text = "(module (func (local i32 i32 i32 i32)
            (block (loop
              (if (local.get 0) (then (local.set 1 (i32.const 1))) (else (drop (local.get 2)) (br 2)))
              (local.set 2 (local.get 1)) (br 0)))
            (drop (local.get 3))))";
        assert_eq!(of(text), [vec![0, 2, 3]], "1 is written in the one arm that goes on");
        let text = "(module (func (local i32 i32) (loop (local.set 0 (i32.const 1)) (br_table 0 1 (local.get 1)))))";
        assert_eq!(of(text), [vec![1]]);
    }
}
