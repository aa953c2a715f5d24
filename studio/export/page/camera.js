
// The camera.
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const sum = (a, b, t = 1) => a.map((value, i) => value + t * b[i]);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = a => { const length = Math.hypot(...a); return a.map(value => value / length); };

// Rodrigues' formula.
function rotate(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), along = dot(axis, v) * (1 - c), side = cross(axis, v);
  return v.map((value, i) => value * c + side[i] * s + axis[i] * along);
}

class Camera {
  constructor(facts) { this.facts = facts; this.reset(); }

  reset() {
    const { axes, eye } = this.facts;
    this.axes = [axes.slice(0, 3), axes.slice(3, 6), axes.slice(6, 9)];
    this.eye = eye.slice();
    this.distance = this.firstDistance || 1;
  }

  // All of the first camera's picture is seen in a window of any shape.
  lens(width, height) {
    const [fx, fy, cx, cy] = this.facts.lens, [w, h] = this.facts.size, scale = Math.min(width / w, height / h);
    return [fx * scale, fy * scale, width / 2 + (cx - w / 2) * scale, height / 2 + (cy - h / 2) * scale];
  }

  get target() { return sum(this.eye, this.axes[2], this.distance); }

  turn(yaw, pitch) {
    const { up } = this.facts, target = this.target;
    // Not beyond the poles.
    const height = Math.asin(Math.min(Math.max(-dot(this.axes[2], up), -1), 1)), most = 1.5533;
    const tilt = Math.min(Math.max(height + pitch, Math.min(-most, height)), Math.max(most, height)) - height;
    const right = this.axes[0];
    const axes = this.axes.map(axis => rotate(rotate(axis, right, -tilt), up, yaw));
    // Rounding adds up over many turns.
    axes[2] = unit(axes[2]);
    axes[0] = unit(sum(axes[0], axes[2], -dot(axes[0], axes[2])));
    axes[1] = cross(axes[2], axes[0]);
    this.axes = axes;
    this.eye = sum(target, axes[2], -this.distance);
  }

  // In pixels of the window: what is under the pointer stays under it, at the target's depth.
  move(dx, dy, width, height) {
    const [fx, fy] = this.lens(width, height);
    this.eye = sum(sum(this.eye, this.axes[0], -dx * this.distance / fx), this.axes[1], -dy * this.distance / fy);
  }

  zoom(factor) {
    const target = this.target;
    this.distance = Math.max(this.distance * factor, 1e-3 * (this.firstDistance || 1));
    this.eye = sum(target, this.axes[2], -this.distance);
  }

  walk(along, side) {
    const step = 0.05 * this.distance;
    this.eye = sum(sum(this.eye, this.axes[2], along * step), this.axes[0], side * step);
  }
}

// Depth of what is seen at a pixel: where half of the light is gone, for Gaussians taken as round.
function pick(data, facts, camera, x, y, width, height) {
  const [fx, fy, cx, cy] = camera.lens(width, height), [right, down, forward] = camera.axes;
  const ray = unit(sum(sum(forward, right, (x - cx) / fx), down, (y - cy) / fy)), cosine = dot(ray, forward), hits = [];
  for (let i = 0; i < facts.count; i++) {
    const p = [0, 1, 2].map(k => data.positions[3 * i + k] - camera.eye[k]), along = dot(p, ray);
    if (along * cosine < facts.near) continue;
    const start = facts.columns * (i >> 8), middle = [6, 7, 8].map(k => data.records[16 * i + k]).sort((a, b) => a - b)[1];
    const radius = Math.max(Math.exp(data.table[start + 3] + data.table[start + 7] / 255 * middle), along / fx);
    const squared = (dot(p, p) - along * along) / (radius * radius);
    if (squared < 9) hits.push([along * cosine, data.opacities[i] / 255 * Math.exp(-0.5 * squared)]);
  }
  hits.sort((a, b) => a[0] - b[0]);
  let light = 1;
  for (const [depth, alpha] of hits) {
    light *= 1 - alpha;
    if (light < 0.5) return depth;
  }
  return null;
}
