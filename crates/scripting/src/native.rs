//! Loading native code: the one place in Aether with `unsafe`.
//!
//! Wasmtime runs whatever bytes it is given here: of 120 single-byte changes to an artifact, 111 were accepted and ran. So the
//! bytes come in a [`Verified`], which only [`crate::artifact`] can make, after it has checked the MAC.
#![allow(unsafe_code)]

use crate::artifact::Verified;
use wasmtime::{Engine, Module};

/// Load the native code of an artifact that has been verified.
pub(crate) fn load(engine: &Engine, verified: &Verified<'_>) -> wasmtime::Result<Module> {
    // SAFETY: `Module::deserialize` asks that the bytes were made by `Engine::precompile_module` and not changed since. A
    // `Verified` is made only by `AotArtifact::verify`, which has compared (1) the SHA-256 of exactly these bytes, in memory
    // that nobody else can change, with the digest in the artifact's header, and (2) the header's HMAC with the cluster's key,
    // which only `compile` uses to sign, on the bytes that the compiler gave it. Engine version, target and settings are
    // checked by `verify` through the fingerprint and by wasmtime itself.
    unsafe { Module::deserialize(engine, verified.native()) }
}
