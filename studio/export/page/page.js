
// The page.
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
