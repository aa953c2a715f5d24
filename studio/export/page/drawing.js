
// Drawing.
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
