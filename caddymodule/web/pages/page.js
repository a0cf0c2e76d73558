(function () {
  'use strict';
  var d = document;

  // A page asked for as /orders#7: the server never sees "#7", so the form carries it.
  function keepHash() {
    Array.prototype.forEach.call(d.querySelectorAll('[data-keep-hash]'), function (to) {
      if (to.value && to.value.indexOf('#') < 0 && location.hash.length < 1000) to.value += location.hash;
    });
  }

  // In a frame of a page of this site, the link leads to that page: it holds the frame.
  var outer = d.querySelector('[data-outer]');
  try {
    if (outer && window.top !== window && window.top.location.origin === location.origin) outer.href = window.top.location.href;
  } catch (e) { /* a page of another site, of which nothing is told */ }

  // Two presses in a row send one form.
  var last = 0;
  d.addEventListener('submit', function (e) {
    if (e.defaultPrevented) return;
    if (Date.now() - last < 1500) return e.preventDefault();
    last = Date.now();
    keepHash();
    var here = e.target.querySelector('[data-here]'); // the page says the same wherever it stands
    if (here) here.value = location.pathname + location.search + location.hash;
    if (reveal) look(false); // browsers remember what is a password as it is sent
  });

  // A password to be looked at.
  var reveal = d.querySelector('[data-reveal]');
  var typed = reveal && d.getElementById(reveal.getAttribute('data-reveal'));
  function look(on) {
    typed.type = on ? 'text' : 'password';
    reveal.setAttribute('aria-pressed', on);
    reveal.firstChild.data = on ? '[[Hide]]' : '[[Show]]';
  }
  if (reveal) {
    reveal.hidden = false;
    reveal.addEventListener('click', function () {
      look(typed.type === 'password');
      typed.focus();
    });
  }

  // How long a new password is so far. Whether it is a good one, the server says.
  var least = d.querySelector('[data-least]');

  function soFar(value, need) {
    var n = Array.from(value.normalize('NFKC')).length;
    if (n === 0) return '';
    if (n < need) return '[[So far {n} of {need}.]]'.replace('{n}', n).replace('{need}', need);
    if (n > 256) return '[[That is {n}; 256 is the most.]]'.replace('{n}', n);
    return '[[Long enough.]]';
  }

  if (least && typed) {
    var aloud = d.querySelector('[data-least-aloud]'), pause;
    least.hidden = false;
    typed.addEventListener('input', function () {
      least.textContent = soFar(typed.value, +least.getAttribute('data-least'));
      clearTimeout(pause); // it is read out after a pause, not at every key
      pause = setTimeout(function () { if (aloud) aloud.textContent = least.textContent; }, 1200);
    });
  }

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

  // A browser that keeps no cookies can't stay signed in. Chromium says cookieEnabled even where
  // its settings block them, so one is tried, for a moment.
  function keepsCookies() {
    try {
      d.cookie = 'portal-check=1; SameSite=Lax';
      var kept = d.cookie.indexOf('portal-check=1') >= 0;
      d.cookie = 'portal-check=; Max-Age=0; SameSite=Lax';
      return kept;
    } catch (e) { return false; }
  }
  var refused = d.querySelector('[data-no-cookies]');
  if (refused && !keepsCookies()) refused.hidden = false;

  // Calls found with what /me says once somebody is signed in in this browser. It asks while the
  // page can be seen: every five seconds for a quarter of an hour, and each time it comes back
  // to the front.
  function whenSignedIn(prefix, found) {
    if (!window.fetch) return;
    var asking = false, began = Date.now(), timer;
    function ask() {
      if (d.hidden || asking) return;
      if (Date.now() - began > 900000) clearInterval(timer);
      asking = true;
      fetch(prefix + '/me', {credentials: 'same-origin', cache: 'no-store'}).then(function (r) {
        return r.status === 200 ? r.json().then(found) : null;
      }).then(function (done) {
        asking = false;
        if (done) { clearInterval(timer); d.removeEventListener('visibilitychange', ask); }
      }, function () { asking = false; });
    }
    timer = setInterval(ask, 5000);
    d.addEventListener('visibilitychange', ask);
  }

  // The tab that waits for a mail goes on by itself when another has used the link. Whether
  // that was the person it waits for, the server knows: it then leads elsewhere.
  var waiting = d.querySelector('[data-waiting]');
  if (waiting) {
    var prefix = waiting.getAttribute('data-waiting');
    whenSignedIn(prefix, function () {
      return fetch(prefix + '/sent', {method: 'HEAD', redirect: 'manual', credentials: 'same-origin', cache: 'no-store'}).then(function (r) {
        if (r.type !== 'opaqueredirect') return false;
        location.replace(prefix + '/sent');
        return true;
      });
    });
  }

  // A form that is kept says as whom it will be sent.
  var kept = d.querySelector('[data-signed-in]');
  if (kept) whenSignedIn(kept.getAttribute('data-signed-in'), function (me) {
    kept.querySelector('[data-email]').textContent = me.email;
    kept.hidden = false;
    return true;
  });

  // Staff find contacts while they type. Without scripts the button does the same.
  var found = d.querySelector('[data-found]'), box = found && d.querySelector('[role=search] [name=q]');
  if (box && window.fetch && window.AbortController && window.URLSearchParams) {
    var rest, asked, count = d.querySelector('[data-count]');
    var find = function () {
      if (asked) asked.abort(); // of two answers the later counts
      asked = new AbortController();
      fetch(box.form.action, {method: 'POST', body: new URLSearchParams({q: box.value}), credentials: 'same-origin', cache: 'no-store', redirect: 'manual', signal: asked.signal}).then(function (r) {
        if (r.status === 401) location.assign(box.form.action); // the session is over: there is the sign-in page
        return r.ok ? r.text() : '';
      }).then(function (html) {
        var page = new DOMParser().parseFromString(html, 'text/html'), now = page.querySelector('[data-found]');
        if (!now) return;
        found.innerHTML = now.innerHTML;
        count.textContent = page.querySelector('[data-count]').textContent;
      }, function () { /* the button is there */ });
    };
    box.addEventListener('input', function () {
      clearTimeout(rest);
      rest = setTimeout(find, 250);
    });
  }

  // Other ways, once a mail should have come.
  var help = d.querySelector('details[data-open-in]');
  if (help) setTimeout(function () { help.open = true; }, help.getAttribute('data-open-in') * 1000);
})();
