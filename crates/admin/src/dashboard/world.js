// One world: its ticks against its budget, its scripts and why any of them stands still, its entities from above, its log.

import { can, live } from './app.js';
import { get, part, post, stream } from './api.js';
import { Stats, Table, askFor, coded, empty, fill, h, showTip, tag, text, toast } from './dom.js';
import { GROUPS, SCRIPT_STATES, WORLD_STATES, bytes, count, micros, microsParts, percent, short } from './format.js';
import { drawEntities, drawSpread, drawTicks, kindColour } from './charts.js';
import { logLine } from './events.js';
import { ACTIONS, limits, refused, showFlight } from './limits.js';

const SECONDS = 300;
const LOG_LINES = 60;
const SCRIPTS_FIRST = 100;

export function world(root, name) {
  const path = `/v1/worlds/${part(name)}`;
  let now = null, samples = [], entities = [], ended = false, limit = SCRIPTS_FIRST, stop = () => {};
  const view = {};
  const state = h('span'), cause = h('p.sub.bad'), stats = new Stats(), place = h('span.soft');
  const button = (id, words, act, kind = '') => h(`button${kind}`, { type: 'button', id, click: act, disabled: !can('operator'), title: can('operator') ? null : 'needs the role operator' }, words);
  const resume = button('resume-world', 'Resume world', () => act(`${path}/resume`, {}, `${name} is started`), '.main');
  const move = button('move', 'Move…', moveWorld);
  const head = h('div.head', null, h('h1', null, name), state, place, h('span.grow'),
    h('div.acts', null, resume, button('checkpoint', 'Checkpoint…', checkpoint), button('restore', 'Restore…', restore), move, h('button', { type: 'button', id: 'flight', click: flight }, 'Flight record…')), cause);
  const ticks = h('canvas', { role: 'img', id: 'ticks' }), spread = h('canvas', { role: 'img' });
  const map = h('canvas', { role: 'img', id: 'map', 'aria-label': 'Entities from above' }), kinds = h('div.legend'), entityCount = h('span.soft.num');
  const log = h('ul.log.one', { 'aria-label': 'Events of this world' });
  const asideBox = h('div'), reloadBox = h('div');
  const more = h('button', { type: 'button', click: () => { limit += 400; listen(); } }, 'Show more scripts');
  const search = h('input', { type: 'search', placeholder: 'Filter scripts', 'aria-label': 'Filter scripts', input: () => draw() });
  const most = { fuel: 1 };
  const table = new Table('Scripts', [
    { head: 'Script', sort: (s) => s.name, key: (s) => s.name + s.script + s.version, cell: (s) => h('div.name-cell', null, h('b', null, s.name), h('span', null, `${s.script} v${s.version} · priority ${s.priority}`)) },
    { head: 'State', sort: (s) => (s.state.state === 'running' && !s.deferred_ticks ? 0 : 1), key: (s) => JSON.stringify([s.state, shown(s), why(s)]), cell: stateCell },
    { head: 'Fuel/s', right: true, sort: (s) => s.fuel, key: (s) => `${short(s.fuel)} ${Math.round((40 * s.fuel) / most.fuel)}`, cell: (s) => [short(s.fuel), bar(s.fuel / most.fuel)] },
    { head: 'Time/turn', right: true, wide: true, sort: (s) => s.cost_ns, key: (s) => micros(s.cost_ns / 1e3) },
    { head: 'Turns/s', right: true, wide: true, sort: (s) => s.turns, key: (s) => count(s.turns) },
    { head: 'Host calls/s', right: true, wide: true, sort: calls, key: (s) => String(s.host_calls), cell: (s) => h('span', { title: GROUPS.map((group, i) => `${group} ${s.host_calls[i]}`).join('\n') }, count(calls(s))) },
    { head: 'Memory', right: true, wide: true, sort: (s) => s.memory_bytes, key: (s) => bytes(s.memory_bytes) },
    { head: 'Refused', right: true, wide: true, sort: refused, key: (s) => String(s.refused), cell: (s) => h(`span${refused(s) ? '.warn' : ''}`, { title: ACTIONS.map((action, i) => `${action} ${s.refused?.[i] ?? 0}`).join('\n') }, count(refused(s))) },
    { head: 'Restarts', right: true, wide: true, sort: (s) => s.restarts, key: (s) => s.restarts, cell: (s) => h(`span${s.restarts ? '.warn' : ''}`, null, String(s.restarts)) },
    { head: '', right: true, key: (s) => s.state.state, cell: scriptButton },
  ], { sort: 2 });
  const limitsPanel = limits(path);
  const scriptCount = h('span.soft.num');
  const loading = h('div.skeleton', { 'aria-label': 'Loading' });
  const content = h('div', { hidden: true });
  content.style.display = 'contents';
  const chart = (canvas, title, ...legend) => h('section.panel', { 'aria-label': title }, h('div.top', null, h('h2', null, title), h('span.grow'), h('div.legend', null, legend)), canvas);
  const dot = (variable, words) => { const swatch = h('i.swatch'); swatch.style.background = `var(${variable})`; return h('span', null, swatch, words); };
  content.append(stats.element,
    h('div.cols', null,
      chart(ticks, 'CPU time of a tick', dot('--chart-2', 'p50'), dot('--chart-1', 'p99'), dot('--chart-3', 'longest'), dot('--bad', 'budget')),
      chart(spread, 'Seconds by p99, share of budget')),
    reloadBox,
    h('section.panel', { 'aria-label': 'Scripts' }, h('div.top', null, h('h2', null, 'Scripts'), scriptCount, h('span.grow'), search), h('div.scroll', null, table.element, h('p.empty', { hidden: true }, more))),
    asideBox, limitsPanel.element,
    h('div.cols.even', null,
      h('section.panel', { 'aria-label': 'Log' }, h('div.top', null, h('h2', null, 'Log'), h('span.grow'), h('a', { href: '#/events?world=' + name }, 'All events')), h('div.scroll', null, log)),
      h('section.panel', { 'aria-label': 'Entities' }, h('div.top', null, h('h2', null, 'Entities from above'), entityCount, h('span.grow'), kinds), map)));
  root.append(head, loading, content);

  function calls(s) { return s.host_calls.reduce((sum, n) => sum + n, 0); }
  function bar(share) { const fillBar = h('i'); fillBar.style.width = Math.min(100, share * 100) + '%'; return h('div.bar2', { 'aria-hidden': 'true' }, fillBar); }
  function shown(s) { return s.state.state === 'running' && s.deferred_ticks > 0 ? 'deferred' : s.state.state; }
  function why(s) {
    if (s.state.cause) return s.state.cause;
    const word = shown(s);
    if (word === 'deferred') return `no room for ${count(s.deferred_ticks)} ticks; ${count(s.deferrals)} deferrals/s`;
    if (word === 'paused') return `out of fuel in ${count(s.pauses)} turns/s`;
    if (word === 'suspended') {
      const said = live.events.findLast((event) => event.world === name && event.kind === 'overload' && event.text.startsWith(s.name + ' suspended'));
      return said ? `overload: ${said.text.slice(s.name.length + ' suspended '.length)}` : 'by an operator, or before the events that are kept';
    }
    if (word === 'restarting') return live.events.findLast((event) => event.world === name && event.kind === 'script' && event.script === s.name)?.text ?? '';
    return '';
  }
  function stateCell(s) {
    const word = shown(s), [tone, means] = SCRIPT_STATES[word] ?? ['', ''], reason = why(s);
    const box = tag(word, tone);
    box.title = means;
    return [box, reason ? h('div.why', null, reason) : null];
  }
  function scriptButton(s) {
    const back = ['suspended', 'parked', 'finished'].includes(s.state.state);
    if (!back && !['running', 'paused'].includes(s.state.state)) return '';
    const verb = back ? 'resume' : 'suspend';
    return h('button.small', { type: 'button', disabled: !can('operator'), title: can('operator') ? null : 'needs the role operator', 'aria-label': `${verb} ${s.name}`,
      click: () => act(`${path}/scripts/${part(s.name)}/${verb}`, {}, back ? `${s.name} goes on` : `${s.name} is suspended`) }, back ? 'Resume' : 'Suspend');
  }

  async function act(url, body, done) {
    try { const answer = await post(url, body); toast(typeof done === 'function' ? done(answer) : done); } catch (error) { toast(error.message, true); }
  }
  async function checkpoint() {
    const given = await askFor('Save a checkpoint', 'One with a name is kept; one without goes when newer ones come.', 'Save', [{ name: 'name', label: 'Name (may be empty)', hint: 'before-the-war' }]);
    if (given) await act(`${path}/checkpoints`, given.name ? { name: given.name } : {}, (answer) => `${name} is saved with commit ${answer.commit}`);
  }
  async function restore() {
    let list;
    try { list = await get(`${path}/checkpoints`); } catch (error) { return toast(error.message, true); }
    if (!list.length) return toast(`${name} has no checkpoint yet`, true);
    const options = list.map((c) => [String(c.commit), `${c.name ?? 'unnamed'} · commit ${c.commit} · ${c.time_ms ? `${new Date(c.time_ms).toLocaleString()} · ` : ''}${bytes(c.bytes)}`]);
    const given = await askFor('Restore from a checkpoint', 'The world starts again as it was then. What happened since is lost, except its storage.', 'Restore', [{ name: 'checkpoint', label: 'Checkpoint', options }], true);
    if (given) await act(`${path}/restore`, given, `${name} goes on from commit ${given.checkpoint}`);
  }
  async function flight() {
    try { await showFlight(name, path); } catch (error) { toast(error.message, true); }
  }
  async function moveWorld() {
    const others = live.node.nodes.filter((n) => n.state === 'up').map((n) => [n.name, `${n.name} · ${n.load.toFixed(1)} of ${n.capacity.toFixed(0)} cores`]);
    const given = await askFor(`Move ${name}`, 'It is saved, leaves its node and goes on there, and stays until it is unpinned.', 'Move', [{ name: 'node', label: 'To node', options: others }]);
    if (given) await act(`${path}/move`, given, `${name} moves to ${given.node}`);
  }

  function draw() {
    if (!now) return;
    loading.hidden = true;
    content.hidden = false;
    fill(state, now.state, () => { const box = tag(now.state, WORLD_STATES[now.state]?.[0]); box.title = WORLD_STATES[now.state]?.[1]; return box; });
    text(cause, now.cause ? `Why: ${now.cause}` : '');
    cause.hidden = !now.cause;
    resume.hidden = now.state !== 'parked';
    const row = live.worlds.find((w) => w.name === name);
    const home = row && row.node ? `on ${row.node}` : '';
    move.hidden = !live.node?.cluster;
    text(place, `${home} · tick ${count(now.tick)} · generation ${now.generation}`);
    const over = (us) => (us > now.budget_us ? 'bad' : us > 0.75 * now.budget_us ? 'warn' : '');
    const stat = (label, us) => [label, ...microsParts(us), over(us)];
    stats.set([
      stat('Tick p50', now.tick_p50_us), stat('Tick p99', now.tick_p99_us), stat('Tick longest', now.tick_max_us),
      ['Budget used', percent(now.utilisation), `of ${micros(now.budget_us)}`, now.utilisation >= 0.9 ? 'bad' : now.utilisation >= 0.75 ? 'warn' : ''],
      ['Ticks', count(now.ticks), '/s'], ['Missed ticks', count(now.missed_ticks), '', now.missed_ticks ? 'warn' : ''],
      ['Deferred', count(now.deferred), '/s', now.deferred ? 'warn' : ''], ['Entities', count(now.host.entities)],
      ['Memory', ...bytes(now.memory_bytes).split(' ')], ['World restarts', count(now.restarts), '', now.restarts ? 'warn' : ''],
    ]);
    ticks.setAttribute('aria-label', `Tick p50 ${micros(now.tick_p50_us)}, p99 ${micros(now.tick_p99_us)}, longest ${micros(now.tick_max_us)}, budget ${micros(now.budget_us)}`);
    spread.setAttribute('aria-label', `${samples.filter((s) => s.p99_us > now.budget_us).length} of ${samples.length} seconds had a p99 over the budget`);
    const span = samples.length ? Math.ceil((Date.now() - samples[0].time_ms) / 60_000) * 60 : 60;
    drawTicks(ticks, samples, now.budget_us, Math.min(SECONDS, Math.max(60, span)), micros);
    drawSpread(spread, samples, now.budget_us);
    const scripts = now.scripts.filter((s) => s.name.includes(search.value.trim()));
    most.fuel = Math.max(1, ...now.scripts.map((s) => s.fuel));
    table.update(scripts);
    const total = now.scripts_total ?? now.scripts.length;
    text(scriptCount, [`${count(total)}`, now.paused && `${now.paused} paused`, now.suspended && `${now.suspended} suspended`, now.parked && `${now.parked} parked`].filter(Boolean).join(' · '));
    more.parentElement.hidden = now.scripts.length >= total;
    fill(reloadBox, JSON.stringify(now.reload ?? null), () => reload());
    reloadBox.hidden = !now.reload;
    asideBox.hidden = !now.set_aside;
    fill(asideBox, now.set_aside, () => now.set_aside ? h('p.note', null, coded(`${count(now.set_aside)} messages ended their script twice and are set aside: \`aether set-aside ${name}\` shows them.`)) : null);
    text(entityCount, `${count(now.host.entities)}`);
  }
  function reload() {
    if (!now.reload) return null;
    const [script, version, phase] = now.reload;
    const words = { swapping: `${phase.left} instances to swap`, watching: `watched for ${phase.ticks_left} ticks more`, held: 'well here, waits for the other worlds', rolled_back: `rolled back: ${phase.reason}` }[phase.phase];
    return h(`p.note`, null, h('b', null, `Reload of ${script} v${version}: `), words, ' ', h('a', { href: '#/scripts' }, 'All worlds'));
  }
  function drawLog() {
    const lines = live.events.filter((event) => event.world === name).slice(-LOG_LINES).reverse();
    fill(log, lines.map((event) => event.seq).join(), () => (lines.length ? lines.map((event) => logLine(event, true)) : empty('Nothing yet', 'Log lines, failures and overload of this world appear here.')));
  }
  async function look() {
    if (ended) return;
    if (!document.hidden && now && ['ticking', 'held'].includes(now.state)) {
      try {
        entities = await get(`${path}/entities`);
        if (ended) return;
        drawEntities(map, entities, view);
        const by = new Map();
        for (const entity of entities) by.set(entity.kind, (by.get(entity.kind) ?? 0) + 1);
        const top = [...by].sort((a, b) => b[1] - a[1]).slice(0, 6);
        fill(kinds, JSON.stringify(top), () => top.map(([kind, n]) => { const swatch = h('i.swatch'); swatch.style.background = kindColour(kind); return h('span', null, swatch, `${kind} ${count(n)}`); }));
      } catch { /* the state of the page says what is wrong */ }
    }
    if (!ended) timer = setTimeout(look, 1000);
  }
  let timer = setTimeout(look, 300);

  map.addEventListener('pointermove', (event) => {
    const box = map.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const near = view.place ? entities.map((entity) => [entity, ...view.place(entity)]).map(([entity, ex, ey]) => [entity, Math.hypot(ex - x, ey - y)]).sort((a, b) => a[1] - b[1])[0] : null;
    showTip({ x: event.clientX, y: event.clientY }, near && near[1] < 14 ? [`${near[0].kind} #${near[0].id}`, `x ${near[0].x.toFixed(1)} m, y ${near[0].y.toFixed(1)} m, z ${near[0].z.toFixed(1)} m`] : null);
  });
  map.addEventListener('pointerleave', () => showTip(null, null));

  function listen() {
    stop();
    stop = stream(`${path}/stream?scripts=${limit}`, (kind, data) => {
      if (kind === 'gone') { now && (now.state = 'stopped'); return elsewhere(`${name} is not on this node any longer`); }
      now = data;
      if (now.state === 'ticking') {
        samples.push({ time_ms: Date.now(), p50_us: now.tick_p50_us, p99_us: now.tick_p99_us, max_us: now.tick_max_us });
        samples = samples.slice(-SECONDS);
      }
      draw();
    }, (how, words) => { if (how === 'off' && !now) elsewhere(words); });
  }
  function elsewhere(words) {
    const row = live.worlds.find((w) => w.name === name);
    loading.replaceWith(empty(row?.node ? `${name} runs on ${row.node}` : `No world ${name} here`, row?.node ? `Open that node's dashboard to see it (${live.node.nodes.find((n) => n.name === row.node)?.address ?? ''}).` : words));
    if (row?.node && live.node?.cluster) { move.hidden = false; text(place, `on ${row.node} · ${row.cores.toFixed(3)} cores`); fill(state, row.state, () => tag(row.state)); }
  }
  get(`${path}/history`).then((list) => { samples = [...list, ...samples]; draw(); }, () => {});
  listen();
  drawLog();
  live.addEventListener('events', drawLog);
  const resized = new ResizeObserver(() => { draw(); if (entities.length) drawEntities(map, entities, view); });
  resized.observe(root);
  return () => { ended = true; stop(); limitsPanel.stop(); clearTimeout(timer); live.removeEventListener('events', drawLog); resized.disconnect(); showTip(null, null); };
}
