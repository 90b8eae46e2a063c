// The sky over the town: rain and wind that drift slowly towards values drawn from the script's own seed.
//
// Two looped sounds follow them. The topic `weather` tells what it is like, as `clear 0 wind 30` with percentages, when that
// changes and every fifteen seconds.

import { ErrorCode, SoundId, StateReader, StateWriter, Vec3, audio, network, script } from "../../../sdk/assemblyscript/assembly";
export { aether_abi_1, aether_alloc } from "../../../sdk/assemblyscript/assembly";

/** How fast rain and wind change, parts of the whole a second. */
const DRIFT: f32 = 0.04;
/** Seconds between two broadcasts of the same weather. */
const TELL_EVERY: f32 = 15;
/** Seconds between two changes of the sounds: clients fade between them. */
const SOUND_EVERY: f32 = 0.5;

let rain: f32 = 0;
let wind: f32 = 0.2;
let rainGoal: f32 = 0;
let windGoal: f32 = 0.2;
/** Seconds until new goals are drawn. */
let untilDraw: f32 = 0;
let untilTell: f32 = 0;
let untilSound: f32 = 0;
let told: i32 = -1;

// Saved, too; if the world did not keep the sounds, they are begun again.
let rainSound: SoundId = 0;
let windSound: SoundId = 0;

/** What it is like: 0 clear, 1 cloudy, 2 rain, 3 storm. */
function sky(): i32 {
  if (rain > 0.35) return wind > 0.7 ? 3 : 2;
  return rain > 0.1 || wind > 0.6 ? 1 : 0;
}

function word(sky: i32): string {
  return sky == 0 ? "clear" : sky == 1 ? "cloudy" : sky == 2 ? "rain" : "storm";
}

function percent(part: f32): string {
  return (<i32>(part * 100)).toString();
}

/** Squared, so that fine weather is more frequent than foul. */
function draw(): f32 {
  const random = script.randomBetween(0, 1.2);
  return min<f32>(1, random * random);
}

function towards(now: f32, goal: f32, step: f32): f32 {
  return goal > now ? min(goal, now + step) : max(goal, now - step);
}

/** The sound with these parameters; begun if it does not play (any more). Returns its handle. */
function sounding(sound: SoundId, name: string, gain: f32, pitch: f32): SoundId {
  if (sound > 0 && audio.setParameters(sound, gain, pitch, 0) != ErrorCode.NotFound) return sound;
  return audio.play(name, new Vec3(0, 20, 0), gain, pitch, 0, true);
}

function tell(): void {
  const now = sky();
  const changed = now != told;
  if (!changed && untilTell > 0) return;
  const text = word(now) + " " + percent(rain) + " wind " + percent(wind);
  // What was not sent is sent in a later tick.
  if (network.broadcastText("weather", text) < 0) return;
  if (changed) script.log(script.Level.Info, text);
  told = now;
  untilTell = TELL_EVERY;
}

export function on_tick(dt: f32): void {
  untilDraw -= dt;
  untilTell -= dt;
  untilSound -= dt;
  if (untilDraw <= 0) {
    rainGoal = draw();
    windGoal = draw();
    untilDraw = script.randomBetween(12, 30);
  }
  rain = towards(rain, rainGoal, DRIFT * dt);
  wind = towards(wind, windGoal, DRIFT * dt);
  tell();
  if (untilSound <= 0) {
    untilSound = SOUND_EVERY;
    rainSound = sounding(rainSound, "rain", rain, 1);
    windSound = sounding(windSound, "wind", wind, 0.7 + 0.6 * wind);
  }
}

export function on_stop(): void {
  if (rainSound > 0) audio.stop(rainSound);
  if (windSound > 0) audio.stop(windSound);
}

export function save_state(): i64 {
  return new StateWriter(1).f32(rain).f32(wind).f32(rainGoal).f32(windGoal).f32(untilDraw).i32(told).i64(rainSound).i64(windSound).finish();
}

export function restore_state(fromVersion: i32, address: i32, len: i32): i32 {
  const state = new StateReader(address, len);
  if (state.version != 1) return 1;
  rain = state.f32();
  wind = state.f32();
  rainGoal = state.f32();
  windGoal = state.f32();
  untilDraw = state.f32();
  told = state.i32();
  rainSound = state.i64();
  windSound = state.i64();
  return state.ok ? 0 : 1;
}
