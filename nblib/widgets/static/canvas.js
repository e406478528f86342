function render({ model, el }) {
  el.classList.add("nblib-canvas");
  const picture = document.createElement("img"), box = document.createElement("div");
  picture.draggable = false;
  el.append(picture, box);
  let url = null, from = null;
  function draw() {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    picture.src = url;
    el.classList.toggle("ready", model.get("ready"));
  }
  function place() {
    const [left, top, width, height] = model.get("rectangle");
    box.hidden = width === undefined;
    const share = (value) => `${(100 * value) / model.get("size")}%`;
    Object.assign(box.style, { left: share(left), top: share(top),
      width: share(width), height: share(height) });
  }
  function at(event) {
    const r = picture.getBoundingClientRect(), n = model.get("size");
    const pixel = (share) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
    return [(event.clientX - r.left) / r.width, (event.clientY - r.top) / r.height].map(pixel);
  }
  function report(event) {
    const to = at(event);
    const rectangle = [Math.min(from[0], to[0]), Math.min(from[1], to[1]),
      Math.abs(from[0] - to[0]) + 1, Math.abs(from[1] - to[1]) + 1];
    if (String(rectangle) === String(model.get("rectangle"))) return;
    model.set("rectangle", rectangle);
    model.save_changes();
  }
  el.onpointerenter = () => model.send({ touched: true });
  el.onpointerdown = (event) => {
    if (!model.get("ready") || event.button !== 0) return;
    from = at(event);
    el.setPointerCapture(event.pointerId);
  };
  el.onpointermove = (event) => { if (from) report(event); };
  el.onpointerup = (event) => { if (from) report(event); from = null; };
  el.onpointercancel = () => { from = null; };
  model.on("change:png change:ready", draw);
  model.on("change:rectangle change:size", place);
  draw();
  place();
  return () => URL.revokeObjectURL(url);
}
export default { render };
