// What an author of Aether scripts in AssemblyScript imports.
//
//   import { script } from "aether-script-sdk";
//   export { aether_abi_1, aether_alloc } from "aether-script-sdk";
//   export function on_start(): void { script.log(script.Level.Info, "hello"); }
//
// Exports, all optional but one of the first two:
//   on_start(): void
//   on_tick(dt: f32): void
//   on_message(from: i64, call: i64, address: i32, methodLen: i32, payloadLen: i32): void    see Message
//   on_event(kind: i32, a: i64, b: i64, address: i32, topicLen: i32, payloadLen: i32): void  see Event
//   on_stop(): void
//   save_state(): i64                                                                        see StateWriter
//   restore_state(fromVersion: i32, address: i32, len: i32): i32                             see StateReader; 0, or refuse
//
// Functions give what they were asked for or a negative number, an ErrorCode; 0 is success where nothing was asked for. What
// gives an object gives null instead, and leaves the code in `lastError`. Coordinates are metres, y is up.
//
// Build with `--runtime incremental --use abort=<this file>/fail`. Incremental, because scripts make strings: `stub` never
// frees, so a script would fill its memory; `minimal` frees only when the author remembers to ask. It costs 5 KB.
// Not here: exceptions, which AssemblyScript does not have. `fail` logs what `assert` and failed checks say, and traps.

import * as raw from "./raw";

/** Why the host did not do what it was asked. */
export namespace ErrorCode {
  /** The allowance for this action is used up: try again in a later tick. */
  export const RateLimited: i32 = -1;
  /** No such entity, prefab, key, script or sound. */
  export const NotFound: i32 = -2;
  /** The manifest does not grant this. */
  export const Denied: i32 = -3;
  /** A string, value, list or radius is larger than allowed. */
  export const TooLarge: i32 = -4;
  /** An address or length outside the script's memory. */
  export const BadPointer: i32 = -5;
  /** A string that is not UTF-8. */
  export const BadUtf8: i32 = -6;
  /** A NaN or infinite number, or a coordinate outside the world. */
  export const BadNumber: i32 = -7;
  /** A value that the function does not take. */
  export const BadArgument: i32 = -8;
  /** The world or an inbox is full. */
  export const Full: i32 = -9;
  /** This host does not have this function. */
  export const Unsupported: i32 = -10;
  /** The store could not be read. */
  export const Unavailable: i32 = -11;
}

/** Why the last function that gave null did so. */
export let lastError: i32 = 0;

/** An entity; 0 is nobody, negative an ErrorCode. */
export type EntityId = i64;
/** A player; 0 is all. */
export type PlayerId = i64;
/** A sound that plays; negative is an ErrorCode. */
export type SoundId = i64;
/** A call; negative is an ErrorCode. */
export type CallId = i64;

/** Every player of the world. */
export const ALL_PLAYERS: PlayerId = 0;
/** The most entities of one batch or query. */
export const BATCH_MAX: i32 = 1024;

/** A place, direction or velocity. */
export class Vec3 {
  constructor(
    public x: f32 = 0,
    public y: f32 = 0,
    public z: f32 = 0,
  ) {}

  plus(o: Vec3): Vec3 {
    return new Vec3(this.x + o.x, this.y + o.y, this.z + o.z);
  }

  minus(o: Vec3): Vec3 {
    return new Vec3(this.x - o.x, this.y - o.y, this.z - o.z);
  }

  times(s: f32): Vec3 {
    return new Vec3(this.x * s, this.y * s, this.z * s);
  }

  length(): f32 {
    return sqrt<f32>(this.x * this.x + this.y * this.y + this.z * this.z);
  }

  /** The same direction with this length; zero stays zero. */
  resized(length: f32): Vec3 {
    const now = this.length();
    return now > 1e-6 ? this.times(length / now) : new Vec3();
  }

  /** The same without its height. */
  flat(): Vec3 {
    return new Vec3(this.x, 0, this.z);
  }
}

/** What a ray met. The fields lie as the WIT says: 24 bytes. */
export class RayHit {
  entity: EntityId = 0;
  distance: f32 = 0;
  normalX: f32 = 0;
  normalY: f32 = 0;
  normalZ: f32 = 0;
}

/** What is left of the allowances, in whole actions. The fields lie as the WIT says: 40 bytes. */
export class Allowances {
  fuel: u64 = 0;
  spawns: u32 = 0;
  rpcs: u32 = 0;
  storageWrites: u32 = 0;
  storageBytes: u32 = 0;
  uiCommands: u32 = 0;
  audioCommands: u32 = 0;
  logLines: u32 = 0;
  memoryBytes: u32 = 0;
}

/** Many bodies in the layout of the WIT, 36 bytes each, to read and write in one call. */
export class Bodies {
  readonly bytes: ArrayBuffer;

  constructor(readonly length: i32) {
    this.bytes = new ArrayBuffer(length * 36);
  }

  @inline private at(i: i32): usize {
    if (<u32>i >= <u32>this.length) throw new RangeError("no such body");
    return changetype<usize>(this.bytes) + <usize>i * 36;
  }

  entity(i: i32): EntityId {
    return load<i64>(this.at(i));
  }

  setEntity(i: i32, entity: EntityId): void {
    store<i64>(this.at(i), entity);
  }

  position(i: i32): Vec3 {
    const at = this.at(i);
    return new Vec3(load<f32>(at, 8), load<f32>(at, 12), load<f32>(at, 16));
  }

  setPosition(i: i32, to: Vec3): void {
    const at = this.at(i);
    store<f32>(at, to.x, 8);
    store<f32>(at, to.y, 12);
    store<f32>(at, to.z, 16);
  }

  velocity(i: i32): Vec3 {
    const at = this.at(i);
    return new Vec3(load<f32>(at, 20), load<f32>(at, 24), load<f32>(at, 28));
  }

  setVelocity(i: i32, to: Vec3): void {
    const at = this.at(i);
    store<f32>(at, to.x, 20);
    store<f32>(at, to.y, 24);
    store<f32>(at, to.z, 28);
  }

  yaw(i: i32): f32 {
    return load<f32>(this.at(i), 32);
  }

  setYaw(i: i32, yaw: f32): void {
    store<f32>(this.at(i), yaw, 32);
  }
}

// Objects do not move, and are collected only while another is made. So each function below makes all its objects first, and
// takes their addresses in the call.

@inline function at<T>(object: T): i32 {
  return <i32>changetype<usize>(object);
}

@inline function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

let scratch: ArrayBuffer | null = null;

/** Room for bytes whose number is not known yet: kept from call to call, so that most calls ask once. */
function room(): ArrayBuffer {
  let buffer = scratch;
  if (buffer === null) {
    buffer = new ArrayBuffer(256);
    scratch = buffer;
  }
  return buffer;
}

/** More room, if `there` says that it was too little. Null if it was enough. */
function more(there: i32): ArrayBuffer | null {
  if (there <= room().byteLength) return null;
  const buffer = new ArrayBuffer(there);
  scratch = buffer;
  return buffer;
}

/** The bytes in the room; null, with `lastError`, if the host gave an error. */
function taken(there: i32): ArrayBuffer | null {
  if (there < 0 || there > room().byteLength) {
    lastError = there < 0 ? there : ErrorCode.TooLarge;
    return null;
  }
  return room().slice(0, there);
}

function text(bytes: ArrayBuffer | null): string | null {
  return bytes === null ? null : String.UTF8.decode(bytes);
}

/** As many ids as fit of the `there` that there are. */
function ids(out: ArrayBuffer, there: i32): StaticArray<EntityId> | null {
  if (there < 0) {
    lastError = there;
    return null;
  }
  const fit = min(there, out.byteLength >> 3);
  const list = new StaticArray<EntityId>(fit);
  memory.copy(changetype<usize>(list), changetype<usize>(out), <usize>fit << 3);
  return list;
}

/** Null, with `lastError`, if the host gave an error. */
@inline function given<T>(object: T, answer: i32): T | null {
  if (answer < 0) {
    lastError = answer;
    return null;
  }
  return object;
}

/** Query, spawn, destroy and modify entities. */
export namespace entity {
  /** The entity that this script was started for. */
  export function self(): EntityId {
    return raw.entity_self_entity();
  }

  /** Make an entity from a prefab. The script owns it. */
  export function spawn(prefab: string, to: Vec3): EntityId {
    const name = utf8(prefab);
    return raw.entity_spawn(at(name), name.byteLength, to.x, to.y, to.z);
  }

  /** Remove an entity and its body. */
  export function destroy(entity: EntityId): i32 {
    return raw.entity_destroy(entity);
  }

  /** Its kind, as its prefab names it. */
  export function kind(entity: EntityId): string | null {
    let there = raw.entity_get_kind(entity, at(room()), room().byteLength);
    const again = more(there);
    if (again !== null) there = raw.entity_get_kind(entity, at(again), again.byteLength);
    return text(taken(there));
  }

  /** Where it is. */
  export function position(entity: EntityId): Vec3 | null {
    const out = new Vec3();
    return given(out, raw.entity_get_position(entity, at(out)));
  }

  /** Put it somewhere else, without a collision on the way. */
  export function setPosition(entity: EntityId, to: Vec3): i32 {
    return raw.entity_set_position(entity, to.x, to.y, to.z);
  }

  /** Turn it about the vertical axis, radians. */
  export function setYaw(entity: EntityId, yaw: f32): i32 {
    return raw.entity_set_yaw(entity, yaw);
  }

  /** Many bodies in one call, at most BATCH_MAX. One that does not exist gets entity 0. */
  export function readBodies(entities: StaticArray<EntityId>): Bodies | null {
    const bodies = new Bodies(entities.length);
    return given(bodies, raw.entity_read_bodies(at(entities), entities.length, at(bodies.bytes), bodies.length));
  }

  /** Many bodies in one call, at most BATCH_MAX. How many were written; others are skipped. */
  export function writeBodies(bodies: Bodies): i32 {
    return raw.entity_write_bodies(at(bodies.bytes), bodies.length);
  }

  /** A component's bytes. */
  export function component(entity: EntityId, name: string): ArrayBuffer | null {
    const key = utf8(name);
    let there = raw.entity_get_component(entity, at(key), key.byteLength, at(room()), room().byteLength);
    const again = more(there);
    if (again !== null) there = raw.entity_get_component(entity, at(key), key.byteLength, at(again), again.byteLength);
    return taken(there);
  }

  /** A component as text. */
  export function componentText(entity: EntityId, name: string): string | null {
    return text(component(entity, name));
  }

  /** Set a component: at most 64 bytes of name, 4096 of value, 32 components an entity. */
  export function setComponent(entity: EntityId, name: string, value: ArrayBuffer): i32 {
    const key = utf8(name);
    return raw.entity_set_component(entity, at(key), key.byteLength, at(value), value.byteLength);
  }

  /** Remove a component. */
  export function removeComponent(entity: EntityId, name: string): i32 {
    const key = utf8(name);
    return raw.entity_remove_component(entity, at(key), key.byteLength);
  }

  /** The entities of a kind, by id, at most `most`. */
  export function queryKind(kind: string, most: i32 = 64): StaticArray<EntityId> | null {
    const name = utf8(kind);
    const out = new ArrayBuffer(most << 3);
    return ids(out, raw.entity_query_kind(at(name), name.byteLength, at(out), most));
  }

  /** The entities within `radius`, nearest first, at most `most`; an empty kind means any. */
  export function queryRadius(around: Vec3, radius: f32, kind: string, most: i32 = 64): StaticArray<EntityId> | null {
    const name = utf8(kind);
    const out = new ArrayBuffer(most << 3);
    return ids(out, raw.entity_query_radius(around.x, around.y, around.z, radius, at(name), name.byteLength, at(out), most));
  }

  /** The nearest entity within `radius` that is not the script's own; an empty kind means any. */
  export function nearest(around: Vec3, radius: f32, kind: string): EntityId {
    const name = utf8(kind);
    return raw.entity_nearest(around.x, around.y, around.z, radius, at(name), name.byteLength);
  }
}

/** Apply forces, raycasts, overlap tests. */
export namespace physics {
  /** Newtons, for the coming physics step. */
  export function applyForce(entity: EntityId, force: Vec3): i32 {
    return raw.physics_apply_force(entity, force.x, force.y, force.z);
  }

  /** Newton seconds, at once. */
  export function applyImpulse(entity: EntityId, impulse: Vec3): i32 {
    return raw.physics_apply_impulse(entity, impulse.x, impulse.y, impulse.z);
  }

  /** Metres a second. */
  export function setVelocity(entity: EntityId, velocity: Vec3): i32 {
    return raw.physics_set_velocity(entity, velocity.x, velocity.y, velocity.z);
  }

  /** Metres a second. */
  export function velocity(entity: EntityId): Vec3 | null {
    const out = new Vec3();
    return given(out, raw.physics_get_velocity(entity, at(out)));
  }

  /** The first solid body that a ray meets; null with NotFound if none. It passes through `ignore` (0: through nobody). */
  export function raycast(from: Vec3, direction: Vec3, maxDistance: f32, ignore: EntityId): RayHit | null {
    const out = new RayHit();
    return given(
      out,
      raw.physics_raycast(from.x, from.y, from.z, direction.x, direction.y, direction.z, maxDistance, ignore, at(out)),
    );
  }

  /** The entities whose bodies touch a ball, by id, at most `most`. */
  export function overlapSphere(around: Vec3, radius: f32, most: i32 = 64): StaticArray<EntityId> | null {
    const out = new ArrayBuffer(most << 3);
    return ids(out, raw.physics_overlap_sphere(around.x, around.y, around.z, radius, at(out), most));
  }

  /** The entities whose bodies touch a box with these half sides, by id, at most `most`. */
  export function overlapBox(around: Vec3, half: Vec3, most: i32 = 64): StaticArray<EntityId> | null {
    const out = new ArrayBuffer(most << 3);
    return ids(out, raw.physics_overlap_box(around.x, around.y, around.z, half.x, half.y, half.z, at(out), most));
  }
}

/** Show and hide UI elements (at most 64 bytes), update text (at most 1024). */
export namespace ui {
  export function show(player: PlayerId, element: string, content: string): i32 {
    const e = utf8(element);
    const t = utf8(content);
    return raw.ui_show(player, at(e), e.byteLength, at(t), t.byteLength);
  }

  export function hide(player: PlayerId, element: string): i32 {
    const e = utf8(element);
    return raw.ui_hide(player, at(e), e.byteLength);
  }

  export function setText(player: PlayerId, element: string, content: string): i32 {
    const e = utf8(element);
    const t = utf8(content);
    return raw.ui_set_text(player, at(e), e.byteLength, at(t), t.byteLength);
  }
}

/** Sounds: `gain` 0 to 4, `pitch` 0.25 to 4, heard within `range` metres (0: everywhere). */
export namespace audio {
  /** Play a sound at a place. */
  export function play(
    sound: string,
    from: Vec3,
    gain: f32 = 1,
    pitch: f32 = 1,
    range: f32 = 30,
    looped: bool = false,
  ): SoundId {
    const name = utf8(sound);
    return raw.audio_play(at(name), name.byteLength, from.x, from.y, from.z, gain, pitch, range, looped);
  }

  export function stop(sound: SoundId): i32 {
    return raw.audio_stop(sound);
  }

  export function setSource(sound: SoundId, to: Vec3): i32 {
    return raw.audio_set_source(sound, to.x, to.y, to.z);
  }

  export function setParameters(sound: SoundId, gain: f32, pitch: f32, range: f32): i32 {
    return raw.audio_set_parameters(sound, gain, pitch, range);
  }
}

/** Calls and broadcasts, with payloads of at most 4096 bytes. */
export namespace network {
  /** Call a script: "merchant" in this world, "harbour/merchant" in another. Its answer comes with the same number. */
  export function rpc(target: string, method: string, payload: ArrayBuffer): CallId {
    const t = utf8(target);
    const m = utf8(method);
    return raw.network_rpc(at(t), t.byteLength, at(m), m.byteLength, at(payload), payload.byteLength);
  }

  /** `rpc` with text. */
  export function rpcText(target: string, method: string, payload: string): CallId {
    return rpc(target, method, utf8(payload));
  }

  /** Answer a call, once. */
  export function reply(call: CallId, payload: ArrayBuffer): i32 {
    return raw.network_reply(call, at(payload), payload.byteLength);
  }

  /** Tell every script of the world that subscribed to the topic. */
  export function broadcast(topic: string, payload: ArrayBuffer): i32 {
    const t = utf8(topic);
    return raw.network_broadcast(at(t), t.byteLength, at(payload), payload.byteLength);
  }

  /** `broadcast` with text. */
  export function broadcastText(topic: string, payload: string): i32 {
    return broadcast(topic, utf8(payload));
  }

  /** Get a topic's broadcasts as on_event. At most 16 topics a script. */
  export function subscribe(topic: string): i32 {
    const t = utf8(topic);
    return raw.network_subscribe(at(t), t.byteLength);
  }

  /** Send an event to a player. */
  export function sendPlayer(player: PlayerId, topic: string, payload: ArrayBuffer): i32 {
    const t = utf8(topic);
    return raw.network_send_player(player, at(t), t.byteLength, at(payload), payload.byteLength);
  }
}

/** Persistent keys (at most 128 bytes) and values (at most 65536), in the manifest's namespace. */
export namespace storage {
  /** Null with NotFound if there is none. */
  export function get(key: string): ArrayBuffer | null {
    const k = utf8(key);
    let there = raw.storage_get(at(k), k.byteLength, at(room()), room().byteLength);
    const again = more(there);
    if (again !== null) there = raw.storage_get(at(k), k.byteLength, at(again), again.byteLength);
    return taken(there);
  }

  export function set(key: string, value: ArrayBuffer): i32 {
    const k = utf8(key);
    return raw.storage_set(at(k), k.byteLength, at(value), value.byteLength);
  }

  /** NotFound if there is none. */
  export function remove(key: string): i32 {
    const k = utf8(key);
    return raw.storage_delete(at(k), k.byteLength);
  }

  /** The keys that begin with `prefix`, in order. */
  export function keys(prefix: string): string[] | null {
    const p = utf8(prefix);
    let there = raw.storage_keys(at(p), p.byteLength, at(room()), room().byteLength);
    const again = more(there);
    if (again !== null) there = raw.storage_keys(at(p), p.byteLength, at(again), again.byteLength);
    const all = text(taken(there));
    if (all === null) return null;
    const list = all.split("\0");
    // Each key ends with a zero byte, so after the last one there is nothing.
    list.pop();
    return list;
  }
}

/** What needs no grant. */
export namespace script {
  export enum Level {
    Error,
    Warning,
    Info,
    Debug,
  }

  /** Write a line to the script's log: at most 1024 bytes. */
  export function log(level: Level, message: string): i32 {
    const m = utf8(message);
    return raw.script_log(level, at(m), m.byteLength);
  }

  /** Nanoseconds of the world's clock, which stands still between ticks. */
  export function time(): u64 {
    return raw.script_time();
  }

  /** The number of the tick. */
  export function tick(): u64 {
    return raw.script_tick();
  }

  /** 64 random bits from the script's own seed, which is part of a checkpoint. */
  export function random(): u64 {
    return raw.script_random();
  }

  /** A random number from `low` to just below `high`. */
  export function randomBetween(low: f32, high: f32): f32 {
    return low + (high - low) * (<f32>(random() >> 40) / 16777216);
  }

  /** Fuel left in this call. */
  export function fuelLeft(): u64 {
    return raw.script_fuel_left();
  }

  /** What is left of the allowances. */
  export function allowancesLeft(): Allowances | null {
    const out = new Allowances();
    return given(out, raw.script_allowances_left(at(out)));
  }

  /** The version of this script's artifact. */
  export function version(): u32 {
    return raw.script_version();
  }
}

/** A call or the answer to one, from the arguments of on_message. */
export class Message {
  constructor(
    private sender: i64,
    /** The call's number, to answer it with. */
    readonly call: CallId,
    private address: i32,
    private methodLen: i32,
    private payloadLen: i32,
  ) {}

  /** Whether a player sent it, not a script. */
  get fromPlayer(): bool {
    return (this.sender & (<i64>1 << 62)) != 0;
  }

  /** The player's or script's number. */
  get from(): i64 {
    return this.sender & ~(<i64>1 << 62);
  }

  /** Whether this answers a call made here. */
  get isAnswer(): bool {
    return this.methodLen == 0;
  }

  get method(): string {
    return String.UTF8.decodeUnsafe(this.address, this.methodLen);
  }

  get text(): string {
    return String.UTF8.decodeUnsafe(this.address + this.methodLen, this.payloadLen);
  }

  /** Answer the call. */
  reply(answer: string): i32 {
    return network.reply(this.call, utf8(answer));
  }
}

/** What happened, from the arguments of on_event. */
export class Event {
  static readonly ContactBegan: i32 = 1;
  static readonly ContactEnded: i32 = 2;
  static readonly TriggerEntered: i32 = 3;
  static readonly TriggerLeft: i32 = 4;
  /** `a` is the sending script. */
  static readonly Broadcast: i32 = 5;
  /** `a` is the number of a call whose answer will not come. */
  static readonly Unanswered: i32 = 6;

  constructor(
    readonly kind: i32,
    /** The script's own entity, or see the kind. */
    readonly a: i64,
    /** The other entity. */
    readonly b: i64,
    private address: i32,
    private topicLen: i32,
    private payloadLen: i32,
  ) {}

  get topic(): string {
    return String.UTF8.decodeUnsafe(this.address, this.topicLen);
  }

  get text(): string {
    return String.UTF8.decodeUnsafe(this.address + this.topicLen, this.payloadLen);
  }
}

/** Bytes for save_state: `return new StateWriter(1).f32(x).i64(y).finish()`. Begin with a version of your own. */
export class StateWriter {
  private bytes: ArrayBuffer = new ArrayBuffer(256);
  private len: i32 = 0;

  constructor(version: u8) {
    this.put<u8>(version);
  }

  private put<T>(value: T): StateWriter {
    if (this.len + sizeof<T>() > this.bytes.byteLength) {
      const larger = new ArrayBuffer(this.bytes.byteLength << 1);
      memory.copy(changetype<usize>(larger), changetype<usize>(this.bytes), this.len);
      this.bytes = larger;
    }
    store<T>(changetype<usize>(this.bytes) + this.len, value);
    this.len += sizeof<T>();
    return this;
  }

  u8(value: u8): StateWriter {
    return this.put<u8>(value);
  }

  i32(value: i32): StateWriter {
    return this.put<i32>(value);
  }

  i64(value: i64): StateWriter {
    return this.put<i64>(value);
  }

  f32(value: f32): StateWriter {
    return this.put<f32>(value);
  }

  /** What save_state returns. The bytes stay until the next state is finished. */
  finish(): i64 {
    saved = this.bytes;
    return (<i64>changetype<usize>(this.bytes) << 32) | <i64>this.len;
  }
}

let saved: ArrayBuffer | null = null;

/** Reads what a StateWriter wrote. Past the end everything is 0 and `ok` is false. */
export class StateReader {
  readonly version: u8;
  ok: bool = true;
  private end: i32;

  constructor(
    private at: i32,
    len: i32,
  ) {
    this.end = at + len;
    this.version = this.u8();
  }

  private take<T>(): T {
    if (this.at + <i32>sizeof<T>() > this.end) {
      this.ok = false;
      return <T>0;
    }
    const value = load<T>(this.at);
    this.at += sizeof<T>();
    return value;
  }

  u8(): u8 {
    return this.take<u8>();
  }

  i32(): i32 {
    return this.take<i32>();
  }

  i64(): i64 {
    return this.take<i64>();
  }

  f32(): f32 {
    return this.take<f32>();
  }
}

/** Says which ABI the script was written for. Never called. */
export function aether_abi_1(): void {}

let exchange: ArrayBuffer | null = null;

/** Room for what the host hands over. One buffer that grows. */
export function aether_alloc(len: i32): i32 {
  let buffer = exchange;
  if (buffer === null || buffer.byteLength < len) {
    buffer = new ArrayBuffer(max(len, 256));
    exchange = buffer;
  }
  return at(buffer);
}

/** Where `assert` and failed checks end: a line in the log, then a trap. */
export function fail(message: string | null, file: string | null, line: u32, _column: u32): void {
  const what = (message === null ? "failed" : message) + " at " + (file === null ? "?" : file) + ":" + line.toString();
  script.log(script.Level.Error, what);
  unreachable();
}
