// Everything that is drawn on a canvas: tiles of worlds, tick times against their budget, a map of entities.

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A canvas of this many CSS pixels, sharp on any screen; gives its context. */
function prepare(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; canvas.style.height = height + 'px'; }
  const context = canvas.getContext('2d');
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const GAP = 3;

/** How tiles lie: as large as fits a height, 9 to 62 pixels wide. */
export function layout(count, width) {
  for (const side of [62, 50, 40, 32, 26, 22, 18, 15, 13, 11]) {
    const columns = Math.max(1, Math.floor((width + GAP) / (side + GAP)));
    const rows = Math.ceil(count / columns);
    if (rows * (side + GAP) <= 300 || side === 11) return { side, columns, rows, height: Math.max(rows * (side + GAP) - GAP, 1) };
  }
}

/** Tiles: [{ step (-1: not known), state, trouble, label }]. Gives the layout. */
export function drawTiles(canvas, tiles, selected) {
  const width = canvas.clientWidth || 300;
  const plan = layout(tiles.length, width);
  const context = prepare(canvas, width, plan.height);
  const colours = [0, 1, 2, 3, 4].map((i) => style(`--load-${i}`));
  const [none, mark, bad, accent, line] = ['--load-none', '--tile-mark', '--bad', '--accent', '--line'].map(style);
  const { side, columns } = plan;
  tiles.forEach((tile, i) => {
    const x = (i % columns) * (side + GAP), y = Math.floor(i / columns) * (side + GAP);
    const plain = tile.state === 'ticking' || tile.state === 'held' || tile.state === 'elsewhere';
    context.fillStyle = tile.state === 'parked' || tile.state === 'unowned' ? line : plain && tile.step >= 0 ? colours[tile.step] : none;
    context.beginPath();
    context.roundRect(x, y, side, side, Math.min(6, side / 4));
    context.fill();
    if (tile.state !== 'ticking' && tile.state !== 'elsewhere') drawMark(context, tile.state, x + side / 2, y + (side >= 40 ? side * 0.32 : side / 2), Math.min(side * 0.28, 8), tile.state === 'parked' || tile.state === 'unowned' ? bad : mark);
    if (tile.trouble) {
      context.fillStyle = bad;
      context.beginPath();
      context.arc(x + side - Math.max(3, side / 7), y + Math.max(3, side / 7), Math.max(1.8, side / 12), 0, 7);
      context.fill();
    }
    if (side >= 40) {
      context.fillStyle = tile.step === 2 || tile.step === 4 ? style('--panel') : style('--text');
      context.font = `${side >= 50 ? 11 : 9.5}px system-ui, sans-serif`;
      context.textAlign = 'center';
      const name = tile.label.length > 9 ? tile.label.slice(0, 4) + '…' + tile.label.slice(-3) : tile.label;
      context.fillText(name, x + side / 2, y + side - 8, side - 6);
    }
    if (i === selected) {
      context.strokeStyle = accent;
      context.lineWidth = 2;
      context.beginPath();
      context.roundRect(x + 1, y + 1, side - 2, side - 2, Math.min(6, side / 4));
      context.stroke();
    }
  });
  return plan;
}

/** A state's sign, readable without colour: a cross, a moon, a bar pair, an arc, dots, a question. */
export function drawMark(context, state, x, y, r, colour) {
  context.save();
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = Math.max(1.4, r / 3.2);
  context.lineCap = 'round';
  context.beginPath();
  if (state === 'parked') {
    context.moveTo(x - r, y - r); context.lineTo(x + r, y + r); context.moveTo(x + r, y - r); context.lineTo(x - r, y + r);
    context.stroke();
  } else if (state === 'asleep') {
    context.arc(x, y, r, 0.9, 5.2); context.arc(x + r * 0.75, y - r * 0.35, r * 0.85, 4.3, 1.6, true);
    context.fill();
  } else if (state === 'held') {
    context.moveTo(x - r / 2, y - r); context.lineTo(x - r / 2, y + r); context.moveTo(x + r / 2, y - r); context.lineTo(x + r / 2, y + r);
    context.stroke();
  } else if (state === 'restarting') {
    context.arc(x, y, r, 0.4, 5.6); context.stroke();
    context.beginPath(); context.arc(x + r * 0.78, y - r * 0.62, context.lineWidth, 0, 7); context.fill();
  } else if (state === 'unowned') {
    context.arc(x, y, r, 0, 7); context.setLineDash([2, 2]); context.stroke();
  } else {
    for (const dx of [-r, 0, r]) { context.moveTo(x + dx + 1, y); context.arc(x + dx, y, Math.max(1, r / 3.5), 0, 7); }
    context.fill();
  }
  context.restore();
}

/** Tick times of the last minutes: p50 to p99 as a band, the longest as points, the budget as a line. */
export function drawTicks(canvas, samples, budget, seconds, words) {
  const width = canvas.clientWidth || 300, height = 190, left = 52, bottom = 20, top = 8;
  const context = prepare(canvas, width, height);
  const [soft, line, bad, c1, c2, c3] = ['--soft', '--line', '--bad', '--chart-1', '--chart-2', '--chart-3'].map(style);
  const now = samples.length ? samples[samples.length - 1].time_ms : Date.now();
  const most = Math.max(budget * 1.12, ...samples.map((sample) => Math.min(sample.max_us, budget * 2)), 1);
  const x = (ms) => left + (width - left - 6) * (1 - (now - ms) / (seconds * 1000));
  const y = (us) => top + (height - top - bottom) * (1 - Math.min(us, most) / most);
  context.font = '11px system-ui, sans-serif';
  context.textBaseline = 'middle';
  context.textAlign = 'right';
  for (const share of [0, 0.5, 1]) {
    const us = share === 1 ? budget : budget * share;
    context.strokeStyle = share === 1 ? bad : line;
    context.setLineDash(share === 1 ? [5, 4] : []);
    context.beginPath(); context.moveTo(left, y(us)); context.lineTo(width - 6, y(us)); context.stroke();
    context.fillStyle = share === 1 ? bad : soft;
    context.fillText(share === 0 ? '0' : words(us), left - 7, y(us));
  }
  context.setLineDash([]);
  context.textBaseline = 'alphabetic';
  context.fillStyle = soft;
  for (let s = 0; s <= seconds; s += (width < 420 ? 2 : 1) * (seconds > 120 ? 60 : seconds > 60 ? 30 : 15)) {
    context.textAlign = s === 0 ? 'right' : 'center';
    context.fillText(s === 0 ? 'now' : s % 60 ? `−${s} s` : `−${s / 60} min`, s === 0 ? width - 6 : Math.max(x(now - s * 1000), left + 18), height - 4);
  }
  if (samples.length < 2) return;
  context.save();
  context.beginPath(); context.rect(left, 0, width - left, height - bottom + 2); context.clip();
  context.globalAlpha = 0.45;
  context.fillStyle = c2;
  context.beginPath();
  samples.forEach((sample, i) => (i ? context.lineTo : context.moveTo).call(context, x(sample.time_ms), y(sample.p99_us)));
  [...samples].reverse().forEach((sample) => context.lineTo(x(sample.time_ms), y(sample.p50_us)));
  context.fill();
  context.globalAlpha = 1;
  for (const [field, colour, thick] of [['p50_us', c2, 1.5], ['p99_us', c1, 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.lineJoin = 'round';
    context.beginPath();
    samples.forEach((sample, i) => (i ? context.lineTo : context.moveTo).call(context, x(sample.time_ms), y(sample[field])));
    context.stroke();
  }
  context.fillStyle = c3;
  for (const sample of samples) { context.beginPath(); context.arc(x(sample.time_ms), y(sample.max_us), 1.4, 0, 7); context.fill(); }
  context.restore();
}

/** How seconds spread over shares of the budget: a bar for each tenth of the p99 of a second, past the budget in red. */
export function drawSpread(canvas, samples, budget) {
  const width = canvas.clientWidth || 300, height = 190, bottom = 20;
  const context = prepare(canvas, width, height);
  const [soft, line, bad, c1] = ['--soft', '--line', '--bad', '--chart-1'].map(style);
  const bars = new Array(12).fill(0);
  for (const sample of samples) bars[Math.min(11, Math.floor((sample.p99_us / budget) * 10))] += 1;
  const most = Math.max(...bars, 1), wide = width / 12;
  context.font = '11px system-ui, sans-serif';
  bars.forEach((bar, i) => {
    const tall = (height - bottom - 8) * (bar / most);
    context.fillStyle = i >= 10 ? bad : c1;
    context.beginPath();
    context.roundRect(i * wide + 2, height - bottom - tall, wide - 4, tall, [4, 4, 0, 0]);
    context.fill();
  });
  context.strokeStyle = line;
  context.beginPath(); context.moveTo(0, height - bottom + 0.5); context.lineTo(width, height - bottom + 0.5); context.stroke();
  context.strokeStyle = bad;
  context.setLineDash([5, 4]);
  context.beginPath(); context.moveTo(wide * 10, 0); context.lineTo(wide * 10, height - bottom); context.stroke();
  context.setLineDash([]);
  context.fillStyle = soft;
  context.textAlign = 'center';
  for (const [i, label] of [[0, '0'], [5, '50%'], [10, '100%']]) context.fillText(label, Math.max(i * wide, 6), height - 4);
}

/** Kinds have colours by their name: the same on every page and day. */
export function kindColour(kind) {
  let hash = 0;
  for (const letter of kind) hash = (hash * 31 + letter.charCodeAt(0)) | 0;
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  return `hsl(${((hash % 360) + 360) % 360} 62% ${dark ? 66 : 42}%)`;
}

/** Entities from above: x to the right, z down, height as the size. `view` keeps the frame steady between draws. */
export function drawEntities(canvas, entities, view) {
  const width = canvas.clientWidth || 300, height = Math.min(width, 420);
  const context = prepare(canvas, width, height);
  const [sunken, line, soft] = ['--sunken', '--line', '--soft'].map(style);
  context.fillStyle = sunken;
  context.beginPath(); context.roundRect(0, 0, width, height, 8); context.fill();
  if (!entities.length) return;
  const edge = (field, pick) => pick(...entities.map((entity) => entity[field]));
  const want = { x0: edge('x', Math.min), x1: edge('x', Math.max), z0: edge('z', Math.min), z1: edge('z', Math.max) };
  if (view.x0 === undefined || want.x0 < view.x0 || want.x1 > view.x1 || want.z0 < view.z0 || want.z1 > view.z1) {
    const pad = Math.max(2, 0.08 * Math.max(want.x1 - want.x0, want.z1 - want.z0));
    Object.assign(view, { x0: want.x0 - pad, x1: want.x1 + pad, z0: want.z0 - pad, z1: want.z1 + pad });
  }
  const scale = Math.min(width / (view.x1 - view.x0), height / (view.z1 - view.z0));
  const middle = [(view.x0 + view.x1) / 2, (view.z0 + view.z1) / 2];
  const place = (entity) => [width / 2 + (entity.x - middle[0]) * scale, height / 2 + (entity.z - middle[1]) * scale];
  const metres = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((m) => m * scale >= 48) ?? 10000;
  context.strokeStyle = line;
  context.lineWidth = 1;
  context.beginPath();
  for (let m = Math.ceil((middle[0] - width / 2 / scale) / metres) * metres; (m - middle[0]) * scale < width / 2; m += metres) {
    const x = width / 2 + (m - middle[0]) * scale; context.moveTo(x, 0); context.lineTo(x, height);
  }
  for (let m = Math.ceil((middle[1] - height / 2 / scale) / metres) * metres; (m - middle[1]) * scale < height / 2; m += metres) {
    const y = height / 2 + (m - middle[1]) * scale; context.moveTo(0, y); context.lineTo(width, y);
  }
  context.stroke();
  const size = entities.length > 800 ? 2 : entities.length > 150 ? 3 : 4.2;
  for (const entity of entities) {
    const [x, y] = place(entity);
    context.fillStyle = kindColour(entity.kind);
    context.beginPath(); context.arc(x, y, size * (1 + Math.min(Math.max(entity.y, 0), 20) / 40), 0, 7); context.fill();
  }
  context.fillStyle = soft;
  context.font = '11px system-ui, sans-serif';
  context.textAlign = 'left';
  context.fillText(`grid ${metres} m`, 8, height - 8);
  view.place = place;
}
