"use strict";
// The picture viewer: two pictures on one stage, a border between them, zoom, error maps.

(() => {
  if (!byId("viewer") || !report.pictures.length) return;
  const ORIGINAL = "original";
  const stage = byId("stage"), divider = byId("divider");
  const sides = ["left", "right"];
  const shown = { picture: 0, left: null, right: null, position: 50 };
  const look = { scale: 1, fit: 1, x: 0, y: 0 };
  const pixels = new Map(); // uri -> promise of ImageData

  // ------------------------------------------------------------------------------- what is shown

  const picture = () => report.pictures[shown.picture];
  const isCodec = (choice) => choice !== ORIGINAL;
  // The rate is the left's; with the original on the left, the right's.
  const leading = () => (isCodec(shown.left) ? shown.left : shown.right);

  function entry(side) {
    const choice = shown[side];
    if (!isCodec(choice)) return null;
    const lead = leading(), at = Number(byId("view-rate").value);
    const place = choice === lead ? at : picture().matches[lead][choice][at];
    return picture().codecs[choice][place];
  }

  function options(select, entries, value) {
    select.replaceChildren(...entries.map(([key, text]) => element("option", { value: key }, text)));
    if (entries.some(([key]) => String(key) === String(value))) select.value = value;
  }

  function listCodecs() {
    const codecs = Object.keys(picture().codecs);
    const entries = [[ORIGINAL, "Original"], ...codecs.map((i) => [i, report.curves[i].name])];
    const has = (choice) => choice === ORIGINAL || codecs.includes(choice);
    if (!has(shown.left)) shown.left = codecs.includes(String(state.anchor)) ? String(state.anchor) : codecs[0];
    if (!has(shown.right)) shown.right = codecs.find((i) => i !== shown.left) ?? ORIGINAL;
    options(byId("view-left"), entries, shown.left);
    options(byId("view-right"), entries, shown.right);
  }

  function listRates(bpp) {
    const lead = leading(), select = byId("view-rate");
    select.disabled = !isCodec(lead);
    if (!isCodec(lead)) return options(select, [["0", "–"]], "0");
    const own = picture().codecs[lead];
    let best = Math.floor((own.length - 1) / 2);
    if (bpp != null) own.forEach((e, i) => { if (Math.abs(e.bpp - bpp) < Math.abs(own[best].bpp - bpp)) best = i; });
    options(select, own.map((e, i) => [i, `${number(e.bpp, 3)} bpp (${e.setting})`]), String(best));
  }

  const leadingRate = () => {
    const lead = leading();
    return isCodec(lead) ? picture().codecs[lead][Number(byId("view-rate").value)]?.bpp : null;
  };

  // ------------------------------------------------------------------------------------- drawing

  function load(uri) {
    if (!pixels.has(uri)) {
      pixels.set(uri, (async () => {
        const image = new Image();
        image.src = uri;
        await image.decode();
        const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        return context.getImageData(0, 0, canvas.width, canvas.height);
      })());
      if (pixels.size > 24) pixels.delete(pixels.keys().next().value);
    }
    return pixels.get(uri);
  }

  const gain = () => 2 ** Number(byId("error-gain").value);

  function errorMap(image, original) {
    const map = new ImageData(image.width, image.height);
    const [a, b, out, colours, times] = [image.data, original.data, map.data, report.colours, gain()];
    for (let i = 0; i < a.length; i += 4) {
      const error = Math.max(Math.abs(a[i] - b[i]), Math.abs(a[i + 1] - b[i + 1]), Math.abs(a[i + 2] - b[i + 2]));
      const colour = colours[Math.min(255, Math.round(error * times))];
      [out[i], out[i + 1], out[i + 2], out[i + 3]] = [colour[0], colour[1], colour[2], 255];
    }
    return map;
  }

  let turn = 0;
  async function draw() {
    const mine = ++turn;
    delete stage.dataset.drawn;
    caption();
    const uris = sides.map((side) => entry(side)?.uri ?? picture().original);
    const wanted = byId("error-map").checked;
    const [original, ...images] = await Promise.all([load(picture().original), ...uris.map(load)]);
    if (mine !== turn) return; // another choice came meanwhile
    images.forEach((image, i) => {
      const canvas = byId(`canvas-${sides[i]}`);
      if (canvas.width !== image.width || canvas.height !== image.height) {
        canvas.width = image.width;
        canvas.height = image.height;
      }
      canvas.getContext("2d").putImageData(wanted ? errorMap(image, original) : image, 0, 0);
    });
    stage.dataset.drawn = String(mine);
  }

  function caption() {
    const entries = sides.map(entry);
    sides.forEach((side, i) => {
      const own = entries[i], name = isCodec(shown[side]) ? report.curves[shown[side]].name : "Original";
      byId(`tag-${side}`).textContent = name;
      const lines = [element("strong", {}, isCodec(shown[side]) ? swatchOf(shown[side]) : null, name, own ? element("span", { class: "setting" }, own.setting) : null)];
      if (own) {
        const items = (...texts) => element("span", {}, ...texts.map((text) => element("span", { class: "item" }, text)));
        lines.push(items(`${number(own.bpp, 3)} bpp`, `${number(own.bytes, 0)} bytes`));
        const ssim = own.ms_ssim == null ? [] : [`MS-SSIM ${number(own.ms_ssim, 4)}`];
        lines.push(items(`PSNR ${number(own.psnr, 2)} dB`, ...ssim));
      } else {
        lines.push(element("span", {}, `${picture().width} × ${picture().height} pixels, not compressed`));
      }
      if (i === 1 && entries[0] && own && shown.left !== shown.right) {
        const more = 100 * (own.bytes / entries[0].bytes - 1);
        const far = Math.abs(more) > 10 ? "far" : "";
        lines.push(element("span", { class: `match ${far}` }, `${number(Math.abs(more), 1)} % ${more < 0 ? "fewer" : "more"} bytes than the left: the nearest rate`));
      }
      byId(`caption-${side}`).replaceChildren(...lines);
    });
  }

  // ------------------------------------------------------------------------------- zoom and border

  function layout(keepLook) {
    const { width, height } = picture();
    const room = stage.parentElement.clientWidth;
    const tall = Math.max(240, innerHeight * 0.78);
    const fit = Math.min(room / width, tall / height);
    look.fit = fit > 1 ? Math.floor(fit) : fit;
    stage.style.width = `${Math.floor(width * look.fit)}px`;
    stage.style.height = `${Math.floor(height * look.fit)}px`;
    for (const side of sides) {
      byId(`canvas-${side}`).style.width = `${width}px`;
      byId(`canvas-${side}`).style.height = `${height}px`;
    }
    if (!keepLook || look.scale < look.fit) Object.assign(look, { scale: look.fit, x: 0, y: 0 });
    place();
  }

  function place() {
    const { width, height } = picture();
    look.x = Math.min(0, Math.max(stage.clientWidth - width * look.scale, look.x));
    look.y = Math.min(0, Math.max(stage.clientHeight - height * look.scale, look.y));
    const sharp = look.scale * devicePixelRatio > 1.001;
    for (const side of sides) {
      const canvas = byId(`canvas-${side}`);
      canvas.style.transform = `translate(${look.x}px, ${look.y}px) scale(${look.scale})`;
      canvas.classList.toggle("pixels", sharp);
    }
    byId("layer-right").style.clipPath = `inset(0 0 0 ${shown.position}%)`;
    divider.style.left = `${shown.position}%`;
    const whole = Math.round(shown.position);
    divider.setAttribute("aria-valuenow", String(whole));
    divider.setAttribute("aria-valuetext", `${whole} % left, ${100 - whole} % right`);
    byId("tag-left").classList.toggle("gone", shown.position < 12);
    byId("tag-right").classList.toggle("gone", shown.position > 88);
    byId("zoom-value").textContent = `${Math.round(look.scale * 100)} %`;
    byId("zoom-out").disabled = look.scale <= look.fit * 1.001;
    byId("zoom-in").disabled = look.scale >= 32;
    stage.classList.toggle("zoomed", magnified());
  }

  const magnified = () => look.scale > look.fit * 1.001;

  function zoom(scale, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const next = Math.min(32, Math.max(look.fit, scale));
    look.x = x - ((x - look.x) * next) / look.scale;
    look.y = y - ((y - look.y) * next) / look.scale;
    look.scale = next;
    place();
  }

  // Steps of the buttons and keys: whole multiples of a pixel, where there are any.
  function step(up) {
    const stops = [look.fit, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32].filter((s) => s >= look.fit).sort((a, b) => a - b);
    const next = up ? stops.find((s) => s > look.scale * 1.01) : stops.findLast((s) => s < look.scale / 1.01);
    zoom(next ?? look.scale);
  }

  function moveBorder(position) {
    shown.position = Math.min(100, Math.max(0, position));
    place();
  }

  const pointers = new Map();
  const local = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let dragging = null;

  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, local(event));
    const onBorder = event.target.closest("#divider");
    dragging = pointers.size > 1 ? "pinch" : onBorder || !magnified() ? "border" : "pan";
    if (dragging === "border") {
      if (!onBorder) moveBorder((100 * local(event)[0]) / stage.clientWidth);
      divider.focus({ preventScroll: true });
      event.preventDefault();
    }
    stage.classList.add(`drag-${dragging}`);
  });

  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = local(event);
    if (dragging === "border") moveBorder((100 * now[0]) / stage.clientWidth);
    if (dragging === "pan") {
      look.x += now[0] - before[0];
      look.y += now[1] - before[1];
      place();
    }
    if (dragging === "pinch" && pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      const distance = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
      const ratio = distance(now) / Math.max(1, distance(before));
      look.x += (now[0] - before[0]) / 2;
      look.y += (now[1] - before[1]) / 2;
      zoom(look.scale * ratio, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    pointers.set(event.pointerId, now);
  });

  const release = (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size) return;
    dragging = null;
    stage.classList.remove("drag-border", "drag-pan", "drag-pinch");
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);

  // The wheel zooms when the pointer was moved onto the picture; a page that is being scrolled
  // past a resting pointer goes on scrolling.
  let meant = false, last = null;
  stage.addEventListener("pointermove", (event) => {
    if (last && (last[0] !== event.clientX || last[1] !== event.clientY)) meant = true;
    last = [event.clientX, event.clientY];
  });
  stage.addEventListener("pointerenter", (event) => { last = [event.clientX, event.clientY]; });
  addEventListener("scroll", () => { meant = false; }, { passive: true });
  stage.addEventListener("wheel", (event) => {
    const inward = event.deltaY < 0;
    if (!(meant || event.ctrlKey) || (!inward && !magnified())) return;
    event.preventDefault();
    const pace = event.deltaMode === 1 ? 0.05 : 0.002;
    zoom(look.scale * Math.exp(-Math.max(-400, Math.min(400, event.deltaY)) * pace), ...local(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => zoom(magnified() ? look.fit : look.fit * 4, ...local(event)));

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onBorder = event.target === divider;
    const far = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    };
    const jumps = { Home: 0, End: 100, PageDown: shown.position - 10, PageUp: shown.position + 10 };
    if (event.key === "+" || event.key === "=") step(true);
    else if (event.key === "-") step(false);
    else if (event.key === "0") zoom(look.fit);
    else if (onBorder && event.key in jumps) moveBorder(jumps[event.key]);
    else if (onBorder && event.key in moves) moveBorder(shown.position + far * (moves[event.key][0] - moves[event.key][1]));
    else if (!onBorder && event.key in moves && magnified()) {
      look.x -= 40 * moves[event.key][0];
      look.y -= 40 * moves[event.key][1];
      place();
    } else return;
    event.preventDefault();
  });

  // ------------------------------------------------------------------------------------- controls

  byId("view-picture").addEventListener("change", () => {
    const rate = leadingRate();
    shown.picture = Number(byId("view-picture").value);
    listCodecs();
    listRates(rate);
    layout(false);
    draw();
  });
  for (const side of sides) {
    byId(`view-${side}`).addEventListener("change", () => {
      const rate = leadingRate();
      shown[side] = byId(`view-${side}`).value;
      listRates(rate);
      draw();
    });
  }
  byId("view-swap").addEventListener("click", () => {
    const rate = entry("right")?.bpp ?? leadingRate();
    [shown.left, shown.right] = [shown.right, shown.left];
    listCodecs();
    listRates(rate);
    draw();
  });
  byId("view-rate").addEventListener("change", draw);
  byId("zoom-in").addEventListener("click", () => step(true));
  byId("zoom-out").addEventListener("click", () => step(false));
  byId("zoom-fit").addEventListener("click", () => zoom(look.fit));
  const errors = () => {
    byId("error-controls").hidden = !byId("error-map").checked;
    byId("error-top").textContent = String(Math.floor(255 / gain()));
    byId("error-gain").setAttribute("aria-valuetext", `${gain()} times`);
    draw();
  };
  byId("error-map").addEventListener("change", errors);
  byId("error-gain").addEventListener("input", errors);
  document.addEventListener("show-picture", (event) => {
    byId("view-picture").value = String(report.pictures.findIndex((p) => p.name === event.detail));
    byId("view-picture").dispatchEvent(new Event("change"));
  });
  new ResizeObserver(() => layout(true)).observe(stage.parentElement);

  const scale = byId("error-scale").getContext("2d");
  for (let i = 0; i < 128; i++) {
    scale.fillStyle = `rgb(${report.colours[2 * i].join(",")})`;
    scale.fillRect(i, 0, 1, 1);
  }
  options(byId("view-picture"), report.pictures.map((p, i) => [String(i), p.name]), "0");
  listCodecs();
  listRates(null);
  layout(false);
  draw();
})();
