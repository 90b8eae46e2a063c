/* What an author of Aether scripts in C includes. Freestanding: no libc, no other file.
 *
 *     #include "aether.h"
 *     AETHER_SCRIPT(4096);
 *     AETHER_EXPORT(on_start) void on_start(void) { aether_log(AETHER_INFO, "hello"); }
 *
 * Build:
 *     clang --target=wasm32 -O2 -ffreestanding -nostdlib -mbulk-memory -mnontrapping-fptoint -msign-ext \
 *         -Wl,--no-entry,--stack-first,-z,stack-size=65536,--strip-all hello.c -o hello.wasm
 *
 * Functions give what they were asked for, or a negative `enum aether_error`; 0 is success where nothing was asked for. Strings
 * end with a zero byte unless a length is asked for. Coordinates are metres, y is up.
 *
 * Read the exports at the end of this comment, then the wrappers, one section for each group of the manifest's `apis`.
 * Not here: an allocator. A script that needs more than static arrays brings its own.
 *
 * Exports, all optional but one of the first two:
 *     AETHER_EXPORT(on_start)      void on_start(void)
 *     AETHER_EXPORT(on_tick)       void on_tick(float dt)
 *     AETHER_EXPORT(on_message)    void on_message(uint64_t from, uint64_t call, const char *data, uint32_t method_len, uint32_t payload_len)
 *     AETHER_EXPORT(on_event)      void on_event(uint32_t kind, uint64_t a, uint64_t b, const char *data, uint32_t topic_len, uint32_t payload_len)
 *     AETHER_EXPORT(on_stop)       void on_stop(void)
 *     AETHER_EXPORT(save_state)    uint64_t save_state(void)          return aether_saved(address, length)
 *     AETHER_EXPORT(restore_state) int32_t restore_state(uint32_t from_version, const void *state, uint32_t len)    0, or refuse
 */
#ifndef AETHER_H
#define AETHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AETHER_IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define AETHER_EXPORT(name) __attribute__((export_name(#name)))

/* Imports, lowered as crates/scripting/wit/aether.wit says; a test of the host compares these lines with it. Addresses and
 * lengths are int32_t, ids and clocks int64_t. The wrappers below are for authors. */

/* clang-format off */
AETHER_IMPORT("aether:entity", "self_entity") int64_t aether_raw_entity_self_entity(void);
AETHER_IMPORT("aether:entity", "spawn") int64_t aether_raw_entity_spawn(int32_t prefab, int32_t prefab_len, float x, float y, float z);
AETHER_IMPORT("aether:entity", "destroy") int32_t aether_raw_entity_destroy(int64_t entity);
AETHER_IMPORT("aether:entity", "get_kind") int32_t aether_raw_entity_get_kind(int64_t entity, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:entity", "get_position") int32_t aether_raw_entity_get_position(int64_t entity, int32_t out);
AETHER_IMPORT("aether:entity", "set_position") int32_t aether_raw_entity_set_position(int64_t entity, float x, float y, float z);
AETHER_IMPORT("aether:entity", "set_yaw") int32_t aether_raw_entity_set_yaw(int64_t entity, float yaw);
AETHER_IMPORT("aether:entity", "read_bodies") int32_t aether_raw_entity_read_bodies(int32_t entities, int32_t entities_len, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:entity", "write_bodies") int32_t aether_raw_entity_write_bodies(int32_t bodies, int32_t bodies_len);
AETHER_IMPORT("aether:entity", "get_component") int32_t aether_raw_entity_get_component(int64_t entity, int32_t name, int32_t name_len, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:entity", "set_component") int32_t aether_raw_entity_set_component(int64_t entity, int32_t name, int32_t name_len, int32_t value, int32_t value_len);
AETHER_IMPORT("aether:entity", "remove_component") int32_t aether_raw_entity_remove_component(int64_t entity, int32_t name, int32_t name_len);
AETHER_IMPORT("aether:entity", "query_kind") int32_t aether_raw_entity_query_kind(int32_t kind, int32_t kind_len, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:entity", "query_radius") int32_t aether_raw_entity_query_radius(float x, float y, float z, float radius, int32_t kind, int32_t kind_len, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:entity", "nearest") int64_t aether_raw_entity_nearest(float x, float y, float z, float radius, int32_t kind, int32_t kind_len);

AETHER_IMPORT("aether:physics", "apply_force") int32_t aether_raw_physics_apply_force(int64_t entity, float x, float y, float z);
AETHER_IMPORT("aether:physics", "apply_impulse") int32_t aether_raw_physics_apply_impulse(int64_t entity, float x, float y, float z);
AETHER_IMPORT("aether:physics", "set_velocity") int32_t aether_raw_physics_set_velocity(int64_t entity, float x, float y, float z);
AETHER_IMPORT("aether:physics", "get_velocity") int32_t aether_raw_physics_get_velocity(int64_t entity, int32_t out);
AETHER_IMPORT("aether:physics", "raycast") int32_t aether_raw_physics_raycast(float x, float y, float z, float dx, float dy, float dz, float max_distance, int64_t ignore, int32_t out);
AETHER_IMPORT("aether:physics", "overlap_sphere") int32_t aether_raw_physics_overlap_sphere(float x, float y, float z, float radius, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:physics", "overlap_box") int32_t aether_raw_physics_overlap_box(float x, float y, float z, float hx, float hy, float hz, int32_t out, int32_t capacity);

AETHER_IMPORT("aether:ui", "show") int32_t aether_raw_ui_show(int64_t player, int32_t element, int32_t element_len, int32_t text, int32_t text_len);
AETHER_IMPORT("aether:ui", "hide") int32_t aether_raw_ui_hide(int64_t player, int32_t element, int32_t element_len);
AETHER_IMPORT("aether:ui", "set_text") int32_t aether_raw_ui_set_text(int64_t player, int32_t element, int32_t element_len, int32_t text, int32_t text_len);

AETHER_IMPORT("aether:audio", "play") int64_t aether_raw_audio_play(int32_t sound, int32_t sound_len, float x, float y, float z, float gain, float pitch, float range, int32_t looped);
AETHER_IMPORT("aether:audio", "stop") int32_t aether_raw_audio_stop(int64_t handle);
AETHER_IMPORT("aether:audio", "set_source") int32_t aether_raw_audio_set_source(int64_t handle, float x, float y, float z);
AETHER_IMPORT("aether:audio", "set_parameters") int32_t aether_raw_audio_set_parameters(int64_t handle, float gain, float pitch, float range);

AETHER_IMPORT("aether:network", "rpc") int64_t aether_raw_network_rpc(int32_t target, int32_t target_len, int32_t method, int32_t method_len, int32_t payload, int32_t payload_len);
AETHER_IMPORT("aether:network", "reply") int32_t aether_raw_network_reply(int64_t call, int32_t payload, int32_t payload_len);
AETHER_IMPORT("aether:network", "broadcast") int32_t aether_raw_network_broadcast(int32_t topic, int32_t topic_len, int32_t payload, int32_t payload_len);
AETHER_IMPORT("aether:network", "subscribe") int32_t aether_raw_network_subscribe(int32_t topic, int32_t topic_len);
AETHER_IMPORT("aether:network", "send_player") int32_t aether_raw_network_send_player(int64_t player, int32_t topic, int32_t topic_len, int32_t payload, int32_t payload_len);

AETHER_IMPORT("aether:storage", "get") int32_t aether_raw_storage_get(int32_t key, int32_t key_len, int32_t out, int32_t capacity);
AETHER_IMPORT("aether:storage", "set") int32_t aether_raw_storage_set(int32_t key, int32_t key_len, int32_t value, int32_t value_len);
AETHER_IMPORT("aether:storage", "delete") int32_t aether_raw_storage_delete(int32_t key, int32_t key_len);
AETHER_IMPORT("aether:storage", "keys") int32_t aether_raw_storage_keys(int32_t prefix, int32_t prefix_len, int32_t out, int32_t capacity);

AETHER_IMPORT("aether:script", "log") int32_t aether_raw_script_log(int32_t level, int32_t message, int32_t message_len);
AETHER_IMPORT("aether:script", "time") int64_t aether_raw_script_time(void);
AETHER_IMPORT("aether:script", "tick") int64_t aether_raw_script_tick(void);
AETHER_IMPORT("aether:script", "random") int64_t aether_raw_script_random(void);
AETHER_IMPORT("aether:script", "fuel_left") int64_t aether_raw_script_fuel_left(void);
AETHER_IMPORT("aether:script", "allowances_left") int32_t aether_raw_script_allowances_left(int32_t out);
AETHER_IMPORT("aether:script", "version") int32_t aether_raw_script_version(void);
/* clang-format on */

/* Types. */

/* Why the host did not do what it was asked. */
enum aether_error {
    AETHER_RATE_LIMITED = -1, /* the allowance for this action is used up: try again in a later tick */
    AETHER_NOT_FOUND = -2,    /* no such entity, prefab, key, script or sound */
    AETHER_DENIED = -3,       /* the manifest does not grant this */
    AETHER_TOO_LARGE = -4,    /* a string, value, list or radius is larger than allowed */
    AETHER_BAD_POINTER = -5,  /* an address or length outside the script's memory */
    AETHER_BAD_UTF8 = -6,     /* a string that is not UTF-8 */
    AETHER_BAD_NUMBER = -7,   /* a NaN or infinite number, or a coordinate outside the world */
    AETHER_BAD_ARGUMENT = -8, /* a value that the function does not take */
    AETHER_FULL = -9,         /* the world or an inbox is full */
    AETHER_UNSUPPORTED = -10, /* this host does not have this function */
    AETHER_UNAVAILABLE = -11, /* the store could not be read */
};

/* Log levels. */
enum aether_level { AETHER_ERROR, AETHER_WARNING, AETHER_INFO, AETHER_DEBUG };

/* Kinds of on_event. `a` is the script's own entity and `b` the other, unless said otherwise. */
enum aether_event {
    AETHER_CONTACT_BEGAN = 1,
    AETHER_CONTACT_ENDED = 2,
    AETHER_TRIGGER_ENTERED = 3,
    AETHER_TRIGGER_LEFT = 4,
    AETHER_BROADCAST = 5,  /* `a` is the sending script */
    AETHER_UNANSWERED = 6, /* `a` is the number of a call whose answer will not come */
};

/* An entity; 0 is nobody, negative an error. */
typedef int64_t aether_entity;

/* Every player, where a player is asked for. */
#define AETHER_ALL_PLAYERS 0

/* Set in `from` of on_message if a player sent it. */
#define AETHER_FROM_PLAYER (1ull << 62)

typedef struct {
    float x, y, z;
} aether_vec3;

/* How one entity moves: 36 bytes. */
typedef struct __attribute__((packed, aligned(4))) {
    aether_entity entity;
    aether_vec3 position, velocity;
    float yaw;
} aether_body;

/* What a ray met: 24 bytes. */
typedef struct {
    aether_entity entity;
    float distance;
    aether_vec3 normal;
} aether_ray_hit;

/* What is left of the allowances: 40 bytes, whole actions. */
typedef struct {
    uint64_t fuel;
    uint32_t spawns, rpcs, storage_writes, storage_bytes, ui_commands, audio_commands, log_lines, memory_bytes;
} aether_allowances;

_Static_assert(sizeof(aether_vec3) == 12, "layout of the WIT");
_Static_assert(sizeof(aether_body) == 36, "layout of the WIT");
_Static_assert(sizeof(aether_ray_hit) == 24, "layout of the WIT");
_Static_assert(sizeof(aether_allowances) == 40, "layout of the WIT");

/* An address, lowered. */
static inline int32_t aether_at(const void *address) { return (int32_t)(uintptr_t)address; }

static inline int32_t aether_len(const char *text) {
    int32_t len = 0;
    while (text[len]) len++;
    return len;
}

/* entity: query, spawn, destroy and modify entities. */

/* The entity that this script was started for, AETHER_NOT_FOUND if it has none. */
static inline aether_entity aether_self(void) { return aether_raw_entity_self_entity(); }

/* Make an entity from a prefab. The script owns it. */
static inline aether_entity aether_spawn(const char *prefab, aether_vec3 at) {
    return aether_raw_entity_spawn(aether_at(prefab), aether_len(prefab), at.x, at.y, at.z);
}

/* Remove an entity and its body. */
static inline int32_t aether_destroy(aether_entity entity) { return aether_raw_entity_destroy(entity); }

/* Its kind: the length, and the text (without a zero byte) if that fits. */
static inline int32_t aether_get_kind(aether_entity entity, char *out, uint32_t capacity) {
    return aether_raw_entity_get_kind(entity, aether_at(out), (int32_t)capacity);
}

/* Where it is. */
static inline int32_t aether_get_position(aether_entity entity, aether_vec3 *out) {
    return aether_raw_entity_get_position(entity, aether_at(out));
}

/* Put it somewhere else, without a collision on the way. */
static inline int32_t aether_set_position(aether_entity entity, aether_vec3 to) {
    return aether_raw_entity_set_position(entity, to.x, to.y, to.z);
}

/* Turn it about the vertical axis, radians. */
static inline int32_t aether_set_yaw(aether_entity entity, float yaw) { return aether_raw_entity_set_yaw(entity, yaw); }

/* Read up to 1024 bodies in one call; `out` has room for `count`. One that does not exist gets entity 0. */
static inline int32_t aether_read_bodies(const aether_entity *entities, uint32_t count, aether_body *out) {
    return aether_raw_entity_read_bodies(aether_at(entities), (int32_t)count, aether_at(out), (int32_t)count);
}

/* Write up to 1024 bodies in one call. How many were written; others are skipped. */
static inline int32_t aether_write_bodies(const aether_body *bodies, uint32_t count) {
    return aether_raw_entity_write_bodies(aether_at(bodies), (int32_t)count);
}

/* A component: the length, and the bytes if they fit. */
static inline int32_t aether_get_component(aether_entity entity, const char *name, void *out, uint32_t capacity) {
    return aether_raw_entity_get_component(entity, aether_at(name), aether_len(name), aether_at(out), (int32_t)capacity);
}

/* Set a component: at most 64 bytes of name, 4096 of value, 32 components an entity. */
static inline int32_t aether_set_component(aether_entity entity, const char *name, const void *value, uint32_t len) {
    return aether_raw_entity_set_component(entity, aether_at(name), aether_len(name), aether_at(value), (int32_t)len);
}

/* Remove a component. */
static inline int32_t aether_remove_component(aether_entity entity, const char *name) {
    return aether_raw_entity_remove_component(entity, aether_at(name), aether_len(name));
}

/* The entities of a kind, by id: how many there are, and as many as fit. */
static inline int32_t aether_query_kind(const char *kind, aether_entity *out, uint32_t capacity) {
    return aether_raw_entity_query_kind(aether_at(kind), aether_len(kind), aether_at(out), (int32_t)capacity);
}

/* The entities within `radius`, nearest first: how many there are, and as many as fit. An empty kind means any. */
static inline int32_t aether_query_radius(aether_vec3 at, float radius, const char *kind, aether_entity *out, uint32_t capacity) {
    return aether_raw_entity_query_radius(at.x, at.y, at.z, radius, aether_at(kind), aether_len(kind), aether_at(out), (int32_t)capacity);
}

/* The nearest entity within `radius` that is not the script's own. An empty kind means any. */
static inline aether_entity aether_nearest(aether_vec3 at, float radius, const char *kind) {
    return aether_raw_entity_nearest(at.x, at.y, at.z, radius, aether_at(kind), aether_len(kind));
}

/* physics: apply forces, raycasts, overlap tests. */

/* Newtons, for the coming physics step. */
static inline int32_t aether_apply_force(aether_entity entity, aether_vec3 force) {
    return aether_raw_physics_apply_force(entity, force.x, force.y, force.z);
}

/* Newton seconds, at once. */
static inline int32_t aether_apply_impulse(aether_entity entity, aether_vec3 impulse) {
    return aether_raw_physics_apply_impulse(entity, impulse.x, impulse.y, impulse.z);
}

/* Metres a second. */
static inline int32_t aether_set_velocity(aether_entity entity, aether_vec3 velocity) {
    return aether_raw_physics_set_velocity(entity, velocity.x, velocity.y, velocity.z);
}

/* Metres a second. */
static inline int32_t aether_get_velocity(aether_entity entity, aether_vec3 *out) {
    return aether_raw_physics_get_velocity(entity, aether_at(out));
}

/* The first solid body that a ray meets, AETHER_NOT_FOUND if none. It passes through `ignore` (0: through nobody). */
static inline int32_t aether_raycast(aether_vec3 from, aether_vec3 direction, float max_distance, aether_entity ignore, aether_ray_hit *out) {
    return aether_raw_physics_raycast(from.x, from.y, from.z, direction.x, direction.y, direction.z, max_distance, ignore, aether_at(out));
}

/* The entities whose bodies touch a ball, by id: how many there are, and as many as fit. */
static inline int32_t aether_overlap_sphere(aether_vec3 at, float radius, aether_entity *out, uint32_t capacity) {
    return aether_raw_physics_overlap_sphere(at.x, at.y, at.z, radius, aether_at(out), (int32_t)capacity);
}

/* The entities whose bodies touch a box with these half sides, by id: how many there are, and as many as fit. */
static inline int32_t aether_overlap_box(aether_vec3 at, aether_vec3 half, aether_entity *out, uint32_t capacity) {
    return aether_raw_physics_overlap_box(at.x, at.y, at.z, half.x, half.y, half.z, aether_at(out), (int32_t)capacity);
}

/* ui: elements of at most 64 bytes, texts of at most 1024. Player 0 is all. */

static inline int32_t aether_ui_show(uint64_t player, const char *element, const char *text) {
    return aether_raw_ui_show((int64_t)player, aether_at(element), aether_len(element), aether_at(text), aether_len(text));
}

static inline int32_t aether_ui_hide(uint64_t player, const char *element) {
    return aether_raw_ui_hide((int64_t)player, aether_at(element), aether_len(element));
}

static inline int32_t aether_ui_set_text(uint64_t player, const char *element, const char *text) {
    return aether_raw_ui_set_text((int64_t)player, aether_at(element), aether_len(element), aether_at(text), aether_len(text));
}

/* audio: `gain` 0 to 4, `pitch` 0.25 to 4, heard within `range` metres (0: everywhere). */

/* Play a sound at a place: a handle. */
static inline int64_t aether_play(const char *sound, aether_vec3 at, float gain, float pitch, float range, bool looped) {
    return aether_raw_audio_play(aether_at(sound), aether_len(sound), at.x, at.y, at.z, gain, pitch, range, looped);
}

static inline int32_t aether_sound_stop(int64_t handle) { return aether_raw_audio_stop(handle); }

static inline int32_t aether_sound_move(int64_t handle, aether_vec3 to) {
    return aether_raw_audio_set_source(handle, to.x, to.y, to.z);
}

static inline int32_t aether_sound_set(int64_t handle, float gain, float pitch, float range) {
    return aether_raw_audio_set_parameters(handle, gain, pitch, range);
}

/* network: calls and broadcasts. Payloads of at most 4096 bytes. */

/* Call a script: "merchant" in this world, "harbour/merchant" in another. The number of the call, which its answer has, too. */
static inline int64_t aether_rpc(const char *target, const char *method, const void *payload, uint32_t len) {
    return aether_raw_network_rpc(aether_at(target), aether_len(target), aether_at(method), aether_len(method), aether_at(payload), (int32_t)len);
}

/* Answer a call, once. */
static inline int32_t aether_reply(uint64_t call, const void *payload, uint32_t len) {
    return aether_raw_network_reply((int64_t)call, aether_at(payload), (int32_t)len);
}

/* Tell every script of the world that subscribed to the topic. */
static inline int32_t aether_broadcast(const char *topic, const void *payload, uint32_t len) {
    return aether_raw_network_broadcast(aether_at(topic), aether_len(topic), aether_at(payload), (int32_t)len);
}

/* Get a topic's broadcasts as on_event. At most 16 topics a script. */
static inline int32_t aether_subscribe(const char *topic) {
    return aether_raw_network_subscribe(aether_at(topic), aether_len(topic));
}

/* Send an event to a player. */
static inline int32_t aether_send_player(uint64_t player, const char *topic, const void *payload, uint32_t len) {
    return aether_raw_network_send_player((int64_t)player, aether_at(topic), aether_len(topic), aether_at(payload), (int32_t)len);
}

/* storage: keys of at most 128 bytes, values of at most 65536, in the manifest's namespace. */

/* A value: the length, and the bytes if they fit. */
static inline int32_t aether_storage_get(const char *key, void *out, uint32_t capacity) {
    return aether_raw_storage_get(aether_at(key), aether_len(key), aether_at(out), (int32_t)capacity);
}

static inline int32_t aether_storage_set(const char *key, const void *value, uint32_t len) {
    return aether_raw_storage_set(aether_at(key), aether_len(key), aether_at(value), (int32_t)len);
}

static inline int32_t aether_storage_delete(const char *key) {
    return aether_raw_storage_delete(aether_at(key), aether_len(key));
}

/* The keys that begin with `prefix`, each followed by a zero byte: the length of all, and the bytes if they fit. */
static inline int32_t aether_storage_keys(const char *prefix, char *out, uint32_t capacity) {
    return aether_raw_storage_keys(aether_at(prefix), aether_len(prefix), aether_at(out), (int32_t)capacity);
}

/* script: what needs no grant. */

/* Write a line to the script's log: at most 1024 bytes. */
static inline int32_t aether_log(enum aether_level level, const char *message) {
    return aether_raw_script_log((int32_t)level, aether_at(message), aether_len(message));
}

/* Nanoseconds of the world's clock, which stands still between ticks. */
static inline uint64_t aether_time(void) { return (uint64_t)aether_raw_script_time(); }

/* The number of the tick. */
static inline uint64_t aether_tick(void) { return (uint64_t)aether_raw_script_tick(); }

/* 64 random bits from the script's own seed, which is part of a checkpoint. */
static inline uint64_t aether_random(void) { return (uint64_t)aether_raw_script_random(); }

/* A random number from `low` to just below `high`. */
static inline float aether_random_between(float low, float high) {
    return low + (high - low) * ((float)(aether_random() >> 40) / 16777216.0f);
}

/* Fuel left in this call. */
static inline uint64_t aether_fuel_left(void) { return (uint64_t)aether_raw_script_fuel_left(); }

static inline int32_t aether_allowances_left(aether_allowances *out) { return aether_raw_script_allowances_left(aether_at(out)); }

/* The version of this script's artifact. */
static inline uint32_t aether_version(void) { return (uint32_t)aether_raw_script_version(); }

/* Vectors. */

static inline aether_vec3 aether_vec(float x, float y, float z) { return (aether_vec3){x, y, z}; }
static inline aether_vec3 aether_add(aether_vec3 a, aether_vec3 b) { return aether_vec(a.x + b.x, a.y + b.y, a.z + b.z); }
static inline aether_vec3 aether_sub(aether_vec3 a, aether_vec3 b) { return aether_vec(a.x - b.x, a.y - b.y, a.z - b.z); }
static inline aether_vec3 aether_scale(aether_vec3 a, float s) { return aether_vec(a.x * s, a.y * s, a.z * s); }
static inline float aether_length(aether_vec3 a) { return __builtin_sqrtf(a.x * a.x + a.y * a.y + a.z * a.z); }

/* The same direction with length `length`; zero stays zero. */
static inline aether_vec3 aether_resized(aether_vec3 a, float length) {
    float now = aether_length(a);
    return now > 1e-6f ? aether_scale(a, length / now) : aether_vec(0, 0, 0);
}

/* Texts: `aether_text t = {0}; aether_put(&t, "n = "); aether_put_u64(&t, n); aether_log(AETHER_INFO, t.bytes);`
 * What does not fit is left out. */

typedef struct {
    uint32_t len;
    char bytes[256];
} aether_text;

static inline void aether_put(aether_text *text, const char *more) {
    while (*more && text->len < sizeof text->bytes - 1) text->bytes[text->len++] = *more++;
    text->bytes[text->len] = 0;
}

static inline void aether_put_u64(aether_text *text, uint64_t number) {
    char digits[21];
    int at = 20;
    digits[at] = 0;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    aether_put(text, digits + at);
}

/* Whether `len` bytes are exactly `text`. */
static inline bool aether_is(const char *bytes, uint32_t len, const char *text) {
    for (uint32_t i = 0; i < len; i++)
        if (!text[i] || text[i] != bytes[i]) return false;
    return !text[len];
}

/* States. */

/* What save_state gives. The bytes must stay until the next call: keep them in a static. */
static inline uint64_t aether_saved(const void *state, uint32_t len) { return (uint64_t)(uintptr_t)state << 32 | len; }

/* Copies bytes: without a libc there is no memcpy to call, and the compiler makes one instruction of this. */
static inline void aether_copy(void *to, const void *from, uint32_t len) { __builtin_memcpy(to, from, len); }

/* Once in a script: says which ABI it was written for, and makes the buffer through which the host hands over bytes. `size` is
 * what it has at first; when the host needs more, memory grows. There is nothing to free: the old buffer is given up. */
#define AETHER_SCRIPT(size)                                                                        \
    AETHER_EXPORT(aether_abi_1) void aether_abi_1(void) {}                                         \
    static _Alignas(8) char aether_exchange_first[size];                                           \
    static char *aether_exchange = aether_exchange_first;                                          \
    static uint32_t aether_exchange_size = size;                                                   \
    AETHER_EXPORT(aether_alloc) void *aether_alloc(uint32_t len) {                                 \
        if (len > aether_exchange_size) {                                                          \
            uint32_t pages = (len >> 16) + 1;                                                      \
            size_t before = __builtin_wasm_memory_grow(0, pages);                                  \
            /* No room for what the host brings: end this call. */                                 \
            if (before == (size_t)-1) __builtin_trap();                                            \
            aether_exchange = (char *)(before << 16);                                              \
            aether_exchange_size = pages << 16;                                                    \
        }                                                                                          \
        return aether_exchange;                                                                    \
    }                                                                                              \
    _Static_assert(sizeof(void *) == 4, "scripts are wasm32")

#endif
