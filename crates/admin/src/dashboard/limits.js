// A world's limits: how much of each is used, and what rate limits refused its scripts. And its flight record.

import { get } from './api.js';
import { fill, h, showDialog, tag, text } from './dom.js';
import { bytes, clock, count, micros, percent } from './format.js';

const LOOK_MS = 3_000;
/** What is called what for people. */
const WORDS = {
  tick_budget_ms: 'Tick p99', scripts_max: 'Scripts', entities_max: 'Entities', memory_mb: 'Memory', storage_mb: 'Storage', paused_max: 'Paused scripts',
};
export const ACTIONS = ['spawn', 'rpc', 'storage_write', 'storage_bytes', 'ui', 'audio', 'log'];

/** How often a script was refused something, in all. */
export const refused = (script) => (script.refused ?? []).reduce((sum, n) => sum + n, 0);

const amount = (value, unit) => (unit === 'bytes' ? bytes(value) : unit === 'microseconds' ? micros(value) : count(value));

/** The panel; gives { element, stop }. */
export function limits(path) {
  const rows = h('div.limits'), hits = h('div', { id: 'hits' }), box = h('section.panel', { 'aria-label': 'Limits', hidden: true },
    h('div.top', null, h('h2', null, 'Limits')), rows, h('div.top.hits', null, h('h2', null, 'Rate-limit hits'), hits));
  let ended = false, timer = 0;
  const draw = (told) => {
    box.hidden = false;
    for (const limit of told.limits) {
      let row = rows.querySelector(`[data-name="${limit.name}"]`);
      if (!row) {
        row = h('div.limit', { 'data-name': limit.name }, h('span', null, WORDS[limit.name] ?? limit.name), h('span.num.soft'), h('div.meter', { 'aria-hidden': 'true' }, h('i')));
        rows.append(row);
      }
      const share = limit.max ? limit.used / limit.max : 0;
      text(row.children[1], `${amount(limit.used, limit.unit)} of ${amount(limit.max, limit.unit)} · ${percent(share)}`);
      const bar = row.querySelector('i');
      bar.style.width = Math.min(100, share * 100) + '%';
      bar.className = share >= 0.9 ? 'full' : share >= 0.75 ? 'hot' : '';
    }
    const hit = told.rates.filter((rate) => rate.refused);
    fill(hits, JSON.stringify(hit), () => (hit.length ? hit.map((rate) => [tag(`${rate.action} ${count(rate.refused)}`, 'warn'), ' ']).flat() : h('span.soft', null, 'none since the world started')));
  };
  async function look() {
    if (!document.hidden) try { const told = await get(`${path}/limits?scripts=0`); if (!ended) draw(told); } catch { /* the page's state says what is wrong */ }
    if (!ended) timer = setTimeout(look, LOOK_MS);
  }
  look();
  return { element: box, stop: () => { ended = true; clearTimeout(timer); } };
}

/** The last things that happened to a world, the newest first. */
export async function showFlight(name, path) {
  const record = await get(`${path}/flight`);
  const tones = { ended: 'bad', parked: 'bad', script_parked: 'bad', script_ended: 'warn', suspension: 'warn', missed_ticks: 'warn', held: 'warn', checkpoint: 'bad' };
  const line = (event) => h('li', null, h('time', { datetime: new Date(event.time_ms).toISOString() }, clock(event.time_ms)),
    h(`span${tones[event.kind] ? '.' + tones[event.kind] : '.faint'}`, null, event.kind.replaceAll('_', ' ')), h('span.where', null, event.script ?? `tick ${count(event.tick)}`), h('span.text', null, event.text));
  const events = [...record.events].reverse();
  showDialog(`Flight record of ${name}`, h('p.soft', null, 'Newest first. When a world or a script is parked, the same is written to a file of its node: flight/ in its data directory.'),
    h('div.scroll.flight', null, h('ul.log.one', { 'aria-label': 'Flight record' }, events.map(line))));
}
