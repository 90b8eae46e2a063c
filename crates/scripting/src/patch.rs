//! Bytes of a module, copied with changes: what `meter` and `instrument` write their modules with.
//!
//! Start with [`Patch`]. Both write what was validated before, so positions are those of the parser.

use crate::limits::ModuleError;
use wasmparser::{BinaryReaderError, ElementItems, ElementSectionReader, GlobalSectionReader, Operator, OperatorsReader};
use wasmparser::{ExportSectionReader, ExternalKind, SectionLimited};

pub(crate) fn invalid(error: BinaryReaderError) -> ModuleError {
    ModuleError::Invalid(format!("{} at byte {}", error.message(), error.offset()))
}

/// A number that is not signed.
pub(crate) fn leb(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A signed one: what constants are.
pub(crate) fn signed_leb(mut number: i64, bytes: &mut Vec<u8>) {
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        if (number == 0 && byte & 0x40 == 0) || (number == -1 && byte & 0x40 != 0) {
            return bytes.push(byte);
        }
        bytes.push(byte | 0x80);
    }
}

pub(crate) fn name(text: &str, bytes: &mut Vec<u8>) {
    leb(text.len() as u64, bytes);
    bytes.extend_from_slice(text.as_bytes());
}

pub(crate) fn section(id: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    leb(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// The items of a section without their count.
pub(crate) fn items<'a, T>(reader: &SectionLimited<'_, T>, wasm: &'a [u8]) -> &'a [u8] {
    wasm.get(reader.original_position()..reader.range().end).unwrap_or(&[])
}

/// Items with their count before them.
pub(crate) fn counted(count: usize, items: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(items.len() + 5);
    leb(count as u64, &mut content);
    content.extend_from_slice(items);
    content
}

/// Copies bytes of the original, and puts other numbers in some places.
pub(crate) struct Patch<'a> {
    wasm: &'a [u8],
    at: usize,
    pub out: Vec<u8>,
}

impl<'a> Patch<'a> {
    pub fn new(wasm: &'a [u8], at: usize) -> Patch<'a> {
        Patch { wasm, at, out: Vec::new() }
    }

    pub fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(self.wasm.get(self.at..end).unwrap_or(&[]));
        self.at = end;
    }

    /// Where a byte that was not copied yet will be.
    pub fn position(&self, at: usize) -> usize {
        self.out.len() + at.saturating_sub(self.at)
    }

    /// The number that is at `at` becomes another.
    pub fn number(&mut self, at: usize, number: u32) {
        self.copy_to(at);
        leb(number.into(), &mut self.out);
        // A number ends with the first byte whose high bit is not set.
        let length = self.wasm.get(at..).map_or(0, |rest| rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1);
        self.at = at + length;
    }

    /// A function that is called or referred to gets another number. Both are an opcode of one byte and a number.
    pub fn operator(&mut self, operator: &Operator<'_>, at: usize, to: impl Fn(u32) -> u32) {
        if let Operator::Call { function_index } | Operator::RefFunc { function_index } = operator {
            self.number(at + 1, to(*function_index));
        }
    }

    /// The same in all of some code.
    pub fn code(&mut self, operators: OperatorsReader<'_>, to: impl Fn(u32) -> u32) -> Result<(), ModuleError> {
        for operator in operators.into_iter_with_offsets() {
            let (operator, at) = operator.map_err(invalid)?;
            self.operator(&operator, at, &to);
        }
        Ok(())
    }

    pub fn finish(mut self, end: usize) -> Vec<u8> {
        self.copy_to(end);
        self.out
    }
}

/// The global section's items, with other numbers of functions.
pub(crate) fn globals(reader: GlobalSectionReader<'_>, wasm: &[u8], to: impl Fn(u32) -> u32) -> Result<Vec<u8>, ModuleError> {
    let (start, end) = (reader.original_position(), reader.range().end);
    let mut patch = Patch::new(wasm, start);
    for global in reader {
        patch.code(global.map_err(invalid)?.init_expr.get_operators_reader(), &to)?;
    }
    Ok(patch.finish(end))
}

/// The export section's items, with other numbers of functions.
pub(crate) fn exports(reader: ExportSectionReader<'_>, to: impl Fn(u32) -> u32) -> Result<Vec<u8>, ModuleError> {
    let mut content = Vec::new();
    for export in reader {
        let export = export.map_err(invalid)?;
        name(export.name, &mut content);
        let (kind, index) = match export.kind {
            ExternalKind::Func => (0, to(export.index)),
            ExternalKind::Table => (1, export.index),
            ExternalKind::Memory => (2, export.index),
            ExternalKind::Global => (3, export.index),
            kind => return Err(ModuleError::Invalid(format!("an export of another kind: {kind:?}"))),
        };
        content.push(kind);
        leb(index.into(), &mut content);
    }
    Ok(content)
}

/// The element section, with other numbers of functions.
pub(crate) fn elements(reader: ElementSectionReader<'_>, wasm: &[u8], to: impl Fn(u32) -> u32) -> Result<Vec<u8>, ModuleError> {
    let (range, mut patch) = (reader.range(), Patch::new(wasm, reader.range().start));
    for element in reader {
        let element = element.map_err(invalid)?;
        if let wasmparser::ElementKind::Active { offset_expr, .. } = &element.kind {
            patch.code(offset_expr.get_operators_reader(), &to)?;
        }
        match element.items {
            ElementItems::Functions(functions) => {
                for function in functions.into_iter_with_offsets() {
                    let (at, function) = function.map_err(invalid)?;
                    patch.number(at, to(function));
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for expression in expressions {
                    patch.code(expression.map_err(invalid)?.get_operators_reader(), &to)?;
                }
            }
        }
    }
    Ok(patch.finish(range.end))
}
