// Numbers with units, and the words and colours of states.

const whole = new Intl.NumberFormat('en');

export const count = (n) => whole.format(Math.round(n));

/** Microseconds as a time. */
export function micros(us) {
  if (us >= 1e6) return (us / 1e6).toFixed(2) + ' s';
  if (us >= 1e3) return (us / 1e3).toFixed(us >= 1e4 ? 1 : 2) + ' ms';
  return (us >= 100 ? us.toFixed(0) : us.toFixed(1)) + ' µs';
}

/** The same as [number, unit]. */
export const microsParts = (us) => micros(us).split(' ');

export function short(n) {
  if (n >= 1e9) return (n / 1e9).toFixed(2) + ' G';
  if (n >= 1e6) return (n / 1e6).toFixed(1) + ' M';
  if (n >= 1e4) return (n / 1e3).toFixed(1) + ' k';
  return count(n);
}

export function bytes(n) {
  if (n >= 2 ** 30) return (n / 2 ** 30).toFixed(2) + ' GiB';
  if (n >= 2 ** 20) return (n / 2 ** 20).toFixed(1) + ' MiB';
  if (n >= 2 ** 10) return (n / 2 ** 10).toFixed(0) + ' KiB';
  return n + ' B';
}

export const percent = (share) => (share * 100).toFixed(share < 0.0995 ? 1 : 0) + '%';

export const clock = (ms) => new Date(ms).toLocaleTimeString('en-GB');

/** Worlds: tone and what it means. */
export const WORLD_STATES = {
  elsewhere: ['', 'on another node'], starting: ['info', 'being built or read from the store'], ticking: ['good', 'ticking'],
  held: ['warn', 'its output waits for the disk'], asleep: ['', 'saved and out of memory until somebody calls it'],
  restarting: ['warn', 'it ended and is started again'], parked: ['bad', 'it kept failing: an operator resumes it'],
  stopped: ['', 'stopped and saved'], unowned: ['bad', 'no node has it'],
};

/** Scripts: tone and what it means. */
export const SCRIPT_STATES = {
  running: ['good', 'has a turn in every tick that has room'],
  paused: ['info', 'out of fuel in the middle of a call: goes on in a later tick'],
  deferred: ['warn', 'waits for a tick with room: its priority rises meanwhile'],
  suspended: ['warn', 'taken out of the order by overload protection or an operator; its state is saved'],
  restarting: ['warn', 'it failed and comes back'],
  draining: ['info', 'finishes its call, then a new version takes its place'],
  finished: ['', 'done, or not to be started again'],
  parked: ['bad', 'kept failing: an operator resumes it'],
};

export const LEVELS = [['error', 'bad'], ['warn', 'warn'], ['info', 'info'], ['debug', '']];
export const GROUPS = ['entity', 'physics', 'ui', 'audio', 'network', 'storage', 'script'];

/** The step of the colour scale of a load, 0 to 1 and above. */
export const step = (load) => (load < 0.25 ? 0 : load < 0.5 ? 1 : load < 0.75 ? 2 : load < 0.9 ? 3 : 4);
