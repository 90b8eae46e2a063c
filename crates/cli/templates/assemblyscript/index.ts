// Counts how often it is asked, and tells.

import { Message, StateReader, StateWriter, script } from "../sdk/assembly";
export { aether_abi_1, aether_alloc } from "../sdk/assembly";

let asked: i32 = 0;
let seconds: f32 = 0;

export function on_start(): void {
  script.log(script.Level.Info, "{{name}} begins");
}

export function on_tick(dt: f32): void {
  seconds += dt;
}

export function on_message(from: i64, call: i64, address: i32, methodLen: i32, payloadLen: i32): void {
  const message = new Message(from, call, address, methodLen, payloadLen);
  if (message.isAnswer || message.method != "count") return;
  asked++;
  message.reply(asked.toString());
}

// What the next version goes on with. It begins with a number for its layout: raise it when the fields change.
export function save_state(): i64 {
  return new StateWriter(1).i32(asked).f32(seconds).finish();
}

export function restore_state(fromVersion: i32, address: i32, len: i32): i32 {
  const state = new StateReader(address, len);
  if (state.version != 1) return 1;
  asked = state.i32();
  seconds = state.f32();
  return state.ok ? 0 : 1;
}
