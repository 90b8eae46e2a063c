//! The imports, lowered as `crates/scripting/wit/aether.wit` says, and the one place that calls them.
//!
//! Each block below is one interface, each line one function; a test of the host compares them with the WIT. Addresses and
//! lengths are `i32`, ids and clocks `i64`. Nothing here is meant for authors: the modules named like the interfaces are.
//!
//! Read [`entity`] for the form, then [`call`] for how a slice becomes an address.
//! Not here: results and their errors (`error.rs`).

/// Writes each block as it stands on wasm32. Elsewhere it makes functions that answer `unsupported`, or 0 where a function
/// cannot fail, so that scripts build for documentation and unit tests.
macro_rules! imports {
    ($(
        $(#[doc = $doc:literal])*
        pub(crate) mod $interface:ident {
            #[link(wasm_import_module = $module:literal)]
            unsafe extern "C" { $(pub(crate) fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $result:ty;)* }
        }
    )*) => { $(
        $(#[doc = $doc])*
        #[cfg(target_arch = "wasm32")]
        pub(crate) mod $interface {
            #[link(wasm_import_module = $module)]
            unsafe extern "C" { $(pub(crate) fn $name($($arg: $ty),*) -> $result;)* }
        }
        #[cfg(not(target_arch = "wasm32"))]
        pub(crate) mod $interface {
            // Unsafe only to look like the import.
            $(#[allow(clippy::too_many_arguments)]
            pub(crate) unsafe fn $name($(_: $ty),*) -> $result {
                match stringify!($name) {
                    "time" | "tick" | "random" | "fuel_left" | "version" => 0,
                    _ => -10,
                }
            })*
        }
    )* };
}

imports! {
    /// Entities.
    pub(crate) mod entity {
        #[link(wasm_import_module = "aether:entity")]
        unsafe extern "C" {
            pub(crate) fn self_entity() -> i64;
            pub(crate) fn spawn(prefab: i32, prefab_len: i32, x: f32, y: f32, z: f32) -> i64;
            pub(crate) fn destroy(entity: i64) -> i32;
            pub(crate) fn get_kind(entity: i64, out: i32, capacity: i32) -> i32;
            pub(crate) fn get_position(entity: i64, out: i32) -> i32;
            pub(crate) fn set_position(entity: i64, x: f32, y: f32, z: f32) -> i32;
            pub(crate) fn set_yaw(entity: i64, yaw: f32) -> i32;
            pub(crate) fn read_bodies(entities: i32, entities_len: i32, out: i32, capacity: i32) -> i32;
            pub(crate) fn write_bodies(bodies: i32, bodies_len: i32) -> i32;
            pub(crate) fn get_component(entity: i64, name: i32, name_len: i32, out: i32, capacity: i32) -> i32;
            pub(crate) fn set_component(entity: i64, name: i32, name_len: i32, value: i32, value_len: i32) -> i32;
            pub(crate) fn remove_component(entity: i64, name: i32, name_len: i32) -> i32;
            pub(crate) fn query_kind(kind: i32, kind_len: i32, out: i32, capacity: i32) -> i32;
            pub(crate) fn query_radius(x: f32, y: f32, z: f32, radius: f32, kind: i32, kind_len: i32, out: i32, capacity: i32) -> i32;
            pub(crate) fn nearest(x: f32, y: f32, z: f32, radius: f32, kind: i32, kind_len: i32) -> i64;
        }
    }

    /// Physics.
    pub(crate) mod physics {
        #[link(wasm_import_module = "aether:physics")]
        unsafe extern "C" {
            pub(crate) fn apply_force(entity: i64, x: f32, y: f32, z: f32) -> i32;
            pub(crate) fn apply_impulse(entity: i64, x: f32, y: f32, z: f32) -> i32;
            pub(crate) fn set_velocity(entity: i64, x: f32, y: f32, z: f32) -> i32;
            pub(crate) fn get_velocity(entity: i64, out: i32) -> i32;
            pub(crate) fn raycast(x: f32, y: f32, z: f32, dx: f32, dy: f32, dz: f32, max_distance: f32, ignore: i64, out: i32) -> i32;
            pub(crate) fn overlap_sphere(x: f32, y: f32, z: f32, radius: f32, out: i32, capacity: i32) -> i32;
            pub(crate) fn overlap_box(x: f32, y: f32, z: f32, hx: f32, hy: f32, hz: f32, out: i32, capacity: i32) -> i32;
        }
    }

    /// UI elements.
    pub(crate) mod ui {
        #[link(wasm_import_module = "aether:ui")]
        unsafe extern "C" {
            pub(crate) fn show(player: i64, element: i32, element_len: i32, text: i32, text_len: i32) -> i32;
            pub(crate) fn hide(player: i64, element: i32, element_len: i32) -> i32;
            pub(crate) fn set_text(player: i64, element: i32, element_len: i32, text: i32, text_len: i32) -> i32;
        }
    }

    /// Sounds.
    pub(crate) mod audio {
        #[link(wasm_import_module = "aether:audio")]
        unsafe extern "C" {
            pub(crate) fn play(sound: i32, sound_len: i32, x: f32, y: f32, z: f32, gain: f32, pitch: f32, range: f32, looped: i32) -> i64;
            pub(crate) fn stop(handle: i64) -> i32;
            pub(crate) fn set_source(handle: i64, x: f32, y: f32, z: f32) -> i32;
            pub(crate) fn set_parameters(handle: i64, gain: f32, pitch: f32, range: f32) -> i32;
        }
    }

    /// Calls and broadcasts.
    pub(crate) mod network {
        #[link(wasm_import_module = "aether:network")]
        unsafe extern "C" {
            pub(crate) fn rpc(target: i32, target_len: i32, method: i32, method_len: i32, payload: i32, payload_len: i32) -> i64;
            pub(crate) fn reply(call: i64, payload: i32, payload_len: i32) -> i32;
            pub(crate) fn broadcast(topic: i32, topic_len: i32, payload: i32, payload_len: i32) -> i32;
            pub(crate) fn subscribe(topic: i32, topic_len: i32) -> i32;
            pub(crate) fn send_player(player: i64, topic: i32, topic_len: i32, payload: i32, payload_len: i32) -> i32;
        }
    }

    /// Persistent keys and values.
    pub(crate) mod storage {
        #[link(wasm_import_module = "aether:storage")]
        unsafe extern "C" {
            pub(crate) fn get(key: i32, key_len: i32, out: i32, capacity: i32) -> i32;
            pub(crate) fn set(key: i32, key_len: i32, value: i32, value_len: i32) -> i32;
            pub(crate) fn delete(key: i32, key_len: i32) -> i32;
            pub(crate) fn keys(prefix: i32, prefix_len: i32, out: i32, capacity: i32) -> i32;
        }
    }

    /// What needs no grant.
    pub(crate) mod script {
        #[link(wasm_import_module = "aether:script")]
        unsafe extern "C" {
            pub(crate) fn log(level: i32, message: i32, message_len: i32) -> i32;
            pub(crate) fn time() -> i64;
            pub(crate) fn tick() -> i64;
            pub(crate) fn random() -> i64;
            pub(crate) fn fuel_left() -> i64;
            pub(crate) fn allowances_left(out: i32) -> i32;
            pub(crate) fn version() -> i32;
        }
    }
}

/// A type that is plain bytes in the layout of the WIT: no padding, and any bytes are a value of it.
///
/// # Safety
/// Both must be true of the implementor.
pub(crate) unsafe trait Record: Copy {}

// SAFETY: integers and floats, or `repr(C)` structs of nothing else whose sizes are checked where they are defined.
unsafe impl Record for u8 {}
unsafe impl Record for crate::EntityId {}
unsafe impl Record for crate::Vec3 {}
unsafe impl Record for crate::Body {}
unsafe impl Record for crate::RayHit {}
unsafe impl Record for crate::Allowances {}

/// Address and length of what the host may read. On wasm32 both fit; elsewhere the stubs do not look.
pub(crate) fn input<T: Record>(list: &[T]) -> (i32, i32) {
    (list.as_ptr().expose_provenance() as i32, list.len() as i32)
}

/// Address and capacity of where the host may write.
pub(crate) fn output<T: Record>(list: &mut [T]) -> (i32, i32) {
    (list.as_mut_ptr().expose_provenance() as i32, list.len() as i32)
}

/// The address of where the host may write one record.
pub(crate) fn record<T: Record>(place: &mut T) -> i32 {
    core::ptr::from_mut(place).expose_provenance() as i32
}

/// Calls an import: `call!(entity::spawn(in prefab.as_bytes(), x, y, z))`. `in` takes a slice and passes address and length,
/// `out` a mutable slice (address and capacity), `put` a mutable record (address); anything else is passed as it is.
macro_rules! call {
    ($interface:ident :: $name:ident ( $($args:tt)* )) => { $crate::raw::call!(@ $interface $name [] $($args)*) };
    (@ $i:ident $n:ident [$($done:tt)*] in $list:expr $(, $($rest:tt)*)?) => {{
        let (address, len) = $crate::raw::input($list);
        $crate::raw::call!(@ $i $n [$($done)* address, len,] $($($rest)*)?)
    }};
    (@ $i:ident $n:ident [$($done:tt)*] out $list:expr $(, $($rest:tt)*)?) => {{
        let (address, len) = $crate::raw::output($list);
        $crate::raw::call!(@ $i $n [$($done)* address, len,] $($($rest)*)?)
    }};
    (@ $i:ident $n:ident [$($done:tt)*] put $place:expr $(, $($rest:tt)*)?) => {{
        let address = $crate::raw::record($place);
        $crate::raw::call!(@ $i $n [$($done)* address,] $($($rest)*)?)
    }};
    (@ $i:ident $n:ident [$($done:tt)*] $value:expr $(, $($rest:tt)*)?) => {
        $crate::raw::call!(@ $i $n [$($done)* $value,] $($($rest)*)?)
    };
    (@ $i:ident $n:ident [$($done:tt)*]) => {
        // SAFETY: the host reads and writes only at the addresses given, within the lengths given. Those come from slices and
        // records borrowed for longer than this call (mutably where it writes), of types for which any bytes are a value.
        unsafe { $crate::raw::$i::$n($($done)*) }
    };
}
pub(crate) use call;
