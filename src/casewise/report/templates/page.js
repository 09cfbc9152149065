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
