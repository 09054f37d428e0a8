"use strict";

// What is told of an area lies packed beside its summary: it is unpacked when it is first opened.
async function unpack(area) {
  const packed = area.querySelector("script");
  if (!packed) return;
  const told = document.createElement("div");
  packed.replaceWith(told);
  try {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    told.innerHTML = await new Response(stream).text();
  } catch (error) {
    told.textContent = `This browser cannot unpack it (${error}); plan.geojson lists the chosen scenes.`;
  }
}

const areas = [...document.querySelectorAll("details.area")];
for (const area of areas) area.addEventListener("toggle", () => area.open && unpack(area));

function openLinked() {
  const area = location.hash && document.getElementById(location.hash.slice(1));
  if (!area || !area.matches("details.area")) return;
  area.hidden = false;
  area.open = true;
  area.scrollIntoView();
}
addEventListener("hashchange", openLinked);
openLinked();

// A mark on a time line says what it is when it is clicked, touched or passed over.
function tell(event) {
  const mark = event.target.closest && event.target.closest(".lane circle");
  if (mark) mark.closest(".sensor").querySelector("output").textContent = mark.textContent.trim();
}
for (const kind of ["click", "pointerover"]) document.addEventListener(kind, tell);

const filter = document.getElementById("filter");
function show() {
  const text = filter.elements.text.value.toLowerCase();
  const state = filter.elements.state ? filter.elements.state.value : "";
  let count = 0;
  for (const area of areas) {
    const summary = area.querySelector("summary").textContent.toLowerCase();
    area.hidden = !summary.includes(text) || (state !== "" && area.dataset.state !== state);
    count += !area.hidden;
  }
  filter.elements.count.textContent = `${count.toLocaleString("en")} of ${areas.length.toLocaleString("en")} areas`;
}
filter.addEventListener("input", show);
filter.addEventListener("submit", (event) => event.preventDefault());
