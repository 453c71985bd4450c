// What the pages do by themselves: 3D plots when they come into view, tables on phones, what was
// not run put aside, printing.
document.addEventListener('DOMContentLoaded', function () {
  'use strict';
  var root = document.documentElement, all = function (what, within) {
    return Array.from((within || document).querySelectorAll(what));
  };

  // plotly is large: it is loaded, and a plot drawn, when the first plot comes near
  var waiting = all('script[type="text/i2p-plot"]'), loading = null;
  function load() {
    loading = loading || new Promise(function (done, failed) {
      var script = document.createElement('script');
      script.src = new URL('_static/plotly.min.js', new URL(root.dataset.content_root || './', location.href));
      script.onload = done;
      script.onerror = failed;
      document.head.append(script);
    });
    return loading;
  }
  var seen = new IntersectionObserver(function (entries) {
    entries.filter(function (entry) { return entry.isIntersecting; }).forEach(function (entry) {
      seen.unobserve(entry.target);
      load().then(function () {
        var drawn = document.createElement('script');
        drawn.textContent = entry.target.i2pPlot.textContent;
        entry.target.append(drawn);
        entry.target.classList.remove('i2p-waiting');
      });
    });
  }, { rootMargin: '300px' });
  waiting.forEach(function (script) {
    var place = script.parentElement;
    place.i2pPlot = script;
    place.classList.add('i2p-waiting');
    place.setAttribute('role', 'group');
    place.setAttribute('aria-label', 'Points in space, which turn when dragged');
    seen.observe(place);
  });

  // a cell of a table knows its column, which phones show beside it
  all('table.i2p-table, table.i2p-comparison').forEach(function (table) {
    var heads = all('thead th', table).map(function (head) { return head.textContent.trim(); });
    all('tbody tr', table).forEach(function (row) {
      Array.from(row.children).forEach(function (cell, place) {
        cell.dataset.label = heads[place] || '';
      });
    });
  });

  // what was not run can be put aside
  all('.i2p-filter').forEach(function (place) {
    var box = document.createElement('input'), label = document.createElement('label');
    box.type = 'checkbox';
    label.append(box, ' ' + place.dataset.says);
    place.append(label);
    box.addEventListener('change', function () {
      all('table.i2p-table tbody tr').forEach(function (row) {
        var chips = all('.i2p-chip', row);
        row.hidden = box.checked && chips.length > 0 && chips.every(function (chip) {
          return chip.classList.contains('i2p-not-run');
        });
      });
    });
  });

  // what scrolls can be reached by keys; what is written on a control is its name
  function reachable() {
    all('.i2p-scroll, figure, .cell_output, .cell_output .output, .highlight pre').forEach(function (box) {
      if (box.scrollWidth > box.clientWidth + 1) { box.tabIndex = 0; }
    });
  }
  reachable();
  window.addEventListener('load', reachable);
  window.addEventListener('resize', reachable);
  all('summary[aria-label], .search-button__button').forEach(function (one) {
    if (one.textContent.trim()) { one.removeAttribute('aria-label'); }
  });
  function nameless() {  // the icons of a control that has a name
    all('.theme-switch-button :is(i, svg)').forEach(function (icon) {
      icon.removeAttribute('title');
      icon.setAttribute('aria-hidden', 'true');
      all('title', icon).forEach(function (title) { title.remove(); });
    });
  }
  nameless();
  window.addEventListener('load', nameless);

  // paper is white, and nothing on it can be unfolded
  var before = null;
  window.addEventListener('beforeprint', function () {
    before = { theme: root.dataset.theme, closed: all('details:not([open])') };
    before.closed.forEach(function (one) { one.open = true; });
    root.dataset.theme = 'light';
  });
  window.addEventListener('afterprint', function () {
    if (before) {
      before.closed.forEach(function (one) { one.open = false; });
      root.dataset.theme = before.theme;
    }
    before = null;
  });
});
