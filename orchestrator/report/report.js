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
