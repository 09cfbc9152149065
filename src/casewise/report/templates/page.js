document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("thead th").forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") !== "ascending";
      var rows = Array.from(table.tBodies[0].rows);
      var key = function (row) { return row.cells[column].dataset.value; };
      rows.sort(function (a, b) {
        var x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        var d = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? d : -d;
      });
      table.tBodies[0].append.apply(table.tBodies[0], rows);
      table.querySelectorAll("th[aria-sort]").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
});

document.querySelectorAll("main figure > svg").forEach(function (drawing, number) {
  var button = document.createElement("button"), figure = drawing.parentNode;
  var section = drawing.closest("section[id]");
  button.type = "button";
  button.className = "save";
  button.title = "Save plot";
  button.setAttribute("aria-label", "Save plot: " + drawing.getAttribute("aria-label").slice(0, 80));
  button.addEventListener("click", function () {
    var copy = drawing.cloneNode(true), size = drawing.viewBox.baseVal, link = document.createElement("a");
    copy.querySelectorAll(".pointed").forEach(function (ring) { ring.remove(); });
    copy.setAttribute("width", size.width);
    copy.setAttribute("height", size.height);
    copy.setAttribute("style", "background: #fff");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
    link.download = (section ? section.id : "plot") + "-" + (number + 1) + ".svg";
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
  });
  figure.classList.add("saved");
  figure.insertBefore(button, drawing.nextSibling);
});

(function () {
  var tip = document.createElement("div"), far = 16, cases = {};
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.appendChild(tip);
  document.querySelectorAll("article.card").forEach(function (card) {
    var name = card.querySelector("h3"), picture = card.querySelector("img");
    if (name && picture) cases[name.textContent] = picture.src;
  });
  function hide() {
    tip.hidden = true;
    document.querySelectorAll("svg .pointed").forEach(function (ring) { ring.remove(); });
  }
  document.querySelectorAll("main figure > svg").forEach(function (drawing) {
    var points = Array.from(drawing.querySelectorAll("use > title")).map(function (title) {
      var use = title.parentNode;
      var point = { x: +use.getAttribute("x"), y: +use.getAttribute("y"), text: title.textContent };
      title.remove();
      return point;
    });
    if (!points.length) return;
    function show(event) {
      var matrix = drawing.getScreenCTM(), scale = matrix.a;
      var x = (event.clientX - matrix.e) / scale, y = (event.clientY - matrix.f) / matrix.d;
      var least = far / scale, nearest = null;
      points.forEach(function (point) {
        var distance = Math.hypot(point.x - x, point.y - y);
        if (distance < least) { least = distance; nearest = point; }
      });
      hide();
      if (!nearest) return;
      var ring = document.createElementNS(drawing.namespaceURI, "circle");
      ring.setAttribute("class", "pointed");
      ring.setAttribute("cx", nearest.x);
      ring.setAttribute("cy", nearest.y);
      ring.setAttribute("r", 6);
      drawing.appendChild(ring);
      var cut = nearest.text.lastIndexOf(": "), name = nearest.text.slice(0, cut), picture = cases[name];
      var head = document.createElement("b"), line = document.createElement("div");
      head.textContent = cut < 0 ? "" : name;
      line.textContent = cut < 0 ? nearest.text : nearest.text.slice(cut + 2);
      tip.replaceChildren(head, line);
      if (picture) {
        var image = new Image();
        image.src = picture;
        image.alt = "";
        tip.appendChild(image);
      }
      tip.hidden = false;
      var left = nearest.x * scale + matrix.e + 12, top = nearest.y * matrix.d + matrix.f + 12;
      if (left + tip.offsetWidth > window.innerWidth - 4) left = Math.max(4, left - tip.offsetWidth - 24);
      if (top + tip.offsetHeight > window.innerHeight - 4) top = Math.max(4, top - tip.offsetHeight - 24);
      tip.style.left = left + "px";
      tip.style.top = top + "px";
    }
    drawing.addEventListener("pointermove", show);
    drawing.addEventListener("pointerdown", show);
    drawing.addEventListener("pointerleave", function (event) { if (event.pointerType !== "touch") hide(); });
  });
  document.addEventListener("pointerdown", function (event) { if (!event.target.closest("figure > svg")) hide(); });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") hide(); });
  window.addEventListener("scroll", hide, { passive: true });
  window.addEventListener("beforeprint", hide);
})();

(function () {
  var folds = Array.from(document.querySelectorAll("details")), all = document.querySelector("nav .all"), closed = [];
  if (!folds.length || !all) return;
  all.hidden = false;
  all.addEventListener("click", function () {
    var open = all.getAttribute("aria-expanded") !== "true";
    folds.forEach(function (fold) { fold.open = open; });
    all.setAttribute("aria-expanded", String(open));
    all.textContent = open ? "Close all details" : "Open all details";
  });
  window.addEventListener("beforeprint", function () {
    closed = folds.filter(function (fold) { return !fold.open; });
    closed.forEach(function (fold) { fold.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (fold) { fold.open = false; });
  });
})();
