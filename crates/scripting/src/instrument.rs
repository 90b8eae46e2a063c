//! A copy of a module in which every call of a function tells when it begins and ends.
//!
//! Each function, imported ones too, gets a wrapper that calls `enter` with its number, the function, and `exit`; all that referred to
//! the function refers to the wrapper. Bodies stay as they are but for the numbers in their calls, so they use the same fuel.
//! Start with [`with_probes`]. Not here: what is made of it (`profile`), whether a module may run at all (`limits`).

use crate::limits::ModuleError;
use wasmparser::{
    BinaryReaderError, ElementItems, ExternalKind, FunctionBody, Operator, OperatorsReader, Parser, Payload, SectionLimited,
    TypeRef,
};

/// The import module of the probes.
pub(crate) const PROBE_MODULE: &str = "aether:probe";

/// What the wrapper of a function with `params` parameters uses before `enter` is called: its entry, a number, a call.
pub(crate) const BEFORE_ENTER: u64 = 3;
/// … and between `enter` and the function: its arguments, a call.
pub(crate) fn before_function(params: u32) -> u64 {
    u64::from(params) + 1
}
/// … and between the function and `exit`: a call.
pub(crate) const BEFORE_EXIT: u64 = 1;

/// An instrumented module.
pub(crate) struct Instrumented {
    pub wasm: Vec<u8>,
    /// Parameters of each function, by its number in the original.
    pub params: Vec<u32>,
}

fn invalid(error: BinaryReaderError) -> ModuleError {
    ModuleError::Invalid(format!("{} at byte {}", error.message(), error.offset()))
}

fn leb(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn name(text: &str, bytes: &mut Vec<u8>) {
    leb(text.len() as u64, bytes);
    bytes.extend_from_slice(text.as_bytes());
}

/// `i32.const` takes a signed number.
fn constant(number: u32, bytes: &mut Vec<u8>) {
    bytes.push(0x41);
    let mut rest = i64::from(number as i32);
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if (rest == 0 && byte & 0x40 == 0) || (rest == -1 && byte & 0x40 != 0) {
            return bytes.push(byte);
        }
        bytes.push(byte | 0x80);
    }
}

fn section(id: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    leb(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// Copies bytes of the original, and puts other numbers in some places.
struct Patch<'a> {
    wasm: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl<'a> Patch<'a> {
    fn new(wasm: &'a [u8], at: usize) -> Patch<'a> {
        Patch { wasm, at, out: Vec::new() }
    }

    fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(self.wasm.get(self.at..end).unwrap_or(&[]));
        self.at = end;
    }

    /// The number that is at `at` becomes another.
    fn number(&mut self, at: usize, number: u32) {
        self.copy_to(at);
        leb(number.into(), &mut self.out);
        // A number ends with the first byte whose high bit is not set.
        let length = self.wasm.get(at..).map_or(0, |rest| rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1);
        self.at = at + length;
    }

    /// Calls and references of functions in code. Both are an opcode of one byte and a number.
    fn code(&mut self, operators: OperatorsReader<'_>, to: impl Fn(u32) -> u32) -> Result<(), ModuleError> {
        for operator in operators.into_iter_with_offsets() {
            let (operator, at) = operator.map_err(invalid)?;
            if let Operator::Call { function_index } | Operator::RefFunc { function_index } = operator {
                self.number(at + 1, to(function_index));
            }
        }
        Ok(())
    }

    fn finish(mut self, end: usize) -> Vec<u8> {
        self.copy_to(end);
        self.out
    }
}

/// The items of a section without their count, and the count.
fn items<'a, T>(reader: &SectionLimited<'a, T>, wasm: &'a [u8]) -> &'a [u8] {
    wasm.get(reader.original_position()..reader.range().end).unwrap_or(&[])
}

fn counted(count: usize, items: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(items.len() + 5);
    leb(count as u64, &mut content);
    content.extend_from_slice(items);
    content
}

/// What is known when the code section comes: numbers of types and functions.
#[derive(Default)]
struct Shape {
    /// Parameters of each type.
    type_params: Vec<u32>,
    /// The type of each function, imports first.
    types: Vec<u32>,
    imports: u32,
}

impl Shape {
    /// The wrapper of a function. After the imports come the probes, the bodies, the wrappers.
    fn wrapper(&self, function: u32) -> u32 {
        2 + self.types.len() as u32 + function
    }

    /// Where a function itself is now.
    fn moved(&self, function: u32) -> u32 {
        if function < self.imports { function } else { function + 2 }
    }

    fn wrapper_body(&self, function: u32) -> Vec<u8> {
        // No locals.
        let mut body = vec![0];
        let call = |to: u32, body: &mut Vec<u8>| {
            body.push(0x10);
            leb(to.into(), body);
        };
        constant(function, &mut body);
        call(self.imports, &mut body);
        for local in 0..self.params_of(function) {
            body.push(0x20);
            leb(local.into(), &mut body);
        }
        call(self.moved(function), &mut body);
        call(self.imports + 1, &mut body);
        body.push(0x0b);
        body
    }

    fn params_of(&self, function: u32) -> u32 {
        let params = self.types.get(function as usize).and_then(|ty| self.type_params.get(*ty as usize));
        params.copied().unwrap_or(0)
    }
}

/// Instrument a module that has passed the limits.
pub(crate) fn with_probes(wasm: &[u8]) -> Result<Instrumented, ModuleError> {
    let mut shape = Shape::default();
    let mut out = wasm.get(..8).unwrap_or(wasm).to_vec();
    let mut import_items = Some((0, Vec::new()));
    let mut bodies = Vec::new();
    let mut defined = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(invalid)?;
        let id = payload.as_section().map(|(id, _)| id);
        // The imports go behind the types, whether there were any or not.
        if id.is_some_and(|id| ![0, 1, 2].contains(&id))
            && let Some((count, items)) = import_items.take()
        {
            write_imports(count, items, &shape, &mut out);
        }
        match payload {
            Payload::TypeSection(reader) => {
                let mut content = counted(reader.count() as usize + 2, items(&reader, wasm));
                for group in reader {
                    for ty in group.map_err(invalid)?.into_types() {
                        shape.type_params.push(ty.unwrap_func().params().len() as u32);
                    }
                }
                // `enter` takes a number, `exit` nothing.
                content.extend_from_slice(&[0x60, 1, 0x7f, 0, 0x60, 0, 0]);
                section(1, &content, &mut out);
            }
            Payload::ImportSection(reader) => {
                import_items = Some((reader.count() as usize, items(&reader, wasm).to_vec()));
                for import in reader.into_imports() {
                    if let TypeRef::Func(ty) = import.map_err(invalid)?.ty {
                        shape.types.push(ty);
                        shape.imports += 1;
                    }
                }
            }
            Payload::FunctionSection(reader) => {
                let mut content = counted(reader.count() as usize * 2 + shape.imports as usize, items(&reader, wasm));
                for ty in reader {
                    shape.types.push(ty.map_err(invalid)?);
                }
                for ty in &shape.types {
                    leb((*ty).into(), &mut content);
                }
                section(3, &content, &mut out);
            }
            Payload::GlobalSection(reader) => {
                let (range, mut patch) = (reader.range(), Patch::new(wasm, reader.range().start));
                for global in reader {
                    patch.code(global.map_err(invalid)?.init_expr.get_operators_reader(), |f| shape.wrapper(f))?;
                }
                section(6, &patch.finish(range.end), &mut out);
            }
            Payload::ExportSection(reader) => {
                let mut content = counted(reader.count() as usize, &[]);
                for export in reader {
                    let export = export.map_err(invalid)?;
                    name(export.name, &mut content);
                    let (kind, index) = match export.kind {
                        ExternalKind::Func => (0, shape.wrapper(export.index)),
                        ExternalKind::Table => (1, export.index),
                        ExternalKind::Memory => (2, export.index),
                        ExternalKind::Global => (3, export.index),
                        kind => return Err(ModuleError::Invalid(format!("an export of another kind: {kind:?}"))),
                    };
                    content.push(kind);
                    leb(index.into(), &mut content);
                }
                section(7, &content, &mut out);
            }
            Payload::StartSection { func, .. } => {
                let mut content = Vec::new();
                leb(shape.wrapper(func).into(), &mut content);
                section(8, &content, &mut out);
            }
            Payload::ElementSection(reader) => {
                let (range, mut patch) = (reader.range(), Patch::new(wasm, reader.range().start));
                for element in reader {
                    let element = element.map_err(invalid)?;
                    if let wasmparser::ElementKind::Active { offset_expr, .. } = &element.kind {
                        patch.code(offset_expr.get_operators_reader(), |f| shape.wrapper(f))?;
                    }
                    match element.items {
                        ElementItems::Functions(functions) => {
                            for function in functions.into_iter_with_offsets() {
                                let (at, function) = function.map_err(invalid)?;
                                patch.number(at, shape.wrapper(function));
                            }
                        }
                        ElementItems::Expressions(_, expressions) => {
                            for expression in expressions {
                                patch.code(expression.map_err(invalid)?.get_operators_reader(), |f| shape.wrapper(f))?;
                            }
                        }
                    }
                }
                section(9, &patch.finish(range.end), &mut out);
            }
            Payload::CodeSectionStart { count, .. } => defined = count as usize,
            Payload::CodeSectionEntry(body) => {
                bodies.push(patched_body(&body, wasm, &shape)?);
                if bodies.len() == defined {
                    bodies.extend((0..shape.types.len() as u32).map(|function| shape.wrapper_body(function)));
                    let mut content = counted(bodies.len(), &[]);
                    for body in &bodies {
                        leb(body.len() as u64, &mut content);
                        content.extend_from_slice(body);
                    }
                    section(10, &content, &mut out);
                }
            }
            // Names and debug information are of the original.
            Payload::CustomSection(_) => {}
            other => {
                if let Some((id, range)) = other.as_section() {
                    section(id, wasm.get(range).unwrap_or(&[]), &mut out);
                }
            }
        }
    }
    let params = (0..shape.types.len() as u32).map(|function| shape.params_of(function)).collect();
    Ok(Instrumented { wasm: out, params })
}

fn write_imports(count: usize, items: Vec<u8>, shape: &Shape, out: &mut Vec<u8>) {
    let mut content = counted(count + 2, &items);
    for (probe, ty) in [("enter", 0), ("exit", 1)] {
        name(PROBE_MODULE, &mut content);
        name(probe, &mut content);
        content.push(0);
        leb(shape.type_params.len() as u64 + ty, &mut content);
    }
    section(2, &content, out);
}

fn patched_body(body: &FunctionBody<'_>, wasm: &[u8], shape: &Shape) -> Result<Vec<u8>, ModuleError> {
    let mut patch = Patch::new(wasm, body.range().start);
    patch.code(body.get_operators_reader().map_err(invalid)?, |function| shape.wrapper(function))?;
    Ok(patch.finish(body.range().end))
}
