// Somebody who lives here: earns a little, gets hungry, walks to the merchant, asks the price, buys if it is fair, walks home.
//
// All talk with the merchant is by RPC. An answer that does not come, or that nobody understands, ends in going home.

import { Event, CallId, EntityId, Message, StateReader, StateWriter, Vec3, audio, entity, network, physics, script } from "../../../sdk/assemblyscript/assembly";
export { aether_abi_1, aether_alloc } from "../../../sdk/assemblyscript/assembly";

/** Metres a second. */
const WALK: f32 = 1.4;
/** How close is close enough to talk, metres. */
const TALK: f32 = 2.2;
/** Seconds to wait for an answer. */
const PATIENCE: f32 = 5;
/** Seconds that it takes to earn a coin. */
const COIN_EVERY: f32 = 4;
/** How far from where it was put it chooses its home, metres: several customers may be put in one place. */
const SPREAD: f32 = 4;

// What the customer is about. An answer is waited for only while asking or buying.
const HOME: u8 = 0;
const TO_SHOP: u8 = 1;
const ASKING: u8 = 2;
const BUYING: u8 = 3;
const TO_HOME: u8 = 4;

let about: u8 = TO_HOME;
/** Seconds until the next thing: leaving home, or giving up on an answer. */
let wait: f32 = 0;
let coins: f32 = 10;
let bought: i32 = 0;
let home: Vec3 | null = null;
let me: EntityId = 0;
let call: CallId = 0;
let item: i32 = 0;

function itemName(): string {
  return item == 0 ? "bread" : item == 1 ? "apple" : item == 2 ? "cheese" : "lantern";
}

/** What it would pay at most, coins. */
function worth(): i32 {
  return item == 0 ? 5 : item == 1 ? 2 : item == 2 ? 14 : 20;
}

/** Its home, chosen near where it is if it has none. */
function settle(here: Vec3): Vec3 {
  if (home === null) {
    const spread = new Vec3(script.randomBetween(-SPREAD, SPREAD), 0, script.randomBetween(-SPREAD, SPREAD));
    home = here.plus(spread);
  }
  return <Vec3>home;
}

function say(text: string): void {
  script.log(script.Level.Info, text);
  if (me > 0) entity.setComponent(me, "says", String.UTF8.encode(text));
}

/** Walks over the ground; true when it is there. */
function go(here: Vec3, to: Vec3, near: f32): bool {
  const way = to.minus(here).flat();
  const there = way.length() < near;
  physics.setVelocity(me, there ? new Vec3() : way.resized(WALK));
  return there;
}

/** Walks to `goal`, through the gate if that lies between; true when it is there. */
function travel(here: Vec3, goal: Vec3, near: f32): bool {
  const door = entity.nearest(here, 200, "door");
  const gate = door > 0 ? entity.position(door) : null;
  // Both factors have one sign where the gate is ahead; near the gate the product is small.
  if (gate !== null && (gate.x - here.x) * (goal.x - gate.x) > 2) {
    go(here, gate, 0.05);
    return false;
  }
  return go(here, goal, near);
}

function ask(method: string, payload: string, next: u8): void {
  call = network.rpcText("merchant", method, payload);
  if (call < 0) {
    leave("nobody to talk to");
    return;
  }
  about = next;
  wait = PATIENCE;
}

function leave(why: string): void {
  if (why.length > 0) say(why);
  call = 0;
  about = TO_HOME;
}

/** The number after the last space, or -1. */
function lastNumber(text: string): i32 {
  const space = text.lastIndexOf(" ");
  if (space < 0 || space == text.length - 1) return -1;
  return I32.parseInt(text.substring(space + 1));
}

export function on_tick(dt: f32): void {
  if (me <= 0) me = entity.self();
  const here = entity.position(me);
  if (here === null) return;
  const house = settle(here);
  wait -= dt;
  coins += dt / COIN_EVERY;
  if (about == HOME) {
    if (wait <= 0 && coins >= 5) {
      item = <i32>(script.random() % 4);
      // Nobody dreams of a lantern with five coins.
      if (worth() > <i32>coins) item = 0;
      about = TO_SHOP;
    }
  } else if (about == TO_SHOP) {
    const shop = entity.nearest(here, 200, "merchant");
    const stall = shop > 0 ? entity.position(shop) : null;
    if (stall === null) leave("where is the shop?");
    else if (travel(here, stall, TALK)) ask("price", itemName(), ASKING);
  } else if (about == TO_HOME) {
    if (travel(here, house, 0.4)) {
      about = HOME;
      wait = script.randomBetween(4, 12);
    }
  } else if (wait <= 0) {
    leave("no answer");
  }
}

export function on_message(from: i64, number: i64, address: i32, methodLen: i32, payloadLen: i32): void {
  const message = new Message(from, number, address, methodLen, payloadLen);
  if (!message.isAnswer) {
    message.reply("good day");
    return;
  }
  // Late answers, to a call given up, are nobody's business.
  if (number != call || call <= 0) return;
  const answer = message.text;
  if (about == ASKING) {
    const price = lastNumber(answer);
    if (price <= 0) leave("strange shop: " + answer);
    else if (price > <i32>coins) leave("too poor for " + itemName());
    else if (price > worth()) leave(itemName() + " for " + price.toString() + "? a scandal");
    else ask("buy", itemName() + " 1", BUYING);
  } else if (about == BUYING) {
    if (answer.startsWith("ok ")) {
      coins -= <f32>lastNumber(answer);
      bought++;
      const here = entity.position(me);
      if (here !== null) audio.play("coins", here, 0.4, 1, 10);
      leave("bought " + itemName() + ", " + (<i32>coins).toString() + " coins left");
    } else {
      leave("no luck: " + answer);
    }
  }
}

export function on_event(kind: i32, a: i64, b: i64, address: i32, topicLen: i32, payloadLen: i32): void {
  if (kind == Event.Unanswered && a == call && (about == ASKING || about == BUYING)) leave("the shop does not answer");
}

export function on_stop(): void {
  if (me > 0) physics.setVelocity(me, new Vec3());
}

export function save_state(): i64 {
  const at = home === null ? new Vec3() : <Vec3>home;
  const state = new StateWriter(1).u8(about).u8(home === null ? 0 : 1).f32(wait).f32(coins).i32(bought).i32(item).i64(call);
  return state.f32(at.x).f32(at.y).f32(at.z).finish();
}

export function restore_state(fromVersion: i32, address: i32, len: i32): i32 {
  const state = new StateReader(address, len);
  if (state.version != 1) return 1;
  about = state.u8();
  const settled = state.u8() == 1;
  wait = state.f32();
  coins = state.f32();
  bought = state.i32();
  item = state.i32();
  call = state.i64();
  const at = new Vec3(state.f32(), state.f32(), state.f32());
  home = settled ? at : null;
  return state.ok ? 0 : 1;
}
