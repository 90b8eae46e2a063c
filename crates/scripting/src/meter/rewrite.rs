//! Writing the counter and its charges into a module.
//!
//! Start with [`metered`]. One import is added, behind the others, so functions with a body move up by one; exports, elements, calls and
//! references follow. Names and debug information stay out: [`source_place`] tells where a place is in the author's module.

use super::charges::{Charge, charges};
use super::{COUNTER, Costs, EXHAUSTED, MODULE, ON_TICK, START, liveness};
use crate::limits::ModuleError;
use crate::patch::{Patch, counted, elements, exports, globals, invalid, items, leb, name, section, signed_leb};
use std::collections::BTreeMap;
use wasmparser::{ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef, ValType};

/// Words that a loop puts aside at most. What it needs beyond that stays where the compiler puts it, which is slower.
const ASIDE_MAX: usize = 32;
/// Loops of a function that put anything aside: a bound on how much larger a function gets.
const LOOPS_MAX: usize = 256;

/// What is known of the functions of a module.
#[derive(Default)]
struct Shape {
    /// Parameters of each type.
    params: Vec<Vec<ValType>>,
    /// The type of each function, imports first.
    types: Vec<u32>,
    imports: u32,
    /// Globals that the module had: the counter comes after them, then what is put aside.
    globals: u32,
}

impl Shape {
    /// Where a function is now.
    fn moved(&self, function: u32) -> u32 {
        if function < self.imports { function } else { function + 1 }
    }
}

/// A module taken apart.
#[derive(Default)]
struct Source<'a> {
    shape: Shape,
    /// Items of sections that get more of them, with how many there are, and of all others what is in them.
    lists: BTreeMap<u8, (usize, Vec<u8>)>,
    others: BTreeMap<u8, Vec<u8>>,
    bodies: Vec<FunctionBody<'a>>,
    /// Where these functions are now.
    start: Option<u32>,
    on_tick: Option<u32>,
}

const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const GLOBALS: u8 = 6;
const EXPORTS: u8 = 7;
const ELEMENTS: u8 = 9;
const CODE: u8 = 10;
/// The order of sections: it is not that of their numbers.
const ORDER: [u8; 11] = [TYPES, IMPORTS, FUNCTIONS, 4, 5, GLOBALS, EXPORTS, ELEMENTS, 12, CODE, 11];

impl<'a> Source<'a> {
    fn read(wasm: &'a [u8]) -> Result<Source<'a>, ModuleError> {
        let mut source = Source::default();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(invalid)?;
            let shape = &mut source.shape;
            match payload {
                Payload::TypeSection(reader) => {
                    source.lists.insert(TYPES, (reader.count() as usize, items(&reader, wasm).to_vec()));
                    for group in reader {
                        shape.params.extend(group.map_err(invalid)?.into_types().map(|ty| ty.unwrap_func().params().to_vec()));
                    }
                }
                Payload::ImportSection(reader) => {
                    source.lists.insert(IMPORTS, (reader.count() as usize, items(&reader, wasm).to_vec()));
                    for import in reader.into_imports() {
                        if let TypeRef::Func(ty) = import.map_err(invalid)?.ty {
                            shape.types.push(ty);
                            shape.imports += 1;
                        }
                    }
                }
                Payload::FunctionSection(reader) => {
                    source.lists.insert(FUNCTIONS, (reader.count() as usize, items(&reader, wasm).to_vec()));
                    for ty in reader {
                        shape.types.push(ty.map_err(invalid)?);
                    }
                }
                Payload::GlobalSection(reader) => {
                    shape.globals = reader.count();
                    let items = globals(reader, wasm, |f| shape.moved(f))?;
                    source.lists.insert(GLOBALS, (shape.globals as usize, items));
                }
                Payload::ExportSection(reader) => {
                    for export in reader.clone() {
                        let export = export.map_err(invalid)?;
                        if export.name == "on_tick" && export.kind == ExternalKind::Func {
                            source.on_tick = Some(shape.moved(export.index));
                        }
                    }
                    source.lists.insert(EXPORTS, (reader.count() as usize, exports(reader, |f| shape.moved(f))?));
                }
                Payload::StartSection { func, .. } => source.start = Some(shape.moved(func)),
                Payload::ElementSection(reader) => {
                    source.others.insert(ELEMENTS, elements(reader, wasm, |f| shape.moved(f))?);
                }
                Payload::CodeSectionEntry(body) => source.bodies.push(body),
                // Names and debug information are of the original.
                Payload::CodeSectionStart { .. } | Payload::CustomSection(_) => {}
                other => {
                    if let Some((id, range)) = other.as_section() {
                        source.others.insert(id, wasm.get(range).unwrap_or(&[]).to_vec());
                    }
                }
            }
        }
        Ok(source)
    }

    /// One more item in a section.
    fn add(&mut self, section: u8, item: &[u8]) {
        let (count, items) = self.lists.entry(section).or_default();
        *count += 1;
        items.extend_from_slice(item);
    }

    fn export(&mut self, text: &str, kind: u8, index: u32) {
        let mut item = Vec::new();
        name(text, &mut item);
        item.push(kind);
        leb(index.into(), &mut item);
        self.add(EXPORTS, &item);
    }

    fn body(&mut self, body: &[u8]) {
        let mut item = Vec::with_capacity(body.len() + 5);
        leb(body.len() as u64, &mut item);
        item.extend_from_slice(body);
        self.add(CODE, &item);
    }
}

/// A custom section that says which way a branch goes: the compiler moves what comes after the other way out of the loop.
const HINTS: &str = "metadata.code.branch_hint";

/// A module with the counter in it, of one that was validated. Functions from `free_from` on cost nothing: probes.
pub(crate) fn metered(wasm: &[u8], costs: Costs, free_from: u32) -> Result<Vec<u8>, ModuleError> {
    let mut source = Source::read(wasm)?;
    let bodies = std::mem::take(&mut source.bodies);
    let (mut aside, mut hinted, mut hints) = (0, 0, Vec::new());
    for (function, body) in (source.shape.imports..).zip(&bodies) {
        let costs = (function < free_from).then_some(costs);
        let written = Code { shape: &source.shape, wasm }.body(body, function, costs, None)?;
        aside = aside.max(written.aside);
        if written.hinted > 0 {
            hinted += 1;
            leb(source.shape.moved(function).into(), &mut hints);
            hints.extend_from_slice(&counted(written.hinted, &written.hints));
        }
        source.body(&written.bytes);
    }

    let counter = source.shape.globals;
    let asks = source.shape.params.len() as u32;
    // `exhausted`: nothing in, nothing out. `on_tick`: the seconds and the counter in, the counter out.
    source.add(TYPES, &[0x60, 0, 0]);
    source.add(TYPES, &[0x60, 2, 0x7d, 0x7e, 1, 0x7e]);
    let mut import = Vec::new();
    name(MODULE, &mut import);
    name(EXHAUSTED, &mut import);
    op(0, asks, &mut import);
    source.add(IMPORTS, &import);
    for _ in 0..=aside {
        // A mutable i64 that begins with zero.
        source.add(GLOBALS, &[0x7e, 1, I64_CONST, 0, END]);
    }
    source.export(COUNTER, 3, counter);
    if let Some(start) = source.start {
        source.export(START, 0, start);
    }
    if let Some(on_tick) = source.on_tick {
        source.export(ON_TICK, 0, source.shape.types.len() as u32 + 1);
        let mut ty = Vec::new();
        leb((asks + 1).into(), &mut ty);
        source.add(FUNCTIONS, &ty);
        source.body(&tick_body(on_tick, counter));
    }

    let mut out = wasm.get(..8).unwrap_or(wasm).to_vec();
    for id in ORDER {
        if id == CODE && hinted > 0 {
            let mut content = Vec::new();
            name(HINTS, &mut content);
            content.extend_from_slice(&counted(hinted, &hints));
            section(0, &content, &mut out);
        }
        if let Some((count, items)) = source.lists.get(&id) {
            section(id, &counted(*count, items), &mut out);
        } else if let Some(content) = source.others.get(&id) {
            section(id, content, &mut out);
        }
    }
    Ok(out)
}

/// Where a place in a function of the module that [`metered`] gives is in its source: the function, and bytes from its body's beginning.
/// `None`: it is in none of the source's.
pub(crate) fn source_place(wasm: &[u8], costs: Costs, function: u32, offset: Option<u32>) -> Option<(u32, Option<u32>)> {
    let source = Source::read(wasm).ok()?;
    let imports = source.shape.imports;
    if function < imports {
        return Some((function, None));
    }
    let (function, offset) = (function.checked_sub(1).filter(|f| *f >= imports)?, offset);
    let body = source.bodies.get((function - imports) as usize)?;
    let mut places = Vec::new();
    Code { shape: &source.shape, wasm }.body(body, function, Some(costs), Some(&mut places)).ok()?;
    let place = |offset: u32| {
        let after = places.partition_point(|(now, _)| *now <= offset as usize);
        // What was put in belongs to what it was put before.
        places.get(after.saturating_sub(1)).map(|(_, before)| (*before - body.range().start) as u32)
    };
    Some((function, offset.and_then(place)))
}

/// The counter is set, the script's `on_tick` called, the counter given back: a call of the host sets and reads it for the price of
/// an argument and a result.
fn tick_body(on_tick: u32, counter: u32) -> Vec<u8> {
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
struct Code<'a> {
    shape: &'a Shape,
    wasm: &'a [u8],
}

/// A body with its charges.
struct Written {
    bytes: Vec<u8>,
    /// Words that it puts aside at most.
    aside: usize,
    hints: Vec<u8>,
    hinted: usize,
}

impl Code<'_> {
    /// With no `costs`, nothing but numbers changes. `places` gets where each instruction is now, its charge included, and where it was.
    fn body(
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
fn op(opcode: u8, number: u32, out: &mut Vec<u8>) {
    out.push(opcode);
    leb(number.into(), out);
}

fn constant(number: u64, out: &mut Vec<u8>) {
    out.push(I64_CONST);
    signed_leb(i64::try_from(number).unwrap_or(i64::MAX), out);
}

const EMPTY: u8 = 0x40;
const IF: u8 = 0x04;
const END: u8 = 0x0b;
const CALL: u8 = 0x10;
const LOCAL_GET: u8 = 0x20;
const LOCAL_SET: u8 = 0x21;
const GLOBAL_GET: u8 = 0x23;
const GLOBAL_SET: u8 = 0x24;
const I64_CONST: u8 = 0x42;
const I64_LT_S: u8 = 0x53;
const I64_SUB: u8 = 0x7d;
const I64_MUL: u8 = 0x7e;
const I32_WRAP_I64: u8 = 0xa7;
const I64_EXTEND_I32_U: u8 = 0xad;
const I32_REINTERPRET_F32: u8 = 0xbc;
const I64_REINTERPRET_F64: u8 = 0xbd;
const F32_REINTERPRET_I32: u8 = 0xbe;
const F64_REINTERPRET_I64: u8 = 0xbf;
const SIMD: u8 = 0xfd;
const I64X2_SPLAT: u8 = 0x12;
const I64X2_EXTRACT_LANE: u8 = 0x1d;
const I64X2_REPLACE_LANE: u8 = 0x1e;
