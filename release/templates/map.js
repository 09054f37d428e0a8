// The map of a release: land, graticule, areas and chips on a canvas, in Mercator's projection.
// World units are degrees of longitude, y down.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const box = document.getElementById("map");
  const canvas = box.querySelector("canvas");
  const tip = box.querySelector(".tip");
  const sheet = document.createElement("canvas"); // all but what is pointed at: a hover redraws none of it
  const pen = sheet.getContext("2d");
  const count = data.lon.length;
  const MOST_LAND_SCALE = 500; // px a degree: beyond, the simplified coast would mislead
  const STEPS = [30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
  const M_PER_DEGREE = 111320;
  const DEEPEST = 2e5;
  const RADIANS = Math.PI / 180;

  const toY = (lat) => {
    const kept = Math.max(-85, Math.min(85, lat));
    return -Math.log(Math.tan(Math.PI / 4 + (kept * RADIANS) / 2)) / RADIANS;
  };
  const toLat = (y) => Math.atan(Math.sinh(-y * RADIANS)) / RADIANS;

  const y = Float64Array.from(data.lat, toY);
  const x = Float64Array.from(data.lon);
  const sides = Float64Array.from(data.lat, (lat) => data.chip_m / (M_PER_DEGREE * Math.cos(lat * RADIANS)));
  const order = Array.from(data.class.keys()).sort((a, b) => data.class[a] - data.class[b] || a - b);
  const land = new Path2D();
  for (const line of data.land) {
    let lon = 0, lat = 0, isFirst = true;
    for (const pair of line.split(" ")) {
      const [dx, dy] = pair.split(",");
      lon += +dx; lat += +dy;
      if (isFirst) land.moveTo(lon / 10, toY(lat / 10)); else land.lineTo(lon / 10, toY(lat / 10));
      isFirst = false;
    }
    land.closePath();
  }
  const areas = data.areas.map((area, number) => {
    const path = new Path2D();
    let west = Infinity, east = -Infinity, north = Infinity, south = -Infinity;
    for (const ring of area.rings) {
      ring.forEach(([lon, lat], i) => {
        const down = toY(lat);
        west = Math.min(west, lon); east = Math.max(east, lon);
        north = Math.min(north, down); south = Math.max(south, down);
        if (i) path.lineTo(lon, down); else path.moveTo(lon, down);
      });
      path.closePath();
    }
    return {...area, number, path, west, east, north, south, chips: 0, parts: data.classes.map(() => 0)};
  });
  data.area.forEach((number, i) => {
    if (number < 0) return;
    areas[number].chips += 1;
    areas[number].parts[data.class[i]] += 1;
  });
  // From afar an area is a disc of its chips' classes: its chips would cover each other.
  const FAR_PX = 14;
  const isFar = (area) => Math.max(area.east - area.west, area.south - area.north) * view.scale < FAR_PX;
  const middle = (area) => [left((area.west + area.east) / 2), top((area.north + area.south) / 2)];

  let width = 0, height = 0, density = 1;
  let colors = {};
  const view = {x: 0, y: 0, scale: 1};
  let pointed = -1; // a chip
  let told = null; // an area
  let isFitted = true;

  function fit() {
    let west = Infinity, east = -Infinity, north = Infinity, south = -Infinity;
    const add = (w, n, e, s) => {
      west = Math.min(west, w); east = Math.max(east, e);
      north = Math.min(north, n); south = Math.max(south, s);
    };
    for (let i = 0; i < count; i++) add(x[i] - sides[i], y[i] - sides[i], x[i] + sides[i], y[i] + sides[i]);
    for (const one of areas) if (one.rings.length) add(one.west, one.north, one.east, one.south);
    view.x = (west + east) / 2;
    view.y = (north + south) / 2;
    view.scale = Math.min((0.9 * width) / (east - west), (0.9 * height) / (south - north), DEEPEST);
    limit();
    isFitted = true;
  }

  function limit() {
    view.scale = Math.max(Math.min(width / 360, height / 300), Math.min(DEEPEST, view.scale));
    view.x = Math.max(-180, Math.min(180, view.x));
    view.y = Math.max(-180, Math.min(180, view.y));
  }

  const left = (lon) => (lon - view.x) * view.scale + width / 2;
  const top = (down) => (down - view.y) * view.scale + height / 2;

  function readColors() {
    const style = getComputedStyle(canvas);
    colors = Object.fromEntries(
      ["ink", "muted", "line", "sea", "land", "bad", "paper"].map((name) => [name, style.getPropertyValue(`--${name}`)]),
    );
  }

  function resize() {
    density = window.devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    for (const one of [canvas, sheet]) {
      one.width = Math.round(width * density);
      one.height = Math.round(height * density);
    }
    if (isFitted) fit();
    draw();
  }

  let isDue = false;
  function draw() {
    canvas.dataset.view = [view.x, toLat(view.y), view.scale].join(" "); // longitude, latitude, px a degree
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(paint);
  }

  function paint() {
    isDue = false;
    if (!width || !height) return; // nothing is laid out yet
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.fillStyle = view.scale > MOST_LAND_SCALE ? colors.land : colors.sea;
    pen.fillRect(0, 0, width, height);
    if (view.scale <= MOST_LAND_SCALE) inWorld(() => {
      pen.fillStyle = colors.land;
      pen.fill(land, "evenodd");
      stroke(land, colors.line, 1);
    });
    drawGraticule();
    drawAreas();
    drawChips();
    drawScale();
    show();
  }

  function show() {
    const seen = canvas.getContext("2d");
    seen.setTransform(1, 0, 0, 1, 0, 0);
    seen.drawImage(sheet, 0, 0);
    if (pointed < 0) return;
    const side = sidePx(pointed) + 4;
    seen.setTransform(density, 0, 0, density, 0, 0);
    seen.strokeStyle = colors.ink;
    seen.lineWidth = 2.5;
    seen.strokeRect(left(x[pointed]) - side / 2, top(y[pointed]) - side / 2, side, side);
  }

  function inWorld(paint) {
    const k = view.scale * density;
    pen.setTransform(k, 0, 0, k, (width / 2 - view.x * view.scale) * density, (height / 2 - view.y * view.scale) * density);
    paint();
    pen.setTransform(density, 0, 0, density, 0, 0);
  }

  function stroke(path, color, px) {
    pen.strokeStyle = color;
    pen.lineWidth = px / view.scale;
    pen.stroke(path);
  }

  function drawGraticule() {
    const step = STEPS.findLast((one) => one * view.scale >= 80) ?? STEPS[0];
    const digits = step < 1 ? Math.ceil(-Math.log10(step)) : 0;
    const west = view.x - width / 2 / view.scale, east = view.x + width / 2 / view.scale;
    const south = toLat(view.y + height / 2 / view.scale), north = toLat(view.y - height / 2 / view.scale);
    pen.strokeStyle = colors.line;
    pen.lineWidth = 1;
    pen.font = "11px system-ui, sans-serif";
    pen.beginPath();
    const labels = [];
    for (let n = Math.ceil(Math.max(west, -180) / step); n * step <= Math.min(east, 180); n++) {
      const at = Math.round(left(n * step)) + 0.5;
      pen.moveTo(at, 0); pen.lineTo(at, height);
      const deg = Math.abs(n * step).toFixed(digits);
      if (at < width - 50) labels.push([`${deg}°${n > 0 ? "E" : n < 0 ? "W" : ""}`, at + 3, height - 5]);
    }
    for (let n = Math.ceil(Math.max(south, -85) / step); n * step <= Math.min(north, 85); n++) {
      const at = Math.round(top(toY(n * step))) + 0.5;
      pen.moveTo(0, at); pen.lineTo(width, at);
      const deg = Math.abs(n * step).toFixed(digits);
      if (at > 14 && at < height - 26) labels.push([`${deg}°${n > 0 ? "N" : n < 0 ? "S" : ""}`, 4, at - 3]);
    }
    pen.stroke();
    pen.fillStyle = colors.muted;
    for (const [text, across, down] of labels) pen.fillText(text, across, down);
  }

  function drawAreas() {
    for (const area of areas) {
      const w = left(area.west), e = left(area.east), n = top(area.north), s = top(area.south);
      if (e < 0 || w > width || s < 0 || n > height) continue;
      const color = area.isBad ? colors.bad : colors.muted;
      if (isFar(area)) {
        drawDisc(area, color);
      } else inWorld(() => {
        pen.setLineDash(area.isBad ? [4 / view.scale, 3 / view.scale] : []);
        stroke(area.path, color, 1.4);
      });
      pen.setLineDash([]);
    }
  }

  function drawDisc(area, color) {
    const [across, down] = middle(area), radius = area.chips ? 7 : 5;
    let turn = -Math.PI / 2;
    area.parts.forEach((part, n) => {
      if (!part) return;
      const end = turn + (part / area.chips) * 2 * Math.PI;
      pen.fillStyle = data.classes[n][1];
      pen.beginPath();
      pen.moveTo(across, down);
      pen.arc(across, down, radius, turn, end);
      pen.fill();
      turn = end;
    });
    pen.setLineDash(area.isBad ? [3, 2] : []);
    pen.strokeStyle = color;
    pen.lineWidth = 1.2;
    pen.beginPath();
    pen.arc(across, down, radius, 0, 2 * Math.PI);
    pen.stroke();
  }

  function sidePx(i) {
    return Math.max(5, sides[i] * view.scale);
  }

  function drawChips() {
    pen.setLineDash([]);
    pen.lineWidth = 0.6;
    pen.strokeStyle = colors.ink;
    const isDisc = areas.map(isFar);
    for (const i of order) {
      if (isDisc[data.area[i]]) continue;
      const side = sidePx(i), across = left(x[i]) - side / 2, down = top(y[i]) - side / 2;
      if (across + side < 0 || down + side < 0 || across > width || down > height) continue;
      pen.fillStyle = data.classes[data.class[i]][1];
      pen.fillRect(across, down, side, side);
      if (side > 5) pen.strokeRect(across, down, side, side);
    }
  }

  function drawScale() {
    const metres = (120 / view.scale) * M_PER_DEGREE * Math.cos(toLat(view.y) * RADIANS);
    const power = 10 ** Math.floor(Math.log10(metres));
    const round = [5, 2, 1].find((one) => one * power <= metres) * power;
    const long = (round / metres) * 120, right = width - 12, base = height - 24;
    pen.strokeStyle = colors.ink;
    pen.fillStyle = colors.ink;
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(right - long, base - 5); pen.lineTo(right - long, base);
    pen.lineTo(right, base); pen.lineTo(right, base - 5);
    pen.stroke();
    pen.textAlign = "right";
    pen.fillText(round >= 1000 ? `${round / 1000} km` : `${round} m`, right, base - 8);
    pen.textAlign = "left";
  }

  function chipAt(across, down) {
    let best = -1, least = Infinity;
    const isDisc = areas.map(isFar);
    for (let i = 0; i < count; i++) {
      if (isDisc[data.area[i]]) continue;
      const reach = sidePx(i) / 2 + 3;
      const dx = Math.abs(left(x[i]) - across), dy = Math.abs(top(y[i]) - down);
      if (dx <= reach && dy <= reach && dx + dy < least) { best = i; least = dx + dy; }
    }
    return best;
  }

  function areaAt(across, down) {
    return areas.find((area) => {
      const [x0, y0] = middle(area);
      return isFar(area) && Math.hypot(x0 - across, y0 - down) <= 8;
    });
  }

  function point(i) {
    if (i === pointed && !told) return;
    pointed = i;
    told = null;
    tip.hidden = i < 0;
    canvas.style.cursor = i < 0 ? "" : "pointer";
    if (i >= 0) describe(i);
    show();
  }

  function pointAt(across, down) {
    const i = chipAt(across, down), area = i < 0 ? areaAt(across, down) : null;
    if (!area) { point(i); return; }
    if (told === area) return;
    point(-1);
    told = area;
    tip.querySelector("img").hidden = true;
    say(area.title, area.chips === 1 ? "1 chip" : `${area.chips} chips`, ...middle(area));
  }

  function say(title, text, across, down) {
    tip.querySelector("b").textContent = title;
    tip.querySelector("span").textContent = text;
    tip.hidden = false;
    canvas.style.cursor = "pointer";
    tip.style.left = `${Math.max(0, Math.min(width - 130, across + 12))}px`;
    tip.style.top = `${down > height / 2 ? down - tip.offsetHeight - 8 : down + 12}px`;
  }

  function showArea(area) {
    point(-1);
    view.x = (area.west + area.east) / 2;
    view.y = (area.north + area.south) / 2;
    view.scale = Math.min((0.7 * width) / (area.east - area.west), (0.7 * height) / (area.south - area.north), DEEPEST);
    moved();
  }

  const name = (i) => String(i).padStart(6, "0");

  function describe(i) {
    const picture = tip.querySelector("img");
    picture.hidden = true;
    if (data.picture) picture.src = `${data.picture}_${name(i)}_${data.dates[data.date[i]]}.png`;
    say(name(i), data.classes[data.class[i]][0], left(x[i]), top(y[i]));
  }
  tip.querySelector("img").addEventListener("load", (event) => {
    event.target.hidden = pointed < 0;
    if (pointed >= 0) say(name(pointed), data.classes[data.class[pointed]][0], left(x[pointed]), top(y[pointed]));
  });

  function zoom(factor, across = width / 2, down = height / 2) {
    const lon = view.x + (across - width / 2) / view.scale, y0 = view.y + (down - height / 2) / view.scale;
    view.scale *= factor;
    limit();
    view.x = lon - (across - width / 2) / view.scale;
    view.y = y0 - (down - height / 2) / view.scale;
    moved();
  }

  function pan(dx, dy) {
    view.x -= dx / view.scale;
    view.y -= dy / view.scale;
    moved();
  }

  function moved() {
    limit();
    isFitted = false;
    tip.hidden = true;
    pointed = -1;
    told = null;
    draw();
  }

  function all() {
    point(-1);
    fit();
    draw();
  }

  function step(by) {
    const next = pointed < 0 ? (by > 0 ? 0 : count - 1) : (pointed + by + count) % count;
    if (left(x[next]) < 0 || left(x[next]) > width || top(y[next]) < 0 || top(y[next]) > height) {
      view.x = x[next];
      view.y = y[next];
      limit();
      isFitted = false;
      draw();
    }
    point(next);
  }

  const open = (i) => { window.location.href = `browse.html#chip=${i}`; };

  const fingers = new Map();
  let dragged = 0;
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return {far: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2};
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, {x: event.offsetX, y: event.offsetY});
    dragged = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = {x: event.offsetX, y: event.offsetY};
    const before = fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") pointAt(here.x, here.y);
      return;
    }
    const old = fingers.size === 2 ? spread() : null;
    fingers.set(event.pointerId, here);
    if (old) {
      const now = spread();
      pan(now.x - old.x, now.y - old.y);
      zoom(now.far / (old.far || 1), now.x, now.y);
      dragged = 99;
    } else if (fingers.size === 1) {
      dragged += Math.abs(here.x - before.x) + Math.abs(here.y - before.y);
      if (dragged > 4) pan(here.x - before.x, here.y - before.y);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const isTap = fingers.size === 1 && dragged <= 4;
    fingers.delete(event.pointerId);
    if (!isTap) return;
    const i = chipAt(event.offsetX, event.offsetY), area = areaAt(event.offsetX, event.offsetY);
    if (i >= 0 && (event.pointerType === "mouse" || i === pointed)) open(i);
    else if (i < 0 && area) showArea(area);
    else point(i);
  });
  canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { if (!fingers.size) point(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), event.offsetX, event.offsetY);
  }, {passive: false});

  const keys = {
    ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0),
    ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
    "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), "0": all,
    n: () => step(1), p: () => step(-1),
    Enter: () => { if (pointed >= 0) open(pointed); },
    Escape: () => point(-1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  box.querySelector("[data-do=in]").addEventListener("click", () => zoom(1.6));
  box.querySelector("[data-do=out]").addEventListener("click", () => zoom(1 / 1.6));
  box.querySelector("[data-do=all]").addEventListener("click", all);

  const repaint = () => { readColors(); paint(); };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  for (const [when, is] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(when, () => {
      document.documentElement.classList.toggle("printed", is); // paper is light
      repaint();
    });
  }
  document.getElementById("still-map").hidden = true;
  box.hidden = false;
  readColors();
  new ResizeObserver(resize).observe(canvas);
})();
