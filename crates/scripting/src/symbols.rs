//! Names and source lines of a module's functions, out of its name section and its DWARF or source map.
//!
//! Start with [`Symbols::read`], then [`Symbols::describe`]. Places are relative to a function's body, so the symbols of an author's build
//! are good for the same code without them: what is published is [`without_debug`]. Not here: collecting traces (`trace`).

use crate::trace::{Trace, TraceFrame};
use addr2line::gimli::{DwarfSections, EndianSlice, LittleEndian, SectionId};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload, TypeRef};

/// What a module says about its functions.
#[derive(Debug, Default)]
pub struct Symbols {
    wasm: Vec<u8>,
    /// By number, imports counted; the best name that there is.
    names: Vec<String>,
    imported: u32,
    /// Where the code section's content begins, and the bodies in it.
    code: usize,
    bodies: Vec<Range<usize>>,
    /// `.debug_*` sections.
    debug: HashMap<String, Range<usize>>,
    /// Of a source map: files, and where in the module what line (from 1) of which begins, in order.
    sources: Vec<String>,
    lines: Vec<(usize, usize, u32)>,
}

/// A frame for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFrame {
    /// The function.
    pub function: String,
    /// File and line (from 1), if the build says.
    pub place: Option<(String, u32)>,
}

impl fmt::Display for NamedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((file, line)) => write!(f, "{} ({file}:{line})", self.function),
            None => f.write_str(&self.function),
        }
    }
}

/// A function's name as the name section has it.
pub(crate) fn function_name(wasm: &[u8], function: u32) -> Option<String> {
    Parser::new(0).parse_all(wasm).map_while(Result::ok).find_map(|payload| {
        let Payload::CustomSection(section) = payload else { return None };
        let KnownCustom::Name(names) = section.as_known() else { return None };
        names.into_iter().map_while(Result::ok).find_map(|name| {
            let Name::Function(map) = name else { return None };
            map.into_iter().map_while(Result::ok).find(|n| n.index == function).map(|n| n.name.to_owned())
        })
    })
}

/// The name that the author wrote.
pub(crate) fn demangled(name: &str) -> String {
    match rustc_demangle::try_demangle(name) {
        // Without the hash at its end.
        Ok(name) => format!("{name:#}"),
        Err(_) => name.to_owned(),
    }
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

impl Symbols {
    /// Of a module in binary format. What cannot be read is left out: symbols are a help, never a reason to fail.
    pub fn read(wasm: &[u8]) -> Symbols {
        let mut symbols = Symbols { wasm: wasm.to_vec(), ..Symbols::default() };
        let mut named = HashMap::new();
        let mut exported = HashMap::new();
        let mut imports = Vec::new();
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::ImportSection(reader) => {
                    for import in reader.into_imports().map_while(Result::ok) {
                        if let TypeRef::Func(_) = import.ty {
                            imports.push(format!("{}.{}", import.module, import.name));
                        }
                    }
                }
                Payload::ExportSection(reader) => {
                    for export in reader.into_iter().map_while(Result::ok).filter(|e| e.kind == ExternalKind::Func) {
                        exported.entry(export.index).or_insert_with(|| export.name.to_owned());
                    }
                }
                Payload::CodeSectionStart { range, .. } => symbols.code = range.start,
                Payload::CodeSectionEntry(body) => symbols.bodies.push(body.range()),
                Payload::CustomSection(section) => match section.as_known() {
                    KnownCustom::Name(names) => {
                        for name in names.into_iter().map_while(Result::ok) {
                            let Name::Function(map) = name else { continue };
                            named.extend(map.into_iter().map_while(Result::ok).map(|n| (n.index, demangled(n.name))));
                        }
                    }
                    _ if section.name().starts_with(".debug_") => {
                        let range = section.data_offset()..section.data_offset() + section.data().len();
                        symbols.debug.insert(section.name().to_owned(), range);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        symbols.imported = imports.len() as u32;
        symbols.names = imports;
        for number in symbols.imported..symbols.imported + symbols.bodies.len() as u32 {
            let name = named.remove(&number).or_else(|| exported.remove(&number));
            symbols.names.push(name.unwrap_or_else(|| format!("function {number}")));
        }
        symbols
    }

    /// Add a source map, whose columns are bytes of the module: what AssemblyScript makes beside it. One that is no good adds nothing.
    pub fn add_source_map(&mut self, sources: Vec<String>, mappings: &str) {
        self.lines = source_lines(mappings).filter(|lines| lines.iter().all(|l| l.1 < sources.len())).unwrap_or_default();
        self.sources = sources;
    }

    /// The line of a place in a body, by the source map.
    fn mapped(&self, body: &Range<usize>, at: usize) -> Option<(String, u32)> {
        let after = self.lines.partition_point(|(begin, ..)| *begin <= at);
        let (begin, source, line) = self.lines.get(after.checked_sub(1)?)?;
        (*begin >= body.start).then(|| (self.sources.get(*source).cloned().unwrap_or_default(), *line))
    }

    /// Whether it has source lines.
    pub fn has_lines(&self) -> bool {
        !self.lines.is_empty() || self.has_dwarf()
    }

    fn has_dwarf(&self) -> bool {
        self.debug.contains_key(".debug_line") && self.debug.contains_key(".debug_info")
    }

    /// Whether these are symbols of the same code.
    pub fn same_code(&self, other: &Symbols) -> bool {
        !self.bodies.is_empty() && self.code_bytes() == other.code_bytes()
    }

    fn code_bytes(&self) -> Option<&[u8]> {
        self.wasm.get(self.code..self.bodies.last()?.end)
    }

    /// A function's name.
    pub fn name(&self, function: u32) -> &str {
        self.names.get(function as usize).map_or("?", String::as_str)
    }

    /// A trace for people, the innermost function first; one frame may be several functions that the compiler made one of.
    pub fn describe(&self, trace: &Trace) -> Vec<NamedFrame> {
        let section = |id: SectionId| -> Result<Slice<'_>, std::convert::Infallible> {
            let range = self.debug.get(id.name()).cloned().unwrap_or(0..0);
            Ok(EndianSlice::new(self.wasm.get(range).unwrap_or(&[]), LittleEndian))
        };
        let sections = DwarfSections::load(section).unwrap_or_else(|never| match never {});
        let context = self.has_dwarf().then(|| addr2line::Context::from_dwarf(sections.borrow(|slice| *slice)).ok()).flatten();
        trace.frames.iter().flat_map(|frame| self.describe_frame(frame, context.as_ref())).collect()
    }

    fn describe_frame(&self, frame: &TraceFrame, context: Option<&addr2line::Context<Slice<'_>>>) -> Vec<NamedFrame> {
        let plain = || vec![NamedFrame { function: self.name(frame.function).to_owned(), place: None }];
        let place = frame.function.checked_sub(self.imported).and_then(|defined| self.bodies.get(defined as usize));
        let (Some(body), Some(offset)) = (place, frame.offset) else { return plain() };
        let Some(context) = context else {
            let place = self.mapped(body, body.start + offset as usize);
            return vec![NamedFrame { function: self.name(frame.function).to_owned(), place }];
        };
        // DWARF counts from the beginning of the code section's content.
        let address = (body.start - self.code) as u64 + u64::from(offset);
        let mut found = Vec::new();
        if let Ok(mut frames) = context.find_frames(address).skip_all_loads() {
            while let Ok(Some(inlined)) = frames.next() {
                let place = inlined.location.and_then(|at| Some((at.file?.to_owned(), at.line?)));
                let name = inlined.function.and_then(|name| Some(demangled(&name.raw_name().ok()?)));
                found.push(NamedFrame { function: name.unwrap_or_else(|| self.name(frame.function).to_owned()), place });
            }
        }
        if found.is_empty() { plain() } else { found }
    }
}

/// The segments of a source map of one line: where they begin, of which source, at which line (from 1). `None`: not one.
fn source_lines(mappings: &str) -> Option<Vec<(usize, usize, u32)>> {
    let (mut column, mut source, mut line) = (0_i64, 0_i64, 0_i64);
    let mut lines = Vec::new();
    // What a wasm file has is one line.
    let first = mappings.split(';').next()?;
    for segment in first.split(',').filter(|segment| !segment.is_empty()) {
        let fields = variable_length(segment)?;
        column += fields.first()?;
        if let [_, by_source, by_line, ..] = fields[..] {
            (source, line) = (source + by_source, line + by_line);
            lines.push((usize::try_from(column).ok()?, usize::try_from(source).ok()?, u32::try_from(line).ok()?.checked_add(1)?));
        }
    }
    lines.is_sorted_by_key(|(begin, ..)| *begin).then_some(lines)
}

/// The numbers of a segment: base 64, five bits each, the sixth says that more follow, the lowest of all is the sign.
fn variable_length(segment: &str) -> Option<Vec<i64>> {
    let (mut numbers, mut number, mut shift) = (Vec::new(), 0_i64, 0);
    for byte in segment.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        number |= i64::from(digit & 31).checked_shl(shift).filter(|_| shift < 60)?;
        if digit & 32 != 0 {
            shift += 5;
        } else {
            numbers.push(if number & 1 == 0 { number >> 1 } else { -(number >> 1) });
            (number, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(numbers)
}

/// The module without its `.debug_*` sections: nodes have no use for them, and they are often most of it.
pub fn without_debug(wasm: &[u8]) -> Vec<u8> {
    let mut kept = wasm.get(..8).unwrap_or(wasm).to_vec();
    // Where the section before ended: a section's own header lies between that and its content.
    let mut end = 8;
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { return wasm.to_vec() };
        let Some((_, range)) = payload.as_section() else { continue };
        let debug = matches!(&payload, Payload::CustomSection(section) if section.name().starts_with(".debug_"));
        if !debug {
            kept.extend_from_slice(wasm.get(end..range.end).unwrap_or(&[]));
        }
        end = range.end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"(module (import "aether:script" "tick" (func (result i64)))
        (func $named) (func (export "exported")) (func) (@custom ".debug_line" "lines") (@custom "kept" "x"))"#;

    #[test]
    fn a_function_has_the_best_name_that_its_module_gives() {
        let symbols = Symbols::read(&wat::parse_str(TEXT).unwrap());
        let names: Vec<_> = (0..5).map(|n| symbols.name(n)).collect();
        assert_eq!(names, ["aether:script.tick", "named", "exported", "function 3", "?"]);
    }

    #[test]
    fn a_source_map_gives_the_line_of_a_place_in_a_body() {
        // Column, source, line, column; each but the first relative to the one before.
        assert_eq!(source_lines("kBACA,EAAC,IAEE"), Some(vec![(18, 0, 2), (20, 0, 2), (24, 0, 4)]));
        assert_eq!(source_lines("kB!"), None);
        assert_eq!(source_lines("kBACA,DAAA"), Some(vec![(18, 0, 2), (17, 0, 2)]).filter(|l| l.is_sorted_by_key(|(at, ..)| *at)));
        let mut symbols = Symbols::read(&wat::parse_str(r#"(module (func (nop) (nop) (unreachable)))"#).unwrap());
        let begin = symbols.bodies[0].start;
        (symbols.sources, symbols.lines) = (vec!["a.ts".into()], vec![(begin + 1, 0, 7), (begin + 3, 0, 9)]);
        let trace = |offset| Trace { frames: vec![TraceFrame { function: 0, offset: Some(offset), name: None }] };
        let place = |offset| symbols.describe(&trace(offset))[0].place.clone();
        assert_eq!(place(3), Some(("a.ts".into(), 9)));
        assert_eq!(place(2), Some(("a.ts".into(), 7)));
        assert_eq!(place(0), None);
    }

    #[test]
    fn debug_sections_go_and_everything_else_stays() {
        let wasm = wat::parse_str(TEXT).unwrap();
        let kept = without_debug(&wasm);
        let gone = TEXT.replace(r#"(@custom ".debug_line" "lines")"#, "");
        assert_eq!(kept, wat::parse_str(gone).unwrap());
        assert!(Symbols::read(&wasm).same_code(&Symbols::read(&kept)));
        assert_eq!(without_debug(b"no module"), b"no module");
    }
}
