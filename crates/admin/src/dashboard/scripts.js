// Scripts, their versions, and reloads as they go over the worlds. Publishing is the command line's.

import { can, live } from './app.js';
import { get, part, post } from './api.js';
import { Table, askFor, compare, empty, fill, h, tag, toast } from './dom.js';
import { bytes, count, micros, short } from './format.js';

const LOOK_MS = 2_000;

export function scripts(root) {
  let versions = [], rows = [], ended = false, timer = 0, failed = null;
  const search = h('input', { type: 'search', placeholder: 'Filter scripts', 'aria-label': 'Filter scripts', id: 'filter', input: () => draw() });
  const reloads = h('div');
  const table = new Table('Scripts', [
    { head: 'Script', sort: (s) => s.script, key: (s) => s.script, cell: (s) => h('b', null, s.script) },
    { head: 'Instances', right: true, sort: (s) => s.instances, key: (s) => s.instances + '/' + s.worlds, cell: (s) => [count(s.instances), h('span.faint.wide', null, ` in ${count(s.worlds)} ${s.worlds === 1 ? 'world' : 'worlds'}`)] },
    { head: 'Fuel/s', right: true, sort: (s) => s.fuel, key: (s) => short(s.fuel) },
    { head: 'CPU/s', right: true, sort: (s) => s.time_us, key: (s) => micros(s.time_us) },
    { head: 'Memory', right: true, wide: true, sort: (s) => s.memory_bytes, key: (s) => bytes(s.memory_bytes) },
    { head: 'Restarts', right: true, wide: true, sort: (s) => s.restarts, key: (s) => count(s.restarts) },
    { head: 'Trouble', sort: (s) => s.parked + s.suspended, key: (s) => s.parked + '/' + s.suspended, cell: (s) => [s.parked ? tag(`${s.parked} parked`, 'bad') : null, s.suspended ? tag(`${s.suspended} suspended`, 'warn') : null].filter(Boolean) },
  ], { sort: 2, rowKey: (s) => s.script });
  const list = new Table('Versions', [
    { head: 'Script', key: (v) => v.script, cell: (v) => h('b', null, v.script) },
    { head: 'Version', key: (v) => [v.version, v.active, v.pinned].join(), cell: (v) => h('span.version', null, `v${v.version}`, v.active ? tag('active', 'good') : null, v.pinned ? tag('pinned', 'info') : null) },
    { head: 'Source (SHA-256)', wide: true, key: (v) => v.source, cell: (v) => h('code.soft', { title: v.source }, v.source.slice(0, 16) + '…') },
    { head: '', right: true, key: (v) => [v.active, v.pinned].join(), cell: buttons },
  ], { rowKey: (v) => v.script + ' ' + v.version });
  const loading = h('div.skeleton', { 'aria-label': 'Loading' });
  const note = h('div');
  const panels = h('div', { hidden: true });
  panels.style.display = 'contents';
  panels.append(
    h('section.panel', { 'aria-label': 'Scripts that run' }, h('div.top', null, h('h2', null, 'Scripts that run here')), h('div.scroll', null, table.element)),
    h('section.panel', { 'aria-label': 'Artifacts and versions' },
      h('div.top', null, h('h2', null, 'Artifacts and versions'), h('span.grow'), h('button', { type: 'button', id: 'collect', disabled: !can('operator'), click: collect }, 'Remove old versions')),
      h('div.scroll.tall', null, list.element)));
  root.append(h('div.head', null, h('h1', null, 'Scripts'), h('span.grow'), h('div.filters', null, search),
    h('p.sub', null, 'New versions come from ', h('code', null, 'aether publish DIR'), ': first rehearsed in every world, then swapped in all of them or in none.')), reloads, note, loading, panels);

  function buttons(v) {
    const allowed = can('operator'), title = allowed ? null : 'needs the role operator';
    return h('div.acts', null,
      v.active ? null : h('button.small', { type: 'button', disabled: !allowed, title, 'aria-label': `roll ${v.script} back to version ${v.version}`, click: () => rollback(v.script, v.version) }, 'Make active'),
      h('button.small', { type: 'button', disabled: !allowed, title, 'aria-label': `${v.pinned ? 'unpin' : 'pin'} ${v.script} version ${v.version}`, click: () => pin(v) }, v.pinned ? 'Unpin' : 'Pin'));
  }
  async function act(url, body, done) {
    try { toast(done(await post(url, body))); await look(); } catch (error) { toast(error.message, true); }
  }
  async function rollback(script, version) {
    const sure = await askFor(version ? `Make ${script} v${version} active?` : `Roll ${script} back?`, 'It is rehearsed on copies of the worlds’ states, then swapped in all of them, or in none.', version ? 'Make active' : 'Roll back', [], true);
    if (sure) await act(`/v1/scripts/${part(script)}/rollback`, version ? { version } : {}, (r) => `${r.script}: v${r.from ?? '–'} → v${r.to} in ${r.worlds} worlds, ${r.swap_ms} ms`);
  }
  const pin = (v) => act(`/v1/scripts/${part(v.script)}/versions/${v.version}/pin`, { pinned: !v.pinned }, () => `${v.script} v${v.version} is ${v.pinned ? 'not kept any longer' : 'kept'}`);
  async function collect() {
    const sure = await askFor('Remove old versions?', 'Versions that are neither active nor pinned go, but the last eight of each script.', 'Remove', [], true);
    if (sure) await act('/v1/collect', {}, (r) => `removed ${r.versions} versions and ${r.sources} sources`);
  }

  function progress(r) {
    const total = r.swapping + r.watching + r.held + r.rolled_back;
    const parts = [['held', r.held, 'done here'], ['watching', r.watching, 'watched'], ['swapping', r.swapping, `swapping (${r.instances_left} instances left)`], ['back', r.rolled_back, 'rolled back']].filter(([, n]) => n);
    const steps = h('div.steps', { role: 'img', 'aria-label': parts.map(([, n, words]) => `${n} worlds ${words}`).join(', ') }, parts.map(([kind, n]) => { const piece = h('i.' + kind); piece.style.flex = String(n); return piece; }));
    const over = r.rolled_back === total;
    return h('div.reload', null, h('div.head', null, h('b', null, `${r.script} v${r.version}`), over ? tag('rolled back', 'bad') : tag(`${r.held} of ${total} worlds ready`, 'info'), h('span.grow'),
      over ? null : h('button.small.danger', { type: 'button', disabled: !can('operator'), click: () => rollback(r.script) }, 'Roll back')),
      steps, h('p.soft', null, parts.map(([, n, words]) => `${n} ${words}`).join(' · ')), r.reason ? h('p.bad', null, r.reason) : null);
  }
  function drawReloads() {
    const list = live.node?.reloads ?? [];
    fill(reloads, JSON.stringify(list), () => (list.length ? h('section.panel', { 'aria-label': 'Reloads' }, h('div.top', null, h('h2', null, 'Reloads in this node’s worlds')), list.map(progress)) : null));
  }
  function draw() {
    const wanted = search.value.trim();
    fill(note, failed ?? '', () => (failed ? empty('The scripts could not be read', failed) : null));
    table.update(rows.filter((s) => s.script.includes(wanted)));
    list.update(versions.filter((v) => v.script.includes(wanted)).sort((a, b) => compare(a.script, b.script) || b.version - a.version));
  }
  async function look() {
    clearTimeout(timer);
    try { [rows, versions] = await Promise.all([get('/v1/scripts'), get('/v1/versions')]); failed = null; panels.hidden = false; } catch (error) { failed = error.message; }
    if (ended) return;
    loading.hidden = true;
    draw();
    timer = setTimeout(look, document.hidden ? 10 * LOOK_MS : LOOK_MS);
  }
  live.addEventListener('node', drawReloads);
  drawReloads();
  look();
  return () => { ended = true; clearTimeout(timer); live.removeEventListener('node', drawReloads); };
}
