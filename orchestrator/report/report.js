"use strict";
// The slider over training: the large image follows the slider or the small image that was clicked.
document.querySelectorAll(".frames").forEach((box) => {
  const large = box.querySelector(":scope > img"), slider = box.querySelector("input"), caption = box.querySelector("output");
  const small = [...box.querySelectorAll("button")];
  const show = (index) => {
    const picture = small[index].querySelector("img");
    large.src = picture.src; large.alt = picture.alt; caption.textContent = picture.alt; slider.value = index;
    small.forEach((button, other) => button.classList.toggle("on", other === index));
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  small.forEach((button, index) => button.addEventListener("click", () => show(index)));
  show(small.length - 1);
});
// A click on a column's head sorts by it; a second click turns the order round.
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.querySelectorAll("th")], body = table.tBodies[0];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const order = head.dataset.order === "up" ? "down" : "up", sign = order === "up" ? 1 : -1;
    heads.forEach((other) => delete other.dataset.order);
    head.dataset.order = order;
    const key = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : Number(x) - Number(y));
    };
    [...body.rows].sort(compare).forEach((row) => body.append(row));
  }));
});
// A search: what the pointer is on is shown in every chart; a range dragged on an axis leaves only the trials inside.
document.querySelectorAll(".search").forEach((box) => {
  const tips = JSON.parse(box.dataset.trials), detail = box.querySelector(".detail"), marks = new Map(), ranges = new Map();
  box.querySelectorAll("[data-t]").forEach((mark) => marks.set(mark.dataset.t, [...(marks.get(mark.dataset.t) || []), mark]));
  const lines = [...box.querySelectorAll(".parallel polyline")];
  const heights = new Map(lines.map((line) => [line, line.getAttribute("points").split(" ").map((point) => Number(point.split(",")[1]))]));
  let on = null, kept = null;
  const show = (trial) => {
    if (trial === on) return;
    (marks.get(on) || []).forEach((mark) => mark.classList.remove("on"));
    (marks.get(trial) || []).forEach((mark) => mark.classList.add("on"));
    on = trial; detail.textContent = trial === null ? "" : tips[trial];
  };
  box.addEventListener("pointerover", (event) => show(event.target.dataset.t ?? kept));
  box.addEventListener("click", (event) => { if (!event.target.closest(".axis-of")) { kept = event.target.dataset.t ?? null; show(kept); } });
  box.addEventListener("pointerleave", () => show(kept));
  const choose = () => {
    let inside = 0;
    lines.forEach((line) => {
      const out = [...ranges].some(([axis, [a, b]]) => heights.get(line)[axis] < a || heights.get(line)[axis] > b);
      inside += !out;
      marks.get(line.dataset.t).forEach((mark) => mark.classList.toggle("off", out));
    });
    on = undefined; detail.textContent = ranges.size ? `${inside} of ${lines.length} trials` : "";
  };
  box.querySelectorAll(".axis-of").forEach((group) => {
    const brush = group.querySelector(".brush"), axis = Number(group.dataset.axis), svg = brush.ownerSVGElement;
    const at = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).y;
    let from = null, chosen = null;
    brush.addEventListener("pointerdown", (event) => {
      brush.setPointerCapture(event.pointerId);
      from = at(event); if (chosen) chosen.remove(); chosen = null; ranges.delete(axis); choose();
    });
    brush.addEventListener("pointermove", (event) => {
      const to = at(event);
      if (from === null || Math.abs(to - from) < 3) return;
      const [a, b] = [Math.min(from, to), Math.max(from, to)];
      if (!chosen) { chosen = brush.cloneNode(); chosen.setAttribute("class", "chosen"); group.insertBefore(chosen, brush); }
      chosen.setAttribute("y", a); chosen.setAttribute("height", b - a);
      ranges.set(axis, [a, b]); choose();
    });
    brush.addEventListener("pointerup", () => { from = null; });
  });
});
