function render({ model, el }) {
  el.classList.add("nblib-timer");
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.checked = true;
  label.append(box, `look again every ${model.get("seconds")} s`);
  el.append(label);
  const clock = setInterval(() => {
    if (!box.checked) return;
    model.set("ticks", model.get("ticks") + 1);
    model.save_changes();
  }, 1000 * model.get("seconds"));
  return () => clearInterval(clock);
}
export default { render };
