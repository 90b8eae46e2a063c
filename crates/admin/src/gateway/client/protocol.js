// The protocol of crates/admin/src/gateway/protocol.rs, which explains every frame, as the browser speaks it.

export const VERSION = 1;
/** Metres of a step. */
export const STEP = 1 / 512;

const text = new TextEncoder();

function pack(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { bytes.set(part, at); at += part.length; }
  return bytes;
}

function str8(value) {
  const bytes = text.encode(value);
  if (bytes.length > 255) throw new RangeError('a text of more than 255 bytes');
  return pack([[bytes.length], bytes]);
}

function str16(value) {
  const bytes = text.encode(value);
  if (bytes.length > 65535) throw new RangeError('a text of more than 65535 bytes');
  return pack([[bytes.length & 255, bytes.length >> 8], bytes]);
}

export function hello(world, name, token) {
  return pack([[1], text.encode('AETH'), [VERSION, VERSION], str8(world), str8(name), str16(token)]);
}

export function input(number, script, method, payload) {
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, number, true);
  return pack([[2], head, str8(script), str8(method), payload]);
}

class Reader {
  constructor(buffer) { this.view = new DataView(buffer); this.at = 0; this.decoder = new TextDecoder(); }
  u8() { return this.view.getUint8(this.at++); }
  u16() { this.at += 2; return this.view.getUint16(this.at - 2, true); }
  u24() { return this.u16() | (this.u8() << 16); }
  i24() { return (this.u24() << 8) >> 8; }
  u32() { this.at += 4; return this.view.getUint32(this.at - 4, true); }
  u64() { this.at += 8; return this.view.getBigUint64(this.at - 8, true); }
  f32() { this.at += 4; return this.view.getFloat32(this.at - 4, true); }
  bytes(length) { const bytes = new Uint8Array(this.view.buffer, this.at, length); this.at += length; return bytes; }
  str8() { return this.decoder.decode(this.bytes(this.u8())); }
  str16() { return this.decoder.decode(this.bytes(this.u16())); }
  list(count, read) { return Array.from({ length: count }, read); }
  place() { return { x: this.f32(), y: this.f32(), z: this.f32() }; }
  sound() { return { gain: this.f32(), pitch: this.f32(), range: this.f32() }; }
  pose() {
    return { x: this.i24() * STEP, y: this.i24() * STEP, z: this.i24() * STEP, yaw: (this.u16() / 65536) * 2 * Math.PI };
  }
  kinds() { return this.list(this.u16(), () => [this.u16(), this.str8()]); }
  created() { return this.list(this.u24(), () => ({ slot: this.u24(), id: this.u64(), kind: this.u16(), ...this.pose() })); }
  command() {
    const which = this.u8();
    switch (which) {
      case 1: return { command: 'show', element: this.str8(), text: this.str16() };
      case 2: return { command: 'hide', element: this.str8() };
      case 3: return { command: 'text', element: this.str8(), text: this.str16() };
      case 4: return { command: 'play', handle: this.u64(), sound: this.str8(), place: this.place(), ...this.sound(), looped: this.u8() === 1 };
      case 5: return { command: 'stop', handle: this.u64() };
      case 6: return { command: 'move', handle: this.u64(), place: this.place() };
      case 7: return { command: 'tune', handle: this.u64(), ...this.sound() };
      case 8: return { command: 'event', topic: this.str8(), payload: this.bytes(this.u16()).slice() };
      default: throw new RangeError(`no command ${which}`);
    }
  }
}

/** A frame of the gateway as an object; throws a RangeError if it is none. */
export function decode(buffer) {
  const read = new Reader(buffer);
  const type = read.u8();
  switch (type) {
    case 0x81: return { frame: 'welcome', version: read.u8(), player: read.u64(), hz: read.f32(), inputs: read.u16(), world: read.str8(), name: read.str8() };
    case 0x82: return { frame: 'snapshot', tick: read.u64(), kinds: read.kinds(), created: read.created() };
    case 0x83: return {
      frame: 'tick', tick: read.u64(), kinds: read.kinds(), gone: read.list(read.u24(), () => read.u24()), created: read.created(),
      moved: read.list(read.u24(), () => ({ slot: read.u24(), ...read.pose() })),
    };
    case 0x84: return { frame: 'commands', tick: read.u64(), commands: read.list(read.u16(), () => read.command()) };
    case 0x85: return { frame: 'resync', reason: read.u8() };
    case 0x86: return { frame: 'refused', number: read.u32(), reason: read.u8() };
    default: throw new RangeError(`no frame begins with ${type}`);
  }
}
