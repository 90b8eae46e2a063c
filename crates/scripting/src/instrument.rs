//! A copy of a module in which every call of a function tells when it begins and ends.
//!
//! Each function, imported ones too, gets a wrapper that calls `enter` with its number, the function, and `exit`; all that referred to
//! the function refers to the wrapper. Bodies stay as they are but for the numbers in their calls, so they use the same fuel.
//! Start with [`with_probes`]. Not here: what is made of it (`profile`), whether a module may run at all (`limits`).

use crate::limits::ModuleError;
use crate::patch::{Patch, counted, elements, exports, globals, invalid, items, leb, name, section, signed_leb};
use wasmparser::{FunctionBody, Parser, Payload, TypeRef};

/// The import module of the probes.
pub(crate) const PROBE_MODULE: &str = "aether:probe";

/// An instrumented module.
pub(crate) struct Instrumented {
    pub wasm: Vec<u8>,
    /// From this number on its functions are wrappers.
    pub wrappers: u32,
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
        // `i32.const` takes a signed number.
        body.push(0x41);
        signed_leb(i64::from(function as i32), &mut body);
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
                let count = reader.count() as usize;
                section(6, &counted(count, &globals(reader, wasm, |f| shape.wrapper(f))?), &mut out);
            }
            Payload::ExportSection(reader) => {
                let count = reader.count() as usize;
                section(7, &counted(count, &exports(reader, |f| shape.wrapper(f))?), &mut out);
            }
            Payload::StartSection { func, .. } => {
                let mut content = Vec::new();
                leb(shape.wrapper(func).into(), &mut content);
                section(8, &content, &mut out);
            }
            Payload::ElementSection(reader) => {
                section(9, &elements(reader, wasm, |f| shape.wrapper(f))?, &mut out);
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
    Ok(Instrumented { wasm: out, wrappers: shape.wrapper(0) })
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
