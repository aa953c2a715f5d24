
"use strict";

// The depth order: a function of its own, as it runs in a worker.
function sorter() {
  let positions = null, keys = null, spare = null, indices = null, spareIndices = null;

  // Indices of what lies beyond the near plane, farthest first. Exact: the bits of positive floats are in their order,
  // so a radix sort of three times 11 bits sorts the depths themselves.
  function order(forward, offset, near) {
    const count = positions.length / 3, depth = new Float32Array(1), bits = new Uint32Array(depth.buffer);
    const low = new Uint32Array(2048), middle = new Uint32Array(2048), high = new Uint32Array(2048);
    const [fx, fy, fz] = forward;
    let visible = 0;
    for (let i = 0; i < count; i++) {
      depth[0] = fx * positions[3 * i] + fy * positions[3 * i + 1] + fz * positions[3 * i + 2] + offset;
      if (!(depth[0] >= near)) continue;
      const key = ~bits[0] >>> 0;
      keys[visible] = key;
      indices[visible++] = i;
      low[key & 2047]++; middle[key >>> 11 & 2047]++; high[key >>> 22]++;
    }
    let from = [keys, indices], to = [spare, spareIndices];
    [[low, 0], [middle, 11], [high, 22]].forEach(([counts, shift]) => {
      for (let b = 0, sum = 0; b < 2048; b++) { const here = counts[b]; counts[b] = sum; sum += here; }
      for (let i = 0; i < visible; i++) {
        const place = counts[from[0][i] >>> shift & 2047]++;
        to[0][place] = from[0][i];
        to[1][place] = from[1][i];
      }
      [from, to] = [to, from];
    });
    return from[1].slice(0, visible);
  }

  function receive(message) {
    if (message.positions) {
      positions = message.positions;
      const count = positions.length / 3;
      [keys, spare, indices, spareIndices] = [0, 1, 2, 3].map(() => new Uint32Array(count));
      return null;
    }
    return { order: order(message.forward, message.offset, message.near), ticket: message.ticket };
  }

  if (typeof window === "undefined") {
    self.onmessage = event => {
      const answer = receive(event.data);
      if (answer) self.postMessage(answer, [answer.order.buffer]);
    };
  }
  return receive;
}
