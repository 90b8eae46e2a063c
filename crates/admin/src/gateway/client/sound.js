// Sounds by their names, made here: a few oscillators and noise each, no files. Where one comes from is heard by side and loudness.

/** Sounds at a time; a looped one counts as one. */
const VOICES_MAX = 32;

/** What a name sounds like: tones [frequency, from, to, in seconds, wave] and noise [filter, frequency, from, to]. */
const RECIPES = {
  step: { noise: [['lowpass', 420, 0, 0.07]], gain: 0.9 },
  wave: { tones: [[660, 0, 0.12, 'sine'], [880, 0.1, 0.3, 'sine']], gain: 0.4 },
  chirp: { tones: [[2400, 0, 0.05, 'sine'], [3100, 0.06, 0.12, 'sine']], gain: 0.2 },
  whistle: { tones: [[1900, 0, 0.18, 'triangle'], [2300, 0.2, 0.5, 'triangle']], gain: 0.3 },
  greeting: { tones: [[392, 0, 0.14, 'triangle'], [523, 0.14, 0.34, 'triangle']], gain: 0.4 },
  gotcha: { tones: [[523, 0, 0.12, 'square'], [392, 0.12, 0.24, 'square'], [294, 0.24, 0.5, 'square']], gain: 0.15 },
  coins: { tones: [[1760, 0, 0.06, 'sine'], [2217, 0.05, 0.14, 'sine'], [2637, 0.1, 0.26, 'sine']], gain: 0.25 },
  bounce: { tones: [[180, 0, 0.12, 'sine']], noise: [['lowpass', 300, 0, 0.05]], gain: 0.7 },
  'gate-open': { tones: [[90, 0, 0.9, 'sawtooth']], noise: [['bandpass', 700, 0, 0.9]], gain: 0.3 },
  'gate-close': { tones: [[80, 0, 0.7, 'sawtooth']], noise: [['lowpass', 260, 0.6, 0.9]], gain: 0.4 },
  rain: { noise: [['highpass', 1400, 0, 1]], gain: 0.12 },
  wind: { noise: [['bandpass', 320, 0, 1]], gain: 0.25 },
};

/** What nobody has written down has a voice of its own, always the same. */
function unknown(name) {
  let hash = 7;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return { tones: [[220 + (hash % 880), 0, 0.2, 'triangle']], gain: 0.3 };
}

export class Sounds {
  constructor() { this.context = null; this.playing = new Map(); this.ear = { x: 0, z: 0 }; this.muted = false; this.count = 0; }

  /** Browsers allow it only after the player did something. */
  wake() {
    if (!this.context) {
      this.context = new AudioContext();
      this.master = this.context.createGain();
      this.master.connect(this.context.destination);
      const seconds = 2;
      this.noise = this.context.createBuffer(1, seconds * this.context.sampleRate, this.context.sampleRate);
      const samples = this.noise.getChannelData(0);
      for (let i = 0; i < samples.length; i++) samples[i] = Math.random() * 2 - 1;
      this.mute(this.muted);
    }
    this.context.resume();
  }

  mute(muted) {
    this.muted = muted;
    this.master?.gain.setTargetAtTime(muted ? 0 : 0.8, this.context.currentTime, 0.02);
  }

  clear() { for (const handle of [...this.playing.keys()]) this.stop(handle); }

  /** The player's ears. */
  listen(place) {
    this.ear = place;
    for (const voice of this.playing.values()) this.set(voice);
  }

  play({ handle, sound, place, gain, pitch, range, looped }) {
    this.count++;
    if (!this.context || (this.playing.size >= VOICES_MAX && !looped)) return;
    const recipe = RECIPES[sound] ?? unknown(sound);
    const voice = { place, gain: gain * recipe.gain, range, level: this.context.createGain(), side: this.context.createStereoPanner(), sources: [] };
    voice.level.connect(voice.side).connect(this.master);
    this.set(voice, true);
    if (voice.level.gain.value === 0 && !looped) return;
    const now = this.context.currentTime;
    let end = now;
    for (const [frequency, from, to, wave] of recipe.tones ?? []) {
      const tone = this.context.createOscillator();
      tone.type = wave;
      tone.frequency.value = frequency * pitch;
      end = Math.max(end, this.envelope(tone, voice, now + from, now + to, looped));
    }
    for (const [filter, frequency, from, to] of recipe.noise ?? []) {
      const noise = this.context.createBufferSource();
      noise.buffer = this.noise;
      noise.loop = true;
      const shape = this.context.createBiquadFilter();
      shape.type = filter;
      shape.frequency.value = frequency * pitch;
      end = Math.max(end, this.envelope(noise, voice, now + from, now + to, looped, shape));
    }
    this.playing.set(handle, voice);
    if (!looped) setTimeout(() => this.stop(handle), (end - now) * 1000 + 50);
  }

  /** A source that swells and fades, and when it is over. */
  envelope(source, voice, from, to, looped, shape) {
    const swell = this.context.createGain();
    swell.gain.setValueAtTime(0, from);
    swell.gain.linearRampToValueAtTime(1, from + (looped ? 0.5 : 0.01));
    (shape ? source.connect(shape) : source).connect(swell).connect(voice.level);
    source.start(from);
    if (!looped) {
      swell.gain.setTargetAtTime(0, Math.max(from + 0.01, to - 0.06), 0.02);
      source.stop(to + 0.1);
    }
    voice.sources.push(source);
    return to + 0.1;
  }

  stop(handle) {
    const voice = this.playing.get(handle);
    if (!voice) return;
    this.playing.delete(handle);
    for (const source of voice.sources) source.stop();
    voice.side.disconnect();
  }

  move({ handle, place }) { this.change(handle, { place }); }
  tune({ handle, gain, range }) { this.change(handle, { gain: gain * 0.3, range }); }

  change(handle, changes) {
    const voice = this.playing.get(handle);
    if (voice) { Object.assign(voice, changes); this.set(voice); }
  }

  /** Loudness falls to nothing at the range; 0 is heard everywhere, from the middle. */
  set(voice, atOnce = false) {
    const [dx, dz] = [voice.place.x - this.ear.x, voice.place.z - this.ear.z];
    const distance = Math.hypot(dx, dz);
    const level = voice.range === 0 ? voice.gain : voice.gain * Math.max(0, 1 - distance / voice.range) ** 1.5;
    const side = voice.range === 0 ? 0 : Math.max(-1, Math.min(1, dx / 12));
    if (atOnce) {
      voice.level.gain.value = level;
      voice.side.pan.value = side;
    } else {
      voice.level.gain.setTargetAtTime(level, this.context.currentTime, 0.05);
      voice.side.pan.setTargetAtTime(side, this.context.currentTime, 0.05);
    }
  }
}
