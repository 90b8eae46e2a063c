// Starts here: who looks, the live view of the node, which page is shown, keys.
//
// `live` holds what the stream told last; pages draw from it and ask the API for the rest (api.js). Everything on a page is drawn by
// the page's own file; numbers and words of states are in format.js.

import { get, refused, stream, token } from './api.js';
import { coded, fill, h, showDialog, text } from './dom.js';
import { cluster } from './cluster.js';
import { events } from './events.js';
import { overview } from './overview.js';
import { scripts } from './scripts.js';
import { world } from './world.js';

const EVENTS = 2_000;
const ROLES = ['viewer', 'operator', 'publisher'];

/** What the stream told: `node` (the summary), `worlds` (its columns as objects), `events` (the newest last). */
class Live extends EventTarget {
  node = null; worlds = []; names = []; version = 0; events = [];
  take(kind, data) {
    if (kind === 'names') { this.names = data.names; this.version = data.version; return; }
    if (kind === 'events') {
      const last = this.events[this.events.length - 1]?.seq ?? 0;
      // Numbers that begin anew: the node started again.
      const fresh = data[data.length - 1]?.seq < last ? data : data.filter((event) => event.seq > last);
      this.events = (fresh === data && data[0]?.seq <= last ? fresh : [...this.events, ...fresh]).slice(-EVENTS);
    } else if (kind === 'node') {
      this.node = data;
      document.querySelector('[data-page=cluster]').hidden = !data.cluster;
      const { state, load, p99_us, cores, node, trouble } = data.worlds;
      this.worlds = this.names.map((name, i) => ({
        name, state: data.states[state[i]], load: load[i] < 0 ? -1 : load[i] / 1000, p99: p99_us[i], cores: cores[i] / 1000, place: node[i], node: data.nodes[node[i]]?.name ?? null, trouble: trouble[i],
      }));
    }
    this.dispatchEvent(new Event(kind));
  }
  forget() { this.node = null; this.worlds = []; this.events = []; }
}

export const live = new Live();
export let me = null;
/** Whether the token's role may do what this role may. */
export const can = (role) => me !== null && ROLES.indexOf(me.role) >= ROLES.indexOf(role);

const $ = (id) => document.getElementById(id);
const pages = { overview, world, scripts, events, cluster };
let leave = () => {}, stop = () => {};

function route() {
  if (!me) return;
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [page, name] = path.split('/');
  const known = page === '' ? 'overview' : page in pages ? page : 'overview';
  leave();
  const main = $('main');
  main.replaceChildren();
  document.title = `${name ? decodeURIComponent(name) : known} · ${me.node} · Aether`;
  for (const link of $('nav').children) {
    if (link.dataset.page === known || (known === 'world' && link.dataset.page === 'overview')) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (me.note) main.append(h('p.note', { role: 'note' }, coded(me.note)));
  leave = pages[known](main, name ? decodeURIComponent(name) : undefined, new URLSearchParams(query ?? '')) ?? (() => {});
  scrollTo(0, 0);
}

function login(words) {
  leave(); leave = () => {};
  stop(); stop = () => {};
  me = null;
  live.forget();
  $('bar').hidden = true;
  $('stale').hidden = true;
  const input = h('input', { type: 'password', id: 'token', name: 'token', autocomplete: 'off', spellcheck: 'false', required: true, 'aria-describedby': 'login-error' });
  const error = h('p.error', { id: 'login-error', role: 'alert' }, words ?? '');
  const form = h('form', { submit: async (event) => {
    event.preventDefault();
    error.textContent = '';
    token.set(input.value.trim());
    try { await begin(); } catch (problem) { token.clear(); error.textContent = problem.message; input.select(); }
  } }, h('label', null, 'Token', input), error, h('button.main', { type: 'submit' }, 'Sign in'));
  $('main').replaceChildren(h('div.login', null, h('div.panel', null,
    h('h1', null, h('img', { src: '/dashboard/icon.svg', alt: '', width: 30, height: 30 }), 'Aether'),
    form), h('p.soft', null, 'The token stays in this tab. On the node’s machine one is made by'), h('pre.panel', null, 'aether token make NAME --role operator')));
  document.title = 'Sign in · Aether';
  input.focus();
}

async function begin() {
  me = await get('/v1/me');
  $('bar').hidden = false;
  const who = $('who');
  fill(who, me.id, () => [`${me.name || (me.id === 'loopback' ? 'this machine' : me.id)} · ${me.role}`]);
  who.onclick = () => {
    showDialog('Who you are', h('dl.facts-list', null, ...[['Token', me.name || me.id], ['Role', me.role], ['Node', me.node], ['Build', me.build]].flatMap(([a, b]) => [h('dt', null, a), h('dd', null, b)])),
      me.note ? h('p.note', null, coded(me.note)) : h('button', { type: 'button', click: () => { token.clear(); document.querySelector('dialog')?.close(); login(); } }, 'Sign out'));
  };
  stop();
  stop = stream('/v1/stream', (kind, data) => live.take(kind, data), linked);
  route();
}

function linked(how, words) {
  const link = $('link'), stale = $('stale');
  link.className = 'link ' + how;
  text(link, { live: 'live', late: 'late', off: 'offline' }[how]);
  stale.hidden = how === 'live';
  stale.className = 'banner' + (how === 'off' ? ' off' : '');
  text(stale, how === 'live' ? '' : how === 'late' ? `What you see is old: ${words}.` : `Offline: ${words}. What you see is from before; trying again.`);
}

const KEYS = [
  ['g o', 'Overview', () => { location.hash = '#/'; }], ['g s', 'Scripts', () => { location.hash = '#/scripts'; }], ['g e', 'Events', () => { location.hash = '#/events'; }], ['g c', 'Cluster', () => { location.hash = '#/cluster'; }],
  ['/', 'Filter', () => ($('filter') ?? document.querySelector('main input[type=search]'))?.focus()],
  ['p', 'Pause or follow events', () => $('pause')?.click()],
  ['Esc', 'Leave a field, close a dialog', () => document.activeElement?.blur()],
  ['?', 'This list', () => keys()],
];
function keys() {
  if (document.querySelector('dialog')) return;
  showDialog('Keyboard', h('dl.keys', null, ...KEYS.flatMap(([key, words]) => [h('dt', null, key.split(' ').flatMap((k, i) => [i ? ' then ' : '', h('kbd', null, k)])), h('dd', null, words)]),
    h('dt', null, h('kbd', null, '←↑→↓'), ' ', h('kbd', null, '↵')), h('dd', null, 'On a node’s worlds: choose one, open it')));
}
let before = '';
addEventListener('keydown', (event) => {
  const typing = event.target.matches?.('input, select, textarea');
  if (event.ctrlKey || event.metaKey || event.altKey || !me || document.querySelector('dialog') || (typing && event.key !== 'Escape')) return;
  const key = event.key === 'Escape' ? 'Esc' : event.key;
  const found = KEYS.find(([keys]) => keys === `${before} ${key}`) ?? KEYS.find(([keys]) => keys === key);
  before = found ? '' : key;
  if (found) { event.preventDefault(); found[2](); }
});

addEventListener('hashchange', route);
refused.addEventListener('refused', () => { if (me) { token.clear(); login('The token is not good any longer.'); } });
$('help').addEventListener('click', keys);
begin().catch((error) => login(error.status === 401 ? '' : error.message));
