// Keys and fingers as a direction: east and south, at most 1 long.

const KEYS = {
  ArrowUp: [0, -1], KeyW: [0, -1], ArrowDown: [0, 1], KeyS: [0, 1], ArrowLeft: [-1, 0], KeyA: [-1, 0], ArrowRight: [1, 0], KeyD: [1, 0],
};
/** Pixels of a drag at which one walks at full speed, and below which one stands. */
const FULL = 60;
const DEAD = 8;

const typing = (target) => target instanceof HTMLElement && target.closest('input, textarea, select, button, summary');

export class Controls {
  /** `changed()` after each change of the direction, `wave()` when that is wanted. */
  constructor(canvas, changed, wave) {
    this.held = new Set();
    this.drag = null;
    this.changed = changed;
    addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
      if (event.code === 'Space') {
        event.preventDefault();
        if (!event.repeat) wave();
      } else if (event.code in KEYS) {
        event.preventDefault();
        if (!event.repeat) { this.held.add(event.code); changed(); }
      }
    });
    addEventListener('keyup', (event) => { if (this.held.delete(event.code)) changed(); });
    // Keys that go up elsewhere are not seen.
    addEventListener('blur', () => this.rest());
    canvas.addEventListener('pointerdown', (event) => {
      if (this.drag) return;
      canvas.setPointerCapture(event.pointerId);
      this.drag = { id: event.pointerId, x: event.clientX, y: event.clientY, dx: 0, dy: 0 };
    });
    canvas.addEventListener('pointermove', (event) => {
      if (this.drag?.id !== event.pointerId) return;
      this.drag.dx = event.clientX - this.drag.x;
      this.drag.dy = event.clientY - this.drag.y;
      changed();
    });
    for (const end of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(end, (event) => {
        if (this.drag?.id !== event.pointerId) return;
        if (end === 'pointerup' && Math.hypot(this.drag.dx, this.drag.dy) < DEAD) wave();
        this.drag = null;
        changed();
      });
    }
  }

  rest() { this.held.clear(); this.drag = null; this.changed(); }

  direction() {
    let [x, z] = [0, 0];
    for (const key of this.held) { x += KEYS[key][0]; z += KEYS[key][1]; }
    if (this.drag && Math.hypot(this.drag.dx, this.drag.dy) >= DEAD) { x += this.drag.dx / FULL; z += this.drag.dy / FULL; }
    const length = Math.hypot(x, z);
    return length > 1 ? [x / length, z / length] : [x, z];
  }
}
