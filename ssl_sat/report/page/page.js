// Brings the page to life once it is read. Nothing is fetched: data lies in blocks of the page.
"use strict";

function block(name) {
  return JSON.parse(document.getElementById(name).textContent);
}

document.querySelectorAll("table.data").forEach((table) => {
  sortable(table);
  filterable(table, document.getElementById(table.getAttribute("aria-describedby")));
});
const zoom = element("dialog", "zoom");
zoom.addEventListener("click", () => zoom.close());
document.body.append(zoom);
document.querySelectorAll("figure img").forEach((image) => zoomable(image, zoom));
document.querySelectorAll(".curves").forEach((root) => { root.curves = new Curves(root, block(root.dataset.block)); });
// A map is built when it comes near the screen: decoding its points is the only work there is before a click.
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting && !one.target.patchMap)) {
    entry.target.patchMap = new PatchMap(entry.target, block(entry.target.dataset.block));
    near.unobserve(entry.target);
  }
}, { rootMargin: "600px" });
document.querySelectorAll(".map").forEach((root) => near.observe(root));
document.documentElement.dataset.ready = "yes";
