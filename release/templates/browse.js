// The chip browser. Its data are scripts that call gelos(name, value): a page in a folder may not
// read files otherwise.
(() => {
  "use strict";
  const CARDS = 60;
  const RELEASE = 0; // the place of "in the release" among the verdicts
  const waiting = new Map();
  const held = new Map();
  window.gelos = (name, value) => held.set(name, value);

  function load(name) {
    if (!waiting.has(name)) waiting.set(name, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = name;
      script.onload = () => resolve(held.get(name));
      script.onerror = () => reject(new Error(`${name} is not there: this page needs all browse_*.js beside it`));
      document.head.append(script);
    }));
    return waiting.get(name);
  }

  const byId = (id) => document.getElementById(id);
  const at = (column, i) => (Array.isArray(column) ? column[i] : column);
  const number = (value) => value.toLocaleString("en-US");
  const idName = (i) => String(i).padStart(6, "0");
  const day = (text) => `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}`;
  const short = (value) => (value === null || value === undefined ? "none" : String(+value.toFixed(5)));

  function el(tag, given = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (name === "style") for (const [key, text] of Object.entries(value)) made.style.setProperty(key, text);
      else if (name in made && name !== "list") made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((one) => one !== null));
    return made;
  }

  let data;
  let classes; // [name, colour] by code
  let found = []; // the rows that are shown: {of, i}, of a table of columns
  const form = byId("filters");
  const dialog = byId("one");
  const shown = {cover: false, unclear: true, sample: true};
  const DEFAULTS = {verdict: "0", class: "", area: "", split: "", order: "id", picture: "", page: "0"};
  let state = {...DEFAULTS};
  let opened = null;

  const isChips = () => +state.verdict === RELEASE;
  const row = (of, i) => ({of, i});
  const cell = (one) => `${at(one.of.epsg, one.i)}_${at(one.of.left, one.i)}_${at(one.of.top, one.i)}`;
  const isChip = (one) => one.of === data.chips;
  const verdictOf = (one) => (isChip(one) ? RELEASE : at(one.of.verdict, one.i));
  const classOf = (one) => classes.get(at(one.of.class, one.i));
  const measure = (one, name) => at(one.of.measures[name], one.i);

  // What is shown stands in the address, so that it can be sent and gone back to.
  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    state = {...DEFAULTS};
    for (const name of Object.keys(DEFAULTS)) if (asked.has(name)) state[name] = asked.get(name);
    if (!data.verdicts[+state.verdict]) state.verdict = "0";
    return {chip: asked.get("chip"), window: asked.get("window")};
  }

  function writeAddress(extra = {}) {
    const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
    const text = new URLSearchParams([...kept, ...Object.entries(extra)]).toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  function fill(name, options) {
    const select = form.elements[name];
    select.replaceChildren(...options.map(([value, text]) => el("option", {value: String(value)}, text)));
    select.value = state[name];
    if (select.selectedIndex < 0) { state[name] = DEFAULTS[name]; select.value = state[name]; }
  }

  function fillFilters() {
    fill("verdict", data.verdicts.map(([name, , count], i) => [i, `${name} (${number(count)})`]));
    fill("class", [["", "all"], ...data.classes.map(([code, name]) => [code, `${code} ${name}`])]);
    fill("area", [["", "all"], ...data.areas.map((one, i) => [i, `AOI ${one.name}`])]);
    const splits = [...new Set([data.chips.split].flat())].filter(Boolean).sort();
    fill("split", [["", "all"], ...splits.map((one) => [one, one])]);
    const measures = Object.keys(data.asked).map((name) => [name, `${name.replaceAll("_", " ")}, least first`]);
    fill("order", [["id", "as numbered"], ...measures]);
    const series = data.sensors.filter((one) => !one.is_static);
    const pictures = series.flatMap((one) => Array.from(
      {length: datesOf(one.key, 0).length}, (_, n) => [`${one.key}.${n}`, `${one.key}, date ${n + 1}`],
    ));
    fill("picture", [["", pictures.length ? pictures[0][1] : "lulc"], ...pictures.slice(1), ["lulc", "lulc"]]);
    for (const label of form.querySelectorAll("[data-of=chips]")) label.hidden = !isChips();
    form.elements.split.parentElement.hidden ||= !splits.length;
  }

  const datesOf = (key, chip) => data.dates[at(data.date, chip)]?.[`${key}_dates`] ?? [];
  const scenesOf = (key, chip) => data.dates[at(data.date, chip)]?.[`${key}_scene_ids`] ?? [];

  async function tables() {
    if (isChips()) return [data.chips];
    const wanted = data.pieces.filter((one) => state.area === "" || one.areas.includes(+state.area));
    return Promise.all(wanted.map((one) => load(one.name)));
  }

  async function filter() { // the rows that the filters let through
    const rows = [];
    const {verdict, class: code, area, split} = state;
    for (const of of await tables()) {
      for (let i = 0; i < of.count; i++) {
        if (code !== "" && at(of.class, i) !== +code) continue;
        if (area !== "" && at(of.area, i) !== +area) continue;
        if (of === data.chips ? split !== "" && at(of.split, i) !== split : at(of.verdict, i) !== +verdict) continue;
        rows.push(row(of, i));
      }
    }
    if (state.order !== "id" && state.order in data.asked) {
      const value = (one) => measure(one, state.order) ?? Infinity;
      rows.sort((a, b) => value(a) - value(b));
    }
    return rows;
  }

  let asks = 0;
  async function show() {
    const ask = ++asks;
    byId("cards").setAttribute("aria-busy", "true");
    const rows = await filter();
    if (ask !== asks) return; // another was asked for since
    found = rows;
    const pages = Math.max(1, Math.ceil(found.length / CARDS));
    const page = Math.max(0, Math.min(pages - 1, +state.page || 0));
    state.page = String(page);
    const [name, meaning, count] = data.verdicts[+state.verdict];
    const what = isChips() ? "chips in the release" : `windows: ${name}${meaning ? ` (${meaning})` : ""}`;
    byId("said").textContent = `${number(found.length)} of ${number(count)} ${what}${whyNone()}`;
    for (const pager of document.querySelectorAll(".pager")) {
      pager.hidden = pages === 1;
      pager.querySelector(".count").textContent = `page ${page + 1} of ${number(pages)}`;
      pager.querySelector("[data-by='-1']").disabled = page === 0;
      pager.querySelector("[data-by='1']").disabled = page === pages - 1;
    }
    byId("cards").className = isChips() ? "chips" : "windows";
    byId("cards").replaceChildren(...found.slice(page * CARDS, (page + 1) * CARDS).map(card));
    await drawPlan();
    byId("cards").setAttribute("aria-busy", "false");
  }

  function whyNone() { // what became of an area that nothing is found of
    if (found.length) return "";
    const area = data.areas[+state.area];
    if (state.area === "" || !area || area.box) return "; reset the filters to see all";
    return `; AOI ${area.name}: ${[area.status, area.why].filter(Boolean).join(", ")}`;
  }

  function card(one) {
    const [name, color] = classOf(one);
    const swatch = el("i", {style: {background: color}});
    const area = data.areas[at(one.of.area, one.i)].name;
    const open = (event) => { event.preventDefault(); openOne(one); };
    if (!isChip(one)) {
      const text = el("span", {}, swatch, `${name}, purity ${short(measure(one, "purity"))}`);
      return el("a", {href: `#window=${cell(one)}`, onclick: open}, text, el("small", {}, `AOI ${area}`), el("small", {}, cell(one)));
    }
    const caption = el("span", {}, swatch, `${idName(one.i)} ${name}`);
    return el("a", {href: `#chip=${one.i}`, onclick: open}, picture(one.i), caption);
  }

  function picture(chip) {
    const series = data.sensors.find((one) => !one.is_static);
    const [key, date] = (state.picture || (series ? `${series.key}.0` : "lulc")).split(".");
    const img = el("img", {alt: "", loading: "lazy"});
    if (date === undefined) layer(chip, `${key}_${idName(chip)}`).then((src) => { if (src) img.src = src; });
    else img.src = `{{ "${folderOf(chip)}" if is_sharded }}${key}_${idName(chip)}_${datesOf(key, chip)[+date]}.png`;
    return img;
  }

{% if is_sharded %}
  const folderOf = (chip) => `chips/${idName(chip - (chip % data.per_shard))}/`;

{% endif %}
  async function layer(chip, name) {
{% if is_sharded %}
    const own = chip % data.per_shard;
    const file = `${folderOf(chip)}browse_layers_${String(Math.floor(own / data.per_file)).padStart(4, "0")}.js`;
    const found = (await load(file))[own % data.per_file][name];
{% else %}
    const file = `browse_layers_${String(Math.floor(chip / data.per_file)).padStart(4, "0")}.js`;
    const found = (await load(file))[chip % data.per_file][name];
{% endif %}
    return found ? `data:image/png;base64,${found}` : "";
  }

  // The area's windows as they lie: what a curator looks for is beside something they know.
  let planned = [];
  async function drawPlan() {
    const figure = byId("plan");
    const area = data.areas[+state.area];
    figure.hidden = state.area === "" || !area?.box;
    figure.parentElement.classList.toggle("planned", !figure.hidden);
    if (figure.hidden) return;
    const lost = await Promise.all(data.pieces.filter((one) => one.areas.includes(+state.area)).map((one) => load(one.name)));
    const canvas = figure.querySelector("canvas");
    const pen = canvas.getContext("2d");
    const [west, south, east, north] = area.box;
    const metres = Math.max(east - west, north - south) + data.sample_m;
    const size = canvas.width = Math.max(240, canvas.parentElement.clientWidth);
    canvas.height = Math.ceil(((north - south + data.sample_m) / metres) * size);
    planned = [];
    const side = (data.sample_m / metres) * size;
    for (const of of [...lost, data.chips]) {
      for (let i = 0; i < of.count; i++) {
        if (at(of.area, i) !== +state.area) continue;
        const one = row(of, i);
        const x = ((at(of.left, i) - west) / metres) * size, y = ((north - at(of.top, i)) / metres) * size;
        planned.push({one, x, y});
        pen.globalAlpha = isChip(one) ? 1 : 0.28;
        pen.fillStyle = classOf(one)[1];
        pen.fillRect(x + 0.5, y + 0.5, side - 1, side - 1);
        pen.globalAlpha = 1;
        const isMeant = verdictOf(one) === +state.verdict && !isChips();
        const isOpen = opened && cell(opened) === cell(one) && isChip(opened) === isChip(one);
        if (!isMeant && !isOpen) continue;
        pen.strokeStyle = getComputedStyle(canvas).getPropertyValue(isOpen ? "--ink" : "--bad");
        pen.lineWidth = isOpen ? 3 : 1;
        pen.strokeRect(x + 1, y + 1, side - 2, side - 2);
      }
    }
    canvas.onclick = (event) => {
      const scale = size / canvas.clientWidth, x = event.offsetX * scale, y = event.offsetY * scale;
      const hit = planned.findLast((one) => x >= one.x && x < one.x + side && y >= one.y && y < one.y + side);
      if (hit) openOne(hit.one);
    };
  }

  function openOne(one) {
    opened = one;
    const chip = isChip(one);
    byId("title").textContent = chip ? `${idName(one.i)} ${classOf(one)[0]}` : `${classOf(one)[0]}: ${data.verdicts[verdictOf(one)][0]}`;
    byId("body").replaceChildren(...(chip ? chipBody(one) : windowBody(one)));
    const place = placeOf(one);
    for (const button of dialog.querySelectorAll("[data-by]")) button.disabled = place < 0 || !found[place + +button.dataset.by];
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    writeAddress(chip ? {chip: one.i} : {window: cell(one)});
  }

  const placeOf = (one) => found.findIndex((other) => other.of === one.of && other.i === one.i);

  function step(by) {
    const next = found[placeOf(opened) + by];
    if (placeOf(opened) >= 0 && next) openOne(next);
  }

  function chipBody(one) {
    const parts = [switches()];
    const statics = [];
    for (const sensor of data.sensors) {
      if (sensor.is_static) { statics.push(figure(one.i, sensor, null)); continue; }
      const figures = datesOf(sensor.key, one.i).map((date) => figure(one.i, sensor, date));
      parts.push(el("h3", {}, sensor.title), el("div", {className: "shots"}, ...figures));
    }
    parts.push(el("div", {className: "shots statics"}, ...statics), facts(one), scenes(one.i));
    return parts;
  }

  function switches() {
    const canOverlay = data.sensors.some((one) => one.is_overlaid);
    const toggles = [["sample", "sample window", data.sample_m < data.chip_m], ["cover", "land cover over all", true], ["unclear", "what is not clear", canOverlay]];
    return el("div", {className: "switches"}, ...toggles.filter(([, , can]) => can).map(([name, text]) => {
      const box = el("input", {type: "checkbox", checked: shown[name], onchange: () => { shown[name] = box.checked; mark(); }});
      return el("label", {}, box, ` ${text}`);
    }));
  }

  function mark() {
    for (const [name, is] of Object.entries(shown)) byId("body").classList.toggle(`with-${name}`, is);
  }

  function figure(chip, sensor, date) {
    mark();
    const stem = `${sensor.key}_${idName(chip)}${date ? `_${date}` : ""}`;
    const frame = el("div", {className: "frame"});
    const img = el("img", {alt: `${sensor.key} ${date ? day(date) : ""}`});
    frame.append(img);
    if (date) img.src = `{{ "${folderOf(chip)}" if is_sharded }}${stem}.png`;
    else layer(chip, stem).then((src) => { img.src = src; });
    const over = (name, kind) => layer(chip, name).then((src) => {
      if (src) frame.append(el("img", {className: `over ${kind}`, alt: "", src}));
    });
    if (sensor.key !== "lulc") over(`lulc_${idName(chip)}`, "cover");
    if (sensor.is_overlaid) over(stem, "unclear");
    if (data.sample_m < data.chip_m) {
      const inset = `${(50 * (data.chip_m - data.sample_m)) / data.chip_m}%`;
      frame.append(el("div", {className: "sample", style: {inset}}));
    }
    const file = el("a", {href: `{{ "${folderOf(chip)}" if is_sharded }}${stem}.tif`, download: ""}, "tif");
    return el("figure", {}, frame, el("figcaption", {}, date ? day(date) : sensor.key, " ", file));
  }

  function facts(one) {
    const {of, i} = one;
    const area = data.areas[at(of.area, i)];
    const chip = isChip(one);
    const [lon, lat] = chip ? [of.lon[i], of.lat[i]] : placed(one, area);
    const pairs = [
      ["class", `${at(of.class, i)} ${classOf(one)[0]}`],
      ["AOI", area.name],
      ["cell", cell(one)],
      [chip ? "latitude, longitude" : "near latitude, longitude", `${lat.toFixed(chip ? 5 : 3)}, ${lon.toFixed(chip ? 5 : 3)}`],
      ...(chip && at(of.split, i) ? [["split", at(of.split, i)]] : []),
    ];
    const list = el("dl", {className: "pairs"}, ...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    const lines = Object.keys(data.asked).map((name) => {
      const value = measure(one, name), asked = data.asked[name];
      const fails = asked !== null && value !== null && value < asked;
      const wants = asked === null ? "" : short(asked);
      return el("tr", {className: fails ? "fails" : ""}, el("td", {}, name.replaceAll("_", " ")), el("td", {className: "number"}, short(value)), el("td", {className: "number"}, wants));
    });
    const head = el("tr", {}, ...["share", "found", "asked for"].map((text, n) => el("th", {className: n ? "number" : ""}, text)));
    return el("div", {}, list, el("div", {className: "scroll"}, el("table", {}, el("thead", {}, head), el("tbody", {}, ...lines))));
  }

  function placed(one, area) {
    const [west, south, east, north] = area.box;
    const half = data.sample_m / 2;
    const u = (at(one.of.left, one.i) + half - west) / (east - west || 1), v = (north - at(one.of.top, one.i) + half) / (north - south || 1);
    const [nw, ne, sw, se] = area.corners;
    return [0, 1].map((k) => (nw[k] * (1 - u) + ne[k] * u) * (1 - v) + (sw[k] * (1 - u) + se[k] * u) * v);
  }

  function scenes(chip) {
    const lines = data.sensors.map((sensor) => {
      const ids = scenesOf(sensor.key, chip), dates = datesOf(sensor.key, chip);
      return el("li", {}, `${sensor.key}: ${ids.map((id, n) => (dates[n] ? `${day(dates[n])} ${id}` : id)).join(", ")}`);
    });
    return el("details", {}, el("summary", {}, "scenes"), el("ul", {className: "scenes"}, ...lines));
  }

  function windowBody(one) {
    const [name, meaning] = data.verdicts[verdictOf(one)];
    const area = at(one.of.area, one.i);
    const show = el("button", {type: "button", onclick: () => {
      dialog.close();
      state = {...state, area: String(area), page: "0"};
      opened = one;
      refresh();
    }}, "show it in its area");
    return [el("p", {}, `This window is no chip: ${name}${meaning ? `, ${meaning}` : ""}.`), facts(one), el("p", {}, show),
      el("p", {className: "muted"}, "A release holds pictures of its chips alone; the scenes of a chip of the same area are this window's, too.")];
  }

  async function refresh() {
    fillFilters();
    writeAddress();
    await show();
  }

  const fail = (error) => { byId("trouble").textContent = error.message; byId("trouble").hidden = false; };
  const tell = (work) => work.catch(fail);

  form.addEventListener("change", () => {
    for (const select of form.querySelectorAll("select")) state[select.name] = select.value;
    state.page = "0";
    opened = null;
    tell(refresh());
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    state = {...DEFAULTS};
    opened = null;
    tell(refresh());
  });
  form.addEventListener("submit", (event) => event.preventDefault());

  function turn(by) {
    const page = +state.page + by;
    if (page < 0 || page >= Math.ceil(found.length / CARDS)) return;
    state.page = String(page);
    tell(refresh());
  }
  for (const pager of document.querySelectorAll(".pager button")) pager.addEventListener("click", () => turn(+pager.dataset.by));
  for (const button of dialog.querySelectorAll("[data-by]")) button.addEventListener("click", () => step(+button.dataset.by));
  dialog.querySelector("[data-do=close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { writeAddress(); tell(drawPlan()); });
  document.addEventListener("keydown", (event) => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, input")) return;
    if (dialog.open) step(by); else turn(by);
  });
  window.addEventListener("hashchange", () => tell(arrive()));

  async function arrive() {
    const asked = readAddress();
    fillFilters();
    await show();
    const isThere = /^[0-9]+$/.test(asked.chip ?? "") && +asked.chip < data.chips.count;
    if (isThere) openOne(row(data.chips, +asked.chip));
    else if (asked.window !== null) await openWindow(asked.window);
    else if (dialog.open) dialog.close();
  }

  async function openWindow(wanted) {
    for (const piece of data.pieces) {
      const of = await load(piece.name);
      for (let i = 0; i < of.count; i++) if (cell(row(of, i)) === wanted) { openOne(row(of, i)); return; }
    }
  }

  async function start() {
    data = await load("browse_chips.js");
    classes = new Map(data.classes.map(([code, name, color]) => [code, [name, color]]));
    form.hidden = false;
    await arrive();
  }
  tell(start());
})();
