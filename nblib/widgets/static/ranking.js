const columns = [["", "8%"], ["image", "24%", "words"], ["score", "16%"], ["pct.", "9%"],
  ["label", "24%", "words"], ["called", "19%", "words"]];
function made(tag, text, name) {
  const element = document.createElement(tag);
  element.textContent = text ?? "";
  if (name) element.className = name;
  return element;
}
function render({ model, el }) {
  el.classList.add("nblib-ranking");
  el.dataset.lmSuppressShortcuts = "true";  // or the arrow keys would move through cells
  const table = made("table"), head = made("thead"), body = made("tbody");
  table.tabIndex = 0;
  const line = made("tr");
  for (const [text, width, name] of columns) {
    const cell = made("th", text, name);
    cell.style.width = width;
    line.append(cell);
  }
  head.append(line);
  table.append(head, body);
  const foot = made("footer"), where = made("span");
  const step = (text, title, page) => {
    const button = made("button", text);
    button.title = title;
    button.onclick = () => { model.set("page", page()); model.save_changes(); };
    return button;
  };
  const now = () => model.get("page"), last = () => model.get("pages") - 1;
  const back = [step("«", "first page", () => 0), step("‹", "page before", () => now() - 1)];
  const on = [step("›", "next page", () => now() + 1), step("»", "last page", last)];
  foot.append(...back, where, ...on);
  el.append(table, foot);
  function draw() {
    let before = null;
    body.replaceChildren(...model.get("rows").map((row) => {
      const line = made("tr");
      line.dataset.image = row.image;
      line.classList.toggle("chosen", row.index === model.get("chosen"));
      line.classList.toggle("cut", before === "abnormal" && row.called === "normal");
      before = row.called;
      const label = made("td", "", "words");
      label.append(made("i", "", row.label), row.label);
      const called = made("td", row.called, row.wrong ? "words wrong" : "words");
      const name = made("td", "", "words name");
      name.title = row.image;
      name.append(made("bdi", row.image.replace(/[.][^.]+$/, "")));
      line.append(made("td", row.rank), name, made("td", row.score),
        made("td", row.percentile), label, called);
      line.onclick = () => {
        model.set("chosen", row.index);
        model.save_changes();
        table.focus();
      };
      return line;
    }));
    where.textContent = `page ${now() + 1} of ${last() + 1}`;
    for (const button of back) button.disabled = now() <= 0;
    for (const button of on) button.disabled = now() >= last();
  }
  table.onkeydown = (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    model.send({ move: by });
  };
  model.on("change:rows change:chosen change:pages", draw);
  draw();
}
export default { render };
