// The WebSocket: a hello, frames, and coming back when it breaks, after longer and longer pauses.

import { decode, hello, input } from '/client/protocol.js';

/** Codes after which coming back would change nothing; what to tell the player. */
const FINAL = {
  4400: 'The gateway did not understand this page', 4401: '', 4404: 'There is no such world', 4406: 'This page is out of date: load it again',
  4409: 'You are playing in another window now', 4429: 'Too much was sent',
};
const PAUSE_FIRST = 500;
const PAUSE_MAX = 10_000;
/** Without a welcome within this time, a connection is given up. */
const WELCOME_WITHIN = 8_000;

export class Connection {
  /** `on`: { frame(frame), state(state, text), refused(text) }. */
  constructor(on) { this.on = on; this.pause = PAUSE_FIRST; this.wanted = null; this.socket = null; this.number = 0; }

  open(world, name, token) { this.wanted = { world, name, token }; this.pause = PAUSE_FIRST; this.dial(); }

  close() {
    this.wanted = null;
    clearTimeout(this.timer);
    this.socket?.close(1000);
  }

  dial() {
    if (!this.wanted) return;
    const { world, name, token } = this.wanted;
    this.on.state('connecting', 'connecting');
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/play`);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.timer = setTimeout(() => socket.close(), WELCOME_WITHIN);
    socket.onopen = () => socket.send(hello(world, name, token));
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      const frame = decode(data);
      if (frame.frame === 'welcome') { clearTimeout(this.timer); this.pause = PAUSE_FIRST; }
      this.on.frame(frame);
    };
    socket.onclose = ({ code, reason }) => {
      clearTimeout(this.timer);
      if (this.socket !== socket) return;
      this.socket = null;
      if (!this.wanted) return;
      if (code in FINAL) {
        this.wanted = null;
        this.on.refused(FINAL[code] || reason);
        return;
      }
      const pause = this.pause * (0.75 + Math.random() / 2);
      this.pause = Math.min(PAUSE_MAX, this.pause * 2);
      this.on.state('lost', `connection lost, again in ${Math.ceil(pause / 1000)} s`);
      this.timer = setTimeout(() => this.dial(), pause);
    };
  }

  /** Call a script; what cannot leave now is lost, as input may be. */
  send(script, method, payload) {
    if (this.socket?.readyState !== WebSocket.OPEN || this.socket.bufferedAmount > 4096) return false;
    this.number = (this.number + 1) >>> 0;
    this.socket.send(input(this.number, script, method, payload));
    return true;
  }
}
