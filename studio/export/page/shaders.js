
// Shaders.
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
