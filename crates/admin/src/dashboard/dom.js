// Elements from calls, tables that keep their rows, dialogs. Text is always set as text.

/** An element: h('p.soft', { title }, 'text', child). A property that is a function is a listener. */
export function h(kind, properties, ...children) {
  const [tag, ...classes] = kind.split('.');
  const element = document.createElement(tag || 'div');
  if (classes.length) element.className = classes.join(' ');
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Set an element's children, but only when `key` differs from the last time: focus and selection stay. */
export function fill(element, key, make) {
  if (element.dataset.key === String(key)) return;
  element.dataset.key = key;
  element.replaceChildren(...[make()].flat().filter((child) => child != null));
}

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** A state as a word with a colour. */
export function tag(word, tone) {
  return h(`span.tag${tone ? '.' + tone : ''}`, null, word);
}

/** A sentence whose `commands` are set as code. */
export const coded = (words) => words.split('`').map((piece, i) => (i % 2 ? h('code', null, piece) : piece));

/** A list of numbers with names: [[name, value, unit, tone]]. Made once, then only its texts change. */
export class Stats {
  constructor() { this.element = h('dl.stats'); this.cells = new Map(); }
  set(rows) {
    for (const [name, value, unit, tone] of rows) {
      let cell = this.cells.get(name);
      if (!cell) {
        cell = { number: document.createTextNode(''), unit: h('small'), dd: h('dd') };
        cell.dd.append(cell.number, cell.unit);
        this.cells.set(name, cell);
        this.element.append(h('div.stat', null, h('dt', null, name), cell.dd));
      }
      if (cell.number.data !== value) cell.number.data = value;
      text(cell.unit, unit ?? '');
      cell.dd.className = tone ?? '';
    }
  }
}

/**
 * A table whose rows are kept by key. columns: { head, right, sort(row), key(row), cell(row) }; a cell is made again only when its
 * key differs.
 */
export class Table {
  constructor(caption, columns, { sort = null, onSort = null, rowKey = (row) => row.name } = {}) {
    Object.assign(this, { columns, sort, rowKey, rows: new Map() });
    this.headers = columns.map((column, i) => {
      const label = column.sort
        ? h('button', { type: 'button', click: () => { this.sort = i; onSort?.(i); this.update(this.last ?? []); } }, column.head)
        : column.head;
      return h(`th${column.right ? '.r' : ''}${column.wide ? '.wide' : ''}`, { scope: 'col' }, label);
    });
    this.body = h('tbody');
    this.element = h('table', null, h('caption.sr', null, caption), h('thead', null, h('tr', null, this.headers)), this.body);
  }
  update(list) {
    this.last = list;
    this.headers.forEach((th, i) => (i === this.sort ? th.setAttribute('aria-sort', 'descending') : th.removeAttribute('aria-sort')));
    const by = this.sort == null ? null : this.columns[this.sort].sort;
    const rows = by ? [...list].sort((a, b) => compare(by(b), by(a)) || compare(this.rowKey(a), this.rowKey(b))) : list;
    const seen = new Set();
    let at = this.body.firstElementChild;
    for (const row of rows) {
      const key = this.rowKey(row);
      seen.add(key);
      let tr = this.rows.get(key);
      if (!tr) {
        tr = h('tr', null, this.columns.map((column) => h(`td${column.right ? '.r' : ''}${column.wide ? '.wide' : ''}`)));
        this.rows.set(key, tr);
      }
      this.columns.forEach((column, i) => fill(tr.children[i], column.key(row), () => column.cell ? column.cell(row) : String(column.key(row))));
      if (tr === at) at = at.nextElementSibling;
      else this.body.insertBefore(tr, at);
    }
    for (const [key, tr] of this.rows) if (!seen.has(key)) { tr.remove(); this.rows.delete(key); }
  }
}

export function compare(a, b) {
  return typeof a === 'string' ? a.localeCompare(b, 'en', { numeric: true }) : a - b;
}

export function empty(title, detail) {
  return h('p.empty', null, h('b', null, title), detail ?? '');
}

/** A dialog with a form; gives its fields, or null if it was closed. fields: [{ name, label, value, hint, options }] */
export function askFor(title, words, action, fields = [], danger = false) {
  return new Promise((done) => {
    const inputs = fields.map((field) => field.options
      ? h('select', { name: field.name }, field.options.map(([value, label]) => h('option', { value }, label)))
      : h('input', { name: field.name, value: field.value ?? '', placeholder: field.hint ?? '', autocomplete: 'off', spellcheck: 'false' }));
    const dialog = h('dialog', { 'aria-label': title },
      h('form', { method: 'dialog' },
        h('div', null, h('h2', null, title), h('p.soft', null, words)),
        fields.map((field, i) => h('label', null, field.label, inputs[i])),
        h('div.acts', null,
          h('button', { type: 'button', click: () => dialog.close() }, 'Cancel'),
          h(`button.main${danger ? '.danger-main' : ''}`, { type: 'submit', value: 'yes' }, action))));
    dialog.addEventListener('close', () => {
      dialog.remove();
      done(dialog.returnValue === 'yes' ? Object.fromEntries(inputs.map((input) => [input.name, input.value.trim()])) : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    (inputs[0] ?? dialog.querySelector('button.main')).focus();
  });
}

export function showDialog(title, ...content) {
  const dialog = h('dialog', { 'aria-label': title }, h('h2', null, title), content,
    h('div.acts', null, h('button', { type: 'button', click: () => dialog.close() }, 'Close')));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

export function toast(words, bad = false) {
  const box = h(`div.toast${bad ? '.bad' : ''}`, null, words);
  document.getElementById('toasts').append(box);
  setTimeout(() => box.remove(), bad ? 9000 : 4000);
}

let tip = null;
/** A note beside the pointer; null takes it away. */
export function showTip(at, lines) {
  if (!lines) { tip?.remove(); tip = null; return; }
  if (!tip) { tip = h('div.tip', { role: 'tooltip' }); document.body.append(tip); }
  tip.replaceChildren(h('b', null, lines[0]), ...lines.slice(1).map((line) => h('div', null, line)));
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.min(at.x + 14, innerWidth - box.width - 8) + 'px';
  tip.style.top = (at.y + 18 + box.height > innerHeight ? at.y - box.height - 10 : at.y + 18) + 'px';
}
