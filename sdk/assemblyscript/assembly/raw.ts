// The imports, lowered as crates/scripting/wit/aether.wit says; a test of the host compares them with it.
//
// One line is one function. Addresses and lengths are i32, ids and clocks i64. Authors import ./index instead.

@external("aether:entity", "self_entity") export declare function entity_self_entity(): i64;
@external("aether:entity", "spawn") export declare function entity_spawn(prefab: i32, prefab_len: i32, x: f32, y: f32, z: f32): i64;
@external("aether:entity", "destroy") export declare function entity_destroy(entity: i64): i32;
@external("aether:entity", "get_kind") export declare function entity_get_kind(entity: i64, out: i32, capacity: i32): i32;
@external("aether:entity", "get_position") export declare function entity_get_position(entity: i64, out: i32): i32;
@external("aether:entity", "set_position") export declare function entity_set_position(entity: i64, x: f32, y: f32, z: f32): i32;
@external("aether:entity", "set_yaw") export declare function entity_set_yaw(entity: i64, yaw: f32): i32;
@external("aether:entity", "read_bodies") export declare function entity_read_bodies(entities: i32, entities_len: i32, out: i32, capacity: i32): i32;
@external("aether:entity", "write_bodies") export declare function entity_write_bodies(bodies: i32, bodies_len: i32): i32;
@external("aether:entity", "get_component") export declare function entity_get_component(entity: i64, name: i32, name_len: i32, out: i32, capacity: i32): i32;
@external("aether:entity", "set_component") export declare function entity_set_component(entity: i64, name: i32, name_len: i32, value: i32, value_len: i32): i32;
@external("aether:entity", "remove_component") export declare function entity_remove_component(entity: i64, name: i32, name_len: i32): i32;
@external("aether:entity", "query_kind") export declare function entity_query_kind(kind: i32, kind_len: i32, out: i32, capacity: i32): i32;
@external("aether:entity", "query_radius") export declare function entity_query_radius(x: f32, y: f32, z: f32, radius: f32, kind: i32, kind_len: i32, out: i32, capacity: i32): i32;
@external("aether:entity", "nearest") export declare function entity_nearest(x: f32, y: f32, z: f32, radius: f32, kind: i32, kind_len: i32): i64;

@external("aether:physics", "apply_force") export declare function physics_apply_force(entity: i64, x: f32, y: f32, z: f32): i32;
@external("aether:physics", "apply_impulse") export declare function physics_apply_impulse(entity: i64, x: f32, y: f32, z: f32): i32;
@external("aether:physics", "set_velocity") export declare function physics_set_velocity(entity: i64, x: f32, y: f32, z: f32): i32;
@external("aether:physics", "get_velocity") export declare function physics_get_velocity(entity: i64, out: i32): i32;
@external("aether:physics", "raycast") export declare function physics_raycast(x: f32, y: f32, z: f32, dx: f32, dy: f32, dz: f32, max_distance: f32, ignore: i64, out: i32): i32;
@external("aether:physics", "overlap_sphere") export declare function physics_overlap_sphere(x: f32, y: f32, z: f32, radius: f32, out: i32, capacity: i32): i32;
@external("aether:physics", "overlap_box") export declare function physics_overlap_box(x: f32, y: f32, z: f32, hx: f32, hy: f32, hz: f32, out: i32, capacity: i32): i32;

@external("aether:ui", "show") export declare function ui_show(player: i64, element: i32, element_len: i32, text: i32, text_len: i32): i32;
@external("aether:ui", "hide") export declare function ui_hide(player: i64, element: i32, element_len: i32): i32;
@external("aether:ui", "set_text") export declare function ui_set_text(player: i64, element: i32, element_len: i32, text: i32, text_len: i32): i32;

@external("aether:audio", "play") export declare function audio_play(sound: i32, sound_len: i32, x: f32, y: f32, z: f32, gain: f32, pitch: f32, range: f32, looped: i32): i64;
@external("aether:audio", "stop") export declare function audio_stop(handle: i64): i32;
@external("aether:audio", "set_source") export declare function audio_set_source(handle: i64, x: f32, y: f32, z: f32): i32;
@external("aether:audio", "set_parameters") export declare function audio_set_parameters(handle: i64, gain: f32, pitch: f32, range: f32): i32;

@external("aether:network", "rpc") export declare function network_rpc(target: i32, target_len: i32, method: i32, method_len: i32, payload: i32, payload_len: i32): i64;
@external("aether:network", "reply") export declare function network_reply(call: i64, payload: i32, payload_len: i32): i32;
@external("aether:network", "broadcast") export declare function network_broadcast(topic: i32, topic_len: i32, payload: i32, payload_len: i32): i32;
@external("aether:network", "subscribe") export declare function network_subscribe(topic: i32, topic_len: i32): i32;
@external("aether:network", "send_player") export declare function network_send_player(player: i64, topic: i32, topic_len: i32, payload: i32, payload_len: i32): i32;

@external("aether:storage", "get") export declare function storage_get(key: i32, key_len: i32, out: i32, capacity: i32): i32;
@external("aether:storage", "set") export declare function storage_set(key: i32, key_len: i32, value: i32, value_len: i32): i32;
@external("aether:storage", "delete") export declare function storage_delete(key: i32, key_len: i32): i32;
@external("aether:storage", "keys") export declare function storage_keys(prefix: i32, prefix_len: i32, out: i32, capacity: i32): i32;

@external("aether:script", "log") export declare function script_log(level: i32, message: i32, message_len: i32): i32;
@external("aether:script", "time") export declare function script_time(): i64;
@external("aether:script", "tick") export declare function script_tick(): i64;
@external("aether:script", "random") export declare function script_random(): i64;
@external("aether:script", "fuel_left") export declare function script_fuel_left(): i64;
@external("aether:script", "allowances_left") export declare function script_allowances_left(out: i32): i32;
@external("aether:script", "version") export declare function script_version(): i32;
