//! What may be compiled: a pass over the module before the compiler sees it.
//!
//! A 41 KiB module can hold an optimising compiler for a minute, so [`inspect`] counts and measures everything that costs the
//! compiler more than linearly, and refuses what no script needs. What passes is compiled in a child process that has limits of
//! its own (`compile`). [`ModuleInfo`] is what the rest of the sandbox wants to know of a module.
//! Not here: what a running script may use (`policy`).

use crate::abi;
use crate::meter;
use crate::policy::{SyscallCategory, SyscallPolicy};
use wasmparser::{ExternalKind, Operator, Parser, Payload, TypeRef, Validator, WasmFeatures};

/// Limits on one module. The defaults pass every compiler's output for scripts of any sensible size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleLimits {
    /// Bytes of the module.
    pub module_bytes: usize,
    /// Functions, imported ones not counted.
    pub functions: u32,
    /// Bytes of one function's body. Fuel is only looked at where functions and rounds of loops begin and before bulk operations,
    /// so this also bounds how far past its budget a script can run.
    pub function_bytes: usize,
    /// Blocks inside blocks.
    pub nesting: usize,
    /// Local variables of one function.
    pub locals: u32,
    /// Entries of one `br_table`.
    pub br_table: u32,
    /// Types.
    pub types: u32,
    /// Globals (a client's `AETHER_SCRIPT_MAX_VARS`).
    pub globals: u32,
    /// Imports.
    pub imports: u32,
    /// Exports.
    pub exports: u32,
    /// Data segments.
    pub data_segments: u32,
    /// Element segments.
    pub element_segments: u32,
    /// Entries of the table.
    pub table_elements: u64,
}

impl Default for ModuleLimits {
    fn default() -> ModuleLimits {
        ModuleLimits {
            module_bytes: 2 << 20,
            functions: 10_000,
            function_bytes: 64 << 10,
            nesting: 128,
            locals: 1_000,
            br_table: 4_096,
            types: 1_000,
            globals: 1_000,
            imports: 200,
            exports: 1_000,
            data_segments: 1_000,
            element_segments: 1_000,
            table_elements: 10_000,
        }
    }
}

/// Why a module may not be compiled. The author's to fix, each of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// Not wasm, or wasm with features that are switched off.
    #[error("not a valid module: {0}")]
    Invalid(String),
    /// Text that starts like a module in text format but is not one.
    #[error("not a valid module in text format: {0}")]
    Text(String),
    /// Over a limit.
    #[error("the module has {found} {what}, at most {limit} are allowed")]
    TooMany {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// An import that no host has.
    #[error("import {module}.{name} does not exist in ABI version 1")]
    UnknownImport {
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
    },
    /// An import with the wrong signature.
    #[error("import {module}.{name} has another signature than the host's: {wanted}")]
    ImportSignature {
        /// The import's module.
        module: String,
        /// The import's name.
        name: String,
        /// What the host offers.
        wanted: String,
    },
    /// A WASI import of a denied category.
    #[error("system call {import} is denied: the policy does not allow the category {}", category.name())]
    SyscallDenied {
        /// The import's name.
        import: String,
        /// Its category.
        category: SyscallCategory,
    },
    /// An export of the ABI with the wrong type.
    #[error("export {name} must be {wanted}")]
    ExportSignature {
        /// The export's name.
        name: &'static str,
        /// Its signature.
        wanted: String,
    },
    /// An export with a name of the host's.
    #[error("export {name}: names that begin with {} are the host's, for metering", meter::MODULE)]
    ReservedExport {
        /// Its name.
        name: String,
    },
    /// Nothing to call.
    #[error("the module exports neither on_start nor on_tick")]
    NoEntry,
    /// Another ABI, or none.
    #[error("the module exports no function {wanted}: it was written for {}, this host has ABI version 1", found.as_deref().unwrap_or("no ABI of Aether"))]
    Abi {
        /// The export that says so.
        wanted: &'static str,
        /// The `aether_abi_…` export that is there.
        found: Option<String>,
    },
    /// The memory it starts with is over the script's cap.
    #[error("the module starts with {initial_mb} MiB of memory, its cap is {cap_mb} MiB")]
    Memory {
        /// What it starts with.
        initial_mb: u64,
        /// The cap of its manifest.
        cap_mb: u64,
    },
    /// An ABI function needs memory and there is none.
    #[error("the module exports {export} but no memory named \"memory\"")]
    NoMemory {
        /// An export that needs memory.
        export: &'static str,
    },
}

/// What the sandbox wants to know of a module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleInfo {
    /// The ABI exports that are there.
    pub exports: Vec<String>,
    /// Imports, as `module.name`.
    pub imports: Vec<String>,
    /// Bytes of memory at the start.
    pub initial_memory_bytes: u64,
    /// Functions with a body.
    pub functions: u32,
    /// Globals that are not imported.
    pub globals: u32,
    /// Whether it has a start function.
    pub has_start: bool,
    /// Whether it exports a memory named `memory`.
    pub has_memory: bool,
}

impl ModuleInfo {
    /// Whether the module exports this function of the ABI.
    pub fn has(&self, export: &str) -> bool {
        self.exports.iter().any(|name| name == export)
    }
}

/// The wasm that scripts may use: what every guest toolchain emits, and nothing with a history of compiler bugs.
pub fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::BULK_MEMORY_OPT
        | WasmFeatures::CALL_INDIRECT_OVERLONG
}

fn too_many(what: &'static str, found: u64, limit: u64) -> Result<(), ModuleError> {
    if found > limit { Err(ModuleError::TooMany { what, found, limit }) } else { Ok(()) }
}

/// Whether the bytes are a module of the game ABI that may be compiled.
pub fn inspect(wasm: &[u8], limits: &ModuleLimits, syscalls: &SyscallPolicy) -> Result<ModuleInfo, ModuleError> {
    too_many("bytes", wasm.len() as u64, limits.module_bytes as u64)?;
    let info = measure(wasm, limits)?;
    // Sizes are in order: now the real validator may look at it.
    let types = Validator::new_with_features(features()).validate_all(wasm).map_err(invalid)?;
    check_imports(&types, wasm, syscalls)?;
    check_exports(&types, &info)?;
    Ok(info)
}

fn invalid(error: wasmparser::BinaryReaderError) -> ModuleError {
    ModuleError::Invalid(format!("{} at byte {}", error.message(), error.offset()))
}

/// Count and measure without believing any count that the module states: each is compared before anything is read.
fn measure(wasm: &[u8], limits: &ModuleLimits) -> Result<ModuleInfo, ModuleError> {
    let mut info = ModuleInfo::default();
    let mut bodies = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::TypeSection(r) => too_many("types", r.count().into(), limits.types.into())?,
            Payload::ImportSection(r) => {
                too_many("imports", r.count().into(), limits.imports.into())?;
                for import in r.into_imports() {
                    let import = import.map_err(invalid)?;
                    info.imports.push(format!("{}.{}", printable(import.module), printable(import.name)));
                }
            }
            Payload::FunctionSection(r) => {
                info.functions = r.count();
                too_many("functions", r.count().into(), limits.functions.into())?;
            }
            Payload::TableSection(r) => {
                too_many("tables", r.count().into(), 1)?;
                for table in r {
                    too_many("table elements", table.map_err(invalid)?.ty.initial, limits.table_elements)?;
                }
            }
            Payload::MemorySection(r) => {
                too_many("memories", r.count().into(), 1)?;
                for memory in r {
                    let memory = memory.map_err(invalid)?;
                    too_many("initial memory pages", memory.initial, 65_536)?;
                    info.initial_memory_bytes = memory.initial << 16;
                }
            }
            Payload::GlobalSection(r) => {
                info.globals = r.count();
                too_many("globals (variables)", r.count().into(), limits.globals.into())?;
            }
            Payload::ExportSection(r) => {
                too_many("exports", r.count().into(), limits.exports.into())?;
                for export in r {
                    let export = export.map_err(invalid)?;
                    if export.name.starts_with(meter::MODULE) {
                        return Err(ModuleError::ReservedExport { name: printable(export.name) });
                    }
                    match export.kind {
                        ExternalKind::Func => info.exports.push(printable(export.name)),
                        ExternalKind::Memory if export.name == "memory" => info.has_memory = true,
                        _ => {}
                    }
                }
            }
            Payload::StartSection { .. } => info.has_start = true,
            Payload::ElementSection(r) => too_many("element segments", r.count().into(), limits.element_segments.into())?,
            Payload::DataCountSection { count, .. } => too_many("data segments", count.into(), limits.data_segments.into())?,
            Payload::DataSection(r) => too_many("data segments", r.count().into(), limits.data_segments.into())?,
            Payload::CodeSectionStart { count, .. } => too_many("functions", count.into(), limits.functions.into())?,
            Payload::CodeSectionEntry(body) => {
                bodies += 1;
                too_many("functions", bodies, limits.functions.into())?;
                measure_body(&body, limits)?;
            }
            _ => {}
        }
    }
    Ok(info)
}

fn measure_body(body: &wasmparser::FunctionBody<'_>, limits: &ModuleLimits) -> Result<(), ModuleError> {
    too_many("bytes in one function", body.range().len() as u64, limits.function_bytes as u64)?;
    let mut locals: u64 = 0;
    for entry in body.get_locals_reader().map_err(invalid)? {
        locals += u64::from(entry.map_err(invalid)?.0);
        too_many("locals in one function", locals, limits.locals.into())?;
    }
    let mut depth: usize = 0;
    for operator in body.get_operators_reader().map_err(invalid)? {
        match operator.map_err(invalid)? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                depth += 1;
                too_many("nested blocks in one function", depth as u64, limits.nesting as u64)?;
            }
            Operator::End => depth = depth.saturating_sub(1),
            Operator::BrTable { targets } => too_many("br_table entries", targets.len().into(), limits.br_table.into())?,
            _ => {}
        }
    }
    Ok(())
}

fn check_imports(types: &wasmparser::types::Types, wasm: &[u8], syscalls: &SyscallPolicy) -> Result<(), ModuleError> {
    let mut function = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::ImportSection(reader) = payload.map_err(invalid)? else { continue };
        for import in reader.into_imports() {
            let import = import.map_err(invalid)?;
            let (module, name) = (printable(import.module), printable(import.name));
            let TypeRef::Func(_) = import.ty else { return Err(ModuleError::UnknownImport { module, name }) };
            let signature = types.as_ref().core_function_at(function);
            function += 1;
            let offered = if import.module == abi::WASI_MODULE {
                let category = SyscallCategory::of(import.name)
                    .ok_or_else(|| ModuleError::UnknownImport { module: module.clone(), name: name.clone() })?;
                if !syscalls.allows(category) {
                    return Err(ModuleError::SyscallDenied { import: name, category });
                }
                abi::wasi_signature(import.name)
            } else {
                abi::signature(import.module, import.name)
            };
            let Some(offered) = offered else { return Err(ModuleError::UnknownImport { module, name }) };
            if !same_signature(types, signature, offered) {
                return Err(ModuleError::ImportSignature { module, name, wanted: offered.to_owned() });
            }
        }
    }
    Ok(())
}

fn check_exports(types: &wasmparser::types::Types, info: &ModuleInfo) -> Result<(), ModuleError> {
    if !info.has(abi::ABI_EXPORT) {
        let found = info.exports.iter().find(|name| name.starts_with("aether_abi_")).cloned();
        return Err(ModuleError::Abi { wanted: abi::ABI_EXPORT, found });
    }
    if !info.has("on_start") && !info.has("on_tick") {
        return Err(ModuleError::NoEntry);
    }
    let mut exported = std::collections::HashMap::new();
    for (name, ty) in types.as_ref().core_exports().into_iter().flatten() {
        exported.insert(name, ty);
    }
    for (name, wanted) in abi::EXPORTS {
        match exported.get(name) {
            None => {}
            Some(wasmparser::types::EntityType::Func(id)) if same_signature(types, *id, wanted) => {
                let needs_memory = !matches!(*name, "on_start" | "on_tick" | "on_stop");
                if needs_memory && !info.has_memory {
                    return Err(ModuleError::NoMemory { export: name });
                }
            }
            Some(_) => return Err(ModuleError::ExportSignature { name, wanted: (*wanted).to_owned() }),
        }
    }
    Ok(())
}

/// Compare with a signature written as in `abi`: `(i64,i32)->i32`.
fn same_signature(types: &wasmparser::types::Types, id: wasmparser::types::CoreTypeId, wanted: &str) -> bool {
    let Some(ty) = types.as_ref().get(id).and_then(|sub| match &sub.composite_type.inner {
        wasmparser::CompositeInnerType::Func(ty) => Some(ty),
        _ => None,
    }) else {
        return false;
    };
    let list = |types: &[wasmparser::ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    format!("({})->{}", list(ty.params()), list(ty.results())) == wanted
}

/// Names come from the author: short and without control characters in errors and logs.
fn printable(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect_wat(text: &str) -> Result<ModuleInfo, ModuleError> {
        inspect(&wat::parse_str(text).expect("the test's own text"), &ModuleLimits::default(), &SyscallPolicy::deny_all())
    }

    const OK: &str = r#"(func (export "aether_abi_1")) (func (export "on_tick") (param f32))"#;

    #[test]
    fn a_small_script_passes_and_is_described() {
        let info = inspect_wat(&format!(
            r#"(module (import "aether:script" "tick" (func (result i64))) (memory (export "memory") 2) {OK})"#
        ))
        .unwrap();
        assert_eq!((info.initial_memory_bytes, info.functions, info.has_memory), (2 << 16, 2, true));
        assert_eq!(info.imports, ["aether:script.tick"]);
    }

    #[test]
    fn a_module_for_another_abi_or_none_says_which() {
        let found = inspect_wat(r#"(module (func (export "aether_abi_7")) (func (export "on_tick") (param f32)))"#);
        assert_eq!(found, Err(ModuleError::Abi { wanted: "aether_abi_1", found: Some("aether_abi_7".into()) }));
        assert_eq!(inspect_wat(r#"(module (func (export "aether_abi_1")))"#), Err(ModuleError::NoEntry));
    }

    #[test]
    fn imports_that_do_not_exist_or_have_another_type_are_named() {
        let unknown = inspect_wat(&format!(r#"(module (import "aether:entity" "delete_all" (func)) {OK})"#));
        assert_eq!(unknown, Err(ModuleError::UnknownImport { module: "aether:entity".into(), name: "delete_all".into() }));
        let wrong = inspect_wat(&format!(r#"(module (import "aether:script" "tick" (func (result i32))) {OK})"#));
        assert!(matches!(wrong, Err(ModuleError::ImportSignature { .. })), "{wrong:?}");
        let memory = inspect_wat(&format!(r#"(module (import "env" "memory" (memory 1)) {OK})"#));
        assert!(matches!(memory, Err(ModuleError::UnknownImport { .. })), "{memory:?}");
    }

    #[test]
    fn a_denied_system_call_is_refused_by_name() {
        let text = format!(r#"(module (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32))) {OK})"#);
        let denied = ModuleError::SyscallDenied { import: "random_get".into(), category: SyscallCategory::Random };
        assert_eq!(inspect_wat(&text), Err(denied));
        let policy = SyscallPolicy::deny_all().allow(SyscallCategory::Random);
        let module = wat::parse_str(&text).expect("the test's own text");
        assert!(inspect(&module, &ModuleLimits::default(), &policy).is_ok());
    }

    #[test]
    fn exports_of_the_abi_must_have_its_types() {
        let wrong = inspect_wat(r#"(module (func (export "aether_abi_1")) (func (export "on_tick")))"#);
        assert_eq!(wrong, Err(ModuleError::ExportSignature { name: "on_tick", wanted: "(f32)->".into() }));
        let no_memory = inspect_wat(&format!(r#"(module {OK} (func (export "save_state") (result i64) (i64.const 0)))"#));
        assert_eq!(no_memory, Err(ModuleError::NoMemory { export: "save_state" }));
    }

    #[test]
    fn what_would_hold_the_compiler_is_refused() {
        let nest = format!("(module {OK} (func {} {}))", "loop ".repeat(200), "end ".repeat(200));
        let locals = format!("(module {OK} (func (local {})))", "i64 ".repeat(2000));
        let long = format!("(module {OK} (func {}))", "(drop (i32.const 1000000)) ".repeat(20_000));
        let many = format!("(module {OK} {})", "(func)".repeat(20_000));
        let table = format!("(module {OK} (func (param i32) (block (br_table {} (local.get 0)))))", "0 ".repeat(10_000));
        let globals = format!("(module {OK} {})", "(global i32 (i32.const 0))".repeat(2000));
        for text in [nest, locals, long, many, table, globals] {
            let result = inspect_wat(&text);
            assert!(matches!(result, Err(ModuleError::TooMany { .. })), "{result:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut module = b"\0asm\x01\0\0\0".to_vec();
            module.extend(&bytes);
            for wasm in [&bytes, &module] {
                let _ = inspect(wasm, &ModuleLimits::default(), &SyscallPolicy::deny_all());
            }
        }

        #[test]
        fn a_cut_or_changed_module_is_an_error_or_a_module(cut in 0usize..200, at in 0usize..200, to in proptest::num::u8::ANY) {
            let mut module = wat::parse_str(format!(r#"(module (memory (export "memory") 1) {OK} (data (i32.const 8) "hello"))"#)).expect("the test's own text");
            let end = module.len();
            module[at % end] = to;
            module.truncate(end - cut % end);
            let _ = inspect(&module, &ModuleLimits::default(), &SyscallPolicy::deny_all());
        }
    }
}
