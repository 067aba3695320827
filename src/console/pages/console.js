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

  // What somebody is about to press, has selected or has opened stays as it is.
  const isInUse = (place) => {
    const selection = document.getSelection();
    const isSelected = selection && !selection.isCollapsed && selection.containsNode(place, true);
    const focused = document.activeElement;
    return isSelected || (focused !== place && place.contains(focused)) || place.querySelector("details[open]") !== null;
  };
  const update = (text) => {
    const news = new DOMParser().parseFromString(text, "text/html");
    for (const part of news.body.children) {
      const place = part.id && find(part.id);
      if (!place || place.innerHTML === part.innerHTML || isInUse(place)) continue;
      const wasRunning = part.id === "operation" && place.querySelector("progress, form");
      place.replaceChildren(...part.childNodes);
      if (wasRunning && !place.querySelector("progress, form")) again();
    }
  };
  // What is not known yet, or has just ended, is asked for again, unless somebody is busy here.
  const again = () => { if (!isStill && !document.hidden && !isInUse(find("main"))) location.reload(); };
  if (document.querySelector("[data-again]")) setInterval(again, 2000);
  const listen = () => {
    const wanted = !isStill && !document.hidden && document.body.dataset.live;
    if (wanted && !stream) {
      stream = new EventSource(document.body.dataset.live);
      stream.onmessage = (event) => update(event.data);
    } else if (!wanted && stream) {
      stream.close();
      stream = null;
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
  window.addEventListener("pagehide", () => { if (stream) { stream.close(); stream = null; } });
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
