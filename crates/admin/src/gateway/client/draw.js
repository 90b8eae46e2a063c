// The town from above: x to the right, z downwards, what is higher is larger and casts a shadow.

/** How a kind is drawn: a circle of a radius, a box of half sides, a bird, or a zone on the ground; metres. Unknown ones are circles. */
const LOOKS = {
  player: { circle: 0.42, faces: true }, guard: { circle: 0.42, faces: true }, thief: { circle: 0.36, faces: true }, customer: { circle: 0.38, faces: true },
  merchant: { box: [1, 0.5] }, 'quest-board': { box: [0.8, 0.18] }, 'door-leaf': { box: [1.2, 0.16] }, crate: { box: [0.4, 0.4] },
  ball: { circle: 0.25 }, bird: { bird: 0.3 }, door: { zone: [2, 2] }, toybox: { zone: [1.5, 1.5] }, roost: {},
};
const NAMES = ['ground', 'grid', 'edge', 'ink', 'shade', 'zone', 'me', 'player', 'guard', 'thief', 'customer', 'merchant', 'quest-board', 'door-leaf', 'ball', 'crate', 'bird', 'other', 'text'];
/** Metres from the middle to the town's edge, and between two lines of the grid. */
const EDGE = 30;
const GRID = 5;
/** Metres that the shorter side of the screen shows. */
const SEEN = 26;

function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d', { alpha: false });
    this.eye = { x: 0, z: 2 };
    this.colours = palette();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { this.colours = palette(); });
  }

  draw(scene, me, now) {
    const { canvas, context, colours } = this;
    const scale = devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const own = scene.find(me);
    if (own) {
      const pose = scene.pose(own, now);
      // It follows, it is not nailed to the player.
      this.eye.x += (pose.x - this.eye.x) * 0.15;
      this.eye.z += (pose.z - this.eye.z) * 0.15;
    }
    const metre = Math.min(width, height) / SEEN;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = colours.ground;
    context.fillRect(0, 0, width, height);
    context.setTransform(metre, 0, 0, metre, width / 2 - this.eye.x * metre, height / 2 - this.eye.z * metre);
    this.ground(metre);
    const order = [...scene.slots.values()].map((entity) => ({ entity, pose: scene.pose(entity, now) }));
    order.sort((a, b) => a.pose.y - b.pose.y);
    for (const { entity, pose } of order) this.entity(entity, pose, entity === own, metre);
  }

  ground(metre) {
    const { context, colours } = this;
    context.lineWidth = 1 / metre;
    context.strokeStyle = colours.grid;
    context.beginPath();
    for (let at = -EDGE; at <= EDGE; at += GRID) {
      context.moveTo(at, -EDGE); context.lineTo(at, EDGE);
      context.moveTo(-EDGE, at); context.lineTo(EDGE, at);
    }
    context.stroke();
    context.lineWidth = 0.25;
    context.strokeStyle = colours.edge;
    context.strokeRect(-EDGE - 0.5, -EDGE - 0.5, 2 * EDGE + 1, 2 * EDGE + 1);
  }

  entity({ kind }, pose, isMe, metre) {
    const { context, colours } = this;
    const look = LOOKS[kind] ?? { circle: 0.3 };
    const size = 1 + Math.max(0, Math.min(pose.y, 20)) * 0.02;
    context.save();
    context.translate(pose.x, pose.z);
    if (look.zone) {
      context.fillStyle = colours.zone;
      context.beginPath();
      context.roundRect(-look.zone[0], -look.zone[1], 2 * look.zone[0], 2 * look.zone[1], 0.3);
      context.fill();
    }
    const shape = (x, z) => {
      context.beginPath();
      if (look.circle) context.arc(x, z, look.circle * size, 0, 2 * Math.PI);
      else if (look.box) context.roundRect(x - look.box[0] * size, z - look.box[1] * size, 2 * look.box[0] * size, 2 * look.box[1] * size, 0.08);
      else if (look.bird) { context.moveTo(x, z + look.bird * size); context.lineTo(x - look.bird, z - look.bird); context.lineTo(x + look.bird, z - look.bird); context.closePath(); }
    };
    // The sun is in the north-west.
    const shift = 0.12 + Math.max(0, Math.min(pose.y, 14)) * 0.08;
    context.fillStyle = colours.shade;
    shape(shift, shift);
    context.fill();
    // Yaw 0 looks south, along z.
    context.rotate(-pose.yaw);
    context.fillStyle = isMe ? colours.me : colours[kind] ?? colours.other;
    context.strokeStyle = colours.ink;
    context.lineWidth = (isMe ? 3 : 1.2) / metre;
    shape(0, 0);
    context.fill();
    if (!look.zone) context.stroke();
    if (look.faces) {
      context.fillStyle = colours.ink;
      context.beginPath();
      context.arc(0, look.circle * 0.65, look.circle * 0.22, 0, 2 * Math.PI);
      context.fill();
    }
    context.restore();
  }
}
