// The cluster on one page: a card for each node with its worlds as tiles, and the worlds as a list.

import { can, live } from './app.js';
import { part, post } from './api.js';
import { Stats, Table, askFor, compare, empty, fill, h, showTip, tag, text, toast } from './dom.js';
import { WORLD_STATES, count, micros, percent, step } from './format.js';
import { drawTiles } from './charts.js';

const ROWS = 40;
/** A world of another node says its load in cores only: this much is the default budget, 8 ms twenty times a second. */
const FULL_CORES = 0.16;

export function overview(root) {
  const filter = { name: '', state: '', sort: 'load', shown: ROWS };
  const stats = new Stats();
  const nodes = h('section.nodes', { 'aria-label': 'Nodes and their worlds' });
  const title = h('h1', { id: 'title' }, 'Overview');
  const sub = h('p.sub');
  const search = h('input', { type: 'search', placeholder: 'Filter worlds by name', 'aria-label': 'Filter worlds by name', id: 'filter', input: () => change({ name: search.value }) });
  const states = h('select', { 'aria-label': 'State', id: 'state-filter', change: () => change({ state: states.value }) },
    h('option', { value: '' }, 'Every state'), h('option', { value: 'trouble' }, 'In trouble'),
    Object.keys(WORLD_STATES).map((state) => h('option', { value: state }, state)));
  const sorts = h('select', { 'aria-label': 'Order', change: () => change({ sort: sorts.value }) },
    [['load', 'By load'], ['p99', 'By tick p99'], ['name', 'By name']].map(([value, label]) => h('option', { value }, label)));
  const matched = h('span.soft.num', { id: 'matched' });
  const more = h('button', { type: 'button', click: () => change({ shown: filter.shown + 200 }, true) }, 'Show 200 more');
  const list = new Table('Worlds', [
    { head: 'World', key: (w) => w.name, cell: (w) => h('a', { href: '#/world/' + w.name }, w.name) },
    { head: 'State', key: (w) => w.state + w.trouble, cell: (w) => [tag(w.state, WORLD_STATES[w.state]?.[0]), w.trouble ? ' ' : null, w.trouble ? tag(`${w.trouble} script${w.trouble > 1 ? 's' : ''} stopped`, 'warn') : null] },
    { head: 'Node', wide: true, key: (w) => w.node ?? '–' },
    { head: 'Budget used', right: true, key: (w) => (w.load < 0 ? '–' : percent(w.load)), cell: (w) => [w.load < 0 ? '–' : percent(w.load), w.load < 0 ? null : meter(w.load, 'bar2')] },
    { head: 'Tick p99', right: true, wide: true, key: (w) => (w.load < 0 ? '–' : micros(w.p99)) },
    { head: 'Cores', right: true, wide: true, key: (w) => w.cores.toFixed(3) },
  ]);
  const listPanel = h('section.panel', { 'aria-label': 'Worlds' },
    h('div.top', null, h('h2', null, 'Worlds'), h('span.grow'), matched), h('div.scroll.tall', null, list.element), h('p.empty', { hidden: true }, more));
  const none = h('div');
  root.append(h('div.head', null, title, h('span.grow'), h('div.filters', null, search, states, sorts), sub), stats.element, nodes, none, legend(), listPanel);

  const cards = new Map();

  function change(values, keep = false) {
    Object.assign(filter, keep ? {} : { shown: ROWS }, values);
    draw();
  }

  function draw() {
    const { node, worlds } = live;
    if (!node) return;
    const match = (w) => (!filter.name || w.name.includes(filter.name.trim().toLowerCase())) &&
      (!filter.state || (filter.state === 'trouble' ? inTrouble(w) : w.state === filter.state));
    const chosen = worlds.filter(match);
    title.textContent = node.cluster ?? node.node;
    text(sub, node.cluster ? `Cluster of ${node.nodes.length} nodes, seen from ${node.node}` : 'One node, in no cluster');
    const own = worlds.filter((w) => w.load >= 0 && w.state === 'ticking');
    const over = own.filter((w) => w.load >= 0.9).length, trouble = worlds.filter(inTrouble).length;
    const load = node.nodes.reduce((sum, n) => sum + n.load, 0), capacity = node.nodes.reduce((sum, n) => sum + n.capacity, 0);
    stats.set([
      ['Worlds', count(worlds.length)],
      ['Ticking', count(own.length + worlds.filter((w) => w.state === 'elsewhere').length)],
      ['Late or down', count(node.not_ready), '', node.not_ready ? 'bad' : ''],
      ['In trouble', count(trouble), '', trouble ? 'warn' : ''],
      ['Over 90% of budget', count(over), '', over ? 'warn' : ''],
      ['Load', load.toFixed(2), `of ${capacity.toFixed(0)} cores`],
    ]);
    const groups = node.nodes.map((n, i) => [n, chosen.filter((w) => w.place === i)]);
    const homeless = chosen.filter((w) => w.place < 0);
    if (homeless.length) groups.push([{ name: 'No node', state: 'unowned', worlds: homeless.length }, homeless]);
    for (const [n, members] of groups) {
      if (!cards.has(n.name)) { cards.set(n.name, card(n.name)); nodes.append(cards.get(n.name).element); }
      cards.get(n.name).update(n, members);
    }
    for (const [name, gone] of cards) if (!groups.some(([n]) => n.name === name)) { gone.element.remove(); cards.delete(name); }
    fill(none, chosen.length ? 'some' : worlds.length ? 'filtered' : 'none', () => (chosen.length ? null : worlds.length
      ? empty('No world matches', 'Clear the filter to see all.') : empty('No worlds', 'The cluster file of this node has no [[world]] table.')));
    const by = { load: (a, b) => b.load - a.load || b.cores - a.cores, p99: (a, b) => b.p99 - a.p99, name: (a, b) => compare(a.name, b.name) }[filter.sort];
    const sorted = chosen.sort((a, b) => by(a, b) || compare(a.name, b.name));
    list.update(sorted.slice(0, filter.shown));
    listPanel.hidden = !chosen.length;
    text(matched, `${count(Math.min(filter.shown, chosen.length))} of ${count(chosen.length)}`);
    more.parentElement.hidden = filter.shown >= chosen.length;
  }

  live.addEventListener('node', draw);
  const resized = new ResizeObserver(draw);
  resized.observe(root);
  const theme = matchMedia('(prefers-color-scheme: dark)');
  theme.addEventListener('change', draw);
  draw();
  return () => { live.removeEventListener('node', draw); resized.disconnect(); theme.removeEventListener('change', draw); showTip(null, null); };
}

const inTrouble = (w) => ['restarting', 'parked', 'held', 'unowned'].includes(w.state) || w.trouble > 0;

function meter(share, kind = 'meter') {
  const bar = h('i', { class: share >= 0.9 ? 'full' : share >= 0.75 ? 'hot' : '' });
  bar.style.width = Math.min(100, share * 100) + '%';
  return h(`div.${kind}`, { 'aria-hidden': 'true' }, bar);
}

function legend() {
  const item = (kind, words) => h('span', null, h(`i.swatch.${kind}`), words);
  return h('div.legend', { 'aria-label': 'Legend: share of the tick budget used' }, h('b', null, 'Budget used'),
    item('l0', '< 25%'), item('l1', '25–50%'), item('l2', '50–75%'), item('l3', '75–90%'), item('l4', '> 90%'), item('ln', 'does not tick'),
    h('span.faint', null, '× parked · ☾ asleep · ↻ restarting · ‖ held · red dot: a script is suspended or parked'));
}

function drainButton(node) {
  const on = node.state === 'up';
  return h('button.small', { type: 'button', disabled: !can('operator'), title: can('operator') ? null : 'needs the role operator', 'aria-label': `${on ? 'drain' : 'use again'} ${node.name}`, click: async () => {
    const words = on ? 'Its worlds are saved and go on at other nodes; none come to it until it is used again.' : 'Placement may give it worlds again.';
    if (!(await askFor(on ? `Drain ${node.name}?` : `Use ${node.name} again?`, words, on ? 'Drain' : 'Use again'))) return;
    try { await post(`/v1/nodes/${part(node.name)}/${on ? 'drain' : 'undrain'}`); toast(on ? `${node.name} is drained` : `${node.name} is used again`); } catch (error) { toast(error.message, true); }
  } }, on ? 'Drain…' : 'Use again…');
}

/** A node's card. */
function card(name) {
  const state = h('span'), drain = h('span'), facts = h('div.facts.num'), bar = h('div'), note = h('p.sr');
  const canvas = h('canvas.tiles', { tabindex: '0', role: 'listbox', 'aria-label': `Worlds of ${name}: arrow keys choose, Enter opens` });
  const said = h('div.sr', { 'aria-live': 'polite' });
  const element = h('article.panel.node', { 'aria-label': `Node ${name}` }, h('div.top', null, h('span.name', null, name), state, h('span.grow'), drain), facts, bar, canvas, said, note);
  let members = [], plan = null, chosen = -1;
  const draw = () => {
    plan = drawTiles(canvas, members.map((w) => ({
      step: w.load >= 0 ? step(w.load) : w.state === 'elsewhere' ? step(w.cores / FULL_CORES) : -1, state: w.state, trouble: w.trouble > 0, label: w.name,
    })), chosen);
  };
  const lines = (w) => [w.name, `${w.state}: ${WORLD_STATES[w.state]?.[1] ?? ''}`, w.load >= 0 ? `${percent(w.load)} of the budget, p99 ${micros(w.p99)}` : `${w.cores.toFixed(3)} cores`,
    w.trouble ? `${w.trouble} scripts suspended or parked` : ''].filter(Boolean);
  const at = (event) => {
    const box = canvas.getBoundingClientRect(), pitch = plan.side + 3;
    const i = Math.floor((event.clientY - box.top) / pitch) * plan.columns + Math.floor((event.clientX - box.left) / pitch);
    return (event.clientX - box.left) / pitch < plan.columns && i < members.length ? i : -1;
  };
  const open = (w) => { location.hash = '#/world/' + w.name; };
  canvas.addEventListener('pointermove', (event) => {
    const i = at(event);
    showTip({ x: event.clientX, y: event.clientY }, i < 0 || event.pointerType === 'touch' ? null : lines(members[i]));
  });
  canvas.addEventListener('pointerleave', () => showTip(null, null));
  canvas.addEventListener('click', (event) => { const i = at(event); if (i >= 0) open(members[i]); });
  canvas.addEventListener('blur', () => { chosen = -1; draw(); showTip(null, null); });
  canvas.addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: plan.columns, ArrowUp: -plan.columns, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === 'Enter' && members[chosen]) return open(members[chosen]);
    if (by === undefined || !members.length) return;
    event.preventDefault();
    chosen = chosen < 0 ? 0 : Math.max(0, Math.min(members.length - 1, chosen + by));
    draw();
    const box = canvas.getBoundingClientRect();
    const x = box.left + (chosen % plan.columns) * (plan.side + 3), y = box.top + Math.floor(chosen / plan.columns) * (plan.side + 3) + plan.side;
    showTip({ x, y }, lines(members[chosen]));
    said.textContent = lines(members[chosen]).join(', ');
  });
  return {
    element,
    update(node, worlds) {
      members = worlds.sort((a, b) => compare(a.name, b.name));
      const tone = { up: 'good', draining: 'warn', dead: 'bad', unowned: 'bad' }[node.state];
      fill(state, node.state + node.linked, () => [tag(node.state, tone), node.linked === false ? ' ' : null, node.linked === false ? tag('no link', 'bad') : null]);
      fill(drain, [live.node.cluster, node.state], () => (live.node.cluster && ['up', 'draining'].includes(node.state) ? drainButton(node) : null));
      const share = node.capacity ? node.load / node.capacity : 0;
      fill(facts, JSON.stringify([node.worlds, node.load?.toFixed(2), node.lease_left_ms > 3000, members.length]), () => [
        h('span', null, `${count(node.worlds)} worlds`), node.worlds !== members.length ? h('span', null, `${count(members.length)} match`) : null,
        node.capacity ? h('span', null, `${node.load.toFixed(2)} of ${node.capacity.toFixed(0)} cores`) : null,
        node.address ? h('span', null, node.address) : null, node.build ? h('span', null, `build ${node.build}`) : null,
        node.lease_left_ms && node.lease_left_ms < 3000 ? h('span.bad', null, 'lease about to end') : null]);
      fill(bar, Math.round(share * 200), () => (node.capacity ? meter(share) : null));
      note.textContent = `${members.length} worlds shown`;
      draw();
    },
  };
}
