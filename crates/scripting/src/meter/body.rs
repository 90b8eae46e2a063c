//! Writing charges into a function's body.
//!
//! Start with [`Code::body`]. What is charged and where is `charges`; this is its code. A charge that is looked at calls the host if the
//! counter is below zero, and puts what the loop still needs into globals before that, and into its locals again after it.

use super::charges::{Charge, charges};
use super::{Costs, liveness};
use crate::limits::ModuleError;
use crate::patch::{Patch, invalid, leb, signed_leb};
use opcode::*;
use std::collections::BTreeMap;
use wasmparser::{FunctionBody, Operator, ValType};

/// Words that a loop puts aside at most. What it needs beyond that stays where the compiler puts it, which is slower.
const ASIDE_MAX: usize = 32;
/// Loops of a function that put anything aside: a bound on how much larger a function gets.
const LOOPS_MAX: usize = 256;

/// What is known of the functions of a module.
#[derive(Default)]
pub(super) struct Shape {
    /// Parameters of each type.
    pub params: Vec<Vec<ValType>>,
    /// The type of each function, imports first.
    pub types: Vec<u32>,
    pub imports: u32,
    /// Globals that the module had, none of them imported: the counter comes after them, then what is put aside.
    pub globals: u32,
}

impl Shape {
    /// Where a function is now.
    pub fn moved(&self, function: u32) -> u32 {
        if function < self.imports { function } else { function + 1 }
    }
}

/// The counter is set, the script's `on_tick` called, the counter given back: a call of the host sets and reads it for the price of
/// an argument and a result.
pub(super) fn tick_body(on_tick: u32, counter: u32) -> Vec<u8> {
    let mut body = vec![0];
    op(LOCAL_GET, 1, &mut body);
    op(GLOBAL_SET, counter, &mut body);
    op(LOCAL_GET, 0, &mut body);
    op(CALL, on_tick, &mut body);
    op(GLOBAL_GET, counter, &mut body);
    body.push(END);
    body
}

/// Writes bodies.
pub(super) struct Code<'a> {
    pub shape: &'a Shape,
    pub wasm: &'a [u8],
}

/// A body with its charges.
pub(super) struct Written {
    pub bytes: Vec<u8>,
    /// Words that it puts aside at most.
    pub aside: usize,
    /// Where its branches are that are not likely, as the section of hints has them, and how many there are.
    pub hints: Vec<u8>,
    pub hinted: usize,
}

impl Code<'_> {
    /// With no `costs`, nothing but numbers changes. `places` gets where each instruction is now, its charge included, and where it was.
    pub fn body(
        &self,
        body: &FunctionBody<'_>,
        function: u32,
        costs: Option<Costs>,
        mut places: Option<&mut Vec<(usize, usize)>>,
    ) -> Result<Written, ModuleError> {
        let (shape, range) = (self.shape, body.range());
        let charges = costs.map(|costs| charges(body, costs)).transpose()?.unwrap_or_default();
        let ty = shape.types.get(function as usize).and_then(|ty| shape.params.get(*ty as usize));
        let mut locals = ty.cloned().unwrap_or_default();
        let params = locals.len() as u32;
        let mut reader = body.get_locals_reader().map_err(invalid)?;
        let groups = reader.get_count();
        for _ in 0..groups {
            let (count, ty) = reader.read().map_err(invalid)?;
            locals.extend(std::iter::repeat_n(ty, count as usize));
        }
        let mut patch = Patch::new(self.wasm, range.start);
        if charges.iter().any(|charge| charge.per_unit > 0) {
            // One more local, for sizes.
            patch.number(range.start, groups + 1);
            patch.copy_to(reader.original_position());
            patch.out.extend_from_slice(&[1, 0x7f]);
        }
        let needed = if charges.iter().any(|charge| charge.checked) { liveness::needed(body)? } else { BTreeMap::new() };
        let mut written = Written { bytes: Vec::new(), aside: 0, hints: Vec::new(), hinted: 0 };
        let (mut next, mut after_loop, mut on_entry, mut loops) = (charges.iter().peekable(), None, true, 0);
        for operator in body.get_operators_reader().map_err(invalid)?.into_iter_with_offsets() {
            let (operator, at) = operator.map_err(invalid)?;
            if let Some(places) = &mut places {
                places.push((patch.position(at), at));
            }
            while let Some(charge) = next.next_if(|charge| charge.at == at) {
                let aside = match after_loop.and_then(|header| needed.get(&header)) {
                    // A call comes anyway.
                    _ if charge.per_unit > 0 || !charge.checked => Vec::new(),
                    Some(live) if loops < LOOPS_MAX => {
                        loops += 1;
                        choose(&locals, |local| live.contains(local))
                    }
                    // All parameters may be needed, and nothing else is.
                    None if on_entry => choose(&locals, |local| local < params),
                    _ => Vec::new(),
                };
                patch.copy_to(at);
                written.aside = written.aside.max(aside.iter().map(|(_, ty)| words(*ty)).sum());
                if let Some(branch) = write_charge(charge, shape, locals.len() as u32, &aside, &mut patch.out) {
                    leb(branch as u64, &mut written.hints);
                    // One byte: not likely.
                    written.hints.extend_from_slice(&[1, 0]);
                    written.hinted += 1;
                }
            }
            after_loop = matches!(operator, Operator::Loop { .. }).then_some(at);
            on_entry = false;
            patch.operator(&operator, at, |function| shape.moved(function));
        }
        written.bytes = patch.finish(range.end);
        Ok(written)
    }
}

/// Words that a local takes when it is put aside; 0: it is not.
fn words(ty: ValType) -> usize {
    match ty {
        ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64 => 1,
        ValType::V128 => 2,
        ValType::Ref(_) => 0,
    }
}

/// Which locals to put aside, numbers with fractions first: a call takes all registers of theirs, and not all of the others.
fn choose(locals: &[ValType], needed: impl Fn(u32) -> bool) -> Vec<(u32, ValType)> {
    let mut room = ASIDE_MAX;
    let mut found: Vec<_> = (0..).zip(locals.iter().copied()).filter(|(local, ty)| words(*ty) > 0 && needed(*local)).collect();
    found.sort_by_key(|(_, ty)| matches!(ty, ValType::I32 | ValType::I64));
    let mut chosen = Vec::new();
    for (local, ty) in found {
        if words(ty) <= room {
            room -= words(ty);
            chosen.push((local, ty));
        }
    }
    chosen
}

/// The code of a charge; where its branch is, if it has one.
fn write_charge(charge: &Charge, shape: &Shape, size: u32, aside: &[(u32, ValType)], out: &mut Vec<u8>) -> Option<usize> {
    let counter = shape.globals;
    if charge.per_unit > 0 {
        op(LOCAL_SET, size, out);
    }
    op(GLOBAL_GET, counter, out);
    if charge.per_unit > 0 {
        // At most 2³² units, so nothing overflows.
        op(LOCAL_GET, size, out);
        out.push(I64_EXTEND_I32_U);
        if charge.per_unit > 1 {
            constant(charge.per_unit, out);
            out.push(I64_MUL);
        }
    } else {
        constant(charge.cost, out);
    }
    out.push(I64_SUB);
    op(GLOBAL_SET, counter, out);
    let mut branch = None;
    if charge.checked {
        op(GLOBAL_GET, counter, out);
        constant(0, out);
        out.push(I64_LT_S);
        branch = Some(out.len());
        out.extend_from_slice(&[IF, EMPTY]);
        put_aside(aside, counter + 1, out);
        op(CALL, shape.imports, out);
        fetch(aside, counter + 1, out);
        out.push(END);
    }
    if charge.per_unit > 0 {
        op(LOCAL_GET, size, out);
    }
    branch
}

fn put_aside(aside: &[(u32, ValType)], mut global: u32, out: &mut Vec<u8>) {
    for (local, ty) in aside {
        for lane in 0..words(*ty) as u8 {
            op(LOCAL_GET, *local, out);
            match ty {
                ValType::I32 => out.push(I64_EXTEND_I32_U),
                ValType::F32 => out.extend_from_slice(&[I32_REINTERPRET_F32, I64_EXTEND_I32_U]),
                ValType::F64 => out.push(I64_REINTERPRET_F64),
                ValType::V128 => out.extend_from_slice(&[SIMD, I64X2_EXTRACT_LANE, lane]),
                ValType::I64 | ValType::Ref(_) => {}
            }
            op(GLOBAL_SET, global, out);
            global += 1;
        }
    }
}

fn fetch(aside: &[(u32, ValType)], mut global: u32, out: &mut Vec<u8>) {
    for (local, ty) in aside {
        op(GLOBAL_GET, global, out);
        match ty {
            ValType::I32 => out.push(I32_WRAP_I64),
            ValType::F32 => out.extend_from_slice(&[I32_WRAP_I64, F32_REINTERPRET_I32]),
            ValType::F64 => out.push(F64_REINTERPRET_I64),
            ValType::V128 => {
                out.extend_from_slice(&[SIMD, I64X2_SPLAT]);
                op(GLOBAL_GET, global + 1, out);
                out.extend_from_slice(&[SIMD, I64X2_REPLACE_LANE, 1]);
            }
            ValType::I64 | ValType::Ref(_) => {}
        }
        op(LOCAL_SET, *local, out);
        global += words(*ty) as u32;
    }
}

/// An instruction with a number.
pub(super) fn op(code: u8, number: u32, out: &mut Vec<u8>) {
    out.push(code);
    leb(number.into(), out);
}

fn constant(number: u64, out: &mut Vec<u8>) {
    out.push(I64_CONST);
    signed_leb(i64::try_from(number).unwrap_or(i64::MAX), out);
}

pub(super) mod opcode {
    pub const EMPTY: u8 = 0x40;
    pub const IF: u8 = 0x04;
    pub const END: u8 = 0x0b;
    pub const CALL: u8 = 0x10;
    pub const LOCAL_GET: u8 = 0x20;
    pub const LOCAL_SET: u8 = 0x21;
    pub const GLOBAL_GET: u8 = 0x23;
    pub const GLOBAL_SET: u8 = 0x24;
    pub const I64_CONST: u8 = 0x42;
    pub const I64_LT_S: u8 = 0x53;
    pub const I64_SUB: u8 = 0x7d;
    pub const I64_MUL: u8 = 0x7e;
    pub const I32_WRAP_I64: u8 = 0xa7;
    pub const I64_EXTEND_I32_U: u8 = 0xad;
    pub const I32_REINTERPRET_F32: u8 = 0xbc;
    pub const I64_REINTERPRET_F64: u8 = 0xbd;
    pub const F32_REINTERPRET_I32: u8 = 0xbe;
    pub const F64_REINTERPRET_I64: u8 = 0xbf;
    pub const SIMD: u8 = 0xfd;
    pub const I64X2_SPLAT: u8 = 0x12;
    pub const I64X2_EXTRACT_LANE: u8 = 0x1d;
    pub const I64X2_REPLACE_LANE: u8 = 0x1e;
}
