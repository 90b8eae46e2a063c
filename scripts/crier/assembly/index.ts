// Asks the keeper every ten seconds how often the bell has rung, and calls it out. The example of the guide for AssemblyScript.

import { CallId, ErrorCode, Event, Message, StateReader, StateWriter, network, script } from "../../../sdk/assemblyscript/assembly";
export { aether_abi_1, aether_alloc } from "../../../sdk/assemblyscript/assembly";

const EVERY: f32 = 10;

let wait: f32 = 1;
/** The call whose answer is awaited; 0: none. */
let asked: CallId = 0;

export function on_tick(dt: f32): void {
  wait -= dt;
  if (wait > 0 || asked != 0) return;
  const call = network.rpcText("keeper", "rings", "");
  // NotFound: no keeper in this world. Another error may pass: either way, later.
  if (call < 0) {
    script.log(script.Level.Warning, call == ErrorCode.NotFound ? "there is no keeper" : "the keeper cannot be asked");
    wait = EVERY;
    return;
  }
  asked = call;
}

export function on_message(from: i64, call: i64, address: i32, methodLen: i32, payloadLen: i32): void {
  const message = new Message(from, call, address, methodLen, payloadLen);
  if (!message.isAnswer || call != asked) return;
  script.log(script.Level.Info, "the bell has rung " + message.text + " times");
  asked = 0;
  wait = EVERY;
}

export function on_event(kind: i32, a: i64, b: i64, address: i32, topicLen: i32, payloadLen: i32): void {
  const event = new Event(kind, a, b, address, topicLen, payloadLen);
  // No answer after ten seconds: the keeper is busy, or gone.
  if (event.kind == Event.Unanswered && a == asked) asked = 0;
}

export function save_state(): i64 {
  return new StateWriter(1).f32(wait).i64(asked).finish();
}

export function restore_state(fromVersion: i32, address: i32, len: i32): i32 {
  const state = new StateReader(address, len);
  if (state.version != 1) return 1;
  wait = state.f32();
  asked = state.i64();
  return state.ok ? 0 : 1;
}
