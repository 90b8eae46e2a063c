//! Where a function's body pays, and how much.
//!
//! What is certain to run is paid for together, before it runs: at the function's entry, at each round of a loop, in each arm of an `if`,
//! and after a place that may be jumped over. A block, an `if` or a loop that nothing inside of it leaves by a jump to further out is
//! certain to be gone past, so what follows it is paid for with what came before it. So a call that returns has paid for exactly what it
//! did; one that traps may have paid for a little more.
//!
//! Whether there is fuel left is looked at on entry, in each round of a loop, and before a bulk operation, which pays for its size. Past
//! its fuel a script therefore runs no further than to the next of these: at most once through its largest function.
//!
//! Start with [`charges`]. Not here: writing them into the module (`rewrite`).

use super::Costs;
use crate::limits::ModuleError;
use crate::patch::invalid;
use wasmparser::{FunctionBody, Operator};

/// A place in a body where something is taken off the counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    /// Before which byte of the module.
    pub at: usize,
    pub cost: u64,
    /// For each unit of what is on top of the stack, the size of the bulk operation that follows.
    pub per_unit: u64,
    /// Whether there must be fuel left.
    pub checked: bool,
}

/// A size that the body itself names is paid for like any instruction, and looked at from this cost on.
const SMALL_BULK: u64 = 128;

/// A block, loop or `if` that is open.
struct Frame {
    /// What pays at its beginning; `None`: it is never reached.
    outer: Option<usize>,
    is_loop: bool,
    /// An `if` without its `else` so far.
    one_arm: bool,
    /// Its end is jumped to, or reached by its first arm.
    reached: bool,
    /// Something in it jumps further out.
    left: bool,
}

struct Walk {
    charges: Vec<Charge>,
    frames: Vec<Frame>,
    /// What pays for the next instruction; `None`: it is never reached.
    pays: Option<usize>,
    /// The next instruction begins something new to pay, with or without a look at what is left.
    begins: Option<bool>,
}

impl Walk {
    fn begin(&mut self, at: usize, cost: u64, per_unit: u64, checked: bool) -> usize {
        self.charges.push(Charge { at, cost, per_unit, checked });
        self.charges.len() - 1
    }

    fn open(&mut self, is_loop: bool, one_arm: bool) {
        self.frames.push(Frame { outer: self.pays, is_loop, one_arm, reached: false, left: false });
    }

    fn jump(&mut self, depth: u32) {
        let Some(target) = self.frames.len().checked_sub(depth as usize + 1) else { return };
        self.frames.iter_mut().skip(target + 1).for_each(|frame| frame.left = true);
        if let Some(frame) = self.frames.get_mut(target) {
            frame.reached |= !frame.is_loop;
        }
    }

    fn end(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        let reached = self.pays.is_some() || frame.reached || frame.one_arm;
        self.pays = frame.outer.filter(|_| reached);
        if self.pays.is_some() && frame.left {
            self.begins = Some(false);
        }
    }

    /// What comes after an instruction.
    fn after(&mut self, operator: &Operator<'_>) -> Result<(), ModuleError> {
        match operator {
            Operator::Block { .. } => self.open(false, false),
            Operator::Loop { .. } => {
                self.open(true, false);
                self.begins = self.pays.map(|_| true);
            }
            Operator::If { .. } => {
                self.open(false, true);
                self.begins = self.pays.map(|_| false);
            }
            Operator::Else => {
                let fell_through = self.pays.is_some();
                if let Some(frame) = self.frames.last_mut() {
                    frame.one_arm = false;
                    frame.reached |= fell_through;
                    self.pays = frame.outer;
                    self.begins = self.pays.map(|_| false);
                }
            }
            Operator::End => self.end(),
            _ if self.pays.is_none() => {}
            Operator::Br { relative_depth } => {
                self.jump(*relative_depth);
                self.pays = None;
            }
            Operator::BrIf { relative_depth } => {
                self.jump(*relative_depth);
                self.begins = Some(false);
            }
            Operator::BrTable { targets } => {
                for depth in targets.targets() {
                    self.jump(depth.map_err(invalid)?);
                }
                self.jump(targets.default());
                self.pays = None;
            }
            Operator::Return => {
                self.jump((self.frames.len() as u32).saturating_sub(1));
                self.pays = None;
            }
            // It traps, and nobody asks any more what was paid for.
            Operator::Unreachable => self.pays = None,
            _ => {}
        }
        Ok(())
    }
}

/// The places of a body of a validated module, in order.
pub(super) fn charges(body: &FunctionBody<'_>, costs: Costs) -> Result<Vec<Charge>, ModuleError> {
    let mut walk = Walk { charges: Vec::new(), frames: Vec::new(), pays: None, begins: None };
    let mut operators = body.get_operators_reader().map_err(invalid)?.into_iter_with_offsets().peekable();
    if let Some(Ok((_, at))) = operators.peek() {
        walk.pays = Some(walk.begin(*at, costs.entry(), 0, true));
    }
    walk.open(false, false);
    let mut constant = None;
    for operator in operators {
        let (operator, at) = operator.map_err(invalid)?;
        if let Some(checked) = walk.begins.take() {
            walk.pays = Some(walk.begin(at, 0, 0, checked));
        }
        if let Some(payer) = walk.pays {
            let (mut cost, rate) = (costs.of(&operator), costs.per_unit(&operator));
            let mut checked = false;
            match constant {
                Some(units) if rate > 0 => {
                    let bulk = rate.saturating_mul(units);
                    (cost, checked) = (cost + bulk, bulk > SMALL_BULK);
                }
                None if rate > 0 => {
                    walk.begin(at, 0, rate, true);
                }
                _ => {}
            }
            if let Some(charge) = walk.charges.get_mut(payer) {
                charge.cost = charge.cost.saturating_add(cost);
                charge.checked |= checked;
            }
        }
        constant = if let Operator::I32Const { value } = operator { Some(u64::from(value as u32)) } else { None };
        walk.after(&operator)?;
    }
    walk.charges.retain(|charge| charge.cost > 0 || charge.per_unit > 0);
    Ok(walk.charges)
}
