// A gate that opens for who comes near, and closes some seconds after the last one left.
//
// The script's own entity is the trigger; what moves is a leaf that it spawns in the same place. Every change is broadcast as
// `door` with `open` or `closed`.

import { Event, EntityId, StateReader, StateWriter, Vec3, audio, entity, network, physics, script } from "../../../sdk/assemblyscript/assembly";
export { aether_abi_1, aether_alloc } from "../../../sdk/assemblyscript/assembly";

/** How far the leaf rises, metres. */
const RISE: f32 = 2.6;
/** Metres a second. */
const SPEED: f32 = 2.0;
/** Seconds that the gate waits when nobody is near. */
const PATIENCE: f32 = 2.5;

/** Where the gate stands or is on its way to. */
const SHUT: u8 = 0;
const OPEN: u8 = 1;

let wanted: u8 = SHUT;
let moving: bool = false;
let empty: f32 = 0;
let leaf: EntityId = 0;
let passages: i32 = 0;
let foot: Vec3 | null = null;
let near: EntityId[] | null = null;

function those(): EntityId[] {
  let list = near;
  if (list === null) {
    list = [];
    near = list;
  }
  return list;
}

/** Birds, balls and the leaf itself open nothing. */
function opens(kind: string | null): bool {
  if (kind === null) return false;
  return kind == "player" || kind == "customer" || kind == "guard" || kind == "thief";
}

/** Where the leaf stands when shut; null if the script has no entity. */
function place(): Vec3 | null {
  if (foot === null) foot = entity.position(entity.self());
  return foot;
}

function hang(at: Vec3): bool {
  if (leaf <= 0) leaf = entity.spawn("door-leaf", at);
  return leaf > 0;
}

function want(state: u8): void {
  if (wanted == state) return;
  wanted = state;
  moving = true;
  const at = place();
  if (at !== null) audio.play(state == OPEN ? "gate-open" : "gate-close", at, 1, 1, 25);
  network.broadcastText("door", state == OPEN ? "open" : "closed");
  if (state == OPEN && ++passages % 10 == 0) {
    script.log(script.Level.Info, "opened " + passages.toString() + " times");
  }
}

/** Lets physics carry the leaf, so that clients see it slide, and puts it exactly where it belongs at the end. */
function slide(at: Vec3): void {
  const now = entity.position(leaf);
  if (now === null) {
    leaf = 0; // somebody took it off its hinges
    return;
  }
  const goal = wanted == OPEN ? at.y + RISE : at.y;
  const way = goal - now.y;
  if (abs(way) > 0.1) {
    physics.setVelocity(leaf, new Vec3(0, way > 0 ? SPEED : -SPEED, 0));
    return;
  }
  physics.setVelocity(leaf, new Vec3());
  entity.setPosition(leaf, new Vec3(at.x, goal, at.z));
  moving = false;
}

export function on_start(): void {
  const at = place();
  if (at !== null) hang(at);
}

export function on_tick(dt: f32): void {
  const at = place();
  if (at === null || !hang(at)) return;
  if (wanted == OPEN && those().length == 0) {
    empty += dt;
    if (empty > PATIENCE) want(SHUT);
  }
  if (moving) slide(at);
}

export function on_event(kind: i32, a: i64, b: i64, address: i32, topicLen: i32, payloadLen: i32): void {
  if (kind == Event.TriggerEntered && opens(entity.kind(b))) {
    if (!those().includes(b)) those().push(b);
    empty = 0;
    want(OPEN);
  } else if (kind == Event.TriggerLeft) {
    // By id alone: who left may exist no more.
    const which = those().indexOf(b);
    if (which >= 0) those().splice(which, 1);
    empty = 0;
  }
}

export function on_stop(): void {
  if (leaf > 0) entity.destroy(leaf);
}

export function save_state(): i64 {
  const at = place();
  const state = new StateWriter(1).i64(leaf).i32(passages).u8(wanted).f32(empty);
  state.f32(at === null ? 0 : at.x).f32(at === null ? 0 : at.y).f32(at === null ? 0 : at.z);
  state.i32(those().length);
  for (let i = 0; i < those().length; i++) state.i64(those()[i]);
  return state.finish();
}

export function restore_state(fromVersion: i32, address: i32, len: i32): i32 {
  const state = new StateReader(address, len);
  if (state.version != 1) return 1;
  leaf = state.i64();
  passages = state.i32();
  wanted = state.u8();
  empty = state.f32();
  foot = new Vec3(state.f32(), state.f32(), state.f32());
  // Not where it was on its way, but that it may have been.
  moving = true;
  const list: EntityId[] = [];
  for (let left = state.i32(); left > 0 && state.ok; left--) list.push(state.i64());
  near = list;
  return state.ok ? 0 : 1;
}
