(function () {
  'use strict';
  var d = document;

  // A page asked for as /orders#7: the server never sees "#7", so the form carries it.
  function keepHash() {
    Array.prototype.forEach.call(d.querySelectorAll('[data-keep-hash]'), function (to) {
      if (to.value && to.value.indexOf('#') < 0 && location.hash.length < 1000) to.value += location.hash;
    });
  }

  // Two presses in a row send one form.
  var last = 0;
  d.addEventListener('submit', function (e) {
    if (e.defaultPrevented) return;
    if (Date.now() - last < 1500) return e.preventDefault();
    last = Date.now();
    keepHash();
    if (reveal) look(false); // browsers remember what is a password as it is sent
  });

  // A password to be looked at.
  var reveal = d.querySelector('[data-reveal]');
  var typed = reveal && d.getElementById(reveal.getAttribute('data-reveal'));
  function look(on) {
    typed.type = on ? 'text' : 'password';
    reveal.setAttribute('aria-pressed', on);
    reveal.firstChild.data = on ? 'Hide' : 'Show';
  }
  if (reveal) {
    reveal.hidden = false;
    reveal.addEventListener('click', function () {
      look(typed.type === 'password');
      typed.focus();
    });
  }

  // How long a new password is so far. What else is wrong with it, only the server knows.
  var least = d.querySelector('[data-least]');
  if (least && typed) typed.addEventListener('input', function () {
    var n = Array.from(typed.value.normalize('NFKC')).length;
    var need = +least.getAttribute('data-least');
    least.textContent = n === 0 ? '' : n < need ? 'So far ' + n + ' of ' + need + '.' : 'Long enough.';
  });

  // A code pasted with the words or blanks around it.
  var code = d.getElementById('code');
  if (code) code.addEventListener('paste', function (e) {
    var text = (e.clipboardData && e.clipboardData.getData('text')) || '';
    var found = text.match(/(?:^|[^a-z0-9])([a-z0-9]{4})-([a-z0-9]{4})(?![a-z0-9])/i) ||
      text.trim().match(/^([a-z0-9]{4})\s*([a-z0-9]{4})$/i);
    if (!found) return;
    e.preventDefault();
    code.value = found[1] + '-' + found[2];
  });

  // The count before a mail can be asked for again. It is read out once it has ended, not every second.
  var again = d.querySelector('[data-wait]');
  if (again) {
    var part = function (name) { return again.form.querySelector('[data-' + name + ']') || {}; };
    var end = Date.now() + again.getAttribute('data-wait') * 1000;
    var show = function (name) {
      ['idle', 'counting', 'ready'].forEach(function (n) { part(n).hidden = n !== name; });
    };
    var tick = function () {
      var left = Math.ceil((end - Date.now()) / 1000);
      if (left > 0) {
        part('seconds').textContent = left;
        setTimeout(tick, 1000);
        return;
      }
      again.removeAttribute('aria-disabled');
      show('ready');
      part('say').textContent = part('ready').textContent;
    };
    again.setAttribute('aria-disabled', 'true');
    show('counting');
    tick();
    again.addEventListener('click', function (e) {
      if (!again.hasAttribute('aria-disabled')) return;
      e.preventDefault();
      part('say').textContent = part('counting').textContent;
    });
  }

  // Other ways, once a mail should have come.
  var help = d.querySelector('details[data-open-in]');
  if (help) setTimeout(function () { help.open = true; }, help.getAttribute('data-open-in') * 1000);
})();
