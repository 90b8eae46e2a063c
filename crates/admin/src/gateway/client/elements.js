// What scripts show on the screen: elements by name, with text. As text only: a script writes no markup.

/** Elements at a time: a script that shows more pushes out the oldest. */
const ELEMENTS_MAX = 24;

export class Elements {
  constructor(container) { this.container = container; this.shown = new Map(); }

  clear() { this.shown.clear(); this.container.replaceChildren(); }

  show(name, text) {
    let element = this.shown.get(name);
    if (!element) {
      element = document.createElement('div');
      element.className = 'element';
      element.dataset.element = name;
      this.container.append(element);
      this.shown.set(name, element);
      if (this.shown.size > ELEMENTS_MAX) this.hide(this.shown.keys().next().value);
    }
    if (element.textContent !== text) element.textContent = text;
  }

  /** Of an element that is not shown it changes nothing. */
  text(name, text) { if (this.shown.has(name)) this.show(name, text); }

  hide(name) {
    this.shown.get(name)?.remove();
    this.shown.delete(name);
  }
}
