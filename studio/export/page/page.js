
"use strict";

// ---- the depth order: a function of its own, as it runs in a worker --------------------------------------------------
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

// ---- shaders ---------------------------------------------------------------------------------------------------------
const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D geometry, opacities, harmonics;
uniform sampler2D chunks;
uniform mat3 toCamera;
uniform vec3 eye;
uniform vec4 lens;
uniform vec2 size;
uniform float dilation, near;
uniform bool antialiased;
uniform int degree, perHarmonics;
in uint index;
out vec2 local;
flat out vec4 color;

ivec2 at(uint i, ivec2 extent) { return ivec2(int(i) % extent.x, int(i) / extent.x); }
vec4 range(uint k) { return texelFetch(chunks, at((index >> 8) * 5u + k, textureSize(chunks, 0)), 0); }

uvec4 packed0, packed1, packed2;
float level(int j) {
  uvec4 texel = j < 16 ? packed0 : j < 32 ? packed1 : packed2;
  return float(texel[(j >> 2) & 3] >> uint(8 * (j & 3)) & 255u);
}
vec3 coefficient(int k, vec2 span) { return span.x + span.y / 255.0 * vec3(level(3 * k), level(3 * k + 1), level(3 * k + 2)); }

vec3 seen(vec3 base, vec3 d, vec4 low, vec4 extent) {
  if (degree == 0) return base;
  ivec2 wide = textureSize(harmonics, 0);
  uint first = index * uint(perHarmonics);
  packed0 = texelFetch(harmonics, at(first, wide), 0);
  vec2 span = vec2(low.w, extent.w);
  vec3 c = base + 0.4886025119 * (-d.y * coefficient(0, span) + d.z * coefficient(1, span) - d.x * coefficient(2, span));
  if (degree == 1) return c;
  packed1 = texelFetch(harmonics, at(first + 1u, wide), 0);
  if (degree > 2) packed2 = texelFetch(harmonics, at(first + 2u, wide), 0);
  vec4 last = range(4u);
  span = last.xy;
  vec3 s = d * d;
  c += 1.0925484306 * (d.x * d.y * coefficient(3, span) - d.y * d.z * coefficient(4, span) - d.x * d.z * coefficient(6, span))
    + 0.3153915653 * (3.0 * s.z - 1.0) * coefficient(5, span) + 0.5462742153 * (s.x - s.y) * coefficient(7, span);
  if (degree == 2) return c;
  span = last.zw;
  return c + 0.5900435899 * (-d.y * (3.0 * s.x - s.y) * coefficient(8, span) - d.x * (s.x - 3.0 * s.y) * coefficient(14, span))
    + 2.8906114426 * d.x * d.y * d.z * coefficient(9, span) + 1.4453057213 * d.z * (s.x - s.y) * coefficient(13, span)
    - 0.4570457995 * (5.0 * s.z - 1.0) * (d.y * coefficient(10, span) + d.x * coefficient(12, span))
    + 0.3731763326 * d.z * (5.0 * s.z - 3.0) * coefficient(11, span);
}

mat3 turned(uint bits) {
  vec3 rest = (vec3(bits >> 2 & 1023u, bits >> 12 & 1023u, bits >> 22) / 1023.0 * 2.0 - 1.0) * 0.70710678118;
  float largest = sqrt(max(1.0 - dot(rest, rest), 0.0));
  uint which = bits & 3u;
  vec4 q = which == 0u ? vec4(largest, rest) : which == 1u ? vec4(rest.x, largest, rest.yz)
    : which == 2u ? vec4(rest.xy, largest, rest.z) : vec4(rest, largest);
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  local = vec2(0.0);
  color = vec4(0.0);
  uvec4 g = texelFetch(geometry, at(index, textureSize(geometry, 0)), 0);
  vec4 low = range(0u), extent = range(1u);
  vec3 mean = low.xyz + extent.xyz / 65535.0 * vec3(g.x & 0xffffu, g.x >> 16, g.y & 0xffffu);
  vec3 away = mean - eye, p = toCamera * away;
  if (p.z < near) return;
  vec3 scales = exp(low.w + extent.w / 255.0 * vec3(g.y >> 16 & 255u, g.y >> 24, g.z & 255u));

  // The covariance on screen: the Jacobian is taken at most 0.3 half fields of view outside the picture.
  vec2 beyond = 0.15 * size / lens.xy;
  vec2 flat2 = clamp(p.xy / p.z, -lens.zw / lens.xy - beyond, (size - lens.zw) / lens.xy + beyond);
  mat3 m = toCamera * turned(g.w);
  vec3 rowX = lens.x / p.z * scales * vec3(m[0].x - flat2.x * m[0].z, m[1].x - flat2.x * m[1].z, m[2].x - flat2.x * m[2].z);
  vec3 rowY = lens.y / p.z * scales * vec3(m[0].y - flat2.y * m[0].z, m[1].y - flat2.y * m[1].z, m[2].y - flat2.y * m[2].z);
  float xx = dot(rowX, rowX), xy = dot(rowX, rowY), yy = dot(rowY, rowY);
  float sharp = xx * yy - xy * xy;
  xx += dilation;
  yy += dilation;
  float opacity = float(texelFetch(opacities, at(index, textureSize(opacities, 0)), 0).r) / 255.0;
  float spread = xx * yy - xy * xy;
  if (!(spread > 0.0)) return;
  if (antialiased) opacity *= sqrt(max(sharp / spread, 0.0));
  if (opacity * 255.0 < 1.0) return;

  // The axes of the ellipse, as far as its alpha is above 1/255.
  float reach = sqrt(2.0 * log(opacity * 255.0));
  float middle = 0.5 * (xx + yy), half2 = length(vec2(0.5 * (xx - yy), xy));
  vec2 axis = half2 < 1e-6 * middle ? vec2(1.0, 0.0)
    : xx >= yy ? normalize(vec2(0.5 * (xx - yy) + half2, xy)) : normalize(vec2(xy, 0.5 * (yy - xx) + half2));
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  local = corner * reach;
  vec2 major = axis * sqrt(middle + half2), minor = vec2(-axis.y, axis.x) * sqrt(max(middle - half2, 0.0));
  vec2 pixel = lens.xy * p.xy / p.z + lens.zw + local.x * major + local.y * minor;
  vec4 lowColor = range(2u), extentColor = range(3u);
  vec3 base = lowColor.rgb + extentColor.rgb / 255.0 * vec3(g.z >> 8 & 255u, g.z >> 16 & 255u, g.z >> 24);
  color = vec4(max(seen(base, normalize(away), lowColor, extentColor), 0.0), opacity);
  gl_Position = vec4(pixel / size * vec2(2.0, -2.0) + vec2(-1.0, 1.0), 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 local;
flat in vec4 color;
out vec4 result;
void main() {
  float alpha = min(color.a * exp(-0.5 * dot(local, local)), 0.999);
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(color.rgb * alpha, alpha);
}`;

const SCREEN_VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const SCREEN_FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D drawn;
uniform vec3 background;
uniform float shrink;
out vec4 result;
void main() {
  vec4 c = texture(drawn, gl_FragCoord.xy * shrink / vec2(textureSize(drawn, 0)));
  result = vec4(c.rgb + (1.0 - c.a) * background, 1.0);
}`;

// ---- the embedded data -----------------------------------------------------------------------------------------------
async function unpack(facts) {
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old: it needs one of 2023 or later.");
  const text = atob(document.getElementById("data").textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());

  const n = facts.count, chunkCount = Math.ceil(n / 256), tableBytes = 4 * facts.columns * chunkCount;
  const table = new Float32Array(raw.buffer, 0, tableBytes / 4);
  const plane = k => raw.subarray(tableBytes + k * n, tableBytes + (k + 1) * n);
  const records = new Uint8Array(16 * n);
  // x, y, z, the scales, the colour, the rotation: the planes are in the order of the record but for the rotation.
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 15, 9, 10, 11, 12].forEach((source, target) => {
    const from = plane(source);
    for (let i = 0; i < n; i++) records[16 * i + target] = from[i];
  });
  const positions = new Float32Array(3 * n);
  for (let axis = 0; axis < 3; axis++) {
    const low = plane(2 * axis), high = plane(2 * axis + 1);
    for (let i = 0; i < n; i++) {
      const start = facts.columns * (i >> 8) + axis;
      positions[3 * i + axis] = table[start] + table[start + 4] / 65535 * (low[i] | high[i] << 8);
    }
  }
  const coefficients = 3 * ((facts.degree + 1) ** 2 - 1), perHarmonics = Math.ceil(coefficients / 16);
  const harmonics = new Uint8Array(16 * perHarmonics * n);
  for (let k = 0; k < coefficients; k++) {
    const from = plane(17 + k);
    for (let i = 0; i < n; i++) harmonics[16 * perHarmonics * i + k] = from[i];
  }
  return { table, records, positions, harmonics, perHarmonics, opacities: plane(16) };
}

// ---- drawing ---------------------------------------------------------------------------------------------------------
class Renderer {
  constructor(canvas, facts, data) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("This browser offers no WebGL 2; switch on hardware acceleration, or try another browser.");
    Object.assign(this, { canvas, gl, facts, count: 0, target: null });
    // Half floats keep what many faint layers add up to; without them 8 bits must do.
    this.deep = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.splats = this.program(VERTEX, FRAGMENT);
    this.screen = this.program(SCREEN_VERTEX, SCREEN_FRAGMENT);
    this.textures = [
      this.texture(new Uint32Array(data.records.buffer), gl.RGBA32UI, gl.RGBA_INTEGER, gl.UNSIGNED_INT, 4),
      this.texture(data.opacities, gl.R8UI, gl.RED_INTEGER, gl.UNSIGNED_BYTE, 1),
      this.texture(new Uint32Array(data.perHarmonics ? data.harmonics.buffer : 16), gl.RGBA32UI, gl.RGBA_INTEGER, gl.UNSIGNED_INT, 4),
      this.texture(data.table, gl.RGBA32F, gl.RGBA, gl.FLOAT, 4),
    ];
    gl.useProgram(this.splats.program);
    ["geometry", "opacities", "harmonics", "chunks"].forEach((name, unit) => gl.uniform1i(this.splats.at(name), unit));
    gl.uniform1i(this.splats.at("degree"), facts.degree);
    gl.uniform1i(this.splats.at("perHarmonics"), data.perHarmonics);
    gl.uniform1i(this.splats.at("antialiased"), facts.antialiased ? 1 : 0);
    gl.uniform1f(this.splats.at("near"), facts.near);
    gl.uniform1f(this.splats.at("dilation"), facts.eps2d);
    this.indices = gl.createBuffer();
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.indices);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(0, 1);
    this.empty = gl.createVertexArray();
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram(), places = {};
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error("Shader: " + gl.getShaderInfoLog(shader));
    }
    gl.bindAttribLocation(program, 0, "index");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error("Shaders: " + gl.getProgramInfoLog(program));
    return { program, at: name => name in places ? places[name] : (places[name] = gl.getUniformLocation(program, name)) };
  }

  // An array as rows of a texture that is wide enough; the rest of the last row is zero.
  texture(values, inner, format, type, channels) {
    const gl = this.gl, texels = values.length / channels, most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    const width = Math.max(Math.min(most, 4096, texels), 1), height = Math.ceil(texels / width) || 1;
    if (height > most) throw new Error("There are more Gaussians than this graphics processor has room for.");
    let filled = values;
    if (width * height * channels !== values.length) {
      filled = new values.constructor(width * height * channels);
      filled.set(values);
    }
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, format, type, filled);
    this.filter(gl.NEAREST);
    return texture;
  }

  filter(kind) {
    const gl = this.gl;
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, kind);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  }

  setOrder(order) {
    const gl = this.gl;
    this.count = order.length;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.indices);
    gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
  }

  resizeTarget(width, height) {
    if (this.target && this.target.width === width && this.target.height === height) return;
    const gl = this.gl;
    if (this.target) { gl.deleteTexture(this.target.texture); gl.deleteFramebuffer(this.target.frame); }
    const texture = gl.createTexture(), frame = gl.createFramebuffer();
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    if (this.deep) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA16F, width, height, 0, gl.RGBA, gl.HALF_FLOAT, null);
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    this.filter(gl.LINEAR);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    if (this.deep && gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
      this.deep = false;
      this.target = { texture, frame };
      this.resizeTarget(width, height);
      return;
    }
    this.target = { texture, frame, width, height };
  }

  // `shrink` reduces the resolution while the view moves faster than it can be drawn.
  draw(camera, background, shrink) {
    const gl = this.gl, { canvas } = this;
    const width = Math.max(Math.round(canvas.width * shrink), 1), height = Math.max(Math.round(canvas.height * shrink), 1);
    this.resizeTarget(width, height);
    const lens = camera.lens(width, height), [right, down, forward] = camera.axes;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target.frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.splats.program);
    this.textures.forEach((texture, unit) => { gl.activeTexture(gl.TEXTURE0 + unit); gl.bindTexture(gl.TEXTURE_2D, texture); });
    gl.uniformMatrix3fv(this.splats.at("toCamera"), false, [0, 1, 2].flatMap(i => [right[i], down[i], forward[i]]));
    gl.uniform3fv(this.splats.at("eye"), camera.eye);
    gl.uniform4fv(this.splats.at("lens"), lens);
    gl.uniform2f(this.splats.at("size"), width, height);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.array);
    if (this.count) gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.disable(gl.BLEND);
    gl.useProgram(this.screen.program);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.target.texture);
    gl.uniform1i(this.screen.at("drawn"), 0);
    gl.uniform1f(this.screen.at("shrink"), shrink);
    gl.uniform3fv(this.screen.at("background"), background);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
}

// ---- the camera ------------------------------------------------------------------------------------------------------
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

// ---- the page --------------------------------------------------------------------------------------------------------
function startSorting(answer) {
  let send = null, unanswered = [];
  // Some browsers give files no workers: some refuse at once, some later by an event.
  function sortHere() {
    const receive = sorter();
    send = message => { const result = receive(message); if (result) setTimeout(() => answer(result)); };
    const waiting = unanswered;
    unanswered = null;
    waiting.forEach(send);
  }
  try {
    const worker = new Worker(URL.createObjectURL(new Blob([`(${sorter})()`], { type: "text/javascript" })));
    send = message => { if (unanswered) unanswered.push(message); worker.postMessage(message); };
    worker.onmessage = event => { unanswered = null; answer(event.data); };
    worker.onerror = event => { if (unanswered) { event.preventDefault(); sortHere(); } };
  } catch {
    sortHere();
  }
  return message => send(message);
}

async function main() {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const canvas = document.getElementById("view"), state = document.documentElement.dataset;
  const data = await unpack(facts), camera = new Camera(facts);
  const [w, h] = facts.size;
  camera.firstDistance = pick(data, facts, camera, w / 2, h / 2, w, h) || medianDepth(data, facts, camera);
  camera.reset();
  let renderer = new Renderer(canvas, facts, data), background = facts.background.slice();

  let wanted = 0, sorting = 0, sorted = -1, dirty = true, moved = 0, shrink = 1, before = 0;
  const ask = startSorting(({ order, ticket }) => {
    renderer.setOrder(order);
    [sorted, sorting] = [ticket, 0];
    dirty = true;
  });
  ask({ positions: data.positions });

  function change() { wanted++; dirty = true; moved = performance.now(); state.state = "drawing"; }

  function resize() {
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.max(Math.round(canvas.clientWidth * scale), 1);
    canvas.height = Math.max(Math.round(canvas.clientHeight * scale), 1);
    dirty = true;
    state.state = "drawing";
  }

  function frame(now) {
    requestAnimationFrame(frame);
    if (!sorting && sorted !== wanted) {
      sorting = 1;
      const forward = camera.axes[2];
      ask({ forward, offset: -dot(forward, camera.eye), near: facts.near, ticket: wanted });
    }
    const still = now - moved > 250;
    if (!still && dirty) {
      // Coarser as long as frames take longer than 40 ms, finer again below 20 ms.
      const took = now - before;
      if (took < 500) shrink = took > 40 ? Math.max(shrink * 0.85, 0.35) : took < 20 ? Math.min(shrink * 1.1, 1) : shrink;
    } else if (still && shrink < 1) {
      shrink = 1;
      dirty = true;
    }
    before = now;
    if (!dirty || sorted < 0) return;
    dirty = false;
    renderer.draw(camera, background, shrink);
    if (sorted === wanted && shrink === 1) state.state = "ready";
  }

  controls(canvas, camera, change, (x, y) => pick(data, facts, camera, x, y, canvas.clientWidth, canvas.clientHeight));
  buttons(camera, change, facts, color => { background = color; dirty = true; state.state = "drawing"; });
  new ResizeObserver(resize).observe(canvas);
  resize();
  canvas.addEventListener("webglcontextlost", event => { event.preventDefault(); sorted = -1; });
  canvas.addEventListener("webglcontextrestored", () => { renderer = new Renderer(canvas, facts, data); change(); });
  requestAnimationFrame(frame);
}

function medianDepth(data, facts, camera) {
  const depths = [];
  for (let i = 0; i < facts.count; i++) {
    const depth = [0, 1, 2].reduce((total, k) => total + camera.axes[2][k] * (data.positions[3 * i + k] - camera.eye[k]), 0);
    if (depth > facts.near) depths.push(depth);
  }
  return depths.sort((a, b) => a - b)[depths.length >> 1] || 1;
}

function controls(canvas, camera, change, depthAt) {
  const pointers = new Map();
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const between = () => {
    const [a, b] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, gap: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.classList.add("dragging");
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => {
    pointers.delete(event.pointerId);
    if (!pointers.size) canvas.classList.remove("dragging");
  });
  canvas.addEventListener("pointermove", event => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const dx = event.clientX - last.x, dy = event.clientY - last.y, [width, height] = size();
    if (pointers.size === 2) {
      const old = between();
      Object.assign(last, { x: event.clientX, y: event.clientY });
      const now = between();
      camera.move(now.x - old.x, now.y - old.y, width, height);
      if (now.gap > 0 && old.gap > 0) camera.zoom(old.gap / now.gap);
    } else if (pointers.size === 1) {
      Object.assign(last, { x: event.clientX, y: event.clientY });
      if (event.buttons & 2 || event.buttons & 4 || event.shiftKey) camera.move(dx, dy, width, height);
      else camera.turn(-dx * Math.PI / height, dy * Math.PI / height);
    }
    change();
  });
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    camera.zoom(Math.exp(Math.min(Math.max(event.deltaY * lines, -400), 400) * 0.0015));
    change();
  }, { passive: false });
  canvas.addEventListener("dblclick", event => {
    const depth = depthAt(event.clientX, event.clientY);
    if (depth === null) return;
    // Aim at the point: it becomes the middle of the picture at its own depth.
    const [fx, fy, cx, cy] = camera.lens(...size());
    camera.distance = depth;
    camera.move(cx - event.clientX, cy - event.clientY, ...size());
    change();
  });
}

function buttons(camera, change, facts, setBackground) {
  const byId = id => document.getElementById(id), color = byId("background"), keys = byId("keys"), help = byId("help");
  const hex = rgb => "#" + rgb.map(value => Math.round(255 * value).toString(16).padStart(2, "0")).join("");
  color.value = hex(facts.background);
  color.addEventListener("input", () => setBackground([1, 3, 5].map(i => parseInt(color.value.slice(i, i + 2), 16) / 255)));
  const reset = () => { camera.reset(); change(); };
  const fullscreen = () => {
    const root = document.documentElement;
    if (document.fullscreenElement) document.exitFullscreen();
    else if (root.requestFullscreen) root.requestFullscreen().catch(() => {});
  };
  byId("reset").addEventListener("click", reset);
  byId("fullscreen").addEventListener("click", fullscreen);
  if (!document.documentElement.requestFullscreen) byId("fullscreen").hidden = true;
  help.addEventListener("click", () => {
    keys.hidden = !keys.hidden;
    help.setAttribute("aria-expanded", String(!keys.hidden));
  });
  const angle = Math.PI / 36, moves = {
    arrowleft: () => camera.turn(angle, 0), arrowright: () => camera.turn(-angle, 0),
    arrowup: () => camera.turn(0, angle), arrowdown: () => camera.turn(0, -angle),
    w: () => camera.walk(1, 0), s: () => camera.walk(-1, 0), a: () => camera.walk(0, -1), d: () => camera.walk(0, 1),
    "+": () => camera.zoom(0.9), "=": () => camera.zoom(0.9), "-": () => camera.zoom(1 / 0.9),
  };
  window.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (moves[key]) { moves[key](); change(); event.preventDefault(); }
    else if (key === "r") reset();
    else if (key === "f") fullscreen();
    else if (key === "h") document.body.classList.toggle("bare");
  });
}

main().catch(error => {
  const message = document.getElementById("message");
  message.textContent = error.message;
  message.hidden = false;
  document.documentElement.dataset.state = "failed";
});
