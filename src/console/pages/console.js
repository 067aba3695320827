// Nothing here is needed: all that is on a page works without it. It adds keys, and keeps open pages up to date.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const still = find("hold-still");
  const keys = find("keys");

  // Live updates: off while nobody looks, or when somebody said so.
  const STILL = "volume-reaper-still";
  const remembered = () => { try { return localStorage.getItem(STILL) === "yes"; } catch { return false; } };
  const remember = (is) => { try { localStorage.setItem(STILL, is ? "yes" : "no"); } catch { /* for this page only */ } };
  let isStill = remembered();
  let stream = null;
  // News for a place that was in use.
  let missed = null;
  // What was asked for on this page has ended since.
  let isOld = false;

  // What somebody is about to press, has selected or has opened stays as it is.
  const POINTED_AT = ":is(a, button, input, select, summary, label):hover, :active";
  const isInUse = (place) => {
    const selection = document.getSelection();
    const isSelected = selection && !selection.isCollapsed && selection.containsNode(place, true);
    const focused = document.activeElement;
    return isSelected || (focused !== place && place.contains(focused)) ||
      place.querySelector(`details[open], ${POINTED_AT}`) !== null;
  };
  const update = (text) => {
    missed = null;
    const news = new DOMParser().parseFromString(text, "text/html");
    for (const part of news.body.children) {
      const place = part.id && find(part.id);
      if (!place || place.innerHTML === part.innerHTML) continue;
      if (isInUse(place)) { missed = text; continue; }
      const wasRunning = part.id === "operation" && place.querySelector("progress, form");
      place.replaceChildren(...part.childNodes);
      if (wasRunning && !place.querySelector("progress, form")) isOld = true;
    }
    if (isOld) again();
  };
  // What is not known yet, or has just ended, is asked for again, and put in the place of what is there, unless somebody
  // is busy with it.
  const again = async () => {
    const main = find("main");
    if (isStill || document.hidden || isInUse(main)) return;
    try {
      const answer = await fetch(location.href);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (isInUse(main)) return;
      main.replaceChildren(...page.getElementById("main").childNodes);
      isOld = false;
    } catch { /* the next time perhaps */ }
  };
  setInterval(() => {
    if (missed !== null && !isStill) update(missed);
    if (isOld || document.querySelector("[data-again]")) again();
  }, 2000);

  // A connection ends after a while, and the browser makes another one. Where it can't, the page says so.
  const MISSING = 5000;
  let missing = null;
  const isThere = () => {
    clearTimeout(missing);
    missing = null;
    find("stale").hidden = true;
  };
  const isMissing = () => {
    missing ??= setTimeout(() => { find("stale").hidden = false; }, MISSING);
    const refused = stream;
    // The browser gives up where it gets another answer.
    if (refused && refused.readyState === EventSource.CLOSED) {
      setTimeout(() => { if (stream === refused) { leave(); listen(); } }, MISSING);
    }
  };
  const leave = () => { if (stream) { stream.close(); stream = null; } };
  const listen = () => {
    const wanted = !isStill && !document.hidden && document.body.dataset.live;
    if (wanted && !stream) {
      stream = new EventSource(document.body.dataset.live);
      stream.onopen = isThere;
      stream.onmessage = (event) => update(event.data);
      stream.onerror = isMissing;
    } else if (!wanted && stream) {
      leave();
      isThere();
    }
    still.setAttribute("aria-pressed", String(isStill));
  };
  const turn = () => {
    isStill = !isStill;
    remember(isStill);
    listen();
  };
  still.hidden = false;
  still.addEventListener("click", turn);
  document.addEventListener("visibilitychange", listen);
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", listen);
  listen();

  // Keys.
  find("show-keys").hidden = false;
  find("show-keys").addEventListener("click", () => keys.showModal());
  let isGoing = -Infinity;
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest && event.target.closest("input, select, textarea, dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const wasGoing = event.timeStamp - isGoing < 1500;
    isGoing = -Infinity;
    if (wasGoing) {
      const link = [...document.querySelectorAll("nav a[data-key]")].find((link) => link.dataset.key === event.key);
      if (link) { event.preventDefault(); link.click(); }
    } else if (event.key === "g") {
      isGoing = event.timeStamp;
    } else if (event.key === "/") {
      event.preventDefault();
      find("find").focus();
    } else if (event.key === "?") {
      event.preventDefault();
      keys.showModal();
    } else if (event.key === ".") {
      turn();
    }
  });
})();
