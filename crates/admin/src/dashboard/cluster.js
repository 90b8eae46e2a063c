// The cluster behind the worlds: links between nodes, worlds that operators pinned, what placement would move now.

import { can, live } from './app.js';
import { get, part, post } from './api.js';
import { Table, empty, fill, h, tag, text, toast } from './dom.js';
import { bytes, count, micros } from './format.js';

const LOOK_MS = 2_000;

export function cluster(root) {
  let ended = false, timer = 0, now = null;
  const title = h('h1', null, 'Cluster'), sub = h('p.sub'), none = h('div');
  const links = new Table('Links', [
    { head: 'Node', key: (l) => l.node },
    { head: 'State', key: (l) => String(l.up), cell: (l) => tag(l.up ? 'up' : 'down', l.up ? 'good' : 'bad') },
    { head: 'Round trip', right: true, key: (l) => (l.round_trip_us == null ? '–' : micros(l.round_trip_us)) },
    { head: 'Sent', right: true, wide: true, key: (l) => bytes(l.sent_bytes) },
    { head: 'Received', right: true, wide: true, key: (l) => bytes(l.received_bytes) },
    { head: 'On its way', right: true, wide: true, key: (l) => bytes(l.in_flight_bytes) },
    { head: 'Refused', right: true, wide: true, key: (l) => count(l.refused) },
    { head: 'Ended, by reason', key: (l) => JSON.stringify(l.cuts), cell: (l) => reasons(l.cuts) },
  ], { rowKey: (l) => l.node });
  const pins = new Table('Pinned worlds', [
    { head: 'World', key: (w) => w.name, cell: (w) => h('a', { href: '#/world/' + w.name }, w.name) },
    { head: 'Pinned to', key: (w) => w.target ?? '–' },
    { head: 'Runs on', key: (w) => w.owner ?? 'nobody' },
    { head: '', right: true, key: () => '', cell: (w) => h('button.small', { type: 'button', disabled: !can('operator'), title: can('operator') ? null : 'needs the role operator', 'aria-label': `unpin ${w.name}`, click: () => unpin(w.name) }, 'Unpin') },
  ]);
  const pinned = h('section.panel', { 'aria-label': 'Pinned worlds' }, h('div.top', null, h('h2', null, 'Worlds that operators placed')), h('div.scroll', null, pins.element, h('p.empty', null, 'None: placement chooses for all.')));
  const strangers = h('p.soft'), plan = h('div', { id: 'plan' });
  const ask = h('button', { type: 'button', id: 'ask-plan', click: askPlan }, 'Ask now');
  const content = h('div', { hidden: true });
  content.style.display = 'contents';
  content.append(
    h('section.panel', { 'aria-label': 'Links' }, h('div.top', null, h('h2', null, 'Links of this node'), h('span.grow'), strangers), h('div.scroll', null, links.element)),
    h('section.panel', { 'aria-label': 'Placement plan' }, h('div.top', null, h('h2', null, 'What placement would move now'), h('span.grow'), ask), plan), pinned);
  root.append(h('div.head', null, title, sub), none, content);

  function reasons(cuts) {
    return cuts.length ? cuts.map(([reason, times]) => h('span', null, `${reason} ${count(times)} `)) : '–';
  }

  async function unpin(name) {
    try { await post(`/v1/worlds/${part(name)}/unpin`); toast(`${name} goes where placement wants it`); look(); } catch (error) { toast(error.message, true); }
  }

  async function askPlan() {
    try {
      const answer = await get('/v1/placement/plan');
      const steps = answer.moves.map((step) => h('li', null, h('b', null, step.world), ` ${step.from ?? 'nobody'} → ${step.to} `, h('span.soft', null, JSON.stringify(step.why).replaceAll('"', ''))));
      const homeless = answer.unplaced.map(([name, why]) => h('li.bad', null, `${name}: no node for it: ${typeof why === 'string' ? why : JSON.stringify(why)}`));
      plan.replaceChildren(steps.length + homeless.length ? h('ul.plain', null, steps, homeless) : h('p.empty', null, 'Nothing: every world is where it should be.'));
    } catch (error) { toast(error.message, true); }
  }

  function draw() {
    if (!now) return;
    content.hidden = false;
    title.textContent = `Cluster ${now.name}`;
    const late = now.renewals_late ? `, ${count(now.renewals_late)} renewals late or failed` : '';
    text(sub, `Seen from ${now.node}. Leases are ${now.lease_seconds} s; this one was renewed ${now.renewed_seconds_ago.toFixed(1)} s ago${late}.`);
    links.update(now.links);
    const refused = now.strangers.reduce((sum, [, times]) => sum + times, 0);
    text(strangers, refused ? `${count(refused)} connections of strangers ended: ${now.strangers.map(([reason, times]) => `${reason} ${count(times)}`).join(', ')}` : '');
    const kept = now.worlds.filter((w) => w.pinned);
    pins.update(kept);
    pins.element.hidden = !kept.length;
    pins.element.nextElementSibling.hidden = !!kept.length;
  }

  async function look() {
    clearTimeout(timer);
    try {
      now = await get('/v1/cluster');
      if (ended) return;
      draw();
    } catch (error) {
      if (!ended && !now) fill(none, error.message, () => empty(live.node?.cluster ? 'No answer' : 'One node, in no cluster', error.message));
    }
    if (!ended) timer = setTimeout(look, document.hidden ? 30_000 : LOOK_MS);
  }
  look();
  return () => { ended = true; clearTimeout(timer); };
}
