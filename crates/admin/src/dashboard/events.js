// What happened: script logs, failures, overload, reloads; new lines as they come.

import { live } from './app.js';
import { get } from './api.js';
import { empty, fill, h, text } from './dom.js';
import { LEVELS, clock, count } from './format.js';

const SHOWN = 400;

/** A line; `one`: on a world's own page. */
export function logLine(event, one = false) {
  const [word, tone] = LEVELS[event.level] ?? LEVELS[2];
  const where = one ? h('span.where', null, event.script ?? event.kind)
    : h('span.where', null, event.world ? h('a', { href: '#/world/' + event.world }, event.world) : '', event.world && event.script ? '/' : '', event.script ?? '');
  return h('li', null, h('time', { datetime: new Date(event.time_ms).toISOString() }, clock(event.time_ms)),
    h(`span${tone ? '.' + tone : '.faint'}`, null, event.kind === 'log' ? word : event.kind), where, h('span.text', null, event.text));
}

export function events(root, _, query) {
  const pick = { kind: query.get('kind') ?? '', level: query.get('level') ?? '3', world: query.get('world') ?? '', words: '' };
  let paused = null, older = [];
  const select = (label, field, options) => {
    const box = h('select', { 'aria-label': label, change: () => { pick[field] = box.value; draw(); } }, options.map(([value, words]) => h('option', { value, selected: value === pick[field] }, words)));
    return box;
  };
  const world = h('input', { placeholder: 'World', 'aria-label': 'World', value: pick.world, input: () => { pick.world = world.value.trim(); draw(); } });
  const search = h('input', { type: 'search', placeholder: 'Filter text', 'aria-label': 'Filter text', id: 'filter', input: () => { pick.words = search.value.toLowerCase(); draw(); } });
  const pause = h('button', { type: 'button', id: 'pause', 'aria-pressed': 'false', click: () => { paused = paused ? null : [...live.events]; pause.setAttribute('aria-pressed', String(!!paused)); pause.textContent = paused ? 'Follow' : 'Pause'; draw(); } }, 'Pause');
  const shown = h('span.soft.num'), list = h('ul.log', { 'aria-label': 'Events, newest first' });
  root.append(h('div.head', null, h('h1', null, 'Events'), h('span.grow'), h('div.filters', null, search, world,
    select('Kind', 'kind', [['', 'Every kind'], ['log', 'Script logs'], ['script', 'Script failures'], ['overload', 'Overload'], ['world', 'World failures'], ['reload', 'Reloads'], ['cluster', 'Cluster']]),
    select('Level', 'level', [['3', 'All levels'], ['2', 'Info and worse'], ['1', 'Warnings and worse'], ['0', 'Errors only']]), pause)),
    h('section.panel', null, h('div.top', null, h('h2', null, 'Newest first'), h('span.grow'), shown), h('div.scroll.tall', null, list)));

  function draw() {
    const now = paused ?? live.events;
    const first = now[0]?.seq ?? Infinity;
    const all = [...older.filter((event) => event.seq < first), ...now];
    const match = all.filter((e) => (!pick.kind || e.kind === pick.kind) && e.level <= Number(pick.level) && (!pick.world || (e.world ?? '').includes(pick.world)) &&
      (!pick.words || `${e.text} ${e.script ?? ''}`.toLowerCase().includes(pick.words)));
    const lines = match.slice(-SHOWN).reverse();
    text(shown, `${count(lines.length)} of ${count(match.length)}`);
    fill(list, lines.map((event) => event.seq).join() || 'none', () => (lines.length ? lines.map((event) => logLine(event))
      : h('li', null, empty(all.length ? 'No event matches' : 'Nothing happened yet', all.length ? 'Widen the filters to see more.' : 'Script logs, failures, overload and reloads appear here.'))));
  }
  get('/v1/events?limit=2000').then((answer) => { older = answer.events; draw(); }, () => {});
  live.addEventListener('events', draw);
  draw();
  return () => live.removeEventListener('events', draw);
}
