// What a plot's cameras do is done in all its scenes; `busy` ends the echo of the own change.
(function () {
  var plot = document.getElementById('{plot_id}'), busy = false;
  plot.on('plotly_relayout', function (change) {
    var key = Object.keys(change).find(function (k) { return /^scene\d*\.camera/.test(k); });
    if (busy || !key) { return; }
    var camera = plot.layout[key.split('.')[0]].camera, all = {};
    Object.keys(plot.layout).forEach(function (k) {
      if (/^scene\d*$/.test(k)) { all[k + '.camera'] = camera; }
    });
    busy = true;
    Plotly.relayout(plot, all).then(function () { busy = false; });
  });
})();
