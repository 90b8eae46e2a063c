// The entities as the gateway shows them, and where they are between two ticks.

/** The shorter way round from one angle to another. */
const turn = (from, to) => ((to - from + 3 * Math.PI) % (2 * Math.PI)) - Math.PI;

export class Scene {
  constructor() { this.hz = 20; this.clear(); }

  clear() { this.kinds = new Map(); this.slots = new Map(); this.tick = 0n; }

  /** Carry out a snapshot or a tick that came at this time, in milliseconds. */
  apply(frame, now) {
    if (frame.frame === 'snapshot') this.clear();
    this.tick = frame.tick;
    for (const [kind, name] of frame.kinds) this.kinds.set(kind, name);
    for (const slot of frame.gone ?? []) this.slots.delete(slot);
    for (const { slot, id, kind, x, y, z, yaw } of frame.created) {
      const pose = { x, y, z, yaw };
      this.slots.set(slot, { slot, id, kind: this.kinds.get(kind) ?? '', from: pose, to: pose, since: now });
    }
    for (const { slot, x, y, z, yaw } of frame.moved ?? []) {
      const entity = this.slots.get(slot);
      if (!entity) continue;
      entity.from = this.pose(entity, now);
      entity.to = { x, y, z, yaw };
      entity.since = now;
    }
  }

  /** Where an entity is drawn: a tick behind, so that it moves evenly. */
  pose(entity, now) {
    const { from, to, since } = entity;
    const done = Math.min(1, ((now - since) / 1000) * this.hz / 1.25);
    const between = (a, b) => a + (b - a) * done;
    return { x: between(from.x, to.x), y: between(from.y, to.y), z: between(from.z, to.z), yaw: from.yaw + turn(from.yaw, to.yaw) * done };
  }

  /** The entity with this number. */
  find(id) {
    if (id === null) return null;
    for (const entity of this.slots.values()) if (entity.id === id) return entity;
    return null;
  }
}
