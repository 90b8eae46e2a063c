// Asks the node: JSON with the token, and streams that come back by themselves.
//
// The token lives in this tab's sessionStorage only. EventSource cannot send it, so streams are read from fetch.

const KEY = 'aether-token';

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  clear: () => sessionStorage.removeItem(KEY),
};

/** Told when the node does not accept the token any longer. */
export const refused = new EventTarget();

export class ApiError extends Error {
  constructor(status, words) { super(words); this.status = status; }
}

function headers(more) {
  const text = token.get();
  return { ...(text ? { authorization: `Bearer ${text}` } : {}), ...more };
}

async function fail(response) {
  let words = `${response.status} ${response.statusText}`;
  try {
    const problem = await response.json();
    // What a version said before it was refused says more than that it was.
    words = [problem.detail ?? words, ...(problem.log ?? []).slice(-3)].join(' · ');
  } catch { /* no problem document: the status is what there is to say */ }
  if (response.status === 401) refused.dispatchEvent(new Event('refused'));
  throw new ApiError(response.status, words);
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', ...options });
  } catch {
    throw new ApiError(0, 'the node does not answer');
  }
  return response.ok ? response : fail(response);
}

export async function get(path) {
  return (await send(path, { headers: headers() })).json();
}

export async function post(path, body = {}) {
  return (await send(path, { method: 'POST', headers: headers({ 'content-type': 'application/json' }), body: JSON.stringify(body) })).json();
}

/** A name as part of a path. */
export const part = encodeURIComponent;

const QUIET_MS = 5_000;
const WAIT_MIN_MS = 500;
const WAIT_MAX_MS = 15_000;
const HIDDEN_MS = 60_000;

/**
 * A stream of server-sent events. on(kind, data, id) is told each; state('live' | 'late' | 'off', words) how it goes. Gives a function
 * that ends it. A page that nobody has looked at for a minute lets it go, and takes it up again when looked at.
 */
export function stream(path, on, state = () => {}) {
  let ended = false, abort = null, wait = WAIT_MIN_MS, last = null, timer = 0, heard = 0, wake = null, away = 0;
  const quiet = setInterval(() => {
    if (abort && heard && Date.now() - heard > QUIET_MS) {
      state('late', 'no news for ' + Math.round((Date.now() - heard) / 1000) + ' s');
      if (Date.now() - heard > 4 * QUIET_MS) abort.abort();
    }
  }, 1_000);
  const seen = () => {
    clearTimeout(away);
    if (document.hidden) away = setTimeout(() => abort?.abort(), HIDDEN_MS);
    else wake?.();
  };
  document.addEventListener('visibilitychange', seen);

  async function once() {
    abort = new AbortController();
    const url = last == null ? path : path + (path.includes('?') ? '&' : '?') + 'since=' + last;
    const response = await send(url, { headers: headers(), signal: abort.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError(0, 'the node closed the stream');
      rest += value;
      let end;
      while ((end = rest.indexOf('\n\n')) >= 0) {
        const lines = rest.slice(0, end).split('\n');
        rest = rest.slice(end + 2);
        const field = (name) => lines.find((line) => line.startsWith(name + ': '))?.slice(name.length + 2);
        const id = field('id');
        if (id) last = Number(id);
        heard = Date.now();
        wait = WAIT_MIN_MS;
        state('live');
        on(field('event'), JSON.parse(field('data') ?? 'null'), id);
      }
    }
  }

  async function run() {
    while (!ended) {
      try { await once(); } catch (error) {
        if (ended) return;
        state('off', error.status === 401 ? 'signed out' : error.status ? error.message : 'the node does not answer');
        if (error.status === 401 || error.status === 404 || error.status === 421) return;
      }
      const delay = document.hidden ? 86_400_000 : wait * (0.75 + Math.random() / 2);
      await new Promise((go) => { wake = go; timer = setTimeout(go, delay); });
      clearTimeout(timer);
      wait = Math.min(wait * 2, WAIT_MAX_MS);
    }
  }
  run();
  return () => {
    ended = true;
    clearInterval(quiet);
    clearTimeout(away);
    document.removeEventListener('visibilitychange', seen);
    abort?.abort();
    wake?.();
  };
}
